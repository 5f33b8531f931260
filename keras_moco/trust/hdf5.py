"""Weights in HDF5 must be numbers in the file itself, and as many as it declares."""

import math

import h5py

from keras_moco.errors import UserError

# A file may declare arrays that it does not store. Weights hardly shrink by compression.
SMALL = 2**28  # bytes that any file may declare, however small it is
MOST_EXPANSION = 20
# To read any part of an array in chunks, a whole chunk is unpacked.
SMALL_CHUNK = 2**20


def check_weights(path, file=None):
    """Refuses HDF5 that links to other files, declares more numbers than it stores, or holds anything but numbers.

    HDF5 can link to other files, or store arrays in them. Loaded as weights, their content would be in the next file
    that is saved.

    Args:
        path: path of the file, for messages.
        file: binary file object with the content. Defaults to `None`: the file at `path` is opened.

    Returns:
        int, the bytes of all arrays.

    Raises:
        ValueError: if it is refused, or no complete HDF5.
    """
    try:
        with h5py.File(file or path, "r") as content:
            arrays = list(_arrays(content))
            size = content.id.get_filesize()
    except FileNotFoundError:  # the file was deleted while it was read
        raise
    # The type of error depends on where the damage is.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"Weights must be in a complete HDF5 file. Received: {path}, for which HDF5 says: {error}. Restore it."
        ) from error
    for name, _, forbidden in arrays:
        if forbidden:
            raise UserError(
                "Weights must be numbers in the file itself. "
                f"Received: {path}, where {name} is {forbidden}; it was not read. Do not use this file."
            )
    total = sum(declared for _, declared, _ in arrays)
    if total > max(SMALL, MOST_EXPANSION * size):
        raise UserError(
            "Weights must be stored in the file, not only declared. "
            f"Received: {path} of {size:,} bytes, which declares {total:,}. Do not use this file."
        )
    return total


def _arrays(file):
    """`(name, bytes, why it is refused)` for everything in a file; the last is empty for an array of numbers."""
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # a group may contain itself
            continue
        seen.add(address)
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                where = f" {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
                yield place, 0, f"a link elsewhere{where and ', to'}{where}"
                continue
            found = group[name]
            if isinstance(found, h5py.Group):
                groups.append(found)
            elif isinstance(found, h5py.Dataset):
                yield place, math.prod(found.shape or ()) * found.dtype.itemsize, _forbidden(found)
            else:
                yield place, 0, "neither a group nor an array"


def _forbidden(dataset):
    if dataset.external:
        return f"stored in another file, {dataset.external[0][0]}"
    if dataset.is_virtual:
        return "assembled from other files"
    if dataset.chunks:
        itemsize = dataset.dtype.itemsize
        if math.prod(dataset.chunks) * itemsize > max(SMALL_CHUNK, 2 * math.prod(dataset.shape) * itemsize):
            return "stored in chunks that are larger than the array"
    return "no array of numbers" if dataset.dtype.hasobject else ""
