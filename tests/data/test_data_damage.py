"""Damaged images are skipped, counted and named."""

import struct
import zlib

import numpy as np
import pytest

from keras_moco.augment import Fused, RandomResizedCrop
from keras_moco.data import evaluation_dataset, open_source, plain_read_errors, pretrain_dataset
from keras_moco.data.bad_images import BadImages
from tests.batches import take
from tests.data.written import encoded

IMAGES, CLASSES = 120, ("ant", "bee", "cat", "dog")


def noise(kind, size=40):
    return encoded(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype="uint8"), kind)


def bomb():
    """A PNG of a hundred bytes that says it is 100,000 x 100,000 pixels large."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def large_jpeg():
    """A small JPEG that says it is 65,500 x 65,500 pixels large."""
    data = noise("jpeg")
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", 65_500, 65_500) + data[size + 4 :]


DAMAGES = [  # kind of file, its bytes, and words of what is said of it
    ("jpg", b"", "empty file"),
    ("jpg", noise("jpeg")[:-300], "damaged, incomplete or too large JPEG"),
    ("png", noise("png")[:-300], "damaged, incomplete or too large PNG"),
    ("jpg", b"This is no image but a text.", "of no known format"),
    ("png", bomb(), "damaged, incomplete or too large PNG"),
    ("jpg", None, "No such file or directory"),
    ("jpg", noise("jpeg")[:100], "damaged, incomplete or too large JPEG"),
    ("png", b"\x89PNG\r\n\x1a\n" + bytes(50), "damaged, incomplete or too large PNG"),
    ("jpg", large_jpeg(), "damaged, incomplete or too large JPEG"),
]
BAD = {5 + 8 * number: DAMAGES[number % len(DAMAGES)] for number in range(15)}
GOOD = sorted(set(range(IMAGES)) - set(BAD))
LABELS = np.arange(IMAGES) // (IMAGES // len(CLASSES))
COLORS = np.random.default_rng(0).integers(0, 256, (IMAGES, 3), dtype="uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of one colour each, of 24 to 40 pixels, the even ones JPEG; fifteen of them are damaged."""
    folder = tmp_path_factory.mktemp("images")
    for name in CLASSES:
        (folder / name).mkdir()
    for index in GOOD:
        pixels = np.broadcast_to(COLORS[index], (24 + index % 17, 24 + index % 13, 3))
        kind, options = ("png", {}) if index % 2 else ("jpg", {"quality": 95})
        path_of(folder, index, kind).write_bytes(encoded(pixels, kind.replace("jpg", "jpeg"), **options))
    for index, (kind, data, _) in BAD.items():
        path_of(folder, index, kind).write_bytes(noise("jpeg") if data is None else data)
    return folder


def path_of(folder, index, kind):
    return folder / CLASSES[LABELS[index]] / f"{index:03}.{kind}"


@pytest.fixture
def opened(folder):
    """Opens the images, of which some are deleted then: root could read a file without permissions."""
    vanishing = [path_of(folder, index, kind) for index, (kind, data, _) in BAD.items() if data is None]

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


def assert_of_one_color(images, indices):
    # Four levels: JPEG rounds colours.
    expected = np.broadcast_to(COLORS[indices][:, None, None].astype(int), images.shape)
    np.testing.assert_allclose(images.astype(int), expected, atol=4)


def assert_named(text, folder, index):
    kind, _, reason = BAD[index]
    assert str(path_of(folder, index, kind)) in text and reason in text


def named_in_log(folder, caplog):
    """The lines of the log that name a file, in order."""
    return [line for line in map(lambda record: record.getMessage(), caplog.records) if str(folder) in line]


def test_every_good_image_is_delivered_once_in_each_epoch(opened, crop, folder, caplog):
    source = opened(max_bad_fraction=0.125)
    batches = take(pretrain_dataset(source, crop, batch_size=35), 6)  # 3 steps of 35 are the 105 good ones
    epochs = [{name: array[half] for name, array in batches.items()} for half in (slice(105), slice(105, None))]
    for epoch in epochs:
        assert sorted(epoch["index"]) == GOOD
        assert_of_one_color(epoch["query"], epoch["index"])
        assert_of_one_color(epoch["key"], epoch["index"])
    assert np.mean(epochs[0]["index"] == epochs[1]["index"]) < 0.2
    lines = named_in_log(folder, caplog)
    assert source.bad.count == 15 and len(lines) == len(set(lines)) == 10


