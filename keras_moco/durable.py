"""Files that a crash, a full disk or a power cut leaves whole: the old one or the new one, never half of it."""

import contextlib
import errno
import os
from pathlib import Path

from keras_moco.paths import user_path


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
    replace_when_written(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_when_written(path, write_to):
    """Has a file written under another name beside it, and renames it when it is whole and on the disk.

    Args:
        path: path of the file; its folder exists.
        write_to: function of a `pathlib.Path` that writes a file of that name.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        OSError: as `write_text`; also whatever `write_to` raises.
    """
    path = user_path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_to(temporary)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)  # the renaming itself
    return path


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
