"""What holds for every augmentation: pure in its draws, per image, repeatable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import augment
from tests.augment.oracles import PHOTOS, draws_for, floats

IMAGES = np.stack([PHOTOS[0, i * 40 : i * 40 + 48, i * 60 : i * 60 + 40] for i in range(6)])  # (6, 48, 40, 3) uint8

LAYERS = {
    "crop": lambda **kwargs: augment.RandomResizedCrop(24, scale=(0.1, 0.9), ratio=(0.5, 2.0), **kwargs),
    "flip": lambda **kwargs: augment.RandomHorizontalFlip(rate=0.4, **kwargs),
    "jitter": lambda **kwargs: augment.RandomColorJitter(0.4, 0.3, 0.2, 0.1, rate=0.8, **kwargs),
    "grayscale": lambda **kwargs: augment.RandomGrayscale(rate=0.3, **kwargs),
    "blur": lambda **kwargs: augment.RandomGaussianBlur(sigma=(0.2, 1.5), rate=0.6, **kwargs),
    "rotation": lambda **kwargs: augment.RandomRotation(20, rate=0.7, **kwargs),
    "noise": lambda **kwargs: augment.RandomNoise(sigma=(2, 9), rate=0.7, **kwargs),
    "band_brightness": lambda **kwargs: augment.RandomBandBrightness(0.4, offset=9, rate=0.7, **kwargs),
    "band_drop": lambda **kwargs: augment.RandomBandDrop(band_rate=0.95, rate=0.7, **kwargs),
    "exact": lambda **kwargs: augment.moco_v2(24, exact=True, **kwargs),
    "fused": lambda **kwargs: augment.moco_v2(24, **kwargs),
    "medical": lambda **kwargs: augment.moco_medical(24, **kwargs),
    "multispectral": lambda **kwargs: augment.moco_multispectral(24, **kwargs),  # with right angles, for squares only
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
both_forms = pytest.mark.parametrize("make", [LAYERS["exact"], LAYERS["fused"]], ids=["exact", "fused"])


def dtype_of_views(layer, dtype="uint8"):
    return "uint8" if isinstance(layer, augment.Fused) and dtype == "uint8" else "float32"


def furthest(views, others):
    return np.abs(floats(views) - floats(others)).max()


@each_layer
def test_values_are_in_0_to_255_in_float32_or_of_fused_in_uint8_for_uint8(make):
    layer = make()
    for channels, dtype in ((3, "uint8"), (1, "float16"), (13, "float64")):
        result = layer(IMAGES[..., np.arange(channels) % 3].astype(dtype))
        assert result.dtype == dtype_of_views(layer, dtype)
        assert result.shape[0] == 6 and result.shape[-1] == channels
        assert result.numpy().min() >= 0.0 and result.numpy().max() <= 255.001  # weights sum to 1 up to rounding


@each_layer
def test_random_numbers_decide_the_result_whatever_the_dtype_policy(make):
    layer, draws = make(), draws_for(make(), 6)
    expected = layer.augment_images(IMAGES, draws).numpy()
    assert furthest(layer.augment_images(IMAGES, draws_for(layer, 6, seed=1)), expected) > 5
    keras.config.set_dtype_policy("mixed_bfloat16")  # the test environment resets it
    again = make().augment_images(IMAGES, draws)
    assert again.dtype == dtype_of_views(layer)
    np.testing.assert_array_equal(again, expected)


@each_layer
def test_batch_equals_batches_of_one_image(make):
    layer = make()
    draws = draws_for(layer, 6)
    together = floats(layer.augment_images(IMAGES, draws))
    alone = np.concatenate([floats(layer.augment_images(IMAGES[i : i + 1], draws[i : i + 1])) for i in range(6)])
    # Sums in another order differ in the last digits, which in whole levels may round a value the other way.
    np.testing.assert_allclose(together, alone, atol=1 if dtype_of_views(layer) == "uint8" else 2e-3)


def test_generator_advances_and_repeats_by_seed():
    layer = LAYERS["exact"](seed=0)
    first, second = layer(IMAGES).numpy(), layer(IMAGES).numpy()
    assert furthest(first, second) > 5
    np.testing.assert_array_equal(LAYERS["exact"](seed=0)(IMAGES), first)
    assert furthest(LAYERS["exact"](seed=1)(IMAGES), first) > 5


def test_without_a_seed_keras_set_random_seed_decides():
    def first_draws():
        keras.utils.set_random_seed(5)
        return augment.moco_v1(8).get_random_transformation_batch(4).numpy()

    np.testing.assert_array_equal(first_draws(), first_draws())
    assert not np.array_equal(first_draws(), augment.moco_v1(8).get_random_transformation_batch(4))


@both_forms
def test_it_runs_inside_tf_data_on_single_images_and_a_dict_keeps_its_labels(make):
    rows = {"images": IMAGES, "labels": np.arange(6)}
    singles = list(tf.data.Dataset.from_tensor_slices(rows).map(make(seed=3)).as_numpy_iterator())
    assert [single["images"].shape for single in singles] == [(24, 24, 3)] * 6
    assert [single["labels"] for single in singles] == list(range(6))


def test_draws_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"`transformations` .*shape=\(6, 3\), num_draws=1"):
        augment.RandomGrayscale().augment_images(IMAGES, np.zeros((6, 3)))


def test_compose_is_its_layers_in_order_on_their_own_draws():
    layers = [LAYERS[name]() for name in ("jitter", "crop", "flip")]
    both = augment.Compose(layers)
    draws = draws_for(both, 6)
    expected = layers[0].augment_images(IMAGES, draws[:, :6])
    expected = layers[1].augment_images(expected, draws[:, 6:28])
    expected = layers[2].augment_images(expected, draws[:, 28:])
    np.testing.assert_array_equal(both.augment_images(IMAGES, draws), expected)


def test_a_flip_is_a_mirror():
    result = augment.RandomHorizontalFlip().augment_images(IMAGES, np.zeros((6, 1)))
    np.testing.assert_array_equal(result, IMAGES[:, :, ::-1])


@pytest.mark.parametrize("name", [name for name, make in LAYERS.items() if hasattr(make(), "rate")])
def test_an_operation_happens_below_its_rate_and_otherwise_changes_nothing(name):
    layer = LAYERS[name]()
    draws = np.full((6, layer.num_draws), 0.9)
    draws[:, 0] = layer.rate + np.array([-0.01, 0.01] * 3)
    changed = (layer.augment_images(IMAGES, draws).numpy() != IMAGES).any(axis=(1, 2, 3))
    assert changed.tolist() == [True, False] * 3
