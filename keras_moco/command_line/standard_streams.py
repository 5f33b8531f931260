"""Standard input, output and error of the commands, which may be closed, may break, and may be a terminal."""

import contextlib
import os
import re
import sys

# Control codes of terminals, without line ends, tabs, and those of progress bars: start of the line (\r), backspace,
# colours (ESC [ ... m) and the line above (ESC [ A).
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[(?:[\d;]*m|A))")


class Output:
    """A standard stream that accepts every text, and drops what cannot be written.

    Characters that its encoding lacks and control codes of terminals are escaped, since names of files and messages of
    libraries may hold any. A broken pipe or a full disk raises no error: `lost` says why the stream was lost, and
    everything written to it afterwards is dropped.

    Args:
        stream: the text stream to write to.

    Example:

    >>> print("a\\x1b]0;b", file=Output(sys.stdout))
    a\\x1b]0;b
    """

    def __init__(self, stream):
        self.lost, self.is_cut, self.may_end = None, False, False
        self._stream = stream

    def write(self, text):
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        plain = text.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(self._stream.write, _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", plain))
        return len(text)

    def writelines(self, lines):
        self.write("".join(lines))

    def flush(self):
        self._attempt(self._stream.flush)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def _attempt(self, function, *arguments):
        if self.lost:
            return
        try:
            function(*arguments)
        except OSError as error:
            self.lost = error.strerror or str(error)
            self.is_cut = isinstance(error, BrokenPipeError)
            with contextlib.suppress(OSError):  # a stream without a descriptor
                # The buffer of the stream would fail again when the process ends.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def lost_output():
    """Why the standard output of a command was lost, in a few words; `None` if it was not."""
    return getattr(sys.stdout, "lost", None)


def reader_may_leave():
    """From now on it is no error if what reads the standard output stops, as `head` does: for help and lists."""
    if isinstance(sys.stdout, Output):
        sys.stdout.may_end = True


def hold_descriptors():
    """Opens the null device for each standard stream that is closed, for example by `>&-` in a shell.

    Otherwise the next file that is opened, perhaps a checkpoint, takes its descriptor, and receives whatever libraries
    print. So this has to be called before anything else opens a file.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


@contextlib.contextmanager
def plain_output():
    """Replaces standard output and error by an `Output` while a command runs.

    Raises:
        SystemExit: with status 2 if the command succeeded, but its output could not be written.

    Example:

    >>> with plain_output():
    ...     print("3 images")
    3 images
    """
    hold_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Output, before)
    try:
        yield
        _check_output()
    except SystemExit as end:
        if not end.code:
            _check_output()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _check_output():
    sys.stdout.flush()
    if lost_output() and not (sys.stdout.is_cut and sys.stdout.may_end):
        print(
            f"error: The standard output must accept what is printed. Received: {lost_output()}. The command was "
            "completed, but some of its output is missing.",
            file=sys.stderr,
        )
        sys.exit(2)