def test_examples_are_the_good_images_with_their_labels_in_any_order(opened, folder, caplog):
    source = opened(max_bad_fraction=0.125)
    assert source.bad.count == 0 and source.bad.summary() == ""
    examples = list(source.examples().as_numpy_iterator())
    assert [example["index"] for example in examples] == GOOD
    assert [example["label"] for example in examples] == list(LABELS[GOOD])
    for example in examples:
        index = example["index"]
        assert example["image"].shape == (24 + index % 17, 24 + index % 13, 3)
        assert_of_one_color(example["image"][None], [index])
    # Shuffled, the same ones are skipped, and none is counted or logged again.
    assert sorted(int(example["index"]) for example in source.examples(seed=7)) == GOOD
    lines = named_in_log(folder, caplog)
    assert source.bad.count == 15 and len(lines) == 10
    for line, index in zip(lines, sorted(BAD), strict=False):
        assert_named(line, folder, index)
        assert_named(source.bad.summary(), folder, index)
    assert source.bad.summary().startswith("15 of 120 ") and source.bad.summary().endswith(" 5 more")


def test_one_bad_image_too_many_is_an_error_that_names_it(opened, crop, folder):
    with pytest.raises(ValueError, match="At most 1 % .*Received: 2 of 120 so far") as error, plain_read_errors():
        list(opened().examples())
    assert_named(str(error.value), folder, sorted(BAD)[1])
    with pytest.raises(ValueError, match="At most 1 % .*Received: 2 of 120 so far"), plain_read_errors():
        take(pretrain_dataset(opened(), crop, 40), 3)
    for fraction in (-0.1, 1):
        with pytest.raises(ValueError, match=f"`max_bad_fraction` .*max_bad_fraction={fraction}"):
            open_source(f"folder:{folder}", max_bad_fraction=fraction)


def test_strict_stops_at_the_first_bad_image(opened, folder):
    with pytest.raises(ValueError, match="--strict_data") as error, plain_read_errors():
        list(opened(strict=True, max_bad_fraction=0.5).examples())
    assert_named(str(error.value), folder, min(BAD))


def test_evaluation_keeps_labels_and_indices_of_the_others(opened):
    batch = take(evaluation_dataset(opened(max_bad_fraction=0.2), image_size=8, batch_size=64), -1)
    np.testing.assert_array_equal(batch["index"], GOOD)
    np.testing.assert_array_equal(batch["label"], LABELS[GOOD])
    assert_of_one_color(batch["image"], batch["index"])


def test_a_cached_image_no_longer_needs_its_file(opened):
    vanished = {index for index, (_, data, _) in BAD.items() if data is None}
    source = opened(cache=True, max_bad_fraction=0.2)
    assert [int(example["index"]) for example in source.examples()] == sorted({*GOOD, *vanished})


def test_truncated_jpeg_is_skipped_even_if_the_crop_is_complete(tmp_path):
    data = noise("jpeg", size=480)
    for number in range(5):  # the second lacks its last tenth
        (tmp_path / f"{number}.jpg").write_bytes(data[: len(data) * 9 // 10] if number == 1 else data)
    source = open_source(f"folder:{tmp_path}", max_bad_fraction=0.2)
    small = Fused([RandomResizedCrop(8, scale=(0.01, 0.02))])  # most of these see nothing of the missing rows
    index = take(pretrain_dataset(source, small, 4, entries=("query", "index")), 10)["index"].reshape(10, 4)
    np.testing.assert_array_equal(np.sort(index), [[0, 2, 3, 4]] * 10)
    assert source.bad.count == 1


def test_control_characters_in_names_are_escaped(caplog):
    bad = BadImages(200, "\x1b]0;{}\na.jpg".format)
    bad.report(1)
    assert bad.summary().endswith(r": \x1b]0;1\na.jpg") and bad.summary().isprintable()
    assert all(line.isprintable() and r"\x1b]0;1\na.jpg" in line for line in caplog.messages) and caplog.messages
