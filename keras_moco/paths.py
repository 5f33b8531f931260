"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path):
    """A path that a user gave, with `~` and `~name` at its beginning as the home that they stand for.

    A shell expands them in an argument of their own, not behind `--workdir=`, and Python never does.

    Args:
        path: str or path-like.

    Returns:
        `pathlib.Path`. Where there is no such home it stays as it is.

    Example:

    >>> user_path("~/runs") == Path.home() / "runs"
    True
    """
    return Path(os.path.expanduser(path))
