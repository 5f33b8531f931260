"""3,000 files of every format, fault and oddity in one folder: a table of kinds, and what becomes of each."""

import collections
import functools
import io
import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pillow_heif
import tensorflow as tf
from PIL import Image

from tests.image_formats.written import array_file, by_pillow, dicom, tiff

TOTAL = 3000
CLASSES = [b"caf\xe9", b"cats", b"dogs", "misc, #1 \N{CAT FACE}\n'quoted\"".encode()]
INNER = [b"", b"2019", b"2019/june, late", b"linked"]  # deeper folders belong to the class above

# What becomes of a file: it is read, it counts as an image that cannot be read, or it is none.
READ = "read"
BAD, UNREAD, HIDDEN, SPECIAL, AGAIN = "bad", "not read", "hidden", "no file", "read already"
DAMAGED = "a damaged, incomplete or too large "


class Kind(NamedTuple):
    """Some files of one kind.

    Attributes:
        count: int.
        names: what the name ends in; several take turns.
        write: function of the number of a file to its content, or of a path to nothing, which writes the file.
        fate: one of those above.
        what: the format of a file that is read, the reason of one that cannot be, the ending of one that is not read.
        marks: what the report counts of a file that is read: some of `"alpha"`, `"turned"`, `"narrow"`, `"blank"`,
            `"pages"`.
        channels: int, without opacity, as the file has them.
        bits: int; 0 for fractions and units.
    """

    count: int
    names: str | bytes
    write: Callable
    fate: str
    what: str
    marks: tuple = ()
    channels: int = 3
    bits: int = 8


def pixels(number, channels=3, dtype="uint8", height=None, width=None):
    """Noise, of which no two are alike."""
    random = np.random.default_rng(number)
    shape = (height or random.integers(16, 41), width or random.integers(16, 41), channels)
    if np.dtype(dtype).kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def picture(number, mode="RGB", **size):
    if mode in ("P", "1"):
        image = Image.fromarray(pixels(number, **size))
        return image.quantize(16) if mode == "P" else image.convert("1")
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    image = Image.fromarray(
        pixels(number, channels, **size).squeeze(-1) if channels == 1 else pixels(number, channels, **size)
    )
    return Image.frombytes("CMYK", image.size, image.tobytes()) if mode == "CMYK" else image


def file(kind, mode="RGB", **options):
    """A writer of images of a format of Pillow."""
    return lambda number: by_pillow(picture(number, mode), kind, **options)


def turned(kind):
    """All but upright, by EXIF."""

    def write(number):
        exif = Image.Exif()
        exif[274] = 2 + number % 7
        return by_pillow(picture(number), kind, exif=exif)

    return write


def animated(kind):
    def write(number):
        first, *others = [picture(number * 5 + each, height=20, width=20) for each in range(3)]
        return by_pillow(first, kind, save_all=True, append_images=others)

    return write


def of_pixels(encode, channels=3, dtype="uint8", **size):
    """A writer of arrays."""
    return lambda number: encode(pixels(number, channels, dtype, **size))


def deep_png(values):
    return tf.io.encode_png(values).numpy()


def plain_dicom(values):
    return dicom(values[..., 0] >> 4)


def heic(number):
    with io.BytesIO() as file:
        pillow_heif.from_pillow(picture(number, height=32, width=40)).save(file, quality=90)
        return file.getvalue()


def cut(writer, share=0.5):
    """A writer of files that break off."""

    def write(number):
        content = writer(number)
        return content[: int(len(content) * share)]

    return write


def always(content):
    return lambda number: content


def text(number):
    return b"This is no image, number %d.\n" % number


