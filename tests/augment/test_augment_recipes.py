"""The published recipes, and two views."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from keras_moco.augment import (
    AUGMENTATIONS,
    Compose,
    Fused,
    get_augmentation,
    moco_cifar,
    moco_v1,
    moco_v2,
    simclr,
    simclr_cifar,
    two_views,
)

IMAGES = np.stack([load_sample_image("china.jpg")[i * 40 :, i * 60 :][:40, :48] for i in range(6)])

CROP = ("RandomResizedCrop", {"size": 32, "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)})
DEMO_CROP = ("RandomResizedCrop", {"size": 32, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)})
GRAY = ("RandomGrayscale", {"rate": 0.2})
FLIP = ("RandomHorizontalFlip", {"rate": 0.5})
BLUR = ("RandomGaussianBlur", {"sigma": (0.1, 2.0), "rate": 0.5})

both_forms = pytest.mark.parametrize("exact", [True, False], ids=["exact", "fused"])


def jitter(hue, rate, others=0.4):
    return (
        "RandomColorJitter",
        {"brightness": others, "contrast": others, "saturation": others, "hue": hue, "rate": rate},
    )


def furthest(views, others):
    """The largest difference within each view; uint8 would wrap around."""
    difference = np.asarray(views, "float32") - np.asarray(others, "float32")
    return np.abs(difference).reshape(len(difference), -1).max(axis=1)


@both_forms
@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("moco_v1", [CROP, GRAY, jitter(0.4, 1.0), FLIP]),
        ("moco_v2", [CROP, jitter(0.1, 0.8), GRAY, BLUR, FLIP]),
        ("moco_cifar", [DEMO_CROP, FLIP, jitter(0.1, 0.8), GRAY]),
        ("simclr", [DEMO_CROP, FLIP, jitter(0.2, 0.8, others=0.8), GRAY, BLUR]),
        ("simclr_cifar", [DEMO_CROP, FLIP, jitter(0.1, 0.8), GRAY]),
    ],
)
def test_a_recipe_is_the_published_one_in_its_order(name, operations, exact):
    recipe = get_augmentation(name)(32, exact=exact)
    assert type(recipe) is (Compose if exact else Fused)
    layers = recipe.layers
    assert [type(layer).__name__ for layer in layers] == [operation for operation, _ in operations]
    for layer, (_, settings) in zip(layers, operations, strict=True):
        assert {key: getattr(layer, key) for key in settings} == settings


@both_forms
def test_the_crop_scale_can_be_chosen(exact):
    for recipe in AUGMENTATIONS.values():
        assert recipe(32, crop_scale=(0.5, 0.9), exact=exact).layers[0].scale == (0.5, 0.9)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_recipe_is_fused_unless_asked_otherwise(name):
    recipe = get_augmentation(name)
    assert type(recipe(32)) is Fused and type(recipe(32, seed=3)) is Fused
    assert recipe(32, seed=3).seed == recipe(32, exact=True, seed=3).seed == 3
    assert recipe(32).num_draws == recipe(32, exact=True).num_draws  # so both take the same draws


@both_forms
def test_the_strength_and_the_blur_of_simclr_can_be_chosen(exact):
    weak = simclr(32, strength=0.25, blur=False, exact=exact).layers
    assert [type(layer).__name__ for layer in weak] == [
        *("RandomResizedCrop", "RandomHorizontalFlip", "RandomColorJitter", "RandomGrayscale")
    ]
    assert (weak[2].brightness, weak[2].contrast, weak[2].saturation, weak[2].hue) == (0.2, 0.2, 0.2, 0.05)


def test_a_wrong_name_lists_the_right_ones():
    recipes = (moco_v1, moco_v2, moco_cifar, simclr, simclr_cifar)
    assert {recipe.__name__: recipe for recipe in recipes} == AUGMENTATIONS
    known = "'moco_v1', 'moco_v2', 'moco_cifar', 'simclr', 'simclr_cifar'"
    with pytest.raises(ValueError, match=f"must be one of {known}. Received: augmentation='v3'"):
        get_augmentation("v3")


@both_forms
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_two_views_are_the_augmentation_on_their_own_draws(name, exact, monkeypatch):
    if name != "moco_v2":  # compiling takes most of the time; one recipe may do for all
        monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)
    augmentation = get_augmentation(name)(24, exact=exact)
    draws = np.random.default_rng(0).random((6, 2, augmentation.num_draws), dtype="float32")
    views = two_views(augmentation, IMAGES, draws)
    assert set(views) == {"query", "key"}
    assert views["query"].dtype == views["key"].dtype == ("float32" if exact else "uint8")
    np.testing.assert_array_equal(views["query"], augmentation.augment_images(IMAGES, draws[:, 0]))
    np.testing.assert_array_equal(views["key"], augmentation.augment_images(IMAGES, draws[:, 1]))
    assert furthest(views["query"], views["key"]).min() > 5
    again = two_views(augmentation, IMAGES, draws)
    np.testing.assert_array_equal(views["query"], again["query"])
    np.testing.assert_array_equal(views["key"], again["key"])


@both_forms
def test_without_draws_every_call_is_new(exact):
    augmentation = moco_v2(24, exact=exact, seed=1)
    first, second = two_views(augmentation, IMAGES), two_views(augmentation, IMAGES)
    views = [first["query"], first["key"], second["query"], second["key"]]
    for i in range(4):
        for j in range(i):
            assert furthest(views[i], views[j]).min() > 5


@both_forms
def test_two_views_of_one_image_of_unknown_size_in_tf_data(exact):
    augmentation = moco_v2(24, exact=exact)
    sizes = tf.data.Dataset.from_tensor_slices([[40, 48], [30, 20], [48, 48]])

    def view(size):
        image = tf.image.resize(tf.constant(IMAGES[0]), size)
        draws = tf.random.stateless_uniform([1, 2, augmentation.num_draws], seed=size)
        return two_views(augmentation, image[None], draws)

    views = sizes.map(view)
    assert views.element_spec["query"].shape.as_list() == [1, 24, 24, 3]
    for first, second in zip(views, views, strict=True):
        np.testing.assert_array_equal(first["query"], second["query"])
        np.testing.assert_array_equal(first["key"], second["key"])


def test_draws_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`draws` must hold two rows .* Received: shape=\(6, 30\), num_draws=30."):
        two_views(moco_cifar(24), IMAGES, np.zeros((6, 30), "float32"))
