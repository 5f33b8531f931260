"""The command that draws a grid of views."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_moco.augment import get_augmentation
from keras_moco.augment.preview import main, preview
from keras_moco.data import open_source
from keras_moco.picture_grid import GAP

SIDE = 32
STEP = SIDE + GAP
CHINA = load_sample_image("china.jpg")[150:350, 80:400]  # the pagoda


@pytest.fixture
def photos(tmp_path):
    """The name of a folder with a wide photograph, a tall one, and one as large as a view."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(CHINA[:100, :200]).save(folder / "wide.png")
    Image.fromarray(load_sample_image("flower.jpg")[:300, 200:350]).save(folder / "tall.png")
    Image.fromarray(CHINA[100 : 100 + SIDE, 100 : 100 + SIDE]).save(folder / "view.png")
    return f"folder:{folder}"


def run(source, out, *more, recipe="moco_v2", image_size=SIDE):
    flags = ["--source", source, "--recipe", recipe, "--out", str(out), "--image_size", str(image_size)]
    return main([*flags, *more])


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def cells(picture, rows, columns):
    """The cells of a picture, `(rows, columns, SIDE, SIDE, 3)`; all between them must be white."""
    assert picture.shape == (rows * STEP - GAP, columns * STEP - GAP, 3) and picture.dtype == "uint8"
    padded = np.pad(picture, [(0, GAP), (0, GAP), (0, 0)], constant_values=255)
    blocks = padded.reshape(rows, STEP, columns, STEP, 3).swapaxes(1, 2)
    assert (blocks[:, :, SIDE:] == 255).all() and (blocks[:, :, :, SIDE:] == 255).all()
    return blocks[:, :, :SIDE, :SIDE]


def test_the_picture_has_a_row_for_each_image_and_the_last_line_says_so(photos, tmp_path, capsys):
    out = tmp_path / "views.png"
    assert run(photos, out, "--views", "4") == 0
    captured = capsys.readouterr()
    start = f"Wrote {out}: 3 images of {photos}, each with 4 views by moco_v2 at {SIDE} pixels, "
    assert captured.out.startswith(start) and captured.out.endswith(" ms per view.\n")
    assert captured.out.count("\n") == 1 and float(captured.out[len(start) :].split()[0]) > 0
    cells(pixels(out), rows=3, columns=5)
    assert sorted(os.listdir(tmp_path)) == ["photos", "views.png"]  # nothing temporary is left


def test_one_image_and_one_view_are_named_in_the_singular(photos, tmp_path, capsys):
    assert run(photos, tmp_path / "views.png", "--images", "1", "--views", "1", "--exact") == 0
    assert f"1 image of {photos}, each with 1 view by moco_v2 (exact) at" in capsys.readouterr().out
    cells(pixels(tmp_path / "views.png"), rows=1, columns=2)


def test_the_numbers_of_rows_and_views_have_defaults(tmp_path):
    assert run("digits", tmp_path / "views.png") == 0
    cells(pixels(tmp_path / "views.png"), rows=6, columns=8)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(photos, tmp_path):
    names = {"first": "3", "again": "3", "other": "4"}
    for name, seed in names.items():
        assert run(photos, tmp_path / f"{name}.png", "--views", "2", "--seed", seed) == 0
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in names)
    assert first == again != other


