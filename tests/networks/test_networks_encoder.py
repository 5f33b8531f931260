"""The encoder: what it does to images before the backbone and to features after it."""

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco.layers.split_batch_normalization import can_split
from keras_moco.networks import (
    HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    linear_head,
    mlp_head,
    shuffle_bn,
    simclr_head,
)
from keras_moco.networks.encoder import scales_images

RNG = np.random.default_rng(0)


def images_of(shape=(5, 4, 4, 3)):
    return RNG.integers(0, 256, shape).astype("uint8")


def tiny_backbone(channels=3):
    return keras.Sequential([keras.Input((4, 4, channels)), layers.Conv2D(6, 3, activation="relu")], name="tiny")


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_have_unit_length(head):
    encoder = Encoder(tiny_backbone(), HEADS[head](6, 7))
    embeddings = np.array(encoder(images_of()))
    assert embeddings.shape == (5, 7) and encoder.embedding_dim == 7
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), np.ones(5), rtol=1e-5)
    assert (embeddings.std(axis=0) > 1e-4).all()  # they differ


def test_embedding_is_the_normalised_head_of_the_features():
    head = mlp_head(6, 7)
    encoder, images = Encoder(tiny_backbone(), head), images_of()
    w1, b1, w2, b2 = head.get_weights()
    outputs = np.maximum(np.array(encoder.features(images)) @ w1 + b1, 0) @ w2 + b2
    expected = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-6)


def test_features_are_the_mean_over_positions():
    backbone, images = tiny_backbone(), images_of()
    encoder = Encoder(backbone, linear_head(6, 7), mean=0.5, std=0.25)
    maps = np.array(backbone(np.float32((images / 255 - 0.5) / 0.25)))
    assert encoder.feature_dim == 6
    np.testing.assert_allclose(encoder.features(images), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "channels, mean, std",
    [(3, IMAGENET_MEAN, IMAGENET_STD), (3, [0.1, 0.2, 0.3], 0.5), (3, 0, 1 / 255), (1, IMAGENET_MEAN, IMAGENET_STD)],
    ids=["ImageNet", "mixed", "unscaled", "gray"],
)
def test_images_are_scaled_to_0_and_1_then_standardised(channels, mean, std):
    images = images_of((5, 4, 4, channels))
    backbone = keras.Sequential([keras.Input(images.shape[1:]), layers.Flatten()])
    found = Encoder(backbone, linear_head(images[0].size, 8), mean, std).features(images)
    if channels == 1:  # the mean of three numbers
        mean, std = np.mean(mean), np.mean(std)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found, expected.reshape(5, -1), rtol=1e-4, atol=1e-4)


def seen_by(backbone, **scaling):
    """What reaches the first layer with weights of a backbone in an `Encoder`, for images from 0 to 255."""
    encoder = Encoder(backbone, linear_head(backbone.output_shape[-1], 8), **scaling)
    images = np.linspace(0, 255, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3).astype("float32")
    first = next(layer for layer in backbone.layers if layer.trainable_weights)
    return np.array(keras.Model(backbone.inputs, first.input)(encoder.scaling(images)))


def test_a_backbone_that_scales_images_is_given_them_from_0_to_255():
    image = keras.Input((32, 32, 3))
    for scaling in (layers.Rescaling(1 / 127.5, offset=-1), layers.Normalization(mean=127.5, variance=127.5**2)):
        seen = seen_by(keras.Model(image, layers.Conv2D(6, 3)(scaling(image))))
        np.testing.assert_allclose([seen.min(), seen.max()], [-1, 1], atol=1e-5)
    plain = keras.Model(image, layers.Rescaling(2.0)(layers.Conv2D(6, 3)(image)))
    np.testing.assert_allclose(seen_by(plain).max(), (1 - min(IMAGENET_MEAN)) / IMAGENET_STD[2], rtol=1e-5)
    scaled = keras.Model(image, layers.Conv2D(6, 3)(layers.Rescaling(1 / 255)(image)))
    np.testing.assert_allclose(seen_by(scaled, mean=0, std=1).max(), 1 / 255, rtol=1e-5)  # as given


# Keras's documentation says of each of them whether its preprocessing is part of the model.
SCALE_THEMSELVES = ("EfficientNetB0", "EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny")
DO_NOT = ("ResNet50V2", "MobileNetV2", "VGG16", "DenseNet121")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCALE_THEMSELVES, *DO_NOT])
def test_backbones_of_keras_applications_that_scale_images_are_known(name):
    backbone = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert scales_images(backbone) == (name in SCALE_THEMSELVES)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(6, 3)

    def call(self, images):
        return self.convolution(images)


def test_tokens_and_subclassed_models_are_backbones():
    image = keras.Input((4, 4, 3))
    subclassed = Subclassed()
    subclassed(image)
    tokens = keras.Model(image, layers.Reshape((4, 6))(subclassed(image)))
    images = images_of()
    expected = subclassed(np.float32(images)).numpy().mean(axis=(1, 2))
    for backbone in (subclassed, tokens):
        encoder = Encoder(backbone, linear_head(6, 7), mean=0, std=1 / 255)
        assert encoder.backbone is backbone and encoder.image_shape == (4, 4, 3)
        assert (encoder.feature_dim, encoder.embedding_dim) == (6, 7)
        np.testing.assert_allclose(encoder.features(images), expected, rtol=1e-4, atol=1e-3)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


