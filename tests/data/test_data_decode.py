"""Files of every format have the pixels that the library which wrote them reads, in training and in evaluation."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_moco.augment import moco_v2
from keras_moco.data import open_source, pretrain_dataset
from keras_moco.data.decode import Files, pixels_of
from keras_moco.image_formats.decoding import Decoding
from keras_moco.image_formats.registry import facts_of
from tests.batches import take
from tests.image_formats import written
from tests.image_formats.written import by_pillow, dicom, picture, scene, tiff

FULL_16 = 65535
ROOT = Path(__file__).resolve().parents[2]


def decoded(files, decoding):
    """For each file what evaluation sees, what training sees of the whole, and of a part, from one pipeline."""

    def look(decoder):
        whole = tf.stack([0, 0, decoder.height, decoder.width])
        part, boxes = decoder.around(tf.constant([[5, 3, 11, 20], [9, 8, 13, 25]]))
        top, left = tf.unstack(boxes[0, :2])
        return decoder.whole(), decoder.around(whole[None])[0], part[top : top + 11, left : left + 20]

    dataset = tf.data.Dataset.from_tensor_slices(files)
    dataset = dataset.map(lambda data: Files(decoding).open(data, look), num_parallel_calls=tf.data.AUTOTUNE)
    complete, found = zip(*dataset.as_numpy_iterator(), strict=True)
    assert all(complete)
    return found


def assert_decoded(files, decoding, off=0):
    """Compares files, a dict of names to `(bytes, expected pixels)`."""
    found = decoded([data for data, _ in files.values()], decoding)
    for (name, (_, expected)), (evaluation, training, part) in zip(files.items(), found, strict=True):
        assert evaluation.dtype == decoding.dtype
        np.testing.assert_allclose(evaluation.astype(float), expected, rtol=0, atol=off, err_msg=name)
        np.testing.assert_array_equal(training, evaluation, name)
        np.testing.assert_array_equal(part, evaluation[5:16, 3:23], name)
        np.testing.assert_array_equal(pixels_of(files[name][0], decoding), evaluation, name)


def own_reading(data, mode="RGB"):
    """What Pillow reads, upright."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))