def huge_png(number):
    """A header of 60,000 x 60,000 pixels, and a few bytes of them."""
    size = (60_000).to_bytes(4, "big")
    chunks = {b"IHDR": size + size + b"\x08\x02\0\0\0", b"IDAT": zlib.compress(b"%d" % number * 50), b"IEND": b""}
    parts = (
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_jpeg(number):
    """A JPEG whose header says 65,500 x 65,500 pixels."""
    content = by_pillow(picture(number), "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + (65_500).to_bytes(2, "big") * 2 + content[place + 4 :]


def huge_array(number):
    content = array_file(pixels(number, height=20, width=20))
    return content.replace(b"(20, 20, 3)", b"(900000, 900000, 3)", 1)


def blank(number):
    return by_pillow(Image.new("RGB", (20 + number % 20, 24), (number % 256, number // 256, 7)), "PNG")


@functools.cache
def photo():
    return by_pillow(picture(10**6), "JPEG")


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    # The path of a socket has 107 bytes at most.
    folder, name = os.path.split(path)
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(name)
    finally:
        os.chdir(before)


def link(target):
    """A writer of links to a path below the folder of everything, or absolute."""
    return lambda path: os.symlink(os.path.join(path[: path.index(b"/photos/")], os.fsencode(target)), path)


def hidden_folder(path):
    os.mkdir(path)
    Path(os.fsdecode(path), "image.jpg").write_bytes(photo())


def closed(path):
    Path(os.fsdecode(path)).write_bytes(photo())
    os.chmod(path, 0)


JPEG, PNG = file("JPEG"), file("PNG")
WRONG_SHAPE = "An array of a NumPy file must be an image of numbers, (h, w), (h, w, c) or (c, h, w)."
BINDS = os.geteuid() != 0  # permissions do not bind root
KINDS = [
    Kind(640, ".jpg .jpeg .jpe .jfif .JPG .JpEg", JPEG, READ, "JPEG"),
    Kind(100, ".jpg", file("JPEG", "L"), READ, "JPEG", channels=1),
    Kind(60, ".jpg", file("JPEG", progressive=True), READ, "JPEG"),
    Kind(60, ".jpg", file("JPEG", "CMYK"), READ, "JPEG"),
    Kind(98, ".jpg", turned("JPEG"), READ, "JPEG", ("turned",)),
    Kind(200, ".png .PNG", PNG, READ, "PNG"),
    Kind(60, ".png", file("PNG", "L"), READ, "PNG", channels=1),
    Kind(60, ".png", file("PNG", "P"), READ, "PNG"),
    Kind(40, ".png", file("PNG", "1"), READ, "PNG", channels=1),
    Kind(60, ".png", file("PNG", "RGBA"), READ, "PNG", ("alpha",)),
    Kind(30, ".png", file("PNG", "LA"), READ, "PNG", ("alpha",), channels=1),
    Kind(40, ".png", of_pixels(deep_png, 1, "uint16"), READ, "PNG", channels=1, bits=16),
    Kind(40, ".png", of_pixels(deep_png, 3, "uint16"), READ, "PNG", bits=16),
    Kind(21, ".png", turned("PNG"), READ, "PNG", ("turned",)),
    Kind(50, ".bmp", file("BMP"), READ, "BMP"),
    Kind(20, ".bmp .BMP", file("BMP", "L"), READ, "BMP", channels=1),
    Kind(20, ".bmp", file("BMP", "P"), READ, "BMP"),
    Kind(10, ".bmp", file("BMP", "1"), READ, "BMP", channels=1),
    Kind(10, ".bmp", file("BMP", "RGBA"), READ, "BMP"),  # the fourth byte means nothing
    Kind(50, ".gif", file("GIF", "P"), READ, "GIF"),
    Kind(30, ".gif", animated("GIF"), READ, "GIF", ("pages",)),
    Kind(60, ".webp", file("WebP"), READ, "WebP"),
    Kind(20, ".webp", file("WebP", "RGBA"), READ, "WebP", ("alpha",)),
    Kind(10, ".webp", animated("WebP"), READ, "WebP", ("pages",)),
    Kind(14, ".webp", turned("WebP"), READ, "WebP", ("turned",)),
    Kind(40, ".tif .tiff .TIF", of_pixels(functools.partial(tiff, photometric="rgb")), READ, "TIFF"),
    Kind(20, ".tif", of_pixels(functools.partial(tiff, photometric="rgb", compression="lzw")), READ, "TIFF"),
    Kind(20, ".tif", of_pixels(lambda values: tiff(values[..., 0]), 1), READ, "TIFF", channels=1),
    Kind(20, ".tif", of_pixels(lambda values: tiff(values[..., 0]), 1, "uint16"), READ, "TIFF", channels=1, bits=16),
    Kind(20, ".tif", of_pixels(lambda values: tiff(values[..., 0]), 1, "float32"), READ, "TIFF", channels=1, bits=0),
    Kind(10, ".tif", file("TIFF", "CMYK"), READ, "TIFF"),
    Kind(10, ".tif", file("TIFF", "P"), READ, "TIFF"),
    Kind(10, ".tif", file("TIFF", "1"), READ, "TIFF", channels=1),
    Kind(10, ".tif", file("TIFF", "RGBA"), READ, "TIFF", ("alpha",)),
    Kind(20, ".tif", animated("TIFF"), READ, "TIFF", ("pages",)),
    Kind(30, ".ppm .pnm", file("PPM"), READ, "PNM"),
    Kind(20, ".pgm", file("PPM", "L"), READ, "PNM", channels=1),
    Kind(10, ".pbm", file("PPM", "1"), READ, "PNM", channels=1),
    Kind(40, ".dcm .dicom", of_pixels(plain_dicom, 1, "uint16"), READ, "DICOM", channels=1, bits=0),
    Kind(20, " .1.2.840.17", of_pixels(plain_dicom, 1, "uint16"), READ, "DICOM", channels=1, bits=0),
    Kind(20, ".heic .heif", heic, READ, "HEIC"),
    Kind(20, ".avif", file("AVIF"), READ, "AVIF"),
    Kind(30, ".npy", of_pixels(array_file), READ, "NumPy"),
    Kind(10, ".npy", of_pixels(lambda values: array_file(values[..., 0]), 1), READ, "NumPy", channels=1),
    Kind(10, ".npy", of_pixels(array_file, 3, "float32"), READ, "NumPy", bits=0),
    Kind(20, ".npz", of_pixels(lambda values: array_file(None, image=values, id=3)), READ, "NumPy"),
    Kind(40, ".png .tif .dcm .npy", JPEG, READ, "JPEG"),  # other endings than their format has
    Kind(40, ".jpg .heic .gif", PNG, READ, "PNG"),
    Kind(20, " .7", PNG, READ, "PNG"),
    Kind(20, ".jpg", lambda number: by_pillow(picture(number, height=5, width=40), "JPEG"), READ, "JPEG", ("narrow",)),
    Kind(20, ".png", lambda number: by_pillow(picture(number, height=60, width=6), "PNG"), READ, "PNG", ("narrow",)),
    Kind(20, ".png", lambda number: by_pillow(picture(number, height=1, width=1), "PNG"), READ, "PNG", ("blank",)),
    Kind(20, ".png", blank, READ, "PNG", ("blank",)),
    Kind(40, ".jpg", always(photo()), READ, "JPEG", ("same",)),
    Kind(20, ".jpg", link("outside/photo.jpg"), READ, "JPEG", ("same",)),
    Kind(20, b"\xff\xe9.jpg", JPEG, READ, "JPEG"),
    Kind(20, "a, 'b' \"c\"\n#\N{CAT FACE}.jpg".encode(), JPEG, READ, "JPEG"),
    Kind(60, ".jpg .png .tif .dcm .npy .webp", always(b""), BAD, "an empty file"),
    Kind(40, ".jpg .png .gif .heic .npy .webp .tiff", text, BAD, "of no known format"),
    Kind(40, ".jpg", cut(JPEG), BAD, f"{DAMAGED}JPEG"),
    Kind(20, ".png", cut(PNG), BAD, f"{DAMAGED}PNG"),
    Kind(10, ".bmp", cut(file("BMP")), BAD, f"{DAMAGED}BMP"),
    Kind(10, ".gif", cut(file("GIF", "P")), BAD, f"{DAMAGED}GIF"),
    Kind(10, ".webp", cut(file("WebP")), BAD, f"{DAMAGED}WebP"),
    Kind(10, ".tif", cut(of_pixels(functools.partial(tiff, photometric="rgb"))), BAD, f"{DAMAGED}TIFF"),
    Kind(10, ".ppm", cut(file("PPM")), BAD, f"{DAMAGED}PNM"),
    Kind(10, ".dcm", cut(of_pixels(plain_dicom, 1, "uint16")), BAD, f"{DAMAGED}DICOM"),
    Kind(10, ".heic", cut(heic), BAD, f"{DAMAGED}HEIC"),
    Kind(10, ".avif", cut(file("AVIF")), BAD, f"{DAMAGED}AVIF"),
    Kind(10, ".npy", cut(of_pixels(array_file)), BAD, f"{DAMAGED}NumPy"),
    Kind(5, ".png", huge_png, BAD, f"{DAMAGED}PNG"),
    Kind(5, ".jpg", huge_jpeg, BAD, f"{DAMAGED}JPEG"),
    Kind(5, ".npy", huge_array, BAD, f"{DAMAGED}NumPy"),
    Kind(10, ".npy", lambda number: array_file(pixels(number)[None]), BAD, WRONG_SHAPE),
    Kind(
        10, ".npy", of_pixels(array_file, 5), BAD, "An image must have 3 channel(s), or be gray or colour for 3 or 1."
    ),
    Kind(
        10,
        ".npz",
        lambda number: array_file(None, a=pixels(number), b=pixels(number)),
        BAD,
        "An .npz file must have one array, or one named `image`.",
    ),
    Kind(10, ".jpg", link("nowhere.jpg"), BAD, "No such file or directory"),
    Kind(10, ".jpg", link("/proc/self/mem/x.jpg"), BAD, "Not a directory"),
    Kind(10, ".jpg", closed, BAD if BINDS else READ, "Permission denied" if BINDS else "JPEG", ("same",)),
    Kind(40, ".CR2 .cr2", text, UNREAD, ".cr2"),
    Kind(20, ".nef", text, UNREAD, ".nef"),
    Kind(20, ".dng", of_pixels(functools.partial(tiff, photometric="rgb")), UNREAD, ".dng"),
    Kind(20, ".txt", text, UNREAD, ".txt"),
    Kind(20, " README", text, UNREAD, "without an ending"),
    Kind(5, ".db", text, UNREAD, ".db"),
    Kind(5, ".json", text, UNREAD, ".json"),
    Kind(5, ".cr3", link("nowhere.cr3"), UNREAD, ".cr3"),
    Kind(20, ".jpg", JPEG, HIDDEN, ""),
    Kind(6, "", hidden_folder, HIDDEN, ""),
    Kind(5, ".jpg", fifo, SPECIAL, ""),
    Kind(5, ".png", unix_socket, SPECIAL, ""),
    Kind(3, ".jpg", link("/dev/zero"), SPECIAL, ""),
    Kind(4, "", link("photos/dogs"), AGAIN, ""),
    Kind(4, "", link("photos"), AGAIN, ""),
]

BY_PATH = (fifo, unix_socket, closed, hidden_folder)


class Written(NamedTuple):
    """A file as it was written.

    Attributes:
        path: str.
        kind: `Kind`.
        label: int, of its class in sorted order.
    """

    path: str
    kind: Kind
    label: int


def write_mixed_files(root):
    """Writes all files in classes and deeper folders of `root/photos`, some through a link: a list of `Written`."""
    root, photos = os.fsencode(root), os.path.join(os.fsencode(root), b"photos")
    for place in (b"outside", *(os.path.join(b"photos", name, inner) for name in CLASSES for inner in INNER[:-1])):
        os.makedirs(os.path.join(root, place), exist_ok=True)
    Path(os.fsdecode(root), "outside", "photo.jpg").write_bytes(photo())
    for label, name in enumerate(CLASSES):
        os.mkdir(os.path.join(root, b"outside", b"%d" % label))
        os.symlink(os.path.join(root, b"outside", b"%d" % label), os.path.join(photos, name, INNER[-1]))
    first, *others = [(kind, turn) for kind in KINDS for turn in range(kind.count)]
    written = []
    for number, place in enumerate([None, *np.random.default_rng(0).permutation(len(others))]):
        kind, turn = first if place is None else others[place]  # the first one, by name, decides about the channels
        names = [kind.names] if isinstance(kind.names, bytes) else os.fsencode(kind.names).split(b" ")
        name = b"." * (kind.fate == HIDDEN) + b"%04d" % number + names[turn % len(names)]
        label = number % len(CLASSES)
        path = os.path.join(photos, CLASSES[label], INNER[number // len(CLASSES) % len(INNER)], name)
        if kind.write in BY_PATH or kind.write.__qualname__.startswith(link.__name__):
            kind.write(path)
        else:
            with open(path, "wb") as opened:
                opened.write(kind.write(number))
        written.append(Written(os.fsdecode(path), kind, label))
    return written


def counted(written, of, *fates):
    """A `Counter` of what a function says of the kinds of files, of these fates or of all."""
    return collections.Counter(of(each.kind) for each in written if not fates or each.kind.fate in fates)
