"""What a sample of files decides: channels, range of values, and what the log says of them."""

import re

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import evaluation_dataset, open_source, pretrain_dataset
from keras_moco.data.sample import places
from keras_moco.data.value_range import Measured
from keras_moco.image_formats import registry
from tests.batches import take
from tests.image_formats.written import array_file, by_pillow, dicom, picture, scene, tiff


def write(folder, **files):
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("low", "high", "kind", "limits"),
    [
        (0, 255, "uint8", (0, 255)),
        (0, 200, "uint16", (0, 255)),
        (17, 4080, "uint16", (0, 4095)),
        (0, 4096, "uint16", (0, 8191)),
        (0, 65535, "uint16", (0, 65535)),
        (-1024, 3071, "int16", (-1024, 3071)),
        (0.01, 0.9, "float32", (0, 1)),
        (-0.5, 0.5, "float32", (-0.5, 0.5)),
        (3.0, 900.0, "float32", (3, 900)),
        (7, 7, "float32", (7, 8)),
    ],
)
def test_auto_holds_every_value_found(low, high, kind, limits):
    measured = Measured([np.linspace(low, high, 999).astype(kind), np.full(5, low, kind)])
    assert measured.limits("auto") == limits


def test_percentiles_are_those_of_all_values_and_not_finite_ones_do_not_count():
    values = np.random.default_rng(0).normal(300, 50, (4, 40, 50)).astype("float32")
    values[0, 0, 0], values[1, 0, 0] = np.nan, np.inf
    found = Measured(list(values)).limits("percentile:2,90")
    np.testing.assert_allclose(found, np.percentile(values[np.isfinite(values)], (2, 90)), rtol=1e-5)


@pytest.mark.parametrize("count", [129, 200, 3000, 10**6])
def test_sample_has_one_file_of_each_of_equal_parts_and_the_first(count):
    chosen = places(count)
    assert len(chosen) == 128 and chosen[0] == 0 and chosen == places(count)
    for part, place in enumerate(chosen):
        assert part * count // 128 <= place < (part + 1) * count // 128


def test_sample_of_few_files_is_all_of_them():
    assert places(5) == [0, 1, 2, 3, 4] and places(128) == [*range(128)]


@pytest.mark.parametrize("period", [2, 3, 8, 24])
def test_sample_follows_no_period(period):
    # Of 128 the share in each phase is 1 / period; 128 / period and four standard deviations are exceeded by chance
    # once in ten thousand. At equal distances all would be in one phase.
    found = np.bincount(np.array(places(128 * 24)) % period, minlength=period)
    mean = 128 / period
    assert (abs(found - mean) < 4 * np.sqrt(mean * (1 - 1 / period)) + 1).all()


def test_twelve_bits_in_sixteen_keep_their_gray_values_in_training_and_evaluation(tmp_path, caplog):
    from keras_moco.augment import RandomResizedCrop

    ramp = np.arange(4096, dtype="uint16").reshape(64, 64)
    source = open_source(write(tmp_path, a__tif=tiff(ramp), b__png=by_pillow(Image.fromarray(ramp), "png")))
    assert source.decoding.limits == (0, 4095) and source.image_shape == (None, None, 1)
    assert "values from 0 to 4095 in a sample of 2 images; 0 to 4095 become 0..255" in caplog.text
    expected = ramp * (255 / 4095)
    for example in source.examples().as_numpy_iterator():
        np.testing.assert_allclose(example["image"][..., 0], expected, atol=1e-4)
    (batch,) = evaluation_dataset(source, 32).as_numpy_iterator()
    pooled = expected.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(batch["image"][0, 4:-4, 4:-4, 0], pooled[4:-4, 4:-4], atol=0.3)
    whole = RandomResizedCrop(64, scale=(1, 1), ratio=(1, 1))
    view = take(pretrain_dataset(source, whole, 2), 1)["query"][0, ..., 0]
    np.testing.assert_allclose(view, expected, atol=1e-3)
    assert len(np.unique(np.round(view * 4095 / 255))) == 4096


def test_range_of_few_levels_is_noted_with_a_better_one(tmp_path, caplog):
    dark = scene(1, "uint16", 1000)[..., 0].copy()
    dark[0, 0] = 65535
    open_source(write(tmp_path, a__tif=tiff(dark)))
    assert "0 to 65535 become 0..255" in caplog.text
    assert "99 % of the pixels have 5 of 256 levels. --value_range=percentile:0.5,99.5 uses more" in caplog.text


def test_given_range_and_channels_are_taken_as_they_are(tmp_path):
    name = write(tmp_path, a__tif=tiff(scene(5, "uint16").transpose(2, 0, 1), photometric="minisblack"))
    source = open_source(name, channels=5, value_range="100,900")
    assert source.image_shape[-1] == 5 and source.decoding.limits == (100, 900)
    assert open_source(name, value_range="full").image_shape[-1] == 1  # the first page
    with pytest.raises(ValueError, match="channels=4, folder:.* with 1. Correct or omit --channels"):
        open_source(name, channels=4)
    with pytest.raises(ValueError, match="`value_range` must be auto, full.* Received: value_range='9,1'"):
        open_source(name, value_range="9,1")


