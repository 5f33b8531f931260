"""Weights in HDF5: numbers within the file alone, and as many as it says."""

import math

import h5py

from keras_moco.errors import UserError

# A file may declare arrays that it does not store. Weights hardly shrink by compression.
SMALL = 2**28  # bytes, for which nobody has to pay with a file
MOST_EXPANSION = 20
# Of an array that is stored in chunks, all of one is unpacked to read any of it.
SMALL_CHUNK = 2**20


def check_weights(path, file=None):
    """Refuses HDF5 that leads out of the file, declares more numbers than it stores, or holds something else.

    HDF5 can link to other files, and have arrays in them: loaded as weights, those would be read, and end up in what is
    saved next.

    Args:
        path: path, for messages; of the file, unless `file` is given.
        file: the file as a binary file object. Defaults to `None`: it is opened.

    Returns:
        int, the bytes of all its arrays.

    Raises:
        ValueError: if it is no whole HDF5, or one of these.
    """
    try:
        with h5py.File(file or path, "r") as content:
            arrays = list(_arrays(content))
            size = content.id.get_filesize()
    except FileNotFoundError:  # of a checkpoint that is deleted while it is read
        raise
    # What HDF5 raises depends on where the damage is.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"Weights must be in a whole HDF5 file. Received: {path}, of which HDF5 says: {error}. Fetch it again."
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
    """`(name, bytes, what it is that it must not be)` of all that lies in a file; the last is empty if all is well."""
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # a group may lie within itself
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
        return "put together out of other files"
    if dataset.chunks:
        itemsize = dataset.dtype.itemsize
        if math.prod(dataset.chunks) * itemsize > max(SMALL_CHUNK, 2 * math.prod(dataset.shape) * itemsize):
            return "stored in pieces that are larger than itself"
    return "no array of numbers" if dataset.dtype.hasobject else ""
