"""The checksums in TFRecord files, which TensorFlow computes but does not offer."""

import functools
import struct

import numpy as np

WIDTH = 256  # bytes of a part


def checksum_of(data):
    """The four bytes that follow `data` in a TFRecord file: CRC32C, masked.

    Args:
        data: bytes.

    Returns:
        bytes.

    Example:

    >>> checksum_of(bytes(8)).hex()
    '29039807'
    """
    table, advance = _tables()
    crc, head = 0xFFFFFFFF, len(data) % WIDTH
    for byte in data[:head]:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    # The others in parts side by side, as a loop over single bytes takes long. A checksum is linear: of a state and
    # the bytes behind it, it is that of the state and as many zeros, plus that of the bytes alone.
    parts = np.frombuffer(data, "uint8", offset=head).reshape(-1, WIDTH) if len(data) > head else None
    for part in () if parts is None else _crcs(parts, 0).tolist():
        for byte, row in enumerate(advance):
            part ^= row[crc >> 8 * byte & 255]
        crc = part
    return struct.pack("<I", _masked(crc) & 0xFFFFFFFF)


def checksums_of(rows):
    """`checksum_of` many short pieces of data, faster than one by one.

    Args:
        rows: uint8 array `(n, width)`.

    Returns:
        uint32 array `(n,)`, of which each is four bytes in a file, the lowest first.
    """
    return _masked(_crcs(rows, 0xFFFFFFFF))


def _masked(crc):
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8


def _crcs(parts, start):
    """The bare CRC of each row of bytes, uint32."""
    table = np.array(_tables()[0], "uint32")
    crc = np.full(len(parts), start, "uint32")
    for column in parts.T:
        crc = table[(crc ^ column) & 255] ^ crc >> 8
    return crc


@functools.cache
def _tables():
    """What one byte makes of a state, and what `WIDTH` zeros make of each byte of a state."""
    table = np.arange(256, dtype="uint32")
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))  # the polynomial of Castagnoli
    states = np.arange(256, dtype="uint32") << 8 * np.arange(4, dtype="uint32")[:, None]
    for _ in range(WIDTH):
        states = table[states & 255] ^ states >> 8
    return table.tolist(), states.tolist()
