"""Compressed TFRecord files: which are, and how their records are found."""

import threading
import zlib

from keras_moco.data.crc32c import checksum_of

# TensorFlow's names, with the first bytes of such files. Of zlib the second byte depends on the level.
FIRST_BYTES = {"GZIP": (b"\x1f\x8b",), "ZLIB": (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")}
START = 12  # bytes that decide: the length of the first record and its checksum
PART = 2**18  # bytes that are decompressed at a time
WINDOW = zlib.MAX_WBITS + 32  # of both formats, recognised by their first bytes


class DamagedError(Exception):
    """A compressed file cannot be decompressed; the message says why."""


def compression_of(start):
    """How a file is compressed, from its first 12 bytes: `"GZIP"`, `"ZLIB"`, or an empty text if it is not.

    The length of a first record may begin with the same bytes as a compressed file: 35,615 is 1f 8b. Its checksum
    decides.

    Example:

    >>> compression_of(bytes.fromhex("1f8b08")), compression_of(bytes(12))
    ('GZIP', '')
    """
    if checksum_of(start[:8]) == start[8:START]:
        return ""
    return next((name for name, known in FIRST_BYTES.items() if start.startswith(known)), "")


class Decompressed:
    """A gzip or zlib file that is read as if it were plain. It is open only while it is read.

    There is no random access to such a file. To go back, it is decompressed again from its start; to go forward costs
    as much as to read.

    Args:
        path: str or path.

    Attributes:
        position: int, where it is in the decompressed content.
        lock: a lock for threads that share it, around a `seek` and what is read there.
    """

    def __init__(self, path):
        self._path = path
        self.lock = threading.Lock()
        self._rewind()

    def _rewind(self):
        self._inflate = zlib.decompressobj(WINDOW)
        self._consumed, self._input, self._ready, self.position = 0, b"", b"", 0

    def seek(self, position):
        """Goes to a position in the decompressed content, or to its end if it is shorter."""
        if position < self.position:
            self._rewind()
        while position > self.position and self.read(min(PART, position - self.position)):
            pass

    def read(self, size):
        """The next bytes, fewer than `size` only at the end.

        Raises:
            DamagedError: if the compressed content is damaged or incomplete.
        """
        parts, missing = [], size
        while missing and self._decompress():
            parts.append(self._ready[:missing])
            self._ready = self._ready[missing:]
            missing -= len(parts[-1])
        self.position += size - missing
        return b"".join(parts)

    def _decompress(self):
        """Makes the next bytes ready, if none are; false at the end of the content."""
        while not self._ready:
            if not self._input:
                with open(self._path, "rb") as file:
                    file.seek(self._consumed)
                    self._input = file.read(PART)
                self._consumed += len(self._input)
            last = not self._input
            if last and self._inflate.eof:
                return False
            if self._inflate.eof:  # gzip files may be written one after the other into one
                self._inflate = zlib.decompressobj(WINDOW)
            try:
                self._ready = self._inflate.decompress(self._input, PART)
            except zlib.error as error:
                self._rewind()  # what comes next is unknown
                raise DamagedError(f"its compressed content is damaged: {error}") from error
            if last and not self._ready and not self._inflate.eof:
                self._rewind()
                raise DamagedError("its compressed content is incomplete")
            self._input = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        return True
