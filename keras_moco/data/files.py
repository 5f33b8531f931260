"""What a user names, or has put among the images, may be no file: a folder, a pipe that blocks for ever, or locked."""

import os
import stat

from keras_moco.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def what_else(path):
    """What there is instead of a file, which may be behind a link: a few words; `None` where it is one.

    Example:

    >>> what_else("/dev/null"), what_else("/")
    ('a device', 'a folder')
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.strerror
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def check_file(path, rule, way_out):
    """Raises `ValueError`, with that rule and way out, unless a path is that of a file, or of a link to one."""
    if found := what_else(path):
        raise UserError(f"{rule} Received: {path}, {found}. {way_out}")


def check_folder(path, rule):
    """Raises `ValueError`, with that rule, for a folder that may not be listed; one that does not exist may pass."""
    try:
        with os.scandir(path):
            pass
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise locked(path, rule, error) from error


def locked(path, rule, error):
    """The `UserError` for a folder that the operating system does not open."""
    return UserError(
        f"{rule} Received: {path}, of which the operating system says: {error.strerror}. Give the user of this process "
        "the right to read it, or move it away."
    )
