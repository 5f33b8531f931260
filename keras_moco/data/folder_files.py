"""The files below folders; each folder is read once, however many links lead to it."""

import os
from typing import NamedTuple

from keras_moco.storage.paths import access_error, instead_of_file

RULE = "Folders of images must be readable."


class Found(NamedTuple):
    """What is below a folder; all paths begin with it.

    Attributes:
        files: sorted paths of regular files, and of links that lead nowhere.
        folders: sorted paths of folders, without itself.
        again: sorted paths that lead to a folder which is found without them: links, and folders in two roots.
        others: sorted paths of what is neither: pipes, sockets, devices.
        hidden: sorted paths of what has a name that begins with a dot; of a folder its own, not those in it.
    """

    files: list
    folders: list
    again: list
    others: list
    hidden: list


def walk(roots):
    """Finds what is below some folders, except names that begin with a dot.

    Links to folders are followed, but no folder is found twice: of two roots of which one is inside the other, the
    outer one has it; its own path takes precedence over links to it, and among links the first one, in the order of
    their paths. So nothing depends on the order in which the operating system lists a folder, and circular links end.

    Args:
        roots: list of paths.

    Returns:
        list of `Found`, one for each root.

    Raises:
        ValueError: if a folder may not be read.
    """
    found, seen, links = [Found([], [], [], [], []) for _ in roots], set(), []
    # The shortest first, since what is inside another has a longer path.
    for number in sorted(range(len(roots)), key=lambda number: (len(os.path.realpath(roots[number])), number)):
        _descend(os.fspath(roots[number]), number, found, seen, links)
    while links:
        links.sort(reverse=True)
        number, link = links.pop()
        if _identity(link) in seen:
            found[number].again.append(link)
        else:
            found[number].folders.append(link)
            _descend(link, number, found, seen, links)
    for each in found:
        for paths in each:
            paths.sort()
    return found


def _descend(top, number, found, seen, links):
    """Adds what is below a folder that is no link; links to folders are collected for later."""
    waiting, own = [top], found[number]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        if identity in seen:
            own.again.append(folder)
            continue
        seen.add(identity)
        if folder is not top:
            own.folders.append(folder)
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except OSError as error:
            raise access_error(folder, RULE, error) from error
        own.hidden.extend(entry.path for entry in entries if entry.name.startswith("."))
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        inner = []
        for entry in entries:
            path = entry.path
            if entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif entry.is_file(follow_symlinks=False):  # known from the listing, without a call for each file
                own.files.append(path)
            elif not entry.is_symlink():
                own.others.append(path)
            elif os.path.isdir(path):
                links.append((number, path))
            else:
                # A link that leads nowhere, or to where nobody may look, is a file that cannot be read.
                (own.others if os.path.exists(path) and instead_of_file(path) else own.files).append(path)
        waiting += sorted(inner, reverse=True)


def _identity(folder):
    try:
        status = os.stat(folder)
    except OSError as error:
        raise access_error(folder, RULE, error) from error
    return status.st_dev, status.st_ino
