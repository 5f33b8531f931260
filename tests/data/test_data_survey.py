"""What is known of a set of images before training."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source
from keras_moco.data import survey as module
from keras_moco.data.survey import survey
from keras_moco.image_formats.registry import FORMATS, HEAD, facts_of, format_of
from keras_moco.summaries.survey_text import describe_survey
from tests.data.written import encoded, record, smooth, write_records, write_tar, write_zip
from tests.data.written import write as write_as
from tests.image_formats.written import array_file, by_pillow, dicom, picture, scene, tiff


def write(folder, contents):
    for number, content in enumerate(contents):
        (folder / f"{number:03}.png").write_bytes(content)
    return open_source(f"folder:{folder}")


def test_every_image_has_the_same_weight_in_mean_and_std(tmp_path):
    images = [
        np.random.default_rng(n).integers(0, 256, (9 + 20 * n, 11, 3), dtype="uint8") // (n + 1) for n in range(4)
    ]
    found = survey(write(tmp_path, [encoded(image, "PNG") for image in images]))
    values = [image.reshape(-1, 3) / 255 for image in images]
    mean = np.mean([value.mean(axis=0) for value in values], axis=0)
    variance = np.mean([(value**2).mean(axis=0) for value in values], axis=0) - mean**2
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.std, variance**0.5, rtol=1e-10)
    shares = [
        [np.bincount(image[..., c].ravel(), minlength=256) / image[..., c].size for c in range(3)] for image in images
    ]
    np.testing.assert_allclose(found.histogram, np.mean(shares, axis=0), rtol=1e-10)


def test_large_images_are_measured_at_equal_distances(tmp_path, monkeypatch):
    image = smooth(1, 90, 100)
    whole = survey(source := write(tmp_path, [encoded(image, "PNG")]))
    monkeypatch.setattr(module, "thinned", functools.partial(module.thinned, pixels=1000))
    some = survey(source)
    assert not np.array_equal(some.mean, whole.mean)
    np.testing.assert_allclose(some.mean, image[::3, ::3].reshape(-1, 3).mean(axis=0) / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_upright_whether_an_image_is_decoded_or_not(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    source = write(tmp_path, [encoded(smooth(n, 20, 30), "JPEG", exif=exif) for n in range(3)])
    expected = (30, 20) if orientation > 4 else (20, 30)
    found = survey(source, sample=1)
    assert len(found.decoded) == 1 and [entry.size for entry in found.entries] == 3 * [expected]


def files_of_every_format():
    """Names to files of the scene, of 36 x 48 pixels, of each format and some of its kinds."""
    pillow_heif = pytest.importorskip("pillow_heif")
    turned = Image.Exif()
    turned[274] = 6
    files = {kind.lower(): by_pillow(picture(), kind) for kind in ("jpeg", "png", "bmp", "gif", "webp", "ppm", "avif")}
    with io.BytesIO() as file:
        pillow_heif.from_pillow(picture()).save(file)
        files["heic"] = file.getvalue()
    deep = scene(1, "uint16")[..., 0]
    return files | {
        "turned_jpeg": by_pillow(picture(), "jpeg", exif=turned),
        "turned_png": by_pillow(picture(), "png", exif=turned),
        "deep_png": by_pillow(Image.fromarray(deep), "png"),
        "tiff": tiff(scene()),
        "bands_tiff": tiff(scene(4).transpose(2, 0, 1), photometric="minisblack"),
        "turned_tiff": tiff(scene(), extratags=[(274, 3, 1, 6, True)]),
        "dicom": dicom(scene(1, "uint16", 4095)[..., 0]),
        "colour_dicom": dicom(scene(), "RGB", bits=8),
        "npy": array_file(scene()),
        "gray_npz": array_file(None, image=deep),
    }


def test_height_and_width_are_known_without_pixels_and_are_upright():
    for name, data in files_of_every_format().items():
        found = facts_of(data[:HEAD] if FORMATS[format_of(data)].head else data)
        assert (found.height, found.width) == ((48, 36) if name.startswith("turned") else (36, 48)), name
        assert found.turned == name.startswith("turned"), name


def test_the_sample_follows_no_period_and_every_file_is_read(tmp_path):
    source = write(tmp_path, [encoded(smooth(n % 40, 10, 10), "PNG") for n in range(50)])
    found = survey(source, sample=25)
    assert found.decoded == sorted({*found.decoded}) == survey(source, sample=25).decoded
    assert len(found.decoded) == len(found.thumbnails) == 25
    assert 5 < sum(index % 2 for index in found.decoded) < 20  # every second one would be 0 or 25
    assert len({entry.digest for entry in found.entries}) == 40


def test_a_file_that_disappears_is_an_entry_with_the_reason(tmp_path):
    source = write(tmp_path, [encoded(smooth(n, 10, 10), "PNG") for n in range(3)])
    (tmp_path / "001.png").unlink()
    found = survey(source)
    assert [entry.reason for entry in found.entries] == ["", "No such file or directory", ""]
    assert found.decoded == [0, 2] and [entry.index for entry in found.skipped] == [1]


@pytest.mark.parametrize("kind", ["zip", "webdataset", "tfrecord"])
def test_images_in_archives_and_records_are_read_and_the_damaged_ones_are_named(tmp_path, kind):
    images = [smooth(number, 20, 30) for number in range(3)]
    files = {f"{number}.png": encoded(image, "PNG") for number, image in enumerate(images)}
    files["3.png"], files["4.png"] = files["0.png"][:-100], b"a text"
    path = tmp_path / "images"
    if kind == "tfrecord":
        write_records(path, map(record, files.values()))
        names = [f"image {number} (record {number} of {path})" for number in (3, 4)]
    else:
        (write_zip if kind == "zip" else write_tar)(path, files)
        names = [f"{path}/{number}.png" for number in (3, 4)]
    source = open_source(f"{kind}:{path}", max_bad_fraction=0.9)
    found = survey(source)
    assert [entry.size for entry in found.entries[:3]] == 3 * [(20, 30)]
    np.testing.assert_allclose(found.mean, np.mean(images, axis=(0, 1, 2)) / 255)
    reasons = ["a damaged, incomplete or too large PNG", "of no known format"]
    assert [entry.reason for entry in found.skipped] == reasons
    assert [found.name(entry.index) for entry in found.skipped] == names


def test_member_of_an_archive_that_cannot_be_unpacked_has_its_reason(tmp_path):
    path, image = tmp_path / "images.zip", encoded(smooth(0, 20, 30), "PNG")
    write_zip(path, {"0.png": image, "1.png": image + b"!"})
    path.write_bytes(path.read_bytes().replace(image + b"!", image + b"?"))
    for cache in (False, True):
        found = survey(open_source(f"zip:{path}", max_bad_fraction=0.9, cache=cache))
        assert [entry.index for entry in found.skipped] == [1]
    assert survey(open_source(f"zip:{path}")).skipped[0].reason == "its checksum is wrong"


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_that_were_cut_off_and_closed_are_found_and_gray_ones_are_not(tmp_path, channels):
    random = np.random.default_rng(0)
    exif = Image.Exif()
    for number in range(8):
        exif[274] = number + 1
        image = random.integers(0, 256, (80, 120, channels), "uint8").squeeze()
        whole = encoded(image, "JPEG", quality=90, exif=exif)
        image[40:] = 128
        gray_below = encoded(image, "JPEG", quality=90, exif=exif)
        cut = whole[: len(whole) * (number + 2) // 10] + b"\xff\xd9"
        for name, content in {"a": whole, "b": gray_below, "c": cut}.items():
            (tmp_path / f"{name}{number}.jpg").write_bytes(content)
    found = survey(open_source(f"folder:{tmp_path}", channels=channels))
    assert found.cut_off == [*range(16, 24)]
    assert "cut off           " in describe_survey(found, (3.98, 6.57))


def test_damage_anywhere_in_a_file_of_any_format_is_an_entry_and_no_error(tmp_path):
    image = smooth(0, 40, 50)
    good = {
        ".jpg": encoded(image, "JPEG"),
        ".png": encoded(image, "PNG"),
        ".gif": encoded(image, "GIF"),
        ".bmp": encoded(image, "BMP"),
        ".webp": encoded(image, "WebP", lossless=True),
        ".tif": tiff(image),
        ".dcm": dicom(image[..., 0].astype("uint16") * 16),
        ".npy": array_file(image),
    }
    random = np.random.default_rng(0)
    for suffix, content in good.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        for number in range(8):
            broken = bytearray(content)
            broken[random.integers(0, 200)] ^= 1 + random.integers(0, 255)
            broken = broken[: random.integers(len(broken))] if number % 2 else broken
            (tmp_path / f"b{number}{suffix}").write_bytes(broken)
    source = open_source(f"folder:{tmp_path}", channels=3, value_range="0,255", max_bad_fraction=0.99)
    found = survey(source)
    assert len(found.entries) == 9 * len(good) and len(found.read) + len(found.skipped) == len(found.entries)
    assert [entry.index for entry in found.entries] == list(range(len(found.entries)))
    # Training delivers the same images.
    delivered = [int(example["index"]) for example in source.examples()]
    assert [entry.index for entry in found.read] == delivered == found.decoded
    assert len(good) <= len(delivered) < len(found.entries)


@pytest.mark.parametrize("kind", ["folder", "zip", "webdataset", "tfrecord"])
def test_images_are_surveyed_in_every_kind_of_files(kind, tmp_path):
    files = [encoded(smooth(number, 20, 30), "JPEG") for number in range(4)]
    found = survey(open_source(write_as(tmp_path, kind, [*files, b"", b"no image"])[0]))
    assert [entry.reason for entry in found.entries] == [*4 * [""], "an empty file", "of no known format"]
    assert [entry.size for entry in found.read] == 4 * [(20, 30)]
    assert len({entry.digest for entry in found.read}) == 4


def test_an_archive_says_why_an_image_of_it_cannot_be_read(tmp_path):
    name, _ = write_as(tmp_path, "zip", [encoded(smooth(number, 20, 30), "PNG") for number in range(3)])
    archive = tmp_path / "images.zip"
    data = bytearray(archive.read_bytes())
    data[data.index(b"IEND", len(data) // 2) - 20] ^= 1
    archive.write_bytes(data)
    reasons = [entry.reason for entry in survey(open_source(name)).entries]
    assert sorted(reasons) == ["", "", "its checksum is wrong"]
