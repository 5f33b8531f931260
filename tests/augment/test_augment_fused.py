"""Fused against PIL, NumPy, colorsys and SciPy, and its distance from the same recipe without fusion."""

import colorsys
import functools
import itertools
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from keras_moco.augment import (
    AUGMENTATIONS,
    Compose,
    Fused,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    get_augmentation,
    moco_cifar,
)
from keras_moco.augment.resample import resize_turned

PHOTOS = np.stack([load_sample_image("china.jpg"), load_sample_image("flower.jpg")])  # (2, 427, 640, 3) uint8
PHOTO = PHOTOS[0]
CROP_DRAWS = RandomResizedCrop.num_draws
JITTER = slice(CROP_DRAWS, CROP_DRAWS + 6)  # its draws, where it comes right behind the crop
ORDERS = list(itertools.permutations(range(4)))
NAMES = ("brightness", "contrast", "saturation", "hue")


@functools.cache
def fused_recipe(name, size):
    """One for all tests: to compile it takes longer than any of them."""
    return get_augmentation(name)(size)


@functools.cache
def jitter_view(size, *strengths):
    """The jitter alone."""
    return Fused([whole(size), RandomColorJitter(*strengths)])


@pytest.fixture
def without_xla(monkeypatch):
    """For what is the same with and without: a second saved per test."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


def floats(views):
    return np.asarray(views, "float32")


def draws_for(view, count, seed=0):
    return np.random.default_rng(seed).random((count, view.num_draws), dtype="float32")


def whole(size):
    """A crop that leaves a square image of that size as it is."""
    return RandomResizedCrop(size, scale=(1, 1), ratio=(1, 1))


def low_contrast(image):
    """Values from 90 to 160, which weak jitters leave far from 0 and 255."""
    return np.round(90 + 70 * (image / 255.0)).astype("uint8")


# Oracles.


def pil_view(image, box, size, mirrored=False):
    top, left, height, width = box
    view = Image.fromarray(image).crop((left, top, left + width, top + height))
    view = view.resize((size, size), Image.Resampling.BILINEAR)
    return floats(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view)


def gray_of(image):
    return image @ np.array([0.299, 0.587, 0.114])


def hue_of(image, shift):
    """One pixel at a time, with the standard library."""
    result = np.empty(image.shape)
    for index in np.ndindex(*image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[index] / 255.0))
        result[index] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return result * 255.0


def operate(name, image, amount):
    """A colour operation in float64, clamped."""
    if name == "hue":
        return hue_of(image, amount)
    if image.shape[-1] == 1:
        gray = image[..., 0]
    else:
        gray = gray_of(image)
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[..., None]}[name]
    return np.clip(other + (image - other) * amount, 0.0, 255.0)


def jitter_draws(strengths, amounts, order=0):
    """The six draws that mean these amounts, in the order of that number."""
    low = np.array([1 - strength for strength in strengths[:3]] + [-strengths[3]])
    wide = np.maximum(2 * np.array(strengths), 1e-9)
    return np.concatenate([[0.0, (order + 0.5) / 24], (np.array(amounts) - low) / wide]).astype("float32")


# The resampling.


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("image", "size"),
    [(PHOTO, 224), (PHOTO, 32), (PHOTO[:50, :70], 224), (PHOTO[:400, :20], 96), (PHOTO[:1, :3], 8), (PHOTO[:9, :9], 9)],
    ids=["shrunk", "shrunk-much", "enlarged", "one-of-each", "a-row", "same-size"],
)
def test_resize_turned_is_tf_image_resize_bit_for_bit_and_pils_within_a_level(image, size, dtype):
    turned = resize_turned(tf.constant(image.astype(dtype)), size)
    assert turned.dtype == "float32" and turned.shape == (size, 3, size)
    upright = np.transpose(turned, [2, 0, 1])
    np.testing.assert_array_equal(upright, tf.image.resize(image, [size, size], antialias=True))
    # PIL rounds to whole levels after the columns and again after the rows: at most 0.5 each.
    np.testing.assert_allclose(upright, pil_view(image, (0, 0, *image.shape[:2]), size), atol=1.01)


@pytest.mark.parametrize(
    ("image", "size"),
    [(PHOTO[200:264, 100:148], 32), (PHOTO[200:220, 100:130], 64), (PHOTO, 224), (PHOTO, 32), (PHOTO[:60, :50], 96)],
    ids=["small-shrunk", "small-enlarged", "large-224", "large-32", "large-enlarged"],
)
def test_a_crop_is_pils_crop_resize_and_mirror_within_a_level(image, size):
    view = Fused([RandomResizedCrop(size, scale=(0.08, 1.0)), RandomHorizontalFlip(rate=0.5)])
    draws = draws_for(view, 8, seed=size)
    draws[:, -1] = [0.1, 0.9] * 4
    views = view.augment_images(np.stack([image] * 8), draws)
    assert views.dtype == "uint8" and views.shape == (8, size, size, 3)
    boxes = np.stack(view.layers[0].boxes(draws[:, :CROP_DRAWS], *image.shape[:2]), axis=1).astype(int)
    for ours, box, mirrored in zip(floats(views), boxes, [True, False] * 4, strict=True):
        oracle = pil_view(image, box, size, mirrored)
        np.testing.assert_allclose(ours, oracle, atol=1.01)
        assert abs(np.mean(ours - oracle)) < 0.05 + 1.6 / size  # rounding averages out, a shift does not


@pytest.mark.parametrize("images", [PHOTOS[:, :60, :64], PHOTOS], ids=["small", "large"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mirrored_view_is_the_view_reversed(images, channels):
    view = Fused([RandomResizedCrop(48), RandomHorizontalFlip()])
    draws = draws_for(view, 2)
    draws[:, -1] = 0.51
    upright = view.augment_images(images[..., :channels], draws).numpy()
    draws[:, -1] = 0.49
    np.testing.assert_array_equal(view.augment_images(images[..., :channels], draws), upright[:, :, ::-1])
    assert not np.array_equal(upright, upright[:, :, ::-1])


def test_without_a_flip_nothing_is_mirrored():
    crop = RandomResizedCrop(48)
    draws = draws_for(crop, 2)
    exact = crop.augment_images(PHOTOS, draws)
    np.testing.assert_allclose(floats(Fused([crop]).augment_images(PHOTOS, draws)), exact, atol=0.501)


@pytest.mark.parametrize("size", [32, 80], ids=["small", "large"])
def test_a_float_image_is_as_good_as_a_uint8_one(size):
    view = Fused([RandomResizedCrop(size)])
    draws = draws_for(view, 2)
    images = PHOTOS[:, :60, :60]
    expected = view.augment_images(images, draws)
    np.testing.assert_array_equal(view.augment_images(images.astype("float32"), draws), expected)
    np.testing.assert_array_equal(view.augment_images(images.astype("float64"), draws), expected)


def test_the_image_size_may_be_unknown_in_a_graph(without_xla):
    layers = [RandomResizedCrop(24), RandomHorizontalFlip(), RandomGrayscale(), RandomGaussianBlur()]
    view = Fused(layers)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 26])])
    def traced(images, draws):
        views = view.augment_images(images, draws)
        assert views.dtype == "uint8" and views.shape.as_list() == [None, 24, 24, 3]
        return views

    draws = draws_for(view, 8)
    for photos in (PHOTOS[:, :100, :80], PHOTOS[:, :40, :50]):  # the second ones would be small, if that were known
        images = np.concatenate([photos] * 4)
        eager = view.augment_images(images, draws)
        np.testing.assert_allclose(floats(traced(images, draws)), floats(eager), atol=1)


# The colours.


@pytest.mark.parametrize("index", range(4), ids=NAMES)
@pytest.mark.parametrize(("size", "xla"), [(48, True), (96, False)], ids=["small", "large-without-xla"])
def test_one_colour_operation_alone_is_that_of_numpy_to_rounding(size, xla, index, request):
    if not xla:
        request.getfixturevalue("without_xla")
    strengths = (0.0, 0.0, 0.0, 0.5) if index == 3 else (0.5, 0.5, 0.5, 0.0)
    view = jitter_view(size, *strengths)
    amounts = [-0.5, -0.1, 0.0, 0.07, 0.4] if index == 3 else [0.5, 0.8, 1.0, 1.1, 1.5]
    image = PHOTOS[1, 100 : 100 + size, 200 : 200 + size]
    draws = np.zeros((5, view.num_draws), "float32")
    for row, amount in zip(draws, amounts, strict=True):
        row[JITTER] = jitter_draws(strengths, [amount if i == index else float(i < 3) for i in range(4)])
    views = floats(view.augment_images(np.stack([image] * 5), draws))
    for ours, amount in zip(views, amounts, strict=True):
        np.testing.assert_allclose(ours, operate(NAMES[index], image.astype("float64"), amount), atol=0.51)


def test_hue_is_colorsys_on_the_whole_cube():
    # 32 x 32 images of all colours with channels of 0, 17, 34, ... 255: ties, grays, and the corners.
    cube = np.array(list(itertools.product(range(0, 256, 17), repeat=3)), "uint8").reshape(4, 32, 32, 3)
    strengths = (0.0, 0.0, 0.0, 0.5)
    view = Fused([whole(32), RandomColorJitter(*strengths)])
    draws = np.zeros((4, view.num_draws), "float32")
    for turns in (-0.45, -1 / 6, 1e-3, 1 / 3):
        draws[:, JITTER] = jitter_draws(strengths, (1, 1, 1, turns))
        expected = np.stack([hue_of(image, turns) for image in cube])
        np.testing.assert_allclose(floats(view.augment_images(cube, draws)), expected, atol=0.51)


@pytest.mark.parametrize("size", [48, 96], ids=["small", "large"])
def test_grayscale_is_that_of_numpy_and_the_others_keep_their_values(size):
    view = Fused([whole(size), RandomGrayscale(rate=0.2)])
    images = PHOTOS[:, :size, :size]
    draws = np.zeros((2, view.num_draws), "float32")
    draws[:, -1] = [0.19, 0.21]
    gray, same = view.augment_images(images, draws).numpy()
    np.testing.assert_allclose(floats(gray), np.repeat(gray_of(images[0])[..., None], 3, axis=-1), atol=0.51)
    np.testing.assert_array_equal(same, images[1])


def test_images_that_did_not_draw_the_jitter_keep_their_values(without_xla):
    view = Fused([whole(32), RandomColorJitter(0.4, 0.4, 0.4, 0.4, rate=0.8)])
    draws = np.full((4, view.num_draws), 0.9, "float32")
    draws[:, CROP_DRAWS] = [0.79, 0.81, 0.99, 0.0]
    images = np.stack([PHOTO[:32, :32]] * 4)
    views = view.augment_images(images, draws).numpy()
    np.testing.assert_array_equal(views[1:3], images[1:3])
    for jittered in views[[0, 3]]:
        assert np.abs(floats(jittered) - floats(images[0])).max() > 10


def test_all_24_orders_are_those_of_numpy_where_nothing_is_clamped():
    strengths, amounts = (0.2, 0.2, 0.2, 0.1), (1.17, 0.84, 1.19, 0.08)
    view = Fused([whole(32), RandomColorJitter(*strengths)])
    image = low_contrast(PHOTOS[1, 100:228:4, 200:328:4])
    assert image.min() >= 90 and image.max() <= 160 and np.ptp(image) > 50
    draws = np.zeros((24, view.num_draws), "float32")
    draws[:, JITTER] = [jitter_draws(strengths, amounts, order) for order in range(24)]
    views = floats(view.augment_images(np.stack([image] * 24), draws))
    results = {}
    for ours, order in zip(views, ORDERS, strict=True):
        expected = image.astype("float64")
        for operation in order:
            expected = operate(NAMES[operation], expected, amounts[operation])
            assert 20 < expected.min() and expected.max() < 235
        np.testing.assert_allclose(ours, expected, atol=0.52)
        behind_hue = frozenset(order[order.index(3) :]) - {0, 3}
        results.setdefault(behind_hue, []).append(expected)
    # Of these 24, what differs is whether contrast and saturation come before the hue or behind it.
    groups = list(results.values())
    assert sorted(map(len, groups)) == [4, 4, 8, 8]
    assert all(np.ptp(group, axis=0).max() < 1e-6 for group in groups)
    for one, other in itertools.combinations(groups, 2):
        assert np.abs(one[0] - other[0]).max() > 1.5


@pytest.mark.parametrize("gray_first", [True, False], ids=["gray-jitter", "jitter-gray"])
def test_grayscale_keeps_its_place_before_or_behind_the_jitter(gray_first, without_xla):
    strengths, amounts = (0.2, 0.2, 0.2, 0.1), (0.85, 1.18, 1.15, -0.07)
    jitter, gray = RandomColorJitter(*strengths), RandomGrayscale(rate=0.5)
    view = Fused([whole(32), gray, jitter] if gray_first else [whole(32), jitter, gray])
    image = low_contrast(PHOTOS[1, 100:228:4, 200:328:4])
    draws = np.zeros((24, view.num_draws), "float32")
    columns = slice(CROP_DRAWS + 1, CROP_DRAWS + 7) if gray_first else JITTER
    draws[:, columns] = [jitter_draws(strengths, amounts, order) for order in range(24)]
    views = floats(view.augment_images(np.stack([image] * 24), draws))
    for ours, order in zip(views, ORDERS, strict=True):
        expected = image.astype("float64")
        steps = [NAMES[operation] for operation in order]
        for step in ["gray", *steps] if gray_first else [*steps, "gray"]:
            if step == "gray":
                expected = np.repeat(gray_of(expected)[..., None], 3, axis=-1)
            else:
                expected = operate(step, expected, amounts[NAMES.index(step)])
        np.testing.assert_allclose(ours, expected, atol=0.52)


@pytest.mark.parametrize("hue", [0.0, 0.4])
def test_gray_images_get_brightness_contrast_and_blur_only(hue, without_xla):
    strengths, amounts = (0.3, 0.3, 0.3, hue), (1.2, 0.75, 1.3, hue)
    image = PHOTO[100:132, 200:232, :1]
    view = Fused([whole(32), RandomColorJitter(*strengths), RandomGrayscale(1.0), RandomGaussianBlur((1.5, 1.5), 1.0)])
    draws = np.zeros((24, view.num_draws), "float32")
    draws[:, JITTER] = [jitter_draws(strengths, amounts, order) for order in range(24)]
    images = low_contrast(np.stack([image] * 24))
    views = view.augment_images(images, draws)
    assert views.dtype == "uint8" and views.shape == (24, 32, 32, 1)
    expected = operate("contrast", operate("brightness", images[0].astype("float64"), 1.2), 0.75)
    expected = gaussian_filter(np.round(expected), (1.5, 1.5, 0), mode="nearest")
    for ours in floats(views):
        np.testing.assert_allclose(ours, expected, atol=1.1)  # rounded twice


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_keep_their_colours(channels, without_xla):
    strengths, amounts = (0.3, 0.3, 0.3, 0.4), (1.2, 0.75, 1.3, 0.4)
    view = Fused([whole(32), RandomColorJitter(*strengths), RandomGrayscale(1.0)])
    image = low_contrast(PHOTO[100:132, 200:232, np.arange(channels) % 3])
    draws = np.zeros((24, view.num_draws), "float32")
    draws[:, JITTER] = [jitter_draws(strengths, amounts, order) for order in range(24)]
    brighter = image * 1.2
    expected = brighter.mean() + 0.75 * (brighter - brighter.mean())
    views = floats(view.augment_images(np.stack([image] * 24), draws))
    np.testing.assert_allclose(views, np.stack([expected] * 24), atol=0.51)
    exact = Compose(view.layers).augment_images(np.stack([image] * 24), draws)
    np.testing.assert_allclose(exact, np.stack([expected] * 24), atol=0.01)


# The blur.


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_scipys_gaussian_and_the_others_keep_their_values(channels, on_host):
    sigmas = [0.1, 0.5, 1.0, 1.5, 2.0]
    view = Fused([whole(64), RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5)])
    image = PHOTO[100:164, 200:264, :channels]
    draws = np.zeros((7, view.num_draws), "float32")
    draws[:, -2] = [0.0, 0.49, 0.1, 0.2, 0.3, 0.51, 0.99]
    draws[:5, -1] = (np.array(sigmas) - 0.1) / 1.9
    draws[5:, -1] = 0.9
    begun = view.begin_batch(tf.stack([image] * 7), tf.constant(draws))
    views = view.finish(begun, tf.constant(draws), on_host=on_host).numpy()
    for ours, sigma in zip(floats(views), sigmas, strict=False):
        oracle = gaussian_filter(image.astype("float64"), (sigma, sigma, 0), mode="nearest", truncate=8)
        np.testing.assert_allclose(ours, oracle, atol=0.6)
    np.testing.assert_array_equal(views[5:], np.stack([image] * 2))


# The whole: how far from one operation after the other, on photographs.

# Mean and largest absolute difference of the 32 views below, as measured. The share that matters is clamped between two
# operations; without that the mean would be 0.3, as the next test shows. "simclr_cifar" has the layers of "moco_cifar".
MEASURED = {
    "moco_v1": {224: (0.436, 17.5), 32: (0.411, 13.0)},
    "moco_v2": {224: (0.895, 48.3), 32: (0.804, 29.9)},
    "moco_cifar": {224: (0.769, 29.1), 32: (0.716, 26.0)},
    "simclr": {224: (1.887, 69.3), 32: (1.629, 53.8)},
}
each_recipe = pytest.mark.parametrize("name", MEASURED)


@pytest.fixture(params=[224, 32])
def size(request):
    if request.param == 32:
        request.getfixturevalue("without_xla")
    return request.param


@each_recipe
def test_on_photographs_it_is_as_far_from_the_exact_recipe_as_measured(name, size):
    exact, fused = get_augmentation(name)(size, exact=True), fused_recipe(name, size)
    assert type(exact) is Compose and type(fused) is Fused and {*MEASURED, "simclr_cifar"} == {*AUGMENTATIONS}
    draws = draws_for(fused, 32, seed=1)
    images = np.concatenate([PHOTOS] * 16)
    difference = np.abs(floats(fused.augment_images(images, draws)) - floats(exact.augment_images(images, draws)))
    mean, largest = MEASURED[name][size]
    assert difference.mean() < 1.3 * mean
    assert difference.max() < 1.3 * largest


@each_recipe
def test_where_nothing_is_clamped_it_is_the_exact_recipe_to_rounding(name, size):
    fused = fused_recipe(name, size)
    draws = draws_for(fused, 32, seed=3)
    draws[:, -1 if name.startswith("moco_v") else CROP_DRAWS] = 0.9  # nothing is mirrored twice
    images = np.round(105 + 30 * (np.concatenate([PHOTOS] * 16) / 255.0)).astype("uint8")
    crops = fused.begin_batch(tf.constant(images), tf.constant(draws))
    views = floats(fused.finish(crops, tf.constant(draws)))
    exact = Compose(get_augmentation(name)(size, exact=True).layers[1:])
    expected = floats(exact.augment_images(np.transpose(crops, [0, 3, 1, 2]), draws[:, CROP_DRAWS:]))
    assert 0 < expected.min() and expected.max() < 255
    roundings = 2 if any(isinstance(layer, RandomGaussianBlur) for layer in fused.layers) else 1
    mean_of_a_part = 0.1 if size == 224 else 0.01  # contrast takes it from each fourth row and column
    difference = np.abs(views - expected)
    assert difference.max() < 0.5 * roundings + mean_of_a_part
    assert difference.mean() < 0.35


@pytest.mark.parametrize(
    ("name", "size", "photos"),
    [("moco_v1", 32, PHOTOS[:, 150:210, 200:264]), ("moco_v2", 224, PHOTOS)],
    ids=["moco_v1-32", "moco_v2-224"],
)
def test_all_ways_to_compute_it_agree(name, size, photos, monkeypatch):
    view = fused_recipe(name, size)
    images, draws = tf.constant(np.concatenate([photos] * 16)), tf.constant(draws_for(view, 32, seed=2))
    begun = view.begin_batch(images, draws)
    assert begun.dtype == "uint8" and begun.shape == (32, size, 3, size)
    on_host = view.finish(begun, draws, on_host=True)
    assert on_host.dtype == "uint8" and on_host.shape == (32, size, size, 3)
    np.testing.assert_array_equal(view.augment_images(images, draws), on_host)
    ways = {
        "on the device": view.finish(begun, draws, on_host=False),
        "in a compiled step": tf.function(lambda *args: view.finish(*args, on_host=False), jit_compile=True)(
            begun, draws
        ),
    }
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)
    ways["without XLA"] = view.finish(begun, draws, on_host=True)
    np.testing.assert_allclose(floats(view.begin_batch(images, draws)), floats(begun), atol=1)
    for way, views in ways.items():
        assert views.dtype == "uint8" and views.shape == on_host.shape, way
        difference = np.abs(floats(views) - floats(on_host))
        assert difference.max() <= 1, way  # a sum in another order may round the other way
        assert np.mean(difference > 0) < 1e-3, way


# What it takes.


def one_of(names):
    makers = {
        "crop": lambda: RandomResizedCrop(8),
        "flip": RandomHorizontalFlip,
        "gray": RandomGrayscale,
        "jitter": lambda: RandomColorJitter(0.4, 0.4, 0.4, 0.1),
        "blur": RandomGaussianBlur,
        "compose": lambda: Compose([RandomGrayscale()]),
    }
    return [makers[name]() for name in names.split()]


@pytest.mark.parametrize(
    "names",
    ["", "flip", "gray", "flip crop", "gray crop", "crop crop", "crop flip flip", "crop flip gray flip"]
    + ["crop jitter jitter", "crop jitter gray jitter", "crop blur gray", "crop blur jitter", "crop blur blur"]
    + ["blur", "crop compose"],
)
def test_other_layers_or_another_order_are_refused(names):
    layers = one_of(names)
    received = ", ".join(type(layer).__name__ for layer in layers)
    sentence = (
        "`layers` must be a RandomResizedCrop, then at most one RandomColorJitter and any RandomGrayscale, then at "
        "most one RandomGaussianBlur, with at most one RandomHorizontalFlip anywhere behind the crop. "
        f"Received: {received}. Use `Compose`, which takes any order."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Fused(layers)
    Compose(layers)


@pytest.mark.parametrize(
    "names", ["crop", "crop gray jitter gray", "crop flip blur", "crop blur flip", "crop jitter flip gray blur"]
)
def test_layers_in_the_order_of_the_recipes_are_taken(names):
    layers = one_of(names)
    view = Fused(layers)
    assert view.layers == layers and view.num_draws == sum(layer.num_draws for layer in layers)
    assert view.size == 8


def test_a_wrong_layer_is_refused_as_by_compose():
    with pytest.raises(ValueError, match="`layers` must hold `Augmentation` layers only"):
        Fused([RandomResizedCrop(8), keras.layers.RandomFlip()])


def test_saved_as_json_and_restored_it_gives_the_same_views(without_xla):
    view = moco_cifar(32, crop_scale=(0.3, 0.9), seed=5, name="views")
    text = json.dumps(keras.saving.serialize_keras_object(view))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is Fused and copy.get_config() == view.get_config()
    assert copy.seed == 5 and copy.name == "views" and copy.layers[0].scale == (0.3, 0.9)
    images, draws = PHOTOS[:, :60, :60], draws_for(view, 2)
    np.testing.assert_array_equal(copy.augment_images(images, draws), view.augment_images(images, draws))
    np.testing.assert_array_equal(copy(images), moco_cifar(32, crop_scale=(0.3, 0.9), seed=5)(images))
