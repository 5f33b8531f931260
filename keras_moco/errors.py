"""Errors that a command ends with in one sentence. Any other error is a bug, and shows its traceback."""

__all__ = [
    "MissingPackageError",
    "Stopped",
    "UserError",
    "UserOSError",
    "WorkerLost",
]


def one_line(text: str) -> str:
    """A text with everything escaped that is not printed as it stands, such as line ends and what a terminal obeys.

    For names that come with the data, such as those of files: they may hold anything.

    Args:
        text: str.

    Returns:
        str.

    Example:

    >>> one_line("Zoë\\n.jpg")
    'Zoë\\\\n.jpg'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def plain_lines(text):
    """`one_line` of a message, whose own further lines, such as those of a list, begin with two blanks."""
    return "\n  ".join(map(one_line, text.split("\n  ")))


class UserError(ValueError):
    """Something that the user can mend: an argument, a setting, a file, data.

    The message says in one or more sentences what must hold, what was received, and what to do. Commands print it
    without a traceback and exit with status 2; any other error but those of the operating system is a bug, and shows
    its traceback.

    Example:

    >>> issubclass(UserError, ValueError)
    True
    """

    # AutoGraph, which rewrites functions such as those of `tf.data.Dataset.map`, would make another error of this one,
    # and Keras one that begins with the layer that was called and ends with its arguments.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __str__(self):
        return plain_lines(super().__str__())


class MissingPackageError(UserError, ImportError):
    """A package that only some uses need is not installed, or is too old."""


class UserOSError(UserError, OSError):
    """Something could not be written for a reason that the operating system gives."""


class Stopped(Exception):
    """Training was asked to stop and has stopped; the message says after which step, and whether that is saved."""


class WorkerLost(RuntimeError):
    """Another worker of the run has stopped, so that this one cannot continue."""
