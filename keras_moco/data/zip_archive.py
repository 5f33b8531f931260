"""A zip archive of a folder of image files as a source."""

import struct
import zipfile
import zlib

import numpy as np
from absl import logging

from keras_moco.data.archive_files import MemberError, archive_source, read_at
from keras_moco.data.folder import endings
from keras_moco.data.identity import digest_of
from keras_moco.data.source import check_split, classes_for_test
from keras_moco.data.splits import chosen, is_split_name, unwrapped
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.registry import SUFFIXES
from keras_moco.storage.paths import check_file, user_path

MACOS = "__MACOSX"  # what macOS adds for its own use
ENCRYPTED = 1  # the bit of the flags
UNUSUAL = {9: "deflate64", zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma", 93: "zstd"}  # APPNOTE.TXT, 4.4.5
# Of the header before each file in the archive: its size, its first bytes, and where the lengths of name and extra
# field are, which its content follows.
HEADER, SIGNATURE, LENGTHS = 30, b"PK\x03\x04", 26


def open_zip(path, options):
    """Opens the image files in a zip archive, as `folder:` opens those in a folder.

    Folders in the archive are classes, labelled in the sorted order of their names; images below them are found at any
    depth. An archive that holds its images directly is unlabelled. If there is a folder `train`, the splits are `train`
    and `test`, by the names of `keras_moco.data.splits.NAMES`. If the archive holds one folder, which is no split, and
    no images beside it, that folder is opened. Files and folders whose names begin with a dot, and `__MACOSX`, are
    ignored.

    Nothing is unpacked: each image is read, and decompressed, by itself.

    Args:
        path: str, the archive.
        options: `Options`. With `cache` all images are read into memory, encoded, when the archive is opened.

    Returns:
        A `Source` of images of any size. The first readable image decides how many channels all have.

    Raises:
        ValueError: if it is no zip archive or has no such split, it holds no images, images are beside class folders, a
            class is empty, or an image is encrypted, or compressed in a way that is not usual in zip archives.
    """
    name, split = f"zip:{path}", options.split
    check_split(name, split)
    path = str(user_path(path))
    entries, hidden = _entries(path)
    whole = _whole(entries)
    splits = chosen(_folders(entries, whole), lambda folder: _holds_images(entries, f"{whole}{folder}/"), path, name)
    splits = unwrapped(splits, lambda folder: _content_names(entries, f"{whole}{folder}/"))
    if split not in splits and split == "test":
        raise UserError(
            f"A zip archive must have the folders `train` and `test` (or `val`) to be opened as split={split!r}. "
            f"Received: {name!r}, without {'`test`' if splits else '`train`: its images are the `train` split'}. "
            "Give --split=train."
        )
    roots = {each: f"{whole}{folder}/" for each, folder in splits.items()}
    train, root = roots.get("train", whole), roots.get(split, whole)
    class_names = _folders(entries, train)
    if split == "test":
        class_names = classes_for_test(class_names, _folders(entries, root), name)
    below = {entry[len(root) :]: info for entry, info in entries.items() if entry.startswith(root) and entry != root}
    images, labels = _labelled(below, class_names, _folders(entries, root), f"{path}/{root}".rstrip("/"))
    _note(below, hidden, name)
    places = np.array([_place(path, below[image]) for image in images])  # a million `ZipInfo` would take a gigabyte

    def identity():
        return {
            "names of the files": digest_of(images),
            "classes": digest_of(labels),
            "sizes of the files": digest_of(places[:, 2].tolist()),
            "checksums of the files": digest_of(places[:, 3].tolist()),
        }

    files = [f"{path}/{root}{image}" for image in images]

    def contents(index):
        return _content(path, *places[index].tolist())

    return archive_source(name, options, contents, files, labels, tuple(class_names) or None, identity)


def _place(path, info):
    """What is needed to read an image, the arguments of `_content`: where its header is, its size packed and unpacked,
    its checksum, and whether it is deflated.
    """
    rule = "The images in a zip archive must be stored or deflated, and not encrypted."
    if info.flag_bits & ENCRYPTED:
        raise UserError(f"{rule} Received: {path}, with {info.filename}, encrypted. Write it without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = UNUSUAL.get(info.compress_type, f"method {info.compress_type}")
        raise UserError(f"{rule} Received: {path}, with {info.filename}, compressed by {kind}. Write it with deflate.")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    return info.header_offset, info.compress_size, info.file_size, info.CRC, deflated


def _content(path, place, packed_size, size, checksum, deflated):
    """The content of a file in the archive, whose header is at `place`."""
    header = read_at(path, place, HEADER)
    if not header.startswith(SIGNATURE):
        raise MemberError("the archive is damaged at its header")
    content = read_at(path, place + HEADER + sum(struct.unpack_from("<HH", header, LENGTHS)), packed_size)
    if deflated:
        try:
            # One byte more than expected, so that damaged content cannot fill the memory.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        except zlib.error as error:
            raise MemberError(f"it cannot be decompressed: {error}") from error
    if zlib.crc32(content) != checksum:
        raise MemberError("its checksum is wrong")
    return content


def _entries(path):
    """What is in the archive: a dict of names, those of folders with a slash, to their `ZipInfo`; and hidden files."""
    rule, way_out = "A zip archive must be a complete zip file.", "Correct the path, or fetch or write it again."
    check_file(path, rule, way_out)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{rule} Received: {path}, {error}. {way_out}") from error
    entries: dict[str, zipfile.ZipInfo | None] = {}
    hidden = []
    for info in infos:
        parts = info.filename.split("/")
        if parts[0] == MACOS or any(part.startswith(".") for part in parts):
            hidden += [] if info.is_dir() else [info.filename]
            continue
        for depth in range(1, len(parts)):
            entries.setdefault("/".join(parts[:depth]) + "/", None)
        if info.is_dir():
            continue
        if info.filename in entries:
            raise UserError(
                "The files in a zip archive must have different names. "
                f"Received: {path} with two files {info.filename}. Write it again."
            )
        entries[info.filename] = info
    return entries, hidden


def _whole(entries):
    """The folder that is opened, with a slash: the only one, without images beside it; else the archive, `""`."""
    folders = _folders(entries, "")
    images = any("/" not in entry and _is_image(entry) for entry in entries)
    lone = len(folders) == 1 and not images and not is_split_name(folders[0])
    return f"{folders[0]}/" if lone else ""


def _folders(entries, root):
    """The names of the folders in a folder, sorted."""
    start = len(root)
    inner = (entry[start:] for entry in entries if entry.startswith(root))
    return sorted(entry[:-1] for entry in inner if entry and entry.find("/") == len(entry) - 1)


def _content_names(entries, root):
    """The names of the folders and of the files in a folder, two lists."""
    inner = (entry[len(root) :] for entry in entries if entry.startswith(root))
    return _folders(entries, root), [entry for entry in inner if entry and "/" not in entry]


def _holds_images(entries, root):
    return any(entry.startswith(root) and _is_image(entry) for entry in entries)


def _is_image(entry):
    return entry.lower().endswith(SUFFIXES)


def _labelled(entries, class_names, folders, root):
    """`(images, labels)`, two tuples: the images' names in order, and their labels, -1 for none."""
    numbers = {name: label for label, name in enumerate(class_names)}
    images = list(filter(_is_image, entries))
    direct = [image for image in images if "/" not in image]
    if direct and folders:
        raise UserError(
            "A zip archive of images must hold either class folders or images, not both. "
            f"Received: {root} with {len(direct)} images beside {len(folders)} folders. Write it again."
        )
    if not images:
        raise UserError(
            f"A zip archive must hold images ({' '.join(SUFFIXES)}). Received: {root}, with none. Add some."
        )
    labels, ordered = zip(*sorted((numbers.get(image.partition("/")[0], -1), image) for image in images), strict=True)
    for folder in folders:
        if numbers[folder] not in labels:
            raise UserError(
                f"Every class folder must hold images ({' '.join(SUFFIXES)}). Received: {root}/{folder}, "
                "which holds none. Write the archive without it, or fill it."
            )
    return ordered, labels


def _note(entries, hidden, name):
    """Logs what is not read."""
    unread = [entry for entry in entries if not entry.endswith("/") and not _is_image(entry)]
    reason = f"files that do not end in {' '.join(SUFFIXES)} are not read: {endings(unread)};"
    for found, text in (
        (unread, reason),
        (hidden, f"hidden files, with names that begin with a dot or below {MACOS}, are not read,"),
    ):
        if found:
            logging.warning("%s", one_line(f"{name}: {len(found)} {text} the first one: {found[0]}"))
