"""The views that are shown are those that are fed."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import get_augmentation
from keras_moco.data import array_source, open_source, pretrain_dataset
from keras_moco.summaries.views import first_views, write_views

BATCH, SIZE, SEED = 32, 12, 5
NAMES = ["query", "key"]


@pytest.mark.slow
def test_shown_views_are_the_first_of_the_first_batch():
    images = np.random.default_rng(0).integers(0, 256, (40, 14, 16, 3), dtype="uint8")
    source, augmentation = array_source(images), get_augmentation("moco_cifar")(SIZE)
    batch = next(iter(pretrain_dataset(source, augmentation, BATCH, SEED)))
    views, index = first_views(source, augmentation, BATCH, NAMES, SEED)
    np.testing.assert_array_equal(index, batch["index"][:8])
    for name, shown in zip(NAMES, views, strict=True):
        np.testing.assert_array_equal(shown, batch[name][:8])


@pytest.mark.slow
def test_shown_views_are_finished_as_in_the_training_step():
    source, augmentation = open_source("digits"), get_augmentation("moco_cifar")(SIZE)
    entries = (*NAMES, "draws")
    batch = next(iter(pretrain_dataset(source, augmentation, BATCH, SEED, entries=entries, finish=False)))
    views, _ = first_views(source, augmentation, BATCH, NAMES, SEED, on_host=False)
    for number, name in enumerate(NAMES):
        finished = augmentation.finish(batch[name], batch["draws"][:, number], on_host=False)[:8].numpy()
        # Of 32 views and of 8 sums may be rounded in another order, and then to another grey level.
        assert np.abs(views[number].astype(int) - finished).max() <= 1
        assert views[number].shape == (8, SIZE, SIZE, 1)


def test_of_13_bands_the_first_three_are_drawn_stretched_and_the_description_says_so(tmp_path):
    views = [np.random.default_rng(seed).integers(30, 90, (2, 96, 96, 13), dtype="uint8") for seed in range(2)]
    write_views(tmp_path / "views.png", tmp_path / "log", views, NAMES, ["a", "b"])
    with Image.open(tmp_path / "views.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))[:96, :96]
    shown = np.stack(views)[..., :3].astype(float)
    black, white = np.percentile(shown, (1, 99), axis=(0, 1, 2, 3))
    expected = np.clip((shown[0, 0] - black) * 255 / (white - black), 0, 255)
    np.testing.assert_allclose(drawn, expected, atol=0.501)  # rounded to whole levels
    [path] = (tmp_path / "log").iterdir()
    said = path.read_bytes()
    assert b"bands 1, 2 and 3 of 13 as red, green and blue; each band stretched from its percentiles 1 to 99" in said


def test_png_and_tensorboard_image_have_queries_above_keys_above_names(tmp_path):
    rng = np.random.default_rng(0)
    views = [rng.integers(0, 256, (8, 32, 32, 1), dtype="uint8") for _ in NAMES]
    write_views(tmp_path / "views.png", tmp_path / "log", views, NAMES, [f"photo_of_number_{n}.jpg" for n in range(8)])
    with Image.open(tmp_path / "views.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (2 * 96 + 4 + 16, 8 * 96 + 7 * 4, 3)  # three times as large, four pixels apart; a line
    assert (pixels[-16:].reshape(16, -1, 3)[:, 96::100] == 255).all()  # no name touches the next one
    assert all((pixels[-16:, start : start + 96] < 128).any() for start in range(0, 800, 100))
    for row, images in enumerate(views):
        for column, image in enumerate(images):
            cell = pixels[row * 100 : row * 100 + 96, column * 100 : column * 100 + 96]
            np.testing.assert_array_equal(cell[1::3, 1::3], np.repeat(image, 3, axis=-1))
    [path] = (tmp_path / "log").iterdir()
    values = [value for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value]
    [shown] = [tf.make_ndarray(value.tensor)[2] for value in values if value.tag == "views"]
    np.testing.assert_array_equal(tf.io.decode_png(shown), pixels)
