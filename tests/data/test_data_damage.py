"""Damaged images are left out, counted and named; odd but good ones are not among them."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import Fused, RandomResizedCrop
from keras_moco.data import evaluation_dataset, open_source, plain_read_errors, pretrain_dataset

IMAGES, CLASSES = 1000, ("ant", "bee", "cat", "dog")
BROKEN = "a damaged, incomplete or too large {}".format
VANISHED = "No such file or directory"


def encoded(pixels, kind, **options):
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()


def noise(kind, size=40):
    return encoded(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype="uint8"), kind)


def bomb():
    """A PNG of a hundred bytes that says it is 100,000 x 100,000 pixels large."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


DAMAGES = [  # kind of file, its bytes, and what is said of it
    ("jpg", b"", "an empty file"),
    ("jpg", noise("jpeg")[:-300], BROKEN("JPEG")),
    ("png", noise("png")[:-300], BROKEN("PNG")),
    ("jpg", b"This is no image but a text.", "no JPEG, PNG, BMP or GIF"),
    ("png", bomb(), BROKEN("PNG")),
    ("jpg", None, VANISHED),
    ("jpg", noise("jpeg")[:100], BROKEN("JPEG")),
    ("png", b"\x89PNG\r\n\x1a\n" + bytes(50), BROKEN("PNG")),
]
BAD = {13 + 67 * number: DAMAGES[number % len(DAMAGES)] for number in range(15)}
GOOD = sorted(set(range(IMAGES)) - set(BAD))
LABELS = np.arange(IMAGES) // (IMAGES // len(CLASSES))
COLORS = np.random.default_rng(0).integers(0, 256, (IMAGES, 3), dtype="uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A thousand images of one colour each, of 24 to 40 pixels, the even ones JPEG; fifteen of them are damaged."""
    folder = tmp_path_factory.mktemp("thousand")
    for name in CLASSES:
        (folder / name).mkdir()
    for index in GOOD:
        pixels = np.broadcast_to(COLORS[index], (24 + index % 17, 24 + index % 13, 3))
        kind, options = ("png", {}) if index % 2 else ("jpg", {"quality": 95})
        where(folder, index, kind).write_bytes(encoded(pixels, kind.replace("jpg", "jpeg"), **options))
    for index, (kind, data, _) in BAD.items():
        where(folder, index, kind).write_bytes(noise("jpeg") if data is None else data)
    return folder


def where(folder, index, kind):
    return folder / CLASSES[LABELS[index]] / f"{index:03}.{kind}"


@pytest.fixture
def opened(folder):
    """Opens the thousand images, of which some are deleted then: a test that is root may read everything."""
    vanishing = [where(folder, index, kind) for index, (kind, data, _) in BAD.items() if data is None]

    def opened(**settings):
        for path in vanishing:
            path.write_bytes(noise("jpeg"))
        source = open_source(f"folder:{folder}", **settings)
        for path in vanishing:
            path.unlink()
        return source

    return opened


@pytest.fixture(scope="module")
def crop():
    return Fused([RandomResizedCrop(8)])  # which decodes no more of a JPEG than it needs


def description(folder, index):
    kind, _, reason = BAD[index]
    return f"{where(folder, index, kind)} ({reason})"


def read(dataset):
    batches = list(dataset.as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_of_one_color(images, indices):
    # Four levels: JPEG rounds colours.
    expected = np.broadcast_to(COLORS[indices][:, None, None].astype(int), images.shape)
    np.testing.assert_allclose(images.astype(int), expected, atol=4)


def assert_named_once(source, folder, caplog):
    assert source.bad.count == 15
    named = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(named) == len(set(named)) == 10
    known = {f"left out, since it cannot be read: {description(folder, index)}" for index in BAD}
    assert set(named) <= known
    assert all(name.rpartition(": ")[2] in source.bad.summary() for name in named)


def test_every_good_image_is_delivered_once_in_each_epoch(opened, crop, folder, caplog):
    source = opened(max_bad_fraction=0.02)
    batches = read(pretrain_dataset(source, crop, batch_size=197).take(10))  # 5 steps of 197 are 985
    epochs = [{name: array[half] for name, array in batches.items()} for half in (slice(985), slice(985, None))]
    for epoch in epochs:
        assert sorted(epoch["index"]) == GOOD
        assert_of_one_color(epoch["query"], epoch["index"])
        assert_of_one_color(epoch["key"], epoch["index"])
    assert np.mean(epochs[0]["index"] == epochs[1]["index"]) < 0.1
    assert_named_once(source, folder, caplog)


def test_examples_are_the_good_images_with_their_labels(opened):
    examples = list(opened(max_bad_fraction=0.02).examples().as_numpy_iterator())
    assert [example["index"] for example in examples] == GOOD
    assert [example["label"] for example in examples] == list(LABELS[GOOD])
    for example in examples:
        index = example["index"]
        assert example["image"].shape == (24 + index % 17, 24 + index % 13, 3)
        assert_of_one_color(example["image"][None], [index])


def test_a_shuffle_leaves_out_the_same_images(opened):
    source = opened(max_bad_fraction=0.02)
    assert sorted(int(example["index"]) for example in source.examples(seed=7)) == GOOD
    assert source.bad.count == len(BAD)


def test_the_report_counts_each_bad_image_once_and_names_the_first_ten(opened, folder, caplog):
    source = opened(max_bad_fraction=0.02)
    assert source.bad.count == 0 and source.bad.summary() == ""
    for _ in range(2):
        assert sum(1 for _ in source.examples()) == len(GOOD)
    first = [description(folder, index) for index in sorted(BAD)[:10]]
    assert source.bad.count == len(BAD) == 15
    assert source.bad.summary() == (
        f"15 of 1000 images could not be read and were left out: {'; '.join(first)}, and 5 more"
    )
    lines = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert lines == [f"left out, since it cannot be read: {name}" for name in first]


def test_the_eleventh_bad_image_of_a_thousand_is_one_too_many(opened, folder):
    source = opened()
    with pytest.raises(ValueError) as error, plain_read_errors():
        list(source.examples())
    assert str(error.value) == (
        "At most 1 % of the images may be unreadable. Received: 11 of 1000 so far, among them "
        f"{description(folder, sorted(BAD)[10])}. Repair or delete them, or raise --max_bad_fraction."
    )


def test_exactly_as_many_as_may_be_bad_are_no_error(opened):
    assert sum(1 for _ in opened(max_bad_fraction=0.015).examples()) == len(GOOD)
    with pytest.raises(ValueError, match=r"At most 1\.4 % .* Received: 15 of 1000 so far"), plain_read_errors():
        list(opened(max_bad_fraction=0.014).examples())


def test_too_many_bad_images_stop_the_batches_of_a_training(opened, crop):
    with pytest.raises(ValueError) as error, plain_read_errors():
        read(pretrain_dataset(opened(), crop, 100).take(10))
    assert re.fullmatch(
        r"At most 1 % of the images may be unreadable\. Received: 11 of 1000 so far, among them \S+ \(.*\)\. "
        r"Repair or delete them, or raise --max_bad_fraction\.",
        str(error.value),
    )


def test_strict_stops_at_the_first(opened, folder):
    with pytest.raises(ValueError) as error, plain_read_errors():
        list(opened(strict=True, max_bad_fraction=0.5).examples())
    assert str(error.value) == (
        f"An image file must be a complete JPEG, PNG, BMP or GIF. Received: {description(folder, min(BAD))}. "
        "Repair or delete it, or go without --strict_data, which leaves it out."
    )


def test_where_good_images_are_too_few_the_epoch_begins_its_order_anew(opened, crop):
    dataset = pretrain_dataset(opened(max_bad_fraction=0.02), crop, batch_size=250, entries=("index",))
    for epoch in read(dataset.take(8))["index"].reshape(2, IMAGES):
        assert sorted(epoch[: len(GOOD)]) == GOOD
        np.testing.assert_array_equal(epoch[len(GOOD) :], epoch[: len(BAD)])


def test_evaluation_keeps_labels_and_indices_of_the_others(opened):
    batch = read(evaluation_dataset(opened(max_bad_fraction=0.02), image_size=8, batch_size=128))
    np.testing.assert_array_equal(batch["index"], GOOD)
    np.testing.assert_array_equal(batch["label"], LABELS[GOOD])
    assert_of_one_color(batch["image"], batch["index"])


def test_what_is_cached_needs_its_file_no_more(opened):
    vanishing = {index for index, (_, data, _) in BAD.items() if data is None}
    source = opened(cache=True, max_bad_fraction=0.02)
    assert [int(example["index"]) for example in source.examples()] == sorted({*GOOD, *vanishing})


@pytest.mark.parametrize("fraction", [-0.1, 1])
def test_a_fraction_outside_its_range_is_an_error(folder, fraction):
    with pytest.raises(ValueError) as error:
        open_source(f"folder:{folder}", max_bad_fraction=fraction)
    assert str(error.value) == (
        "`max_bad_fraction` must be in [0, 1). "
        f"Received: max_bad_fraction={fraction}. Give the share of images that may be unreadable."
    )


# Files that break off below what a crop sees.


@pytest.fixture
def mostly_whole(tmp_path):
    """Five JPEGs, the second of which lacks its last tenth."""
    for number in range(5):
        data = noise("jpeg", size=480)
        (tmp_path / f"{number}.jpg").write_bytes(data[: len(data) * 9 // 10] if number == 1 else data)
    return tmp_path


def test_a_jpeg_that_breaks_off_below_the_crop_is_never_delivered(mostly_whole):
    source = open_source(f"folder:{mostly_whole}", max_bad_fraction=0.2)
    small = Fused([RandomResizedCrop(8, scale=(0.01, 0.02))])  # most of these see nothing of the missing rows
    index = read(pretrain_dataset(source, small, 4, entries=("query", "index")).take(25))["index"].reshape(25, 4)
    np.testing.assert_array_equal(np.sort(index), [[0, 2, 3, 4]] * 25)
    assert source.bad.count == 1


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path):
    data = noise("jpeg")
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data + b"appended by a camera")
    first, second = open_source(f"folder:{tmp_path}", strict=True).examples().as_numpy_iterator()
    np.testing.assert_array_equal(first["image"], second["image"])


# Odd but good.

SIDE = 48


def picture(mode="RGB"):
    """Smooth, so that JPEG decoders agree, with something in every corner."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    pixels = np.stack([x, y, 1 - x, (x + y) / 2], axis=-1) * 200 + 20
    return Image.fromarray(pixels[..., : 4 if mode in ("CMYK", "RGBA") else 3].round().astype("uint8"), mode=None)


def cmyk():
    return Image.merge("CMYK", [band.point(lambda level: level // 2) for band in picture("RGBA").split()])


def flags():
    """Images of few colours, which a palette holds exactly."""
    frames = [np.zeros((SIDE, SIDE, 3), "uint8") for _ in range(3)]
    for number, frame in enumerate(frames):
        frame[: SIDE // 2, :, number] = 255
        frame[SIDE // 2 :, : SIDE // 3] = 128
    return [Image.fromarray(frame) for frame in frames]


def animation(file, kind):
    first, *others = flags()
    first.save(file, kind, save_all=True, append_images=others, duration=100)


ODD = {  # name: how it is written
    "a first one decides for colour.png": lambda file: picture().save(file, "png"),
    "alpha.png": lambda file: picture("RGBA").save(file, "png"),
    "animated.gif": lambda file: animation(file, "gif"),
    "animated.png": lambda file: animation(file, "png"),
    "bits.png": lambda file: picture().convert("1").save(file, "png"),
    "bitmap.bmp": lambda file: picture().save(file, "bmp"),
    "cmyk.jpg": lambda file: cmyk().save(file, "jpeg", quality=95),
    "gray and alpha.png": lambda file: picture("RGBA").convert("LA").save(file, "png"),
    "gray.jpg": lambda file: picture().convert("L").save(file, "jpeg", quality=95),
    "gray.png": lambda file: picture().convert("L").save(file, "png"),
    "jpeg named.png": lambda file: picture().save(file, "jpeg", quality=95),
    "palette.png": lambda file: flags()[0].quantize(8).save(file, "png"),
    "png named.jpg": lambda file: picture().save(file, "png"),
    "progressive.jpeg": lambda file: picture().save(file, "jpeg", quality=95, progressive=True),
}


def by_pillow(path):
    with Image.open(path) as image:
        image.seek(0)
        if image.mode in ("RGBA", "LA"):  # an alpha channel is dropped, not blended
            image = image.convert("RGBA")
            return np.asarray(image)[..., :3].astype(int)
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def oddities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oddities")
    for name, write in ODD.items():
        with open(folder / name, "wb") as file:
            write(file)
    return open_source(f"folder:{folder}", strict=True), [by_pillow(folder / name) for name in sorted(ODD)]


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_file_has_the_pixels_that_pillow_finds(oddities, name):
    source, expected = oddities
    number = sorted(ODD).index(name)
    example = next(source.examples().skip(number).as_numpy_iterator())
    assert example["index"] == number
    lossy = name in ("cmyk.jpg", "gray.jpg", "jpeg named.png", "progressive.jpeg")
    np.testing.assert_allclose(example["image"], expected[number], atol=4 if lossy else 0)


def test_a_view_of_the_whole_of_an_odd_file_is_what_pillow_finds(oddities):
    source, expected = oddities
    whole = Fused([RandomResizedCrop(SIDE, scale=(1, 1), ratio=(1, 1))])
    batch = read(pretrain_dataset(source, whole, len(expected)).take(1))
    assert sorted(batch["index"]) == list(range(len(expected)))
    for name in ("query", "key"):
        np.testing.assert_allclose(batch[name].astype(int), np.stack(expected)[batch["index"]], atol=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_the_nearest_eight(tmp_path, channels):
    wide = np.random.default_rng(0).integers(0, 2**16, (30, 20, channels), dtype="uint16")
    (tmp_path / "wide.png").write_bytes(tf.io.encode_png(wide).numpy())
    (example,) = open_source(f"folder:{tmp_path}", strict=True).examples().as_numpy_iterator()
    np.testing.assert_allclose(example["image"], wide / 257, atol=1)


def test_an_enormous_image_is_good(tmp_path):
    pixels = np.zeros((4000, 6000, 3), "uint8")
    pixels[..., 0] = np.linspace(0, 255, 6000)
    pixels[..., 1] = np.linspace(0, 255, 4000)[:, None]
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=90)
    source = open_source(f"folder:{tmp_path}", strict=True)
    (example,) = source.examples().as_numpy_iterator()
    assert example["image"].shape == (4000, 6000, 3)
    np.testing.assert_allclose(example["image"][::9, ::9].astype(int), pixels[::9, ::9].astype(int), atol=6)
    whole = Fused([RandomResizedCrop(30, scale=(1, 1), ratio=(1.5, 1.5))])
    (batch,) = pretrain_dataset(source, whole, 1).take(1).as_numpy_iterator()
    ramp = np.linspace(255 / 60, 255 - 255 / 60, 30)
    inner = slice(2, -2)  # where the filter sees both its sides
    np.testing.assert_allclose(batch["query"][0, 15, inner, 0], ramp[inner], atol=2)
    np.testing.assert_allclose(batch["query"][0, inner, 15, 1], ramp[inner], atol=2)
