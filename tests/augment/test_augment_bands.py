"""RandomBandBrightness and RandomBandDrop against NumPy."""

import re

import numpy as np
import pytest

from keras_moco.augment import RandomBandBrightness, RandomBandDrop
from tests.augment.oracles import PHOTOS

PHOTO = PHOTOS[1, 100:120, 200:216]  # (20, 16, 3)
MAKERS = {"brightness": RandomBandBrightness, "drop": RandomBandDrop}


def of(channels):
    return PHOTO[..., np.arange(channels) % 3].astype("float32")


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_each_band_has_a_factor_and_an_offset_of_its_own(channels):
    layer = RandomBandBrightness(brightness=0.4, offset=20, rate=0.5, bands=13)
    draws = np.random.default_rng(channels).random((2, layer.num_draws), dtype="float32")
    draws[:, 0] = [0.49, 0.51]
    changed, same = layer.augment_images(np.stack([of(channels)] * 2), draws).numpy()
    factors, offsets = 0.6 + 0.8 * draws[0, 1 : 1 + channels], 40 * draws[0, 14 : 14 + channels] - 20
    np.testing.assert_allclose(changed, np.clip(of(channels) * factors + offsets, 0, 255), atol=1e-3)
    np.testing.assert_array_equal(same, of(channels))


def test_a_brightness_above_one_does_not_make_factors_negative():
    draws = np.zeros((1, 7), "float32")
    assert not RandomBandBrightness(1.5, bands=3).augment_images(PHOTO[None], draws).numpy().any()


@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_bands_below_their_rate_are_constant_and_the_others_unchanged(channels, fill):
    layer = RandomBandDrop(band_rate=0.4, rate=0.5, fill=fill, bands=13)
    draws = np.random.default_rng(3).random((40, layer.num_draws), dtype="float32")
    views = layer.augment_images(np.stack([of(channels)] * 40), draws).numpy()
    for view, (whether, *numbers) in zip(views, draws, strict=True):
        dropped = (np.array(numbers[:channels]) < 0.4) & (whether < 0.5)
        if dropped.all():
            dropped[np.argmax(numbers[:channels])] = False
        constant = of(channels).mean(axis=(0, 1)) if fill == "mean" else 0.0
        np.testing.assert_allclose(view, np.where(dropped, constant, of(channels)), atol=1e-3)


def test_never_are_all_bands_dropped_and_each_one_stays_as_often():
    layer, count = RandomBandDrop(band_rate=1.0, rate=1.0, bands=4), 4000
    draws = np.random.default_rng(0).random((count, layer.num_draws), dtype="float32")
    kept = layer.augment_images(np.full((count, 1, 1, 4), 9.0), draws).numpy()[:, 0, 0] > 0
    assert (kept.sum(axis=1) == 1).all()
    assert np.abs(kept.mean(axis=0) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / count)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_more_bands_than_random_numbers_are_refused(make):
    layer = make(bands=2)
    with pytest.raises(ValueError, match=rf"at most 2 channels for this {make.__name__}\..*3 channels\. Give bands=3"):
        layer.augment_images(PHOTO[None], np.zeros((1, layer.num_draws)))


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (RandomBandBrightness, "brightness", -0.1),
        (RandomBandBrightness, "offset", -1),
        (RandomBandBrightness, "bands", 0),
        (RandomBandDrop, "band_rate", 1.1),
        (RandomBandDrop, "fill", "gray"),
        (RandomBandDrop, "bands", 0),
        (RandomBandDrop, "rate", 2),
    ],
)
def test_arguments_out_of_range_are_refused(make, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` .*{re.escape(f'{name}={value!r}')}\."):
        make(**{name: value})
