"""What a path leads to: a file or a folder, and nothing that blocks whoever opens it."""

import stat

from keras_moco.errors import UserError


def check_readable(path):
    """Refuses what is neither a file nor a folder: to open a named pipe waits for ever, to read a device never ends.

    Args:
        path: `pathlib.Path` that exists; a symbolic link counts as what it points to.

    Raises:
        ValueError: if it is a named pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise UserError(
            "What is opened must be a file or a folder. "
            f"Received: {path}, {kinds.get(stat.S_IFMT(mode), 'a device')}. Copy its content into a file first."
        )
