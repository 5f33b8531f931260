"""The files below a folder; each folder is read once, however many links lead to it."""

import os
from typing import NamedTuple

from keras_moco.storage.paths import access_error, instead_of_file

RULE = "Folders of images must be readable."


class Found(NamedTuple):
    """What is below a folder; all paths begin with it.

    Attributes:
        files: sorted paths of regular files, and of links that lead nowhere.
        folders: sorted paths of folders, without itself.
        again: sorted paths of links that lead to a folder which is found without them.
        others: sorted paths of what is neither: pipes, sockets, devices.
    """

    files: list
    folders: list
    again: list
    others: list


def walk(root):
    """Finds what is below a folder, except names that begin with a dot.

    Links to folders are followed, but no folder is found twice: its own path takes precedence over links to it, and
    among links the first one, in the order of their paths. So nothing depends on the order in which the operating
    system lists a folder, and circular links end.

    Args:
        root: path.

    Returns:
        `Found`.

    Raises:
        ValueError: if a folder may not be read.
    """
    found, seen, links = Found([], [], [], []), set(), []
    _descend(os.fspath(root), found, seen, links)
    while links:
        links.sort(reverse=True)
        link = links.pop()
        if _identity(link) in seen:
            found.again.append(link)
        else:
            found.folders.append(link)
            _descend(link, found, seen, links)
    for paths in found:
        paths.sort()
    return found


def _descend(folder, found, seen, links):
    """Adds what is below a folder that is no link; links to folders are collected for later."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        seen.add(_identity(folder))
        try:
            with os.scandir(folder) as listed:
                entries = [entry for entry in listed if not entry.name.startswith(".")]
        except OSError as error:
            raise access_error(folder, RULE, error) from error
        for entry in entries:
            path = entry.path
            if entry.is_dir(follow_symlinks=False):
                found.folders.append(path)
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False):  # known from the listing, without a call for each file
                found.files.append(path)
            elif not entry.is_symlink():
                found.others.append(path)
            elif os.path.isdir(path):
                links.append(path)
            else:
                # A link that leads nowhere, or to where nobody may look, is a file that cannot be read.
                (found.others if os.path.exists(path) and instead_of_file(path) else found.files).append(path)


def _identity(folder):
    try:
        status = os.stat(folder)
    except OSError as error:
        raise access_error(folder, RULE, error) from error
    return status.st_dev, status.st_ino