def test_the_original_is_shown_whole_in_its_proportions(photos):
    picture, rows, _ = preview(open_source(photos), get_augmentation("moco_v2")(SIDE), views=1)
    assert rows == 3
    originals = list(cells(picture, 3, 2)[:, 0])
    half = slice(SIDE // 4, 3 * SIDE // 4)  # an image twice as long as wide fills the middle half
    expected = {}
    for name in ("wide", "tall", "view"):
        with Image.open(f"{photos.removeprefix('folder:')}/{name}.png") as image:
            size = {"wide": (SIDE, SIDE // 2), "tall": (SIDE // 2, SIDE), "view": (SIDE, SIDE)}[name]
            cell = np.full((SIDE, SIDE, 3), 255, "uint8")
            part = cell[half] if name == "wide" else cell[:, half] if name == "tall" else cell
            part[:] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
            expected[name] = cell.astype(int)
    for name, cell in expected.items():  # the seed decides their order
        distances = [np.abs(original - cell).max() for original in originals]
        assert min(distances) <= (0 if name == "view" else 1), (name, distances)


@pytest.mark.parametrize("exact", [False, True])
def test_a_view_is_the_recipe_applied_to_draws_of_seed_and_image(exact):
    augmentation = get_augmentation("moco_v2")(SIDE, crop_scale=(0.5, 1.0), exact=exact)
    source = open_source("digits", "test")
    picture, _, seconds = preview(source, augmentation, images=2, views=3, seed=5)
    assert seconds > 0
    for row, example in zip(cells(picture, 2, 4), source.examples(5).take(2), strict=True):
        draws = np.random.default_rng([5, int(example["index"])]).random((3, augmentation.num_draws), "float32")
        for cell, draw in zip(row[1:], draws, strict=True):
            view = tf.cast(augmentation.augment_images(example["image"][None], draw[None])[0], "float32").numpy()
            assert np.abs(cell - view).max() <= 1  # compiled as a whole it may round otherwise; gray in all channels
        assert np.abs(row[1].astype(int) - row[2]).max() > 20


def test_more_images_and_views_leave_those_that_were_there(photos):
    source, augmentation = open_source(photos), get_augmentation("moco_v1")(SIDE)
    few, _, _ = preview(source, augmentation, images=2, views=2)
    many, _, _ = preview(source, augmentation, images=3, views=4)
    np.testing.assert_array_equal(cells(few, 2, 3), cells(many, 3, 5)[:2, :3])


def test_exact_and_fused_show_the_same_views(photos, tmp_path):
    assert run(photos, tmp_path / "fused.png", "--views", "2") == 0
    assert run(photos, tmp_path / "exact.png", "--views", "2", "--exact") == 0
    fused, exact = (pixels(tmp_path / f"{name}.png").astype(int) for name in ("fused", "exact"))
    assert 0 < np.abs(fused - exact).mean() < 2


def test_the_smallest_crop_can_be_chosen(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(CHINA[100 : 100 + SIDE, 100 : 100 + SIDE]).save(tmp_path / "photos" / "view.png")

    def whole_images(*flags):
        """How many views show the whole image, mirrored or not, in its own colours."""
        flags = ["--views", "16", "--exact", "--overwrite", *flags]
        assert run(f"folder:{tmp_path / 'photos'}", tmp_path / "views.png", *flags, recipe="moco_cifar") == 0
        [[original, *views]] = cells(pixels(tmp_path / "views.png"), 1, 17).astype(int)
        return sum(any(np.abs(original - view).max() <= 1 for view in (view, view[:, ::-1])) for view in views)

    assert whole_images() == 0
    assert whole_images("--crop_min_area", "1") > 0  # hardly any other box of that area fits


def test_gray_images_give_gray_pictures(photos, tmp_path):
    folder = tmp_path / "gray"
    folder.mkdir()
    Image.fromarray(CHINA[:50, :80]).convert("L").save(folder / "gray.png")
    for source, rows in ((f"folder:{folder}", 1), ("digits", 2)):
        assert run(source, tmp_path / "views.png", "--images", "2", "--views", "3", "--overwrite") == 0
        found = cells(pixels(tmp_path / "views.png"), rows, 4)
        assert (found == found[..., :1]).all()
        assert (np.ptp(found, axis=(2, 3, 4)) > 50).all()


PLAIN_ERRORS = {
    "--images=0": "`images` must be at least 1. Received: images=0. Correct --images.",
    "--views=0": "`views` must be at least 1. Received: views=0. Correct --views.",
    "--views=-3": "`views` must be at least 1. Received: views=-3. Correct --views.",
    "--image_size=0": "`image_size` must be at least 1. Received: image_size=0. Correct --image_size.",
    "--seed=-1": "`seed` must be at least 0 and below 2**63. Received: seed=-1. Correct --seed.",
    f"--seed={2**63}": f"`seed` must be at least 0 and below 2**63. Received: seed={2**63}. Correct --seed.",
    "--crop_min_area=0": "`crop_min_area` must be in (0, 1]. Received: crop_min_area=0.0. Correct --crop_min_area.",
    "--crop_min_area=nan": "`crop_min_area` must be in (0, 1]. Received: crop_min_area=nan. Correct --crop_min_area.",
    "--recipe=moco_v3": "`recipe` must be one of moco_v1, moco_v2, moco_cifar, simclr, simclr_cifar. "
    "Received: recipe=moco_v3. Correct --recipe.",
}


@pytest.mark.parametrize("flag, sentence", PLAIN_ERRORS.items(), ids=PLAIN_ERRORS)
def test_a_wrong_flag_ends_in_one_sentence_before_anything_is_opened(tmp_path, capsys, monkeypatch, flag, sentence):
    monkeypatch.setattr("keras_moco.augment.preview.open_source", None)  # calling it would be a TypeError
    assert run("digits", tmp_path / "views.png", flag) == 2
    assert capsys.readouterr() == ("", f"preview: {sentence}\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "source, flags, rule, way_out",
    [
        ("folders:x", [], "`name` of a data source must be one of digits,", "Did you mean `folder:x`?"),
        ("folder:nowhere", [], "`path` of folder:<path> must be an existing folder.", "Correct it."),
        ("digits", ["--split=tset"], "`split` of digits must be one of train, test.", "split='tset'."),
    ],
)
def test_an_unknown_source_ends_in_one_sentence(tmp_path, capsys, source, flags, rule, way_out):
    assert run(source, tmp_path / "views.png", *flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"preview: {rule}") and captured.err.endswith(f"{way_out}\n")
    assert captured.out == "" and captured.err.count("\n") == 1 and os.listdir(tmp_path) == []


def test_a_damaged_image_ends_in_a_sentence_that_names_it(photos, tmp_path, capfd):
    (tmp_path / "photos" / "wide.png").write_bytes(b"no image")
    assert run(photos, tmp_path / "views.png") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("preview: ") and "Received: " in last and "wide.png" in last
    assert not (tmp_path / "views.png").exists()


def test_an_existing_picture_is_kept_unless_it_may_be_overwritten(tmp_path, capsys):
    out = tmp_path / "views.png"
    out.write_bytes(b"mine")
    sentence = f"`out` must not exist yet. Received: {out}, which exists. Choose another --out, or give --overwrite."
    assert run("digits", out) == 2
    assert capsys.readouterr() == ("", f"preview: {sentence}\n")
    assert out.read_bytes() == b"mine"
    assert run("digits", out, "--overwrite", "--images", "1", "--views", "1") == 0
    cells(pixels(out), 1, 2)


def test_a_failure_leaves_what_was_to_be_overwritten(tmp_path, capsys):
    out = tmp_path / "views.png"
    out.write_bytes(b"mine")
    assert run("digits", out, "--overwrite", "--images", "0") == 2
    assert out.read_bytes() == b"mine" and os.listdir(tmp_path) == ["views.png"]


def test_the_picture_must_be_a_png_file_in_an_existing_folder(tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    missing, folder = tmp_path / "missing", tmp_path / "folder.png"
    sentences = {
        missing / "views.png": "`out` must lie in an existing folder. Received: {out}. " + f"Make {missing} first.",
        tmp_path / "views.jpg": "`out` must be the name of a PNG file. Received: {out}. End it in .png.",
        folder: "`out` must be a file. Received: {out}, a folder. Choose another --out.",
    }
    for out, sentence in sentences.items():
        assert run("digits", out, "--overwrite") == 2
        assert capsys.readouterr() == ("", f"preview: {sentence.format(out=out)}\n")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--crop_min_area" in capsys.readouterr().out
