"""A user whom permissions bind, which they do not root."""

import contextlib
import os
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def as_a_user(folder):
    """Runs a block as a user who is not root, to whom `folder` and all in it belongs for that time.

    Without the rights of root, as in `.ci/run`, whoever runs the tests is one already.
    """
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        yield
        return
    os.seteuid(0)
    closed = [path for path in Path(folder).parents if path.stat().st_mode & 0o011 != 0o011]
    modes = [path.stat().st_mode for path in closed]
    for path, mode in zip(closed, modes, strict=True):
        path.chmod(mode | 0o011)
    _give(folder, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        _give(folder, 0)  # root without its rights could not delete them
        for path, mode in zip(closed, modes, strict=True):
            path.chmod(mode)


def _give(folder, user):
    for path in (Path(folder), *Path(folder).rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


@contextlib.contextmanager
def mode(path, bits):
    """Has a file or folder permissions of other bits for the time of a block."""
    before = os.stat(path).st_mode
    os.chmod(path, bits)
    try:
        yield
    finally:
        os.chmod(path, before)
