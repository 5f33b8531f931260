"""Files that a crash, a full disk or a power cut leaves whole: the old one or the new one, never half of it.

Several processes may write the same file: each writes a temporary one of its own, one after the other.
"""

import contextlib
import errno
import io
import json
import os
import re
import secrets
from pathlib import Path

from keras_moco.storage.locks import locked
from keras_moco.storage.paths import refuse_pipe, user_path


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


def update_text(path, update):
    """Replaces a file by what `update` makes of it, while no other process can do so.

    Args:
        path: path of the file, which need not exist; its folder does.
        update: function without arguments that reads the file and returns its new text. It may be called by one process
            at a time, wherever there are locks.

    Raises:
        OSError: as `write_text`; also whatever `update` raises.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "count.txt")
    >>> path.write_text("1")
    1
    >>> update_text(path, lambda: str(int(path.read_text()) + 1))
    >>> path.read_text()
    '2'
    """
    replace_when_written(path, lambda temporary: temporary.write_text(update(), encoding="utf-8"))


def replace_when_written(path, write_to):
    """Has a file written under another name beside it, and renames it when it is whole and on the disk.

    Args:
        path: path of the file; its folder exists.
        write_to: function of a `pathlib.Path` that writes a file of that name. It is called while the file is locked
            (`keras_moco.storage.locks`), so it may read the one that it replaces.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        OSError: as `write_text`; also whatever `write_to` raises.
    """
    path = user_path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with locked(path) as held:
        if held:
            for left in leftovers(path.parent, path.name):  # of a process that was killed
                left.unlink(missing_ok=True)
        try:
            write_to(temporary)
            flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    flush(path.parent)  # the renaming itself
    return path


class NamedBytes(io.BytesIO):
    """A file in memory with a name, by whose ending Keras knows the format.

    Args:
        name: str.
        content: bytes. Defaults to none.
    """

    def __init__(self, name, content=b""):
        super().__init__(content)
        self.name = name

    def __str__(self):
        return self.name


def in_memory(save, name):
    """What a function of Keras writes to a file: a buffer. On a disk, a full one would end the process within HDF5.

    Args:
        save: function of a file.
        name: str, of the file, by whose ending Keras knows the format.
    """
    file = NamedBytes(name)
    save(file)
    return file.getbuffer()


def leftovers(folder, name=None):
    """Temporary files of `name`, or of any name, that are being written in a folder or were left there: a list."""
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[0-9a-f]{{8}}\.tmp")
    return [each for each in user_path(folder).iterdir() if pattern.fullmatch(each.name)]


def read_json(path):
    """What a JSON file holds.

    Raises:
        ValueError: if it is no JSON, or lists in lists nest deeper than Python goes.
        OSError: if it cannot be read.
    """
    path = user_path(path)
    refuse_pipe(path)
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


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
