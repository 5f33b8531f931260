"""Files that are replaced atomically: a crash, a full disk or a power cut leaves the old file or the new one.

Several processes may write the same file. They take turns, each with a temporary file of its own.
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
    """Replaces a file atomically, and returns when it is on the disk.

    Args:
        path: path of the file; its folder exists.
        text: str.

    Raises:
        OSError: if it cannot be written. The old file then stays, and no temporary one.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "results.json")
    >>> write_text(path, "{}")
    >>> path.read_text()
    '{}'
    """
    replace_when_written(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def update_text(path, update):
    """Replaces a file by what `update` returns, while no other process can replace it.

    Args:
        path: path of the file, which need not exist; its folder exists.
        update: function without arguments that reads the file and returns its new text. One process at a time calls it,
            where the file system has locks.

    Raises:
        OSError: as `write_text`; also any error of `update`.

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
    """Writes a file under a temporary name, and renames it when it is complete and on the disk.

    Args:
        path: path of the file; its folder exists.
        write_to: function of a `pathlib.Path` that writes a file of that name. The file is locked meanwhile
            (`keras_moco.storage.locks`), so `write_to` may read the old one.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        OSError: as `write_text`; also any error of `write_to`.
    """
    path = user_path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with locked(path) as held:
        if held:
            for each in leftovers(path.parent, path.name):  # of a process that was killed
                each.unlink(missing_ok=True)
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
    """The temporary files in a folder, of `name` or of any name, whether still being written or left over: a list."""
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[0-9a-f]{{8}}\.tmp")
    return [each for each in user_path(folder).iterdir() if pattern.fullmatch(each.name)]


def read_json(path):
    """The content of a JSON file.

    Raises:
        ValueError: if it is not JSON, or nests deeper than Python's parser can go.
        OSError: if it cannot be read.
    """
    path = user_path(path)
    refuse_pipe(path)
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None


def flush(path):
    """Waits until a file, or the list of names in a folder, is on the disk (`fsync`)."""
    path = Path(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems cannot flush folders.
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
