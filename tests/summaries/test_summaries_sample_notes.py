"""What is said of a sample of the training images before training."""

import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import RandomResizedCrop, get_augmentation, moco_v1
from keras_moco.config import Config
from keras_moco.data import open_source
from keras_moco.image_formats.registry import HEAD
from keras_moco.summaries import sample_notes as module
from keras_moco.summaries.sample_notes import sample_notes
from tests.data.written import encoded, record, write_records, write_zip
from tests.image_formats.written import tiff

LAST = "note: keras-moco check {} looks at all images"


def good(number, height=40, width=50):
    """An image with about the mean and the standard deviation of ImageNet, of its own."""
    noise = np.random.default_rng(number).normal(size=(height, width, 3))
    values = np.array(Config.image_mean) + np.array(Config.image_std) * noise
    return np.clip(np.round(255 * values), 0, 255).astype("uint8")


def folder(path, *images, kind="PNG"):
    """A folder with 12 good images, and others after them."""
    for number, image in enumerate([*map(good, range(12)), *images]):
        content = image if isinstance(image, bytes) else encoded(image, kind)
        (path / f"{number:02}.{kind.lower()}").write_bytes(content)
    return f"folder:{path}"


def notes(name, crop=None, **settings):
    """The lines on a source but the last one, which is compared."""
    config = Config(dataset=name, **{"image_size": 32, **settings})
    crop = crop or get_augmentation(config.augment)(config.image_size, seed=0)
    lines = sample_notes(open_source(name), config, crop)
    if lines:
        assert lines.pop() == LAST.format(name)
        assert all(line.startswith("note: ") for line in lines)
    return lines


# What is fine


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
def test_nothing_is_said_of_good_images(tmp_path, kind):
    assert notes(folder(tmp_path, kind=kind)) == []


def test_nothing_is_said_of_images_that_are_no_files():
    assert sample_notes(open_source("digits"), Config(image_size=224)) == []


# What is wrong, each alone


def test_identical_files_are_counted_and_two_are_named(tmp_path):
    name = folder(tmp_path, good(3), good(3), good(7))
    (line,) = notes(name)
    assert "5 of a sample of 15 images are identical to another one" in line
    assert f"such as {tmp_path}/03.png = {tmp_path}/12.png;" in line


def test_files_of_which_only_the_beginning_is_identical_are_different(tmp_path):
    long = np.repeat(good(20, 200, 300), 1, axis=0)
    files = [tiff(np.concatenate([long, good(number)[:1, :1].repeat(300, 1)])) for number in range(3)]
    assert len({content[8:HEAD] for content in files}) == 1 and len(files[0]) > HEAD
    for number, content in enumerate(files):
        (tmp_path / f"{number}.tif").write_bytes(content)
    assert notes(f"folder:{tmp_path}") == []


def test_narrow_images_are_those_of_the_crops_of_the_run(tmp_path):
    name = folder(tmp_path, good(20, 40, 158), good(21, 40, 162), good(22, 300, 40))
    (line,) = notes(name)
    assert "2 of a sample of 15 images have sides of 1 : 4.0 or more" in line and f"{tmp_path}/13.png" in line
    assert notes(name, RandomResizedCrop(32, scale=(0.01, 0.05))) == []
    (line,) = notes(name, moco_v1(32, crop_scale=(0.9, 1.0)))
    assert "3 of a sample of 15 images have sides of 1 : 1." in line  # 4/3 / 0.9 is 1.48


def test_photographs_on_their_side_are_as_narrow_as_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    name = folder(tmp_path, encoded(good(20, 40, 300), "JPEG", exif=exif), kind="JPEG")
    assert "1 of a sample of 13 images have sides" in notes(name)[0]


def test_blank_images_are_counted(tmp_path):
    (line,) = notes(folder(tmp_path, np.full((40, 50, 3), 120, "uint8")))
    assert line == f"note: 1 of a sample of 13 images have one value, such as {tmp_path}/12.png. Delete them"


def test_views_larger_than_most_images_are_noted_with_those_that_fit(tmp_path):
    name = folder(tmp_path)
    (line,) = notes(name, image_size=64)
    assert "12 of a sample of 12 images are smaller than the views of 64 pixels" in line
    assert line.endswith("Give --image_size=32 --stem=cifar")
    assert notes(name, image_size=40) == []
    assert notes(folder(tmp_path, *(good(n, 64, 64) for n in range(20, 32))), image_size=64) == []  # half of them


def test_mean_and_std_are_measured_and_compared(tmp_path):
    dark = [(good(number) * 0.4).astype("uint8") for number in range(9)]
    for number, image in enumerate(dark):
        (tmp_path / f"{number}.png").write_bytes(encoded(image, "PNG"))
    (line,) = notes(f"folder:{tmp_path}")
    values = np.array(dark).reshape(-1, 3) / 255
    for name, expected in (("image_mean", values.mean(axis=0)), ("image_std", values.std(axis=0))):
        assert f"--{name}={','.join(f'{each:g}' for each in np.round(expected, 3))}" in line
    assert "than --image_mean=0.485,0.456,0.406 --image_std=0.229,0.224,0.225. Give" in line
    given = {"image_mean": tuple(values.mean(axis=0)), "image_std": tuple(values.std(axis=0))}
    assert notes(f"folder:{tmp_path}", **given) == []
    assert notes(f"folder:{tmp_path}", init_from="runs/other") == []  # whose weights go with its own
    (tmp_path / "8.png").unlink()
    (tmp_path / "7.png").unlink()
    assert notes(f"folder:{tmp_path}") == []  # too few to judge


