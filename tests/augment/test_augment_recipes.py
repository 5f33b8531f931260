"""The published recipes, and two views."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco import augment
from keras_moco.augment import Compose, Fused, get_augmentation, moco_cifar, moco_v2, simclr, two_views
from tests.augment.oracles import PHOTOS, floats

IMAGES = np.stack([PHOTOS[0, i * 40 :, i * 60 :][:40, :48] for i in range(6)])

CROP = ("RandomResizedCrop", {"size": 32, "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)})
DEMO_CROP = ("RandomResizedCrop", {"size": 32, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)})
GRAY = ("RandomGrayscale", {"rate": 0.2})
FLIP = ("RandomHorizontalFlip", {"rate": 0.5})
BLUR = ("RandomGaussianBlur", {"sigma": (0.1, 2.0), "rate": 0.5})
MEDICAL_CROP = ("RandomResizedCrop", {**CROP[1], "scale": (0.5, 1.0)})
ROTATION = ("RandomRotation", {"degrees": 10.0, "rate": 1.0})
LEVELS = ("RandomColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "rate": 0.8})
NOISE = ("RandomNoise", {"sigma": (0.0, 10.0), "rate": 0.5})
BANDS = [
    ("RandomBandBrightness", {"brightness": 0.4, "offset": 0.0, "rate": 0.8, "bands": 32}),
    ("RandomBandDrop", {"band_rate": 0.25, "rate": 0.5, "fill": "zero", "bands": 32}),
]

both_forms = pytest.mark.parametrize("exact", [True, False], ids=["exact", "fused"])


def jitter(hue, rate, others=0.4):
    strengths = dict.fromkeys(("brightness", "contrast", "saturation"), others)
    return ("RandomColorJitter", {**strengths, "hue": hue, "rate": rate})


def furthest(views, others):
    """The largest difference within each view; uint8 would wrap around."""
    return np.abs(floats(views) - floats(others)).max(axis=(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("moco_v1", [CROP, GRAY, jitter(0.4, 1.0), FLIP]),
        ("moco_v2", [CROP, jitter(0.1, 0.8), GRAY, BLUR, FLIP]),
        ("moco_cifar", [DEMO_CROP, FLIP, jitter(0.1, 0.8), GRAY]),
        ("moco_medical", [MEDICAL_CROP, FLIP, ROTATION, LEVELS, BLUR, NOISE]),
        ("moco_multispectral", [CROP, ("RandomRightAngle", {}), *BANDS, BLUR]),
        ("simclr", [DEMO_CROP, FLIP, jitter(0.2, 0.8, others=0.8), GRAY, BLUR]),
        ("simclr_cifar", [DEMO_CROP, FLIP, jitter(0.1, 0.8), GRAY]),
        ("supervised", [DEMO_CROP, FLIP]),
    ],
)
def test_a_recipe_is_the_published_one_in_its_order_fused_or_exact(name, operations):
    recipe = getattr(augment, name)
    assert name == "supervised" or get_augmentation(name) is recipe
    fused, exact = recipe(32, seed=3), recipe(32, exact=True, seed=3)
    assert type(fused) is Fused and type(exact) is Compose and fused.seed == exact.seed == 3
    for made in (fused, exact):
        assert [type(layer).__name__ for layer in made.layers] == [operation for operation, _ in operations]
        for layer, (_, settings) in zip(made.layers, operations, strict=True):
            assert {key: getattr(layer, key) for key in settings} == settings
    assert recipe(32, crop_scale=(0.5, 0.9)).layers[0].scale == (0.5, 0.9)


def test_the_strength_and_the_blur_of_simclr_can_be_chosen():
    *_, color, gray = simclr(32, strength=0.25, blur=False).layers
    assert (color.brightness, color.contrast, color.saturation, color.hue) == (0.2, 0.2, 0.2, 0.05)
    assert type(gray).__name__ == "RandomGrayscale"


@both_forms
def test_two_views_are_the_augmentation_on_their_own_draws(exact):
    augmentation = moco_v2(24, exact=exact)
    draws = np.random.default_rng(0).random((6, 2, augmentation.num_draws), dtype="float32")
    views = two_views(augmentation, IMAGES, draws)
    assert set(views) == {"query", "key"}
    assert views["query"].dtype == views["key"].dtype == ("float32" if exact else "uint8")
    np.testing.assert_array_equal(views["query"], augmentation.augment_images(IMAGES, draws[:, 0]))
    np.testing.assert_array_equal(views["key"], augmentation.augment_images(IMAGES, draws[:, 1]))
    assert furthest(views["query"], views["key"]).min() > 5


@both_forms
def test_two_views_in_tf_data_of_an_image_whose_size_is_unknown(exact):
    # No colour jitter, which would stretch a crop that is rounded to the next level.
    layers = [augment.RandomResizedCrop(24), augment.RandomHorizontalFlip(), augment.RandomGaussianBlur()]
    augmentation = Compose(layers) if exact else Fused(layers)
    draws = np.random.default_rng(0).random((3, 1, 2, augmentation.num_draws), dtype="float32")
    sizes = [[40, 48], [30, 20], [48, 48]]

    def view(size, draws):
        return two_views(augmentation, tf.constant(IMAGES[:1])[:, : size[0], : size[1]], draws)

    views = tf.data.Dataset.from_tensor_slices((sizes, draws)).map(view)
    assert views.element_spec["query"].shape.as_list() == [1, 24, 24, 3]
    for found, size, draw in zip(views, sizes, draws, strict=True):
        for name, expected in view(size, draw).items():
            np.testing.assert_allclose(floats(found[name]), floats(expected), atol=2e-3 if exact else 1)


def test_draws_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`draws` .*shape=\(6, 30\), num_draws=30"):
        two_views(moco_cifar(24), IMAGES, np.zeros((6, 30), "float32"))
