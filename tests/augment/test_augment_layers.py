"""What holds for every augmentation: pure in its draws, per image, repeatable, saved and restored."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from keras_moco import augment

PHOTO = load_sample_image("china.jpg")
IMAGES = np.stack([PHOTO[i * 40 : i * 40 + 48, i * 60 : i * 60 + 40] for i in range(8)])  # (8, 48, 40, 3) uint8

LAYERS = {
    "crop": lambda **kwargs: augment.RandomResizedCrop(24, scale=(0.1, 0.9), ratio=(0.5, 2.0), **kwargs),
    "flip": lambda **kwargs: augment.RandomHorizontalFlip(rate=0.4, **kwargs),
    "jitter": lambda **kwargs: augment.RandomColorJitter(0.4, 0.3, 0.2, 0.1, rate=0.8, **kwargs),
    "grayscale": lambda **kwargs: augment.RandomGrayscale(rate=0.3, **kwargs),
    "blur": lambda **kwargs: augment.RandomGaussianBlur(sigma=(0.2, 1.5), rate=0.6, **kwargs),
    "moco_v1-exact": lambda **kwargs: augment.moco_v1(24, exact=True, **kwargs),
    "moco_v2-exact": lambda **kwargs: augment.moco_v2(24, exact=True, **kwargs),
    "moco_cifar-exact": lambda **kwargs: augment.moco_cifar(24, exact=True, **kwargs),
    "moco_v1-fused": lambda **kwargs: augment.moco_v1(24, **kwargs),
    "moco_v2-fused-without-xla": lambda **kwargs: augment.moco_v2(24, **kwargs),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def xla_or_not(request, monkeypatch):
    """Compiling takes most of the time, so one of the two fused recipes does without."""
    if "without-xla" in request.node.name:
        monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


def draws_for(layer, count=8, seed=0):
    return np.random.default_rng(seed).random((count, layer.num_draws), dtype="float32")


def pixels_of(layer):
    """The type of its views."""
    return "uint8" if isinstance(layer, augment.Fused) else "float32"


def assert_same(views, others):
    """Equal up to summation order, which in whole levels may round a value the other way."""
    assert views.dtype == others.dtype
    atol = 1 if views.dtype == "uint8" else 2e-3
    np.testing.assert_allclose(np.asarray(views, "float32"), np.asarray(others, "float32"), atol=atol)


def furthest(views, others):
    return np.abs(np.asarray(views, "float32") - np.asarray(others, "float32")).max()


@each_layer
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_are_in_0_to_255_in_float32_or_of_fused_in_uint8(make, channels):
    layer = make()
    images = IMAGES[..., np.arange(channels) % 3]
    for dtype in ("uint8", "float32", "float64", "float16"):
        result = layer(images.astype(dtype))
        assert result.dtype == pixels_of(layer)
        assert result.shape[0] == 8 and result.shape[-1] == channels
        assert result.numpy().min() >= 0.0 and result.numpy().max() <= 255.001


@each_layer
def test_the_same_draws_give_the_same_result_and_others_another(make):
    layer, draws = make(), draws_for(make())
    first = layer.augment_images(IMAGES, draws).numpy()
    np.testing.assert_array_equal(make().augment_images(IMAGES, draws), first)
    assert furthest(layer.augment_images(IMAGES, draws_for(layer, seed=1)), first) > 5


@each_layer
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_eight_is_eight_batches_of_one(make, channels):
    layer, images = make(), IMAGES[..., :channels]
    draws = draws_for(layer)
    together = layer.augment_images(images, draws)
    for i in range(8):
        alone = layer.augment_images(images[i : i + 1], draws[i : i + 1])[0]
        assert_same(together[i], alone)


@each_layer
def test_a_graph_agrees_with_eager_execution(make):
    layer = make()
    draws = draws_for(layer)
    traced = tf.function(layer.augment_images)(tf.constant(IMAGES), tf.constant(draws))
    assert_same(traced, layer.augment_images(IMAGES, draws))


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("moco")])  # between them, every layer
def test_it_runs_inside_tf_data(name):
    layer = LAYERS[name](seed=3)
    images = tf.data.Dataset.from_tensor_slices(IMAGES)
    batches = list(images.batch(4).map(layer).as_numpy_iterator())
    singles = list(images.map(layer).as_numpy_iterator())
    assert [len(batch) for batch in batches] == [4, 4] and len(singles) == 8
    assert batches[0].shape[1:] == singles[0].shape


@each_layer
def test_its_own_generator_moves_on_and_repeats_by_seed(make):
    layer = make(seed=0)
    first, second = layer(IMAGES).numpy(), layer(IMAGES).numpy()
    assert furthest(first, second) > 5
    np.testing.assert_array_equal(make(seed=0)(IMAGES), first)
    assert furthest(make(seed=1)(IMAGES), first) > 5


def test_without_a_seed_keras_set_random_seed_decides():
    def first_draws():
        keras.utils.set_random_seed(5)
        return augment.moco_v1(8).get_random_transformation_batch(4).numpy()

    np.testing.assert_array_equal(first_draws(), first_draws())
    assert not np.array_equal(first_draws(), augment.moco_v1(8).get_random_transformation_batch(4))


@each_layer
def test_config_and_serialization_round_trip(make):
    layer = make(seed=7, name="views")
    draws = draws_for(layer)
    expected = layer.augment_images(IMAGES, draws)
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"keras_moco>{type(layer).__name__}"
    for copy in (
        type(layer).from_config(layer.get_config()),
        keras.saving.deserialize_keras_object(serialized),
    ):
        assert copy.get_config() == layer.get_config()
        assert copy.seed == 7 and copy.name == "views"
        np.testing.assert_array_equal(copy.augment_images(IMAGES, draws), expected)


@each_layer
def test_a_half_precision_policy_leaves_pixels_as_they_are(make):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = make()
        draws = draws_for(layer)
        assert layer(IMAGES).dtype == pixels_of(layer)
        result = layer.augment_images(IMAGES, draws)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(result, make().augment_images(IMAGES, draws))


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fused"])
def test_a_dict_keeps_its_labels(exact):
    result = augment.moco_cifar(24, exact=exact)({"images": IMAGES, "labels": np.arange(8)})
    assert result["images"].shape == (8, 24, 24, 3)
    np.testing.assert_array_equal(result["labels"], np.arange(8))


@each_layer
def test_images_are_a_batch_with_a_known_number_of_channels(make):
    layer = make()
    sentence = (
        "`images` must have the shape (n, height, width, channels) with a known number of channels. "
        "Received: shape=(48, 40, 3). Give gray images an axis of one channel."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        layer.augment_images(np.zeros((48, 40, 3)), draws_for(layer))
    unknown = tf.function(layer.augment_images, input_signature=[tf.TensorSpec([8, 48, 40, None]), tf.TensorSpec(None)])
    with pytest.raises(ValueError, match=re.escape("known number of channels. Received: shape=(8, 48, 40, None).")):
        unknown(np.zeros((8, 48, 40, 3), "float32"), draws_for(layer))


def test_draws_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"Received: shape=\(8, 3\), num_draws=1. Draw them in that shape."):
        augment.RandomGrayscale().augment_images(IMAGES, np.zeros((8, 3)))


def test_compose_takes_augmentations_only():
    with pytest.raises(ValueError, match=r"`layers` must hold `Augmentation` layers only"):
        augment.Compose([keras.layers.RandomFlip()])


def test_compose_is_its_layers_in_order_on_their_own_draws():
    layers = [LAYERS[name]() for name in ("jitter", "crop", "flip")]
    both = augment.Compose(layers)
    draws = draws_for(both)
    expected = layers[0].augment_images(IMAGES, draws[:, :6])
    expected = layers[1].augment_images(expected, draws[:, 6:28])
    expected = layers[2].augment_images(expected, draws[:, 28:])
    np.testing.assert_array_equal(both.augment_images(IMAGES, draws), expected)


@pytest.mark.parametrize("name", ["flip", "grayscale", "jitter", "blur"])
def test_an_operation_happens_at_its_rate_and_otherwise_changes_nothing(name):
    count, layer = 2000, LAYERS[name](seed=11)
    images = np.repeat(IMAGES[:1, :12, :12], count, axis=0)
    changed = np.abs(layer(images).numpy() - images).reshape(count, -1).max(axis=1) > 0
    deviation = np.sqrt(count * layer.rate * (1 - layer.rate))
    assert abs(changed.sum() - count * layer.rate) < 4 * deviation


def test_a_flip_is_a_mirror():
    result = augment.RandomHorizontalFlip(rate=0.5).augment_images(IMAGES[:2], [[0.49], [0.5]])
    np.testing.assert_array_equal(result[0], IMAGES[0][:, ::-1])
    np.testing.assert_array_equal(result[1], IMAGES[1])
