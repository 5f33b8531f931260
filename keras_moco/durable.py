"""Files that a crash, a full disk or a power cut leaves whole: the old one or the new one, never half of it."""

import contextlib
import errno
import os
from pathlib import Path


def write_text(path, text):
    """Replaces a file in one piece, and returns when it is on the disk.

    Args:
        path: path of the file; its folder exists.
        text: str.

    Raises:
        OSError: if it cannot be written; then the file is as it was, and nothing is left beside it.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "results.json")
    >>> write_text(path, "{}")
    >>> path.read_text()
    '{}'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)  # the renaming itself


def flush(path):
    """Waits until a file, or the list of names in a folder, is on the disk."""
    path = Path(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems do not know of folders that could be flushed.
        with contextlib.nullcontext() if path.is_file() else _unless_unsupported():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _unless_unsupported():
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
