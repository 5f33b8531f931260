"""The command that draws a grid of views."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import AUGMENTATIONS, Compose, moco_v2, supervised
from keras_moco.commands.preview import main, preview
from keras_moco.data import array_source, open_source
from keras_moco.summaries.image_grid import GAP, LINE
from tests.augment.oracles import PHOTOS, whole
from tests.data.written import encoded, record, write_records

SIDE, FACTOR = 32, 3  # which 96 pixels have as a minimum
STEP = FACTOR * SIDE + GAP
ROW = LINE + STEP
CHINA, FLOWER = PHOTOS[0, 150:350, 80:400], PHOTOS[1]
SQUARE = CHINA[100 : 100 + SIDE, 100 : 100 + SIDE]


@pytest.fixture(autouse=True)
def light_recipe(monkeypatch):
    """Crop and flip only, under a known name: the other recipes would be traced in each test."""
    monkeypatch.setitem(AUGMENTATIONS, "moco_cifar", supervised)


@pytest.fixture
def photos(tmp_path):
    """The name of a folder with a wide photograph, a tall one, and one as large as a view."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in {"wide": CHINA[:100, :200], "tall": FLOWER[:300, 200:350], "view": SQUARE}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return f"folder:{folder}"


def run(source, out, *more, recipe="moco_cifar"):
    return main(["--source", source, "--recipe", recipe, "--out", str(out), "--image_size", str(SIDE), *more])


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def cells(picture, rows, columns):
    """The cells of a picture, `(rows, columns, SIDE, SIDE, 3)`; all between them must be white, or a name.

    In the picture each of their pixels is a block of `FACTOR` by `FACTOR`.
    """
    assert picture.shape == (rows * ROW - GAP, columns * STEP - GAP, 3) and picture.dtype == "uint8"
    padded = np.pad(picture, [(0, GAP), (0, GAP), (0, 0)], constant_values=255).reshape(rows, ROW, -1, 3)
    assert (padded[:, :LINE] < 128).any(axis=(1, 2, 3)).all()
    blocks = padded[:, LINE:].reshape(rows, STEP, columns, STEP, 3).swapaxes(1, 2)
    side = FACTOR * SIDE
    assert (blocks[:, :, side:] == 255).all() and (blocks[:, :, :, side:] == 255).all()
    small = blocks[:, :, :side:FACTOR, :side:FACTOR]
    np.testing.assert_array_equal(small.repeat(FACTOR, axis=2).repeat(FACTOR, axis=3), blocks[:, :, :side, :side])
    return small


@pytest.mark.slow
def test_the_picture_has_one_row_per_image_and_the_output_says_so(photos, tmp_path, capsys):
    out = tmp_path / "views.png"
    assert run(photos, out, "--views", "4") == 0
    said = capsys.readouterr().out
    for part in (str(out), "3 images", photos, "4 views", "moco_cifar", f"{SIDE} pixels"):
        assert part in said
    drawn = cells(pixels(out), rows=3, columns=5)
    for row, line in enumerate(said.splitlines()[1:4]):
        name = line.removeprefix(f"row {row + 1}  ")
        with Image.open(name) as image:  # of those of three shapes, the one that was drawn
            inside = np.array(image.size) * min(SIDE / max(image.size), 1)
        filled = (drawn[row, 0] < 255).any(axis=-1)
        assert [filled.any(axis=0).sum(), filled.any(axis=1).sum()] == pytest.approx(inside, abs=1)
    assert sorted(os.listdir(tmp_path)) == ["photos", "views.png"]  # nothing temporary is left


def test_a_view_depends_on_the_recipe_the_seed_and_the_image():
    augmentation = moco_v2(SIDE, crop_scale=(0.5, 1.0))
    source = open_source("digits", "test")
    picture, _, seconds = preview(source, augmentation, images=2, views=3, seed=5)
    assert seconds > 0
    for row, example in zip(cells(picture, 2, 4), source.examples(5).take(2), strict=True):
        # The first three of five: more views do not change the others.
        draws = np.random.default_rng([5, int(example["index"])]).random((5, augmentation.num_draws), "float32")
        for cell, draw in zip(row[1:], draws, strict=False):
            view = tf.cast(augmentation.augment_images(example["image"][None], draw[None])[0], "float32").numpy()
            assert np.abs(cell - view).max() <= 1  # one graph may round differently; gray in all channels
        assert np.abs(row[1].astype(int) - row[2]).max() > 20


def test_flags_reach_the_recipe(tmp_path, monkeypatch):
    made = []

    def recipe(*args, **settings):
        made.append((args, settings))
        return supervised(*args, **settings)

    monkeypatch.setitem(AUGMENTATIONS, "moco_cifar", recipe)
    pictures = []
    for number, seed in enumerate((3, 3, 4)):
        flags = ["--images=1", "--views=1", "--exact", "--crop_min_area=0.5", f"--seed={seed}"]
        assert run("digits", tmp_path / f"{number}.png", *flags) == 0
        pictures.append((tmp_path / f"{number}.png").read_bytes())
    assert made == 3 * [((SIDE,), {"exact": True, "crop_scale": (0.5, 1.0)})]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    "channels, bands, shown", [(2, None, [0]), (3, None, [0, 1, 2]), (13, None, [0, 1, 2]), (13, (4, 3, 2), [3, 2, 1])]
)
def test_other_channels_than_gray_and_rgb_are_shown_by_some_of_them_each_by_its_own_range(channels, bands, shown):
    tops = np.linspace(20, 255, channels)  # one range for all would show the first ones dark
    images = (np.random.default_rng(0).random((3, SIDE, SIDE, channels)) * tops).astype("uint8")
    picture, _, _ = preview(array_source(images), Compose([whole(SIDE)]), images=3, views=1, bands=bands)
    expected = images[..., shown].astype(float)
    if channels > 3:
        black, white = np.percentile(expected, (1, 99), axis=(0, 1, 2))
        expected = np.clip((expected - black) * 255 / (white - black), 0, 255)
    for original, view in cells(picture, 3, 2):
        off = [np.abs(view - np.broadcast_to(image, (SIDE, SIDE, 3))).max() for image in expected]
        assert min(off) <= (0.501 if channels > 3 else 0)  # rounded to whole levels
        np.testing.assert_array_equal(original, view)


