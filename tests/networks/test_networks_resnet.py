"""ResNets against torchvision's published sizes and NumPy's idea of padding."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.networks import resnet

# torchvision's models less their classifier of 1000 classes, e.g. resnet18: 11,689,512 - (512 + 1) * 1000.
TORCHVISION = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


@pytest.fixture(scope="module")
def basic():
    return resnet("resnet10", width=4, stem="cifar", input_shape=(32, 32, 3))


@functools.cache
def full_size(name):
    with keras.StatelessScope():  # shapes are enough: nothing is initialised
        return resnet(name, input_shape=(128, 128, 3))


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] if x in ("resnet101", "resnet152") else []) for x in TORCHVISION]
)
def test_as_many_parameters_as_torchvisions(name):
    assert sum(int(np.prod(w.shape)) for w in full_size(name).trainable_variables) == TORCHVISION[name]


@pytest.mark.parametrize("stem, kernel, stride, side", [("imagenet", 7, 2, 2), ("half", 3, 2, 4), ("cifar", 3, 1, 8)])
def test_stem_sets_the_resolution_of_images_of_any_size_and_channels(stem, kernel, stride, side):
    backbone = resnet("resnet10", width=4, stem=stem, input_shape=(None, None, 2))
    first = backbone.get_layer("conv1")
    assert first.kernel.shape == (kernel, kernel, 2, 4) and first.strides == (stride, stride)
    for times in (1, 2):
        shape = backbone.compute_output_shape((1, times * 64, times * 64, 2))
        assert tuple(shape) == (1, times * side, times * side, 32)


def test_stride_of_a_bottleneck_is_in_its_3x3():
    bottleneck = full_size("resnet50")
    for stage, conv in itertools.product((2, 3, 4), (1, 2, 3)):
        layer = bottleneck.get_layer(f"layer{stage}_0_conv{conv}")
        expected = ((3, 3), (2, 2)) if conv == 2 else ((1, 1), (1, 1))
        assert (layer.kernel_size, layer.strides) == expected, layer.name
    shortcut = bottleneck.get_layer("layer1_0_downsample_conv")  # which basic blocks do not have in the first stage
    assert (shortcut.strides, shortcut.filters) == ((1, 1), 256)


@pytest.mark.parametrize(
    "stem, first, last, padding",
    [
        ("imagenet", "conv1_pad", "conv1", 3),
        ("half", "conv1_pad", "conv1", 1),
        ("cifar", "conv1", "conv1", 1),
        ("cifar", "layer2_0_conv1_pad", "layer2_0_conv1", 1),
        ("cifar", "layer2_0_conv2", "layer2_0_conv2", 1),
        ("cifar", "layer2_0_downsample_conv", "layer2_0_downsample_conv", 0),
    ],
)
def test_convolutions_pad_both_sides_alike(stem, first, last, padding, basic):
    backbone = basic if stem == "cifar" else resnet("resnet10", width=4, stem=stem, input_shape=(32, 32, 3))
    part = keras.Model(backbone.get_layer(first).input, backbone.get_layer(last).output)
    x = np.float32(np.random.default_rng(0).normal(size=(2, *part.input_shape[1:])))
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    layer = backbone.get_layer(last)
    expected = tf.nn.conv2d(padded, layer.kernel, layer.strides, "VALID")
    assert not layer.use_bias
    np.testing.assert_allclose(part(x), expected, rtol=1e-4, atol=1e-5)


def test_imagenet_stem_pools_3x3_with_stride_2_and_padding_on_both_sides():
    backbone = resnet("resnet10", width=4, input_shape=(32, 32, 3))
    part = keras.Model(backbone.get_layer("relu1").output, backbone.get_layer("maxpool").output)
    x = np.float32(np.random.default_rng(0).uniform(0, 1, (1, 16, 16, 4)))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    expected = [[padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(0, 1)) for j in range(8)] for i in range(8)]
    np.testing.assert_array_equal(part(x)[0], expected)


def test_initial_weights_are_he_fan_out_and_not_truncated():
    backbone = resnet("resnet10", width=32, stem="cifar", input_shape=(32, 32, 3))
    kernels = {layer.name: np.array(layer.kernel) for layer in backbone.layers if hasattr(layer, "kernel")}
    assert len(kernels) == 12
    for name, kernel in kernels.items():
        height, width, _, filters = kernel.shape
        expected = (2 / (height * width * filters)) ** 0.5
        # The deviation of n normal numbers is known to about 1 / sqrt(2 n) of itself.
        np.testing.assert_allclose(kernel.std(), expected, rtol=5 / (2 * kernel.size) ** 0.5, err_msg=name)
    largest = kernels["layer4_0_conv2"]
    assert np.abs(largest).max() > 3 * largest.std()  # truncation would end at about 2.3
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 12
    for norm in norms:  # as torchvision's
        assert (norm.momentum, norm.epsilon, norm.splits) == (0.9, 1e-5, 1)
        assert [float(w[0]) for w in norm.weights] == [1, 0, 0, 1]


def test_unknown_names_list_the_known():
    for settings, found in (
        ({"name": "resnet20"}, "resnet10, resnet18, .*"),
        ({"stem": "mnist"}, "imagenet, cifar, half. "),
    ):
        [(name, value)] = settings.items()
        with pytest.raises(ValueError, match=f"`{name}` .*{found}Received: '{value}'"):
            resnet(**settings)