def test_float64_is_kept_throughout(float64):
    encoder = Encoder(keras.Sequential([keras.Input((4, 4, 3)), layers.Identity()]), linear_head(3, 2))
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3))
    expected = ((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).mean(axis=(1, 2))
    for features in (encoder.features(images), tf.function(encoder.features)(images)):
        np.testing.assert_allclose(features, expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(encoder(images), axis=1), 1, rtol=1e-14)


@pytest.mark.slow
def test_backbone_may_come_from_elsewhere():
    for backbone in (
        keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35),
        keras_cv.models.ResNetBackbone(
            stackwise_filters=[64, 8],  # its stem has 64 channels, and its first stage no shortcut of its own
            stackwise_blocks=[1, 1],
            stackwise_strides=[1, 2],
            include_rescaling=False,
            input_shape=(32, 32, 3),
            block_type="basic_block",
        ),
    ):
        encoder = Encoder(backbone, linear_head(backbone.output_shape[-1], 7))
        embeddings = np.array(encoder(images_of((3, 32, 32, 3)), training=True))
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), np.ones(3), rtol=1e-5)
        assert len(encoder.trainable_variables) == len(backbone.trainable_variables) + 2
        assert all(map(can_split, shuffle_bn.batch_norm_layers(encoder)))


def test_heads_have_the_layers_of_their_papers():
    for head, expected in (
        (linear_head, [(12, 5), (5,)]),
        (mlp_head, [(12, 12), (12,), (12, 5), (5,)]),  # the hidden layer is as wide as the features
    ):
        assert [tuple(w.shape) for w in head(12, 5).weights] == expected
    head = simclr_head(12, 5)
    assert [tuple(w.shape) for w in head.weights if w.name == "kernel"] == [(12, 12), (12, 12), (12, 5)]
    assert [w.name for w in head.trainable_weights] == [*("kernel", "gamma", "beta") * 2, "kernel", "gamma"]
    assert [type(layer).__name__ for layer in head.layers] == [
        *("Dense", "SplitBatchNormalization", "ReLU") * 2,
        *("Dense", "SplitBatchNormalization"),
    ]
    assert {(norm.momentum, norm.epsilon) for norm in shuffle_bn.batch_norm_layers(head)} == {(0.9, 1e-5)}


@pytest.mark.parametrize("head", HEADS)
def test_heads_start_as_those_of_their_papers(head):
    first, *others = map(np.array, HEADS[head](64, 1000).weights)
    if head == "simclr":
        # Of 4,096 numbers the deviation is 0.01 to within 5 standard errors, 5 * 0.01 / sqrt(8,192).
        np.testing.assert_allclose(first.std(), 0.01, atol=6e-4)
        return
    for w in (first, *others):  # as PyTorch's linear
        assert np.abs(w).max() <= 64**-0.5
        # Uniform in [-bound, bound]: the deviation is bound / sqrt(3), of 64 numbers to about 0.06 of itself.
        np.testing.assert_allclose(w.std(), 64**-0.5 / 3**0.5, rtol=0.25 if w.size == 64 else 0.05)


def test_image_size_is_free_where_the_backbone_allows_it():
    backbone = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(6, 3)])
    encoder = Encoder(backbone, linear_head(6, 7))
    assert encoder.image_shape == (None, None, 3)
    assert [encoder(images_of((2, side, side, 3))).shape for side in (8, 16)] == [(2, 7), (2, 7)]


def test_parts_that_do_not_fit_are_refused():
    image = keras.Input((4, 4, 3))
    maps = [layers.Conv2D(2 * (k + 1), 3)(image) for k in range(3)]
    for outputs in (maps, {"c2": maps[0], "c3": maps[1], "c4": maps[2]}):
        with pytest.raises(ValueError, match=r"one output.* 3 outputs, of shapes \(None, 2, 2, 2\), \(None, 2, 2, 4\)"):
            Encoder(keras.Model(image, outputs), linear_head(6, 7))
    with pytest.raises(ValueError, match=r"`backbone`.*output shape \(None, 1, 2, 2, 2\)"):
        Encoder(keras.Model(image, layers.Reshape((1, 2, 2, 2))(maps[0])), linear_head(2, 7))
    for unbuilt in (keras.Sequential([layers.Conv2D(6, 3)]), Subclassed()):
        with pytest.raises(ValueError, match="must be built.*of input shape None.*`keras.Input"):
            Encoder(unbuilt, linear_head(6, 7))
    for name, numbers, channels in (("mean", 2, 3), ("std", 4, 3), ("std", 2, 1)):
        with pytest.raises(ValueError, match=f"`{name}`.*{numbers} numbers for images of {channels} channel"):
            Encoder(tiny_backbone(channels), linear_head(6, 7), **{"mean": 0.5, "std": 0.5, name: [0.5] * numbers})
