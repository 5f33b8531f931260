"""Files that are odd but good have the pixels that Pillow finds in them."""

import numpy as np
import pytest
from PIL import Image

from keras_moco.augment import Fused, RandomResizedCrop
from keras_moco.data import open_source, pretrain_dataset
from tests.batches import take
from tests.data.written import encoded

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
    "appended.jpg": lambda file: file.write(encoded(np.asarray(picture()), "jpeg", quality=95) + b"by a camera"),
    "bits.png": lambda file: picture().convert("1").save(file, "png"),
    "bitmap.bmp": lambda file: picture().save(file, "bmp"),
    "cmyk.jpg": lambda file: cmyk().save(file, "jpeg", quality=95),
    "gray and alpha.png": lambda file: picture("RGBA").convert("LA").save(file, "png"),
    "gray.jpg": lambda file: picture().convert("L").save(file, "jpeg", quality=95),
    "gray.png": lambda file: picture().convert("L").save(file, "png"),
    "jpeg named.png": lambda file: picture().save(file, "jpeg", quality=95),
    "palette.png": lambda file: flags()[0].quantize(8).save(file, "png"),
    "png named.JPG": lambda file: picture().save(file, "png"),
    "progressive.jpeg": lambda file: picture().save(file, "jpeg", quality=95, progressive=True),
}
LOSSY = ("appended.jpg", "cmyk.jpg", "gray.jpg", "jpeg named.png", "progressive.jpeg")


def by_pillow(path):
    with Image.open(path) as image:
        image.seek(0)
        if image.mode in ("RGBA", "LA"):  # laid on white
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def oddities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oddities")
    for name, write in ODD.items():
        with open(folder / name, "wb") as file:
            write(file)
    return open_source(f"folder:{folder}", strict=True), [by_pillow(folder / name) for name in sorted(ODD)]


def test_odd_file_has_the_pixels_that_pillow_decodes(oddities):
    source, expected = oddities
    examples = source.examples().as_numpy_iterator()
    for number, (name, pixels, example) in enumerate(zip(sorted(ODD), expected, examples, strict=True)):
        assert example["index"] == number
        # Decoders of JPEG differ by a few levels.
        np.testing.assert_allclose(example["image"], pixels, atol=4 if name in LOSSY else 0, err_msg=name)


def test_full_view_of_an_odd_file_is_what_pillow_decodes(oddities):
    source, expected = oddities
    whole = Fused([RandomResizedCrop(SIDE, scale=(1, 1), ratio=(1, 1))])
    batch = take(pretrain_dataset(source, whole, len(expected)), 1)
    assert sorted(batch["index"]) == list(range(len(expected)))
    for name in ("query", "key"):
        np.testing.assert_allclose(batch[name].astype(int), np.stack(expected)[batch["index"]], atol=4)


@pytest.mark.slow
def test_enormous_image_is_decoded(tmp_path):
    ramp = np.linspace(0, 255, 6000)
    pixels = np.stack(np.broadcast_arrays(ramp, ramp[:4000, None], 0.0), axis=-1).astype("uint8")
    (tmp_path / "large.jpg").write_bytes(encoded(pixels, "jpeg", quality=90))
    source = open_source(f"folder:{tmp_path}", strict=True)
    (example,) = source.examples().as_numpy_iterator()
    np.testing.assert_allclose(example["image"][::9, ::9].astype(int), pixels[::9, ::9].astype(int), atol=6)
    whole = Fused([RandomResizedCrop(30, scale=(1, 1), ratio=(1.5, 1.5))])
    view = take(pretrain_dataset(source, whole, 1), 1)["query"][0]
    blocks = pixels[:3990].reshape(30, 133, 30, 200, 3).mean(axis=(1, 3))  # nearly what a resize gives
    np.testing.assert_allclose(view[2:-2, 2:-2, :2], blocks[2:-2, 2:-2, :2], atol=2)
