"""By what data are known again: short digests of what they are made of."""

import hashlib

import numpy as np


def digest_of(parts):
    """A digest of parts in their order.

    Args:
        parts: iterable of strings and numbers, each counted as one whatever it holds; or an array, of which shape, type
            and values count.

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
            part = str(part).encode(errors="surrogateescape")  # of file names that are no UTF-8
            digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()[:32]


def differences(before, now):
    """Of which parts the digests differ: a list of their names."""
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]
