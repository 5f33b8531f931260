"""ResNets against torchvision's published sizes and NumPy's idea of padding."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.backbones import STEMS, resnet

# torchvision's models less their classifier of 1000 classes, e.g. resnet18: 11,689,512 - (512 + 1) * 1000.
TORCHVISION = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


def parameters(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_variables)


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_has_as_many_parameters_as_torchvisions(name):
    with keras.StatelessScope():  # shapes are enough: nothing is initialised
        assert parameters(resnet(name)) == TORCHVISION[name]


@pytest.mark.parametrize("stem, side", [("imagenet", 2), ("half", 4), ("cifar", 8)])
@pytest.mark.parametrize("name, features", [("resnet10", 64), ("resnet18", 64), ("resnet50", 256)])
def test_the_stem_sets_the_resolution_and_the_block_the_width(name, features, stem, side):
    backbone = resnet(name, width=8, stem=stem, input_shape=(64, 64, 3))
    assert backbone.output_shape == (None, side, side, features)
    first = backbone.get_layer("conv1")
    assert (first.kernel_size[0], first.strides[0]) == {"imagenet": (7, 2), "half": (3, 2), "cifar": (3, 1)}[stem]


@pytest.mark.parametrize("width", [4, 6])
def test_widths_double_from_stage_to_stage(width):
    backbone = resnet("resnet10", width=width, stem="cifar", input_shape=(32, 32, 3))
    shapes = [backbone.get_layer(f"layer{stage}").output.shape for stage in range(1, 5)]
    assert shapes == [(None, 32 // 2**stage, 32 // 2**stage, width * 2**stage) for stage in range(4)]


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_and_any_size_goes(channels):
    backbone = resnet("resnet10", width=4, stem="cifar", input_shape=(None, None, channels))
    assert backbone.get_layer("conv1").kernel.shape == (3, 3, channels, 4)
    for side in (8, 16):
        assert backbone(np.zeros((2, side, side, channels), "float32")).shape == (2, side // 8, side // 8, 32)


def test_the_stride_of_a_bottleneck_sits_in_the_3x3():
    backbone = resnet("resnet50", width=4, stem="cifar", input_shape=(32, 32, 3))
    for stage, conv in itertools.product((2, 3, 4), (1, 2, 3)):
        layer = backbone.get_layer(f"layer{stage}_0_conv{conv}")
        expected = ((3, 3), (2, 2)) if conv == 2 else ((1, 1), (1, 1))
        assert (layer.kernel_size, layer.strides) == expected, layer.name


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
def test_convolutions_pad_both_sides_alike(stem, first, last, padding):
    backbone = resnet("resnet10", width=4, stem=stem, input_shape=(32, 32, 3))
    part = keras.Model(backbone.get_layer(first).input, backbone.get_layer(last).output)
    x = np.float32(np.random.default_rng(0).normal(size=(2, *part.input_shape[1:])))
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    layer = backbone.get_layer(last)
    expected = tf.nn.conv2d(padded, layer.kernel, layer.strides, "VALID")
    assert not layer.use_bias
    np.testing.assert_allclose(part(x), expected, rtol=1e-4, atol=1e-5)


def test_the_imagenet_stem_pools_three_by_three_with_stride_2_and_padding_on_both_sides():
    backbone = resnet("resnet10", width=4, input_shape=(32, 32, 3))
    part = keras.Model(backbone.get_layer("relu1").output, backbone.get_layer("maxpool").output)
    x = np.float32(np.random.default_rng(0).uniform(0, 1, (1, 16, 16, 4)))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    expected = [[padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(0, 1)) for j in range(8)] for i in range(8)]
    np.testing.assert_array_equal(part(x)[0], expected)


def test_initial_weights_are_he_fan_out_and_not_truncated():
    backbone = resnet("resnet18", width=32, stem="cifar", input_shape=(32, 32, 3))
    kernels = {layer.name: np.array(layer.kernel) for layer in backbone.layers if hasattr(layer, "kernel")}
    assert len(kernels) == 20
    for name, kernel in kernels.items():
        height, width, _, filters = kernel.shape
        expected = (2 / (height * width * filters)) ** 0.5
        # The deviation of n normal numbers is known to about 1 / sqrt(2 n) of itself.
        np.testing.assert_allclose(kernel.std(), expected, rtol=5 / (2 * kernel.size) ** 0.5, err_msg=name)
    largest = kernels["layer4_1_conv2"]
    assert np.abs(largest).max() > 3 * largest.std()  # truncation would end at about 2.3


def test_batch_norm_starts_and_moves_as_torchvisions():
    backbone = resnet("resnet10", width=4, stem="cifar", input_shape=(32, 32, 3))
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 12
    for norm in norms:
        assert (norm.momentum, norm.epsilon, norm.splits) == (0.9, 1e-5, 1)
        assert [float(w[0]) for w in norm.weights] == [1, 0, 0, 1]


def test_weighted_layers_are_named_after_torchvisions_resnet18():
    names = {"conv1", "bn1"}
    for stage, block, part in itertools.product(range(1, 5), range(2), ("conv1", "bn1", "conv2", "bn2")):
        names.add(f"layer{stage}_{block}_{part}")
    for stage, part in itertools.product(range(2, 5), ("conv", "bn")):
        names.add(f"layer{stage}_0_downsample_{part}")
    backbone = resnet("resnet18", width=4, stem="cifar", input_shape=(32, 32, 3))
    assert {layer.name for layer in backbone.layers if layer.weights} == names


def test_the_bottlenecks_first_stage_has_a_shortcut_of_its_own():
    backbone = resnet("resnet50", width=4, stem="cifar", input_shape=(32, 32, 3))
    assert backbone.get_layer("layer1_0_downsample_conv").strides == (1, 1)
    assert backbone.get_layer("layer1_0_conv3").filters == 16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"name": "resnet20"},
            "`name` must be one of resnet10, resnet18, resnet34, resnet50, resnet101, resnet152. "
            "Received: 'resnet20'. Choose one of them.",
        ),
        ({"stem": "mnist"}, f"`stem` must be one of {', '.join(STEMS)}. Received: 'mnist'. Choose one of them."),
    ],
)
def test_an_unknown_name_lists_the_known(arguments, message):
    with pytest.raises(ValueError) as error:
        resnet(**arguments)
    assert str(error.value) == message