def test_gray_becomes_colour_and_colour_gray_if_asked(tmp_path, caplog):
    name = write(tmp_path, a__png=by_pillow(picture("L"), "png"), b__webp=by_pillow(picture(), "webp", lossless=True))
    gray, colour = open_source(name), open_source(name, channels=3)
    assert "of a sample, 1 of 2 images have 3 channel(s); all become 1" in caplog.text
    first, second = colour.examples().as_numpy_iterator()
    np.testing.assert_array_equal(first["image"], np.repeat(scene(1), 3, axis=-1))
    np.testing.assert_array_equal(second["image"], scene(3))
    assert [example["image"].shape[-1] for example in gray.examples().as_numpy_iterator()] == [1, 1]


def test_what_is_laid_on_a_background_or_skipped_is_said(tmp_path, caplog):
    opaque, drawing = by_pillow(picture(), "png"), by_pillow(picture("RGBA"), "png")
    pages = tiff(scene(4).transpose(2, 0, 1), photometric="minisblack")
    open_source(write(tmp_path, a__png=opaque, b__png=drawing, c__tif=pages), background=0)
    assert "1 of a sample of 3 images are partly transparent; their background becomes 0" in caplog.text
    assert "files of up to 4 pages, of which the first one is read" in caplog.text


def test_pages_that_are_rows_are_one_image_which_is_said_once_unless_it_is_known(tmp_path, caplog):
    bands = scene(13, "uint16")
    name = write(tmp_path, a__tif=tiff(bands), b__tif=tiff(bands[::-1]))
    said = "36 pages of 48 x 13 pixels are read as one image of 36 x 48 pixels and 13 bands"
    for channels, times in ((None, 1), (13, 0)):
        caplog.clear()
        source = open_source(name, channels=channels, value_range="full")
        assert source.image_shape[-1] == 13 and caplog.text.count(said) == times
        first, second = source.examples().as_numpy_iterator()
        np.testing.assert_array_equal(first["image"], np.round(bands / 257))
        np.testing.assert_array_equal(second["image"], np.round(bands[::-1] / 257))
    for folder, options in (("known", {"metadata": {"axes": "YXC"}}), ("stack", {"metadata": {"axes": "ZYX"}})):
        caplog.clear()
        (tmp_path / folder).mkdir()
        source = open_source(write(tmp_path / folder, a__tif=tiff(bands, **options)), value_range="full")
        assert said not in caplog.text and source.image_shape[-1] == (13 if folder == "known" else 1)


def test_arrays_whose_channels_may_be_first_or_last_need_a_number(tmp_path):
    first = array_file(scene(3, "uint16", 4095).transpose(2, 0, 1))
    name = write(tmp_path, a__npy=first, b__npy=first)
    reading = "shape (3, 36, 48), 48 channels of 3 x 36 pixels, or 3 of 36 x 48. Give --channels=48 or --channels=3"
    with pytest.raises(ValueError, match=re.escape(reading)):
        open_source(name)
    for channels, expected in ((3, scene(3, "uint16", 4095)), (48, scene(3, "uint16", 4095).transpose(2, 0, 1))):
        source = open_source(name, channels=channels, value_range="0,255")
        for example in source.examples().as_numpy_iterator():
            np.testing.assert_array_equal(example["image"], np.minimum(expected, 255))


def test_eight_and_sixteen_bits_together_are_each_read_by_their_own_white(tmp_path, caplog):
    wide = scene(1, "uint16")
    name = write(tmp_path, a__png=by_pillow(picture("L"), "png"), b__tif=tiff(wide[..., 0]))
    first, second = open_source(name).examples().as_numpy_iterator()
    np.testing.assert_array_equal(first["image"], scene(1))
    np.testing.assert_array_equal(second["image"], np.round(wide / 257))
    assert "files of 8 and of 16 bits" in caplog.text


def test_format_whose_library_is_missing_is_refused_with_the_extra(tmp_path, monkeypatch):
    lacking = registry.FORMATS["TIFF"]._replace(needs=("tifffile_that_nobody_has",))
    monkeypatch.setitem(registry.FORMATS, "TIFF", lacking)
    png, unread = by_pillow(picture(), "png"), tiff(scene(3))
    with pytest.raises(
        ValueError, match=r"TIFF, for which tifffile_that_nobody_has is missing: pip install 'keras_moco"
    ):
        open_source(write(tmp_path, a__png=png, b__tif=unread))


def test_array_that_is_no_image_is_skipped_with_the_reason(tmp_path, caplog):
    files = {"a__npy": array_file(scene(1)), "b__npy": array_file(np.zeros(7)), "c__npy": array_file(scene(2))}
    source = open_source(write(tmp_path, **files), max_bad_fraction=0.7)
    assert len(list(source.examples())) == 1
    assert "b.npy (An array of a NumPy file must be an image of numbers" in caplog.text
    assert "c.npy (An image must have 1 channel(s), or be gray or colour for 3 or 1. Received: 2." in caplog.text


