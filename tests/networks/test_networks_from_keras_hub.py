"""Backbones of KerasHub by name: classes with arguments, and presets from a folder, which need no internet."""

import keras
import numpy as np
import pytest

from keras_moco.errors import UserError
from keras_moco.networks import Encoder, backbone, linear_head
from keras_moco.networks.by_name import find
from keras_moco.networks.stored_weights import every_variable, load_or_leave
from tests.test_backbones import needs_keras_hub

SHAPE = (32, 32, 3)
SMALL = dict(patch_size=16, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4)


@pytest.fixture(autouse=True, scope="module")
def keras_hub():
    needs_keras_hub()
    return pytest.importorskip("keras_hub")


@pytest.mark.parametrize(
    "name, weights, rule",
    [
        ("keras_hub:ViTBackbon(patch_size=8)", None, "Perhaps you mean ViTBackbone"),
        (
            "keras_hub:ViTBackbone",
            None,
            r"must include: patch_size, .*Received: none for patch_size, .*\(patch_size=\.\.\.",
        ),
        ("keras_hub:ViTBackbone(depth=3)", None, "must be among: patch_size, .*Received: depth"),
        ("keras_hub:BertBackbone(num_layers=2)", None, "for images. Received: BertBackbone"),
        ("keras_hub:VGGBackbone(stackwise_num_repeats=[1], stackwise_num_filters=[4])", "imagenet", "no other ones"),
        ("keras_hub:vit_base_patch16_224_imagenet", "imagenet", "must be random or preset"),
    ],
)
def test_a_wrong_name_is_refused_before_any_work(name, weights, rule):
    with pytest.raises(UserError, match=rule):
        find(name, weights)


def test_sizes_that_a_backbone_does_not_take_are_refused_in_a_sentence():
    name = f"keras_hub:ViTBackbone({', '.join(f'{key}={value}' for key, value in SMALL.items())})"
    with pytest.raises(UserError, match="must take its arguments and the images of the run.* KerasHub says: .*16"):
        backbone(name, (30, 30, 3))


def test_a_preset_gives_its_weights_and_its_scaling(keras_hub, tmp_path):
    model = keras_hub.models.ViTBackbone(image_shape=SHAPE, **SMALL)
    model.save_to_preset(str(tmp_path))
    scale, offset = [0.01, 0.02, 0.03], [-1.0, 0.0, 0.5]
    converter = keras_hub.layers.ViTImageConverter(image_size=SHAPE[:2], scale=scale, offset=offset)
    converter.save_to_preset(str(tmp_path))
    name = f"keras_hub:{tmp_path}"
    found, scaling = backbone(name, SHAPE)
    images = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")
    expected = keras.ops.mean(model(images * np.float32(scale) + np.float32(offset)), axis=1)
    np.testing.assert_allclose(Encoder(found, linear_head(4, 2), **scaling).features(images), expected, atol=1e-5)
    random, no_scaling = backbone(name, SHAPE, weights="random")
    assert no_scaling == {} and not np.array_equal(random.get_weights()[0], model.get_weights()[0])
    with pytest.raises(UserError, match="A preset of KerasHub must be there.*KerasHub says"):
        backbone(f"{name}/missing", SHAPE)


def test_every_trained_variable_is_stored(tmp_path):
    """KerasHub's own way of saving this backbone loses the position embeddings that were trained."""
    sizes = "patch_size=16, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4"
    name = f"keras_hub:DINOV2Backbone({sizes}, position_embedding_shape=(32, 32, 3))"
    trained, other = (backbone(name, SHAPE).model for _ in range(2))
    for weight in trained.trainable_weights:
        weight.assign_sub(keras.ops.full(weight.shape, 0.1))
    expected = trained.get_weights()
    with every_variable(trained):
        trained.save_weights(tmp_path / "model.weights.h5")
    load_or_leave(other, tmp_path / "model.weights.h5")
    assert all(map(np.array_equal, expected, trained.get_weights()))  # nor does saving change any
    assert all(map(np.array_equal, expected, other.get_weights()))
