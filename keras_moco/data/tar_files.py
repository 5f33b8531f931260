"""The files in a tar archive: where each one is."""

import tarfile
from typing import NamedTuple

from keras_moco.errors import UserError

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by first bytes


class TarMember(NamedTuple):
    """A file in an archive.

    Attributes:
        name: str, with its folders.
        offset: int, where its content begins in the archive.
        size: int, bytes.
    """

    name: str
    offset: int
    size: int


def tar_members(path):
    """Lists the files in an archive from their headers alone; links and devices have no content, and are not listed.

    Args:
        path: str, an archive that is not compressed, so that each file can be read by itself.

    Returns:
        List of `TarMember`.

    Raises:
        ValueError: if it is compressed, damaged or incomplete, or if something follows its end.
    """
    with open(path, "rb") as file:
        start = file.read(BLOCK)
        for first_bytes, kind in COMPRESSED.items():
            if start.startswith(first_bytes):
                raise UserError(
                    "A tar file must not be compressed, so that each image in it can be read by itself. "
                    f"Received: {path}, compressed by {kind}. Decompress it."
                )
        try:
            file.seek(0)
            found, end = _read_headers(file)
            reason = _what_follows(file, end)
        except tarfile.TarError as error:
            reason = f"which cannot be read: {error}"
    if reason:
        raise UserError(
            f"A tar file must be complete. Received: {path}, {reason}. Fetch or write it again, or remove it."
        )
    return found


def _read_headers(file):
    """The files, and where their list ends."""
    found = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.isreg() and not member.issparse():
                found.append(TarMember(member.name, member.offset_data, member.size))
        return found, archive.offset


def _what_follows(file, end):
    """What is wrong with the end of an archive; an empty text if nothing is.

    Python's reader takes a damaged header for the end. An archive is closed by blocks of zeros.
    """
    file.seek(end)
    block = file.read(BLOCK)
    if not block:
        return "which ends without the zeros that close a tar file, so it may have been cut off"
    if len(block) < BLOCK:
        return f"which ends inside the header at byte {end}"
    if any(block):
        return f"which is damaged at byte {end}, where a header should be"
    while block := file.read(2**20):
        if any(block):
            return f"where something follows after its end at byte {end}, as if several had been joined"
    return ""
