"""The checksums of TFRecord files, which TensorFlow computes but has no public function for."""

import functools
import struct

import numpy as np

WIDTH = 256  # bytes of a part, see `checksum_of`


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
    # The others in parts at once, since a loop over single bytes is slow. A checksum is linear: that of a state and the
    # bytes after it is that of the state and as many zeros, plus that of the bytes alone.
    parts = np.frombuffer(data, "uint8", offset=head).reshape(-1, WIDTH) if len(data) > head else None
    for part in () if parts is None else _crcs(parts, 0).tolist():
        for byte, row in enumerate(advance):
            part ^= row[crc >> 8 * byte & 255]
        crc = part
    return struct.pack("<I", _masked(crc) & 0xFFFFFFFF)


def checksums_of(rows):
    """`checksum_of` many short pieces of data at once, which is faster.

    Args:
        rows: uint8 array `(n, width)`.

    Returns:
        uint32 array `(n,)`; in a file each number is four bytes, the lowest first.
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
    """The state after one byte, and the part of the state after `WIDTH` zeros that each of its bytes contributes."""
    table = np.arange(256, dtype="uint32")
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))  # Castagnoli's polynomial
    states = np.arange(256, dtype="uint32") << 8 * np.arange(4, dtype="uint32")[:, None]
    for _ in range(WIDTH):
        states = table[states & 255] ^ states >> 8
    return table.tolist(), states.tolist()