def frames(first):
    """The bytes of three frames, of which the others are darker."""
    return b"".join((first // number).tobytes() for number in (1, 2, 3))


def png_16(values):
    return tf.io.encode_png(values).numpy()


EIGHT_BITS = {
    "JPEG": by_pillow(picture(), "jpeg", quality=95),
    "JPEG, progressive": by_pillow(picture(), "jpeg", quality=90, progressive=True),
    "JPEG, 4:2:0": by_pillow(picture(), "jpeg", quality=80, subsampling=2),
    "JPEG, gray": by_pillow(picture("L"), "jpeg", quality=95),
    "PNG": by_pillow(picture(), "png"),
    "PNG, gray": by_pillow(picture("L"), "png"),
    "PNG, palette": by_pillow(picture("P"), "png"),
    "PNG, 1 bit": by_pillow(picture("1"), "png"),
    "PNG with a resolution": by_pillow(picture(), "png", dpi=(300, 300)),
    "BMP": by_pillow(picture(), "bmp"),
    "BMP, gray": by_pillow(picture("L"), "bmp"),
    "BMP, palette": by_pillow(picture("P"), "bmp"),
    "BMP, 1 bit": by_pillow(picture("1"), "bmp"),
    "GIF": by_pillow(picture("P"), "gif"),
    "WebP": by_pillow(picture(), "webp", quality=80),
    "WebP, lossless": by_pillow(picture(), "webp", lossless=True),
    "JPEG 2000": by_pillow(picture(), "jpeg2000", quality_layers=[10], quality_mode="rates"),
    "JPEG 2000, tiled codestream": by_pillow(picture(), "jpeg2000", no_jp2=True, tile_size=(16, 16)),
    "JPEG 2000, gray": by_pillow(picture("L"), "jpeg2000"),
    "PPM": by_pillow(picture(), "ppm"),
    "PGM": by_pillow(picture("L"), "ppm"),
    "AVIF": by_pillow(picture(), "avif", quality=80),
    "TIFF": by_pillow(picture(), "tiff"),
    "TIFF, LZW": by_pillow(picture(), "tiff", compression="tiff_lzw"),
    "TIFF, deflate": by_pillow(picture(), "tiff", compression="tiff_adobe_deflate"),
    "TIFF, gray": by_pillow(picture("L"), "tiff"),
    "TIFF, 1 bit": by_pillow(picture("1"), "tiff"),
    "TIFF, palette": by_pillow(picture("P"), "tiff"),
    "TIFF, tiled": tiff(scene(3), tile=(16, 16), photometric="rgb"),
}


def test_8_bits_have_the_pixels_that_pillow_reads():
    assert_decoded({name: (data, own_reading(data)) for name, data in EIGHT_BITS.items()}, Decoding(3))


def test_colour_becomes_gray_alike_in_all_lossless_formats():
    luma = scene(3) @ [0.2989, 0.587, 0.114]  # of `tf.image.rgb_to_grayscale`
    files = [EIGHT_BITS[name] for name in ("PNG", "BMP", "WebP, lossless", "TIFF, tiled")]
    grays = [gray for gray, _, _ in decoded(files, Decoding(1))]
    for gray in grays:
        np.testing.assert_array_equal(gray, grays[0])
        np.testing.assert_allclose(gray[..., 0], luma, atol=1)


def jpeg2000(values, **options):
    """A lossless file, by imagecodecs."""
    return imagecodecs.jpeg2k_encode(values, level=0, reversible=True, **options)


def ppm(values, largest, plain=False):
    """A PNM file of colours, by the rules of netpbm, with comments in its header."""
    header = b"P%d # by hand\n%d %d\n#\n%d\n" % (3 if plain else 6, values.shape[1], values.shape[0], largest)
    if plain:
        return header + b"\n".join(b" ".join(b"%d" % each for each in row.ravel()) for row in values)
    return header + values.astype(">u2").tobytes()


DEEP = {  # file: values it holds, white of its type
    "PNG, 16 bits, gray": (png_16(scene(1, "uint16")), scene(1, "uint16"), FULL_16),
    "PNG, 16 bits": (png_16(scene(3, "uint16")), scene(3, "uint16"), FULL_16),
    "TIFF, 16 bits, gray": (tiff(scene(1, "uint16")[..., 0]), scene(1, "uint16"), FULL_16),
    "TIFF, 16 bits": (tiff(scene(3, "uint16"), photometric="rgb"), scene(3, "uint16"), FULL_16),
    "TIFF, 16 bits, LZW": (
        tiff(scene(1, "uint16")[..., 0], compression="lzw", predictor=True),
        scene(1, "uint16"),
        FULL_16,
    ),
    "TIFF, fractions": (tiff(scene(1, "float32")[..., 0]), scene(1, "float32"), None),
    "TIFF, 13 bands of fractions": (
        tiff(scene(13, "float32"), photometric="minisblack", planarconfig="contig"),
        scene(13, "float32"),
        None,
    ),
    "TIFF, 5 bands, one after the other": (
        tiff(scene(5, "uint16").transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
        scene(5, "uint16"),
        FULL_16,
    ),
    "TIFF, 5 pages": (
        tiff(scene(5, "uint16").transpose(2, 0, 1), photometric="minisblack"),
        scene(5, "uint16"),
        FULL_16,
    ),
    "TIFF, a page for each row of 5 bands": (tiff(scene(5, "uint16")), scene(5, "uint16"), FULL_16),
    "TIFF, a page for each row of 13 bands, compressed": (
        tiff(scene(13, "float32"), compression="deflate"),
        scene(13, "float32"),
        None,
    ),
    "JPEG 2000, 16 bits, gray": (jpeg2000(scene(1, "uint16")[..., 0]), scene(1, "uint16"), FULL_16),
    "JPEG 2000, 16 bits": (jpeg2000(scene(3, "uint16"), codecformat="j2k"), scene(3, "uint16"), FULL_16),
    "JPEG 2000, 5 bands": (jpeg2000(scene(5, "uint16")), scene(5, "uint16"), FULL_16),
    "JPEG 2000, 15 bits": (
        jpeg2000(scene(1, "uint16", 32767)[..., 0], bitspersample=15),
        scene(1, "uint16", 32767),
        32767,
    ),
    "JPEG 2000, signed": (jpeg2000(scene(1, "int16", 2000)[..., 0] - 1000), scene(1, "int16", 2000) - 1000, None),
    "PPM, 16 bits": (ppm(scene(3, "uint16"), FULL_16), scene(3, "uint16"), FULL_16),
    "PPM, 16 bits as text": (ppm(scene(3, "uint16"), FULL_16, plain=True), scene(3, "uint16"), FULL_16),
    "DICOM, several frames": (
        dicom(scene(1, "uint16", 4095)[..., 0], NumberOfFrames=3, PixelData=frames(scene(1, "uint16", 4095))),
        scene(1, "uint16", 4095),
        None,
    ),
    "DICOM": (dicom(scene(1, "uint16", 4095)[..., 0]), scene(1, "uint16", 4095), None),
    "DICOM, compressed": (dicom(scene(1, "uint16", 4095)[..., 0], compress=True), scene(1, "uint16", 4095), None),
    "DICOM with slope and intercept": (
        dicom(scene(1, "uint16", 4095)[..., 0], RescaleSlope=2, RescaleIntercept=-1024),
        scene(1, "uint16", 4095) * 2.0 - 1024,
        None,
    ),
    "DICOM, signed": (dicom(scene(1, "int16", 2000)[..., 0] - 1000), scene(1, "int16", 2000) - 1000, None),
    "DICOM, low is bright": (
        dicom(scene(1, "uint16", 4095)[..., 0], "MONOCHROME1"),
        4095 - scene(1, "uint16", 4095).astype(int),
        None,
    ),
    "npy, 16 bits": (written.array_file(scene(1, "uint16")[..., 0]), scene(1, "uint16"), FULL_16),
    "npy, 13 bands": (written.array_file(scene(13, "float32")), scene(13, "float32"), None),
    "npy, 3 channels first": (written.array_file(scene(3, "uint16").transpose(2, 0, 1)), scene(3, "uint16"), FULL_16),
    "npy, 13 bands first": (written.array_file(scene(13, "float32").transpose(2, 0, 1)), scene(13, "float32"), None),
    "npz": (written.array_file(None, image=scene(3, "float64"), label=np.array(3)), scene(3, "float64"), None),
}


@pytest.mark.parametrize("channels", [1, 3, 5, 13])
def test_more_than_8_bits_are_mapped_by_the_stated_law(channels):
    low, high = 100.0, 3000.0
    files, full = {}, {}
    for name, (data, values, white) in DEEP.items():
        if values.shape[-1] == channels:
            files[name] = data, np.clip((values.astype(float) - low) * 255 / (high - low), 0, 255)
            if white:
                full[name] = data, np.round(values * (255 / white))
    assert_decoded(files, Decoding(channels, (low, high)), off=1e-3)
    if full:
        assert_decoded(full, Decoding(channels))


def test_colours_of_other_largest_values_are_scaled_as_netpbm_says():
    values = scene(3, "uint16", 1023)
    expected = np.round(values * (255 / 1023))
    files = {"PPM": (ppm(values, 1023), expected), "text": (ppm(values, 1023, plain=True), expected)}
    assert_decoded(files, Decoding(3))
    gray = b"P5 48 36 1023\n" + values[..., :1].astype(">u2").tobytes()
    assert_decoded({"PGM": (gray, expected[..., :1])}, Decoding(1))
    assert [facts_of(data).bits for data in (files["PPM"][0], files["text"][0], gray)] == [16, 16, 16]
    for broken in (files["PPM"][0][:-1], files["text"][0][:-900], ppm(values, 1022), ppm(values, 1022, plain=True)):
        with pytest.raises(ValueError, match="incomplete|smaller"):
            pixels_of(broken, Decoding(3))


def animation(kind, **options):
    """Three frames, each with something of its own, of which the first is the scene."""
    first, *others = (picture().rotate(angle) for angle in (0, 90, 180))
    return by_pillow(first, kind, save_all=True, append_images=others, duration=100, **options)


def test_of_an_animation_the_first_frame_is_read_and_of_an_animated_png_its_default_image():
    files = {"webp": (animation("webp", lossless=True), scene(3)), "png": (animation("png"), scene(3))}
    # Its default image is not a part of the animation then.
    files["png, a title"] = animation("png", default_image=True), scene(3)
    for kind in ("gif", "avif"):
        data = animation(kind)
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == 3
            image.seek(0)
            files[kind] = data, np.asarray(image.convert("RGB"))
        assert np.abs(files[kind][1].astype(int) - scene(3)).mean() < 20  # the scene, in few colours or compressed
    assert_decoded(files, Decoding(3))


def test_heic_is_turned_once_and_has_8_bits():
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        expected = own_reading(by_pillow(picture(), "png", exif=exif))
        with io.BytesIO() as file:  # its writer states the orientation as a rotation of HEIC
            pillow_heif.from_pillow(picture()).save(file, quality=-1, exif=exif.tobytes())
            files[f"{orientation}"] = file.getvalue(), expected
    # Lossless, but for its own colours.
    assert_decoded(files, Decoding(3), off=8)
    with io.BytesIO() as file:
        pillow_heif.from_bytes("RGB;16", (48, 36), scene(3, "uint16").tobytes()).save(file, quality=-1)
        ten_bits = file.getvalue()
    assert facts_of(ten_bits).bits == 8
    assert_decoded({"10 bits": (ten_bits, scene(3, "uint16") / 257.0)}, Decoding(3), off=8)


def test_a_range_applies_to_8_bits_and_fractions_too():
    names = "PNG", "WebP, lossless", "TIFF, tiled"
    expected = np.clip((scene(3).astype(float) - 50) * 255 / 100, 0, 255)
    assert_decoded({name: (EIGHT_BITS[name], expected) for name in names}, Decoding(3, (50.0, 150.0)), off=1e-3)
    fractions = {name: (data, values * 255) for name, (data, values, _) in DEEP.items() if values.dtype.kind == "f"}
    gray = {name: found for name, found in fractions.items() if name == "TIFF, fractions"}
    assert_decoded(gray, Decoding(1, (0.0, 1.0)), off=1e-3)


def test_dicom_is_shown_by_its_own_window():
    values = scene(1, "uint16", 4095)
    data = dicom(values[..., 0], WindowCenter=1000, WindowWidth=800, RescaleSlope=1, RescaleIntercept=0)
    shown = np.clip(((values - 999.5) / 799 + 0.5) * 255, 0, 255)  # DICOM PS3.3, C.11.2.1.2.1
    assert_decoded({"a window": (data, shown)}, Decoding(1, "window"), off=0.01)


def test_window_of_an_inverted_image_or_slope_is_that_of_the_stored_values():
    values = scene(1, "uint16", 4095)
    shown = np.clip(((values - 999.5) / 799 + 0.5) * 255, 0, 255)
    window = {"WindowCenter": 1000, "WindowWidth": 800}
    inverted = dicom(values[..., 0], "MONOCHROME1", **window)
    # Rescaled by -1, values around -1000 are shown.
    negative = dicom(values[..., 0], WindowCenter=-1000, WindowWidth=800, RescaleSlope=-1, RescaleIntercept=0)
    rescaled = np.clip(((-values.astype(float) + 999.5 + 1) / 799 + 0.5) * 255, 0, 255)
    assert_decoded({"inverted": (inverted, 255 - shown)}, Decoding(1, "window"), off=0.01)
    assert_decoded({"negative": (negative, rescaled)}, Decoding(1, "window"), off=0.5)


def test_few_bits_and_inverted_pages_have_their_own_white():
    four = tiff((scene(1) // 17)[..., 0], bitspersample=4)
    assert_decoded({"4 bits": (four, scene(1) // 17 * 17.0)}, Decoding(1))
    inverted = tiff(scene(1, "uint16")[..., 0], photometric="miniswhite")
    assert_decoded({"white is zero": (inverted, np.round((65535 - scene(1, "uint16")) / 257.0))}, Decoding(1))
    ten = dicom(scene(3, "uint16", 1023), "RGB", bits=10)
    assert_decoded({"10 bits of colours": (ten, np.round(scene(3, "uint16", 1023) * (255 / 1023)))}, Decoding(3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written.array_file(np.full((9, 9), np.nan)), "finite numbers"),
        (written.array_file(np.zeros((9, 9), complex)), "image of numbers"),
        (tiff(np.zeros((9, 9), "complex64")), "real numbers"),
        (written.array_file(np.zeros((3, 40, 50))), "50 channels of 3 x 40 pixels, or 3 of 40 x 50"),
        (by_pillow(picture().convert("YCbCr"), "tiff"), "Convert it"),
        (by_pillow(picture().convert("LAB"), "tiff"), "Convert it"),
    ],
)
def test_values_without_a_meaning_as_gray_levels_are_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        pixels_of(data, Decoding(1, (0.0, 1.0)))


def test_cmyk_becomes_gray_and_colours_of_16_bits_are_turned():
    inks = Image.merge("CMYK", [band.point(lambda level: level // 2) for band in picture("RGBA").split()])
    data = by_pillow(inks, "jpeg", quality=95)
    assert_decoded({"CMYK": (data, own_reading(data, "L")[..., None])}, Decoding(1), off=2)
    exif = Image.Exif()
    exif[274] = 6
    turned = by_pillow(picture(), "png", exif=exif)
    chunk = turned[turned.index(b"eXIf") - 4 :][: 12 + int.from_bytes(turned[turned.index(b"eXIf") - 4 :][:4], "big")]
    wide = png_16(scene(3, "uint16"))
    expected = np.round(np.rot90(scene(3, "uint16"), -1) / 257)
    assert_decoded({"16 bits": (wide[:33] + chunk + wide[33:], expected)}, Decoding(3))


OPACITY = scene(4)[..., 3:] / 255.0
TRANSPARENT = {
    "png": by_pillow(picture("RGBA"), "png"),
    "webp": by_pillow(picture("RGBA"), "webp", lossless=True, exact=True),
    "tiff": by_pillow(picture("RGBA"), "tiff"),
    "jpeg 2000": by_pillow(picture("RGBA"), "jpeg2000"),
}


@pytest.mark.parametrize("background", [255, 0, 128])
def test_transparent_images_are_laid_on_the_background(background):
    values, opacity = scene(4, "uint16"), scene(4, "uint16")[..., 3:] / FULL_16
    premultiplied = np.round(np.concatenate([scene(3) * OPACITY, scene(4)[..., 3:]], axis=-1)).astype("uint8")
    palette = picture("P")
    shown = np.where(np.asarray(palette)[..., None] == 7, background, np.asarray(palette.convert("RGB")))
    laid = np.round(scene(3) * OPACITY + background * (1 - OPACITY))
    files = {kind: (data, laid) for kind, data in TRANSPARENT.items()}
    files["16 bits"] = png_16(values), np.round(values[..., :3] / 257 * opacity + background * (1 - opacity))
    files["palette"] = by_pillow(palette, "png", transparency=7), shown
    files["gif"] = by_pillow(palette, "gif", transparency=7), shown
    assert_decoded(files, Decoding(3, background=background))
    data = tiff(premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    expected = premultiplied[..., :3] + background * (1 - OPACITY)
    assert_decoded({"premultiplied": (data, expected)}, Decoding(3, background=background), off=1)


def test_opacity_is_kept_where_as_many_channels_are_wanted():
    assert_decoded({kind: (data, scene(4)) for kind, data in TRANSPARENT.items()}, Decoding(4))


def test_photographs_are_turned_upright():
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for kind, options in {"jpeg": {"quality": 95}, "png": {}, "webp": {"lossless": True}, "tiff": {}}.items():
            data = by_pillow(picture(), kind, exif=exif, **options)
            files[f"{kind} {orientation}"] = data, own_reading(data)
        behind = by_pillow(picture(), "jpeg", quality=95, exif=exif, comment=b"by hand", dpi=(72, 72))
        files[f"after other segments, {orientation}"] = behind, own_reading(behind)
        comment_first = behind[:2] + b"\xff\xfe\x00\x04hi" + behind[2:]
        files[f"after a comment, {orientation}"] = comment_first, own_reading(behind)
    assert_decoded(files, Decoding(3))


def test_an_image_of_other_channels_is_bad_and_not_converted():
    for data, channels in ((EIGHT_BITS["PNG"], 13), (DEEP["npy, 13 bands"][0], 3), (EIGHT_BITS["JPEG"], 4)):
        decoding = Decoding(channels, (0.0, 1.0))
        with pytest.raises(ValueError, match="channel"):
            pixels_of(data, decoding)
        complete, _ = Files(decoding).open(tf.constant(data), lambda decoder: decoder.whole())
        assert not complete
    with pytest.raises(ValueError, match="must have a range"):
        pixels_of(DEEP["npy, 13 bands"][0], Decoding(13))


def test_many_files_that_python_decodes_do_not_wait_for_each_other(tmp_path):
    """Within `attempt` they would for ever: its data set holds a thread that Python's function waits for."""
    names = ["WebP", "TIFF, LZW", "GIF", "PNG, palette", "JPEG, turned"]
    exif = Image.Exif()
    exif[274] = 6
    files = {**EIGHT_BITS, "JPEG, turned": by_pillow(picture(), "jpeg", quality=95, exif=exif)}
    for number in range(60):
        (tmp_path / f"{number:02}.png").write_bytes(files[names[number % len(names)]])
    source = open_source(f"folder:{tmp_path}")
    counts = []

    def read_all():
        counts.append(len(list(source.examples())))
        counts.append(len(take(pretrain_dataset(source, moco_v2(16), batch_size=20), 3)["query"]))

    # A signal would not interrupt a call that waits in TensorFlow.
    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    reader.join(120)
    assert counts == [60, 60]


@pytest.mark.slow
def test_program_ends_while_a_pipeline_still_decodes(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.webp").write_bytes(EIGHT_BITS["WebP"])
    program = f"""
from keras_moco.augment import moco_v2
from keras_moco.data import open_source, pretrain_dataset
batches = iter(pretrain_dataset(open_source("folder:{tmp_path}"), moco_v2(32), 8))
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
