"""Errors after which a command ends with one sentence. Any other error is a bug, and shows its traceback.

Here are those that several rooms raise or catch. An error of one room is defined there, as a `UserError`:
`BadImagesError` in `data`, `LockedError` in `storage`, `NotFiniteError` in `runs`.
"""

import difflib
from collections.abc import Iterable

__all__ = ["MissingPackageError", "Stopped", "UserError", "UserOSError", "WorkerLost"]


def one_line(text: str) -> str:
    """A text in which all that is not printable is escaped, such as line ends and control codes of terminals.

    It is for names that come with the data, such as those of files, which may hold anything.

    Example:

    >>> one_line("Zoë\\n.jpg")
    'Zoë\\\\n.jpg'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def plain_lines(text):
    """`one_line` of each line of a message; lines after the first, such as those of a list, begin with two blanks."""
    return "\n  ".join(map(one_line, text.split("\n  ")))


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The known name that is nearest to an unknown one, as a sentence with a blank after it; empty if none is near.

    Example:

    >>> did_you_mean("quesize", ["queue_size", "batch_size"], prefix="--")
    'Did you mean --queue_size? '
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {prefix}{near[0]}? " if near else ""


class UserError(ValueError):
    """A mistake that the user can correct: in an argument, a setting, a file, the data.

    The message says what must hold, what was received, and what to do. Commands print it without a traceback and exit
    with status 2, as they do after an `OSError`.

    Example:

    >>> issubclass(UserError, ValueError)
    True
    """

    # AutoGraph, which rewrites functions such as those of `tf.data.Dataset.map`, would raise another error instead,
    # and Keras one that begins with the layer that was called and ends with its arguments.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __str__(self):
        return plain_lines(super().__str__())


class MissingPackageError(UserError, ImportError):
    """A package that is needed is not installed, too old, or configured for something else."""


class UserOSError(UserError, OSError):
    """A file could not be written, for a reason that the operating system gives."""


class Stopped(Exception):
    """Training has stopped because it was asked to; the message says after which step, and whether it was saved."""


class WorkerLost(RuntimeError):
    """Another worker of the run has stopped, so this one cannot continue."""
