"""Paths as users write them, and checks of what they lead to: a file, a folder, a pipe, a folder without access."""

import errno
import os
import stat
from pathlib import Path

from keras_moco.errors import UserError

StrPath = str | os.PathLike[str]
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def user_path(path: StrPath) -> Path:
    """A path given by a user, with `~` or `~name` at its start replaced by that home directory.

    A shell expands them in an argument of their own, but not after `--workdir=`, and Python never does.

    Args:
        path: str or path-like.

    Returns:
        `pathlib.Path`. Without such a home directory the path stays unchanged.

    Example:

    >>> user_path("~/runs") == Path.home() / "runs"
    True
    """
    return Path(os.path.expanduser(path))


def instead_of_file(path):
    """What a path leads to instead of a file, in a few words; `None` for a file or a link to one.

    Example:

    >>> instead_of_file("/dev/null"), instead_of_file("/")
    ('a device', 'a folder')
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.strerror
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def check_file_or_folder(path):
    """Refuses a path that is neither a file nor a folder: opening a pipe blocks, and reading a device may never end.

    Args:
        path: `pathlib.Path` that exists; a symbolic link counts as what it points to.

    Raises:
        ValueError: if the path is a named pipe, a socket or a device.
    """
    if not path.is_dir():
        check_file(path, "What is opened must be a file or a folder.", "Copy its content into a file first.")


def check_file(path, rule, way_out):
    """Raises `ValueError`, with that rule and way out, unless a path is a file or a link to one."""
    if found := instead_of_file(path):
        raise UserError(f"{rule} Received: {path}, {found}. {way_out}")


def refuse_pipe(path):
    """Raises `OSError` for a named pipe, a socket or a device: opening or reading one may never end."""
    kind = instead_of_file(path)
    if kind in KINDS.values() and kind != KINDS[stat.S_IFDIR]:
        raise OSError(errno.EINVAL, kind, os.fspath(path))


def check_folder(path, rule):
    """Raises `ValueError`, with that rule, for a folder that cannot be listed. One that does not exist passes."""
    try:
        with os.scandir(path):
            pass
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise access_error(path, rule, error) from error


def access_error(path, rule, error):
    """The `UserError` for a folder to which the operating system denies access."""
    return UserError(
        f"{rule} Received: {path}, of which the operating system says: {error.strerror}. Give the user of this process "
        "permission to read it, or move it away."
    )