def test_a_band_of_one_value_is_shown_as_it_is_and_large_views_are_not_enlarged():
    images = np.broadcast_to(np.arange(13, dtype="uint8") * 9, (2, 100, 100, 13))
    picture, _, _ = preview(array_source(images), Compose([whole(100)]), images=2, views=1)
    assert picture.shape == (2 * (LINE + 100) + GAP, 200 + GAP, 3)
    assert (picture[LINE : LINE + 100, :100] == [0, 9, 18]).all()


def test_fractions_of_levels_are_rounded_only_to_be_shown_and_a_dark_image_is_no_scaled_one():
    made, identity = [], Compose([whole(SIDE)])

    class Recorder(Compose):
        def augment(self, images, draws):
            made.append(images.dtype)
            return super().augment(images, draws)

    dark = tf.fill((SIDE, SIDE, 1), 0.6)
    source = array_source(np.zeros((1, SIDE, SIDE, 1), "uint8"))
    read = source.read
    floats = dataclasses.replace(source, read=lambda seed: read(seed).map(lambda example: {**example, "image": dark}))
    picture, _, _ = preview(floats, Recorder(identity.layers), images=1, views=1)
    assert made == ["float32"] and (cells(picture, 1, 2) == 1).all()


def test_bands_that_do_not_exist_are_refused_and_the_output_says_what_is_shown(tmp_path, capsys):
    out = tmp_path / "views.png"
    for bands in ("2", "1,1", "0"):
        assert run("digits", out, f"--bands={bands}") == 2
        assert f"Received: bands={bands}, images of 1 channel(s)." in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("digits", out, "--bands=red")
    assert not out.exists()
    assert run("digits", out, "--bands=1,1,1", "--images=1", "--views=1") == 0
    said = capsys.readouterr().out
    assert (
        "it shows bands 1, 1 and 1 of 1 as red, green and blue, each band stretched from its percentiles 1 to" in said
    )


def test_a_wrong_flag_is_refused_before_anything_is_opened(tmp_path, capsys, monkeypatch):
    assert run("digits", tmp_path / "views.png", "--split", "tset") == 2
    assert "split='tset'" in capsys.readouterr().err
    monkeypatch.setattr("keras_moco.commands.preview.open_source", None)  # calling it would be a TypeError
    flags = ["--images=0", "--views=0", "--image_size=0", "--seed=-1", f"--seed={2**63}", "--recipe=moco_v3"]
    for flag in [*flags, "--crop_min_area=0.0", "--crop_min_area=1.5", "--crop_min_area=nan"]:
        assert run("digits", tmp_path / "views.png", flag) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("preview: ")
        assert f"Received: {flag.removeprefix('--')}. " in err
        assert os.listdir(tmp_path) == []


def test_a_damaged_image_is_refused_by_name(photos, tmp_path, capfd):
    (tmp_path / "photos" / "wide.png").write_bytes(b"no image")
    assert run(photos, tmp_path / "views.png") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("preview: ") and "Received: " in last and "wide.png" in last
    assert not (tmp_path / "views.png").exists()


def test_an_existing_picture_is_overwritten_only_on_request(tmp_path, capsys):
    out = tmp_path / "views.png"
    out.write_bytes(b"mine")
    assert run("digits", out) == 2
    assert f"Received: {out}, which exists" in capsys.readouterr().err
    assert run("digits", out, "--overwrite", "--images", "0") == 2
    assert out.read_bytes() == b"mine" and os.listdir(tmp_path) == ["views.png"]
    (tmp_path / "folder.png").mkdir()
    for wrong in (tmp_path / "missing" / "views.png", tmp_path / "views.jpg", tmp_path / "folder.png"):
        assert run("digits", wrong, "--overwrite") == 2
        assert "preview: `out` must" in (err := capsys.readouterr().err) and f"Received: {wrong}" in err
    assert run("digits", out, "--overwrite", "--images", "1", "--views", "1") == 0
    cells(pixels(out), 1, 2)


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--crop_min_area" in capsys.readouterr().out


def test_the_feature_of_the_images_in_tfrecords_may_be_named(tmp_path):
    write_records(tmp_path / "a", [record(encoded(SQUARE, "png"), feature="jpg")])
    out = tmp_path / "views.png"
    name = f"tfrecord:{tmp_path}/a"
    assert run(name, out, "--views", "2") == 2
    assert run(name, out, "--views", "2", "--tfrecord_image_feature", "jpg") == 0
    cells(pixels(out), 1, 3)  # the image and two views