def test_range_of_images_that_are_no_files_is_refused():
    with pytest.raises(ValueError, match="`value_range` must be auto or full for other sources.*'digits'"):
        open_source("digits", value_range="0,16")


def test_files_without_an_ending_are_known_by_their_content(tmp_path, caplog):
    scan = dicom(scene(1, "uint16", 4095)[..., 0])
    files = {"IM0001": scan, "1.2.840.7": scan, "README": b"a text", "backup": array_file(None, image=scene(1))}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    source = open_source(f"folder:{tmp_path}")
    assert [file.rpartition("/")[2] for file in source.files] == ["1.2.840.7", "IM0001"]
    assert "2 files are not read: 2 without an ending" in caplog.text


def test_each_of_several_bands_has_a_range_of_its_own_and_colours_share_one(tmp_path, caplog):
    rng = np.random.default_rng(0)
    units = ((100, 200), (-3, 5), (0.1, 0.9), (0, 4000))  # lowest and highest value of each band
    ends = [(100, 200), (-3, 5), (0, 1), (0, 4000)]  # of fractions in 0..1 both ends
    images = np.stack([rng.uniform(low, high, (20, 30)) for low, high in units], axis=-1).astype("float32")
    images[0, 0], images[0, 1] = zip(*units, strict=True)
    source = open_source(write(tmp_path, a__npy=array_file(images)))
    np.testing.assert_allclose(np.transpose(source.decoding.limits), ends, rtol=1e-6)
    (example,) = source.examples().as_numpy_iterator()
    low, high = np.transpose(ends)
    np.testing.assert_allclose(example["image"], 255 * (images - low) / (high - low), rtol=1e-4, atol=1e-3)
    assert "those of 4 channels become 0..255 (--value_range=100,200/-3,5/0,1/0,4000)" in caplog.text
    given = open_source(f"folder:{tmp_path}", value_range="100,200/-3,5/0,1/0,4000")
    np.testing.assert_allclose(given.decoding.limits, source.decoding.limits, rtol=1e-6)
    with pytest.raises(ValueError, match=r"one LOW,HIGH for all channels, or one for each\. Received: 2 for .* 4 "):
        open_source(f"folder:{tmp_path}", value_range="0,1/0,2")
    for number, channels in enumerate((3, 4)):
        (tmp_path / str(channels)).mkdir()
        source = open_source(write(tmp_path / str(channels), a__npy=array_file(images[..., :channels] * 2**number)))
        assert np.shape(source.decoding.limits) == ((2,) if channels == 3 else (2, 4))


def test_bands_of_the_same_range_have_one_text(tmp_path):
    images = np.linspace(1, 4000, 4 * 900).reshape(30, 30, 4).astype("uint16")
    assert open_source(write(tmp_path, a__npy=array_file(images))).decoding.limits == (0.0, 4095.0)


def test_a_value_far_below_all_others_stands_for_missing_data(tmp_path, caplog):
    rng = np.random.default_rng(0)
    kelvin, height = rng.uniform(280, 300, (40, 40)), rng.uniform(-20, 900, (40, 40))
    kelvin[:5], height[:5, :2] = -9999, -9999
    source = open_source(write(tmp_path, a__npy=array_file(np.stack(4 * [kelvin, height], -1).astype("float32"))))
    low, high = source.decoding.limits
    np.testing.assert_allclose(low[:2], [kelvin[5:].min(), height[height > -9999].min()], rtol=1e-6)
    np.testing.assert_allclose(high[:2], [kelvin.max(), height.max()], rtol=1e-6)
    assert "-9999 stands for missing data" in caplog.text
    (example,) = source.examples().as_numpy_iterator()
    assert example["image"][:5, :, 0].max() == 0 and np.ptp(example["image"][5:, :, 0]) > 254


@pytest.mark.parametrize(
    "values",
    [
        np.r_[-2000, np.linspace(-1024, 3071, 999)],  # the padding of a CT is not far
        np.r_[-9999, np.linspace(0, 1, 9999)],  # one pixel is a defect
        np.r_[np.zeros(50), np.linspace(900, 1000, 50)],  # a black border
        np.full(10, -5),
    ],
)
def test_other_lowest_values_count(values):
    measured = Measured([values.astype("float32")])
    assert measured.missing is None and measured.low == values.min()


def test_a_band_that_is_nearly_all_missing_has_a_range():
    sparse = np.full((300, 300), -9999.0)
    sparse[100, 3], sparse[200, 7] = 5, 8
    for value_range in ("auto", "percentile:0.5,99.5"):
        measured = Measured([sparse.astype("float32")])
        low, high = measured.limits(value_range)
        assert measured.missing == -9999 and 5 <= low < high <= 8 and measured.levels((low, high)) > 0