@pytest.mark.parametrize("off, said", [(0.4, False), (0.6, True)])
def test_a_mean_within_half_a_standard_deviation_is_near(tmp_path, off, said):
    mean = tuple(mean + off * std for mean, std in zip(Config.image_mean, Config.image_std, strict=True))
    assert bool(notes(folder(tmp_path), image_mean=mean)) == said


@pytest.mark.parametrize("factor, said", [(1.3, False), (1.7, True), (1 / 1.3, False), (1 / 1.7, True)])
def test_a_standard_deviation_within_a_factor_is_near(tmp_path, factor, said):
    assert bool(notes(folder(tmp_path), image_std=tuple(factor * std for std in Config.image_std))) == said


def test_values_are_those_after_the_range(tmp_path):
    scans = [np.random.default_rng(number).integers(500, 3000, (20, 20), dtype="uint16") for number in range(10)]
    for number, scan in enumerate(scans):
        (tmp_path / f"{number}.png").write_bytes(encoded(scan, "PNG"))
    (line,) = notes(f"folder:{tmp_path}", image_size=16, image_mean=(0.9,), image_std=(0.2,))
    scaled = np.array(scans) / 4095  # of the 12 bits that the largest value needs
    assert line.endswith(f"Give --image_mean={scaled.mean():.3f} --image_std={scaled.std():.3f}")


def test_more_unreadable_images_than_allowed_are_counted_whether_the_beginning_shows_it(tmp_path):
    whole = encoded(good(20, 200, 200), "PNG")
    name = folder(tmp_path, b"", b"no image", whole[: len(whole) // 2])
    (line,) = notes(name)
    assert "3 of a sample of 15 images cannot be read, the first one: " in line and f"{tmp_path}/12.png" in line
    assert "stops above 1 % (--max_bad_fraction)" in line
    assert notes(name, max_bad_fraction=0.2) == [] != notes(name, max_bad_fraction=0.2, strict_data=True)


# All together


def test_there_are_five_lines_at_most_and_the_last_one_says_how_many_more(tmp_path):
    dark = np.zeros((20, 20, 3), "uint8")
    name = folder(tmp_path, b"", dark, dark, *((good(30, 20, 100) * 0.1).astype("uint8") for _ in range(20)))
    lines = sample_notes(open_source(name), Config(dataset=name, image_size=64), moco_v1(64, seed=0))
    assert len(lines) == 5
    for line, words in zip(lines, ("cannot be read", "smaller than", "other values", "identical"), strict=False):
        assert words in line
    assert lines[-1] == f"note: 2 more of this kind; keras-moco check {name} looks at all images"


def test_archives_and_records_are_looked_at_too(tmp_path):
    files = [encoded(each, "PNG") for each in (*map(good, range(12)), good(3))]
    write_records(tmp_path / "images", map(record, files))
    write_zip(tmp_path / "images.zip", {f"{number:02}.png": content for number, content in enumerate(files)})
    (line,) = notes(f"tfrecord:{tmp_path}/images")
    assert "2 of a sample of 13 images are identical to another one, such as image 3 = image 12;" in line
    (line,) = notes(f"zip:{tmp_path}/images.zip")
    assert f"such as {tmp_path}/images.zip/03.png = {tmp_path}/images.zip/12.png;" in line


def test_large_images_are_not_decoded_without_end(tmp_path, monkeypatch):
    name = folder(tmp_path, np.full((40, 50, 3), 120, "uint8"))
    monkeypatch.setattr(module, "PIXELS", 5 * 40 * 50)
    decoded, failed = module._decode(open_source(name).sample(), open_source(name).decoding)
    assert list(decoded) == [0, 2, 5, 7, 10] and failed == []
    monkeypatch.setattr(module, "PIXELS", 10)
    assert notes(name) == []  # none is small enough


def test_no_random_number_is_taken(tmp_path):
    name = folder(tmp_path, good(20, 40, 300))
    source, crop = open_source(name), moco_v1(32, seed=0)
    before = (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        tf.random.get_global_generator().state.numpy().tolist(),
    )
    order = [int(each["index"]) for each in source.examples(seed=3).as_numpy_iterator()]
    draws = crop.get_random_transformation_batch(4).numpy()
    assert sample_notes(source, Config(dataset=name, image_size=32), crop)
    assert before == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        tf.random.get_global_generator().state.numpy().tolist(),
    )
    assert [int(each["index"]) for each in source.examples(seed=3).as_numpy_iterator()] == order
    fresh = moco_v1(32, seed=0)
    fresh.get_random_transformation_batch(4)
    np.testing.assert_array_equal(crop.get_random_transformation_batch(4), fresh.get_random_transformation_batch(4))
    assert draws.shape == (4, crop.num_draws)
