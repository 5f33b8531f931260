"""Short digests by which a resumed run recognises its data."""

import hashlib

import numpy as np


def digest_of(parts):
    """A digest of several parts in their order.

    Args:
        parts: iterable of strings and numbers, whose boundaries count; or an array, whose shape, type and values count.

    Returns:
        str.

    Example:

    >>> digest_of(["a", "bc"]) == digest_of(["ab", "c"])
    False
    """
    digest = hashlib.sha256()
    if isinstance(parts, np.ndarray):
        digest.update(f"{parts.dtype.str} {parts.shape} ".encode())
        digest.update(np.ascontiguousarray(parts).data)
    else:
        for part in parts:
            part = str(part).encode(errors="surrogateescape")  # file names need not be UTF-8
            digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()[:32]


def differences(before, now):
    """The names of the digests that differ, a list."""
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]
