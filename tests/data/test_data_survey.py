"""What is known of a set of images before training."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source
from keras_moco.data import survey as module
from keras_moco.data.survey import survey
from keras_moco.image_formats.registry import FORMATS, HEAD, facts_of, format_of
from tests.data.written import encoded, smooth
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
    monkeypatch.setattr(module, "PIXELS", 1000)
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
