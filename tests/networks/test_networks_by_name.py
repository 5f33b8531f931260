"""Any backbone by its name: what a name stands for, what is refused, and which weights it begins with."""

import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

from keras_moco.checks.calls import read_call
from keras_moco.config import Config
from keras_moco.distribution import make_strategy
from keras_moco.errors import MissingPackageError, UserError
from keras_moco.networks import Encoder, backbone, linear_head
from keras_moco.networks.by_name import FORMS, find
from keras_moco.networks.raw_values import takes_raw_values
from keras_moco.networks.seeds import initial_seed
from keras_moco.runs.backbone_notes import backbone_notes
from keras_moco.runs.build import build_encoder, build_model
from keras_moco.runs.plan import Plan

SHAPE = (32, 32, 3)
MOBILENET = "keras.applications:MobileNetV3Small(alpha=0.35, minimalistic=True)"


def own(input_shape, width=4, rescale=False):
    """A network that is called by its name in these tests."""
    images = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, -1)(images) if rescale else images
    return keras.Model(images, layers.BatchNormalization()(layers.Conv2D(width, 3, name="first")(x)))


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """The module `mine`, with functions that may or may not be a backbone's."""
    mine = types.ModuleType("mine")
    mine.own, mine.many, mine.no_model = own, lambda **kwargs: None, lambda input_shape: "model"
    monkeypatch.setitem(sys.modules, "mine", mine)


# Names


def test_a_name_is_read_without_running_it():
    assert read_call("a.b:f(depth=2, rates=(0.5, -1), name='x')") == (
        "a.b",
        "f",
        dict(depth=2, rates=(0.5, -1), name="x"),
    )
    assert read_call("a.b:f") == ("a.b", "f", None) and read_call("a.b:f()") == ("a.b", "f", {})
    for text in (
        "f",
        "a:",
        "a b:f",
        "a:f(2)",
        "a:f(**{'x': 1})",
        "a:f(x=g())",
        "a:f(x=1",
        "a:f(x=1).g(y=2)",
        "a:f(x=[i for i in 'a'])",
    ):
        assert read_call(text) is None, text


@pytest.mark.parametrize(
    "name", ["resnet18", "keras.applications:Xception", "keras_hub:hf://a/b", "a.b:f(x=1, y=2)", "~/net.keras"]
)
def test_a_setting_takes_every_form(name):
    config = Config(backbone=name)
    assert f"--backbone={name}\n" in config.to_flagfile()


@pytest.mark.parametrize("name", ["resnet5", "keras.applications", "a:f(1)", "a:f(x=open('y'))", "net.h5", "a:f)"])
def test_another_form_is_refused_by_the_setting(name):
    with pytest.raises(UserError, match=r"`backbone` must be resnet10, .*FILE\.keras\. Received"):
        Config(backbone=name)


def test_a_function_gets_shape_and_arguments():
    model, scaling = backbone("mine:own(width=5)", (6, 7, 2))
    assert model.input_shape == (None, 6, 7, 2) and model.output_shape == (None, 4, 5, 5) and scaling == {}


@pytest.mark.parametrize(
    "name, rule",
    [
        ("keras.applications:MobilNetV2", "Perhaps you mean MobileNetV2"),
        ("keras.applications:MobileNetV2(alfa=1)", "Received: alfa. Perhaps you mean alpha"),
        ("keras.applications:MobileNetV2(include_top=True)", "Received: include_top"),
        ("mine:Own", "Perhaps you mean own"),
        ("mine:own(depth=1)", "must be among: width, rescale. Received: depth"),
        ("no.such:thing", "can be imported. Received: no.such"),
        ("os:system(command='true')", "takes `input_shape`.* Received: os:system with command"),
        ("mine:many(input=1)", "takes `input_shape`"),
        ("missing.keras", "an existing .keras file"),
    ],
)
def test_a_wrong_name_is_refused_before_any_work(name, rule):
    with pytest.raises(UserError, match=rule):
        Plan(Config(backbone=name, queue_size=256), train_examples=1000, channels=3, replicas=1)


def test_what_a_function_returns_must_be_a_model():
    with pytest.raises(UserError, match="must return a `keras.Model`. Received: str of mine:no_model"):
        backbone("mine:no_model", SHAPE)


def test_images_that_are_too_small_are_refused_in_a_sentence():
    with pytest.raises(
        UserError, match="`image_size` must be at least 71 for keras.applications:Xception. Received: image_size=32"
    ):
        backbone("keras.applications:Xception", SHAPE)


def test_without_kerashub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'keras_moco\[hub\]'"):
        find("keras_hub:resnet_50_imagenet")


@pytest.mark.parametrize("settings", [{"stem": "cifar"}, {"backbone_width": 32}])
def test_settings_of_our_resnets_are_refused_with_others(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(UserError, match=f"`{name}` must not be given with backbone=mine:own.*Received: {name}={value}"):
        Plan(Config(backbone="mine:own", queue_size=256, **settings), 1000, 3, 1)


# Weights


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed, before=0):
        for _ in range(before):
            layers.Dense(3).build((None, 2))
        config = Config(backbone="mine:own", image_size=8, seed=seed)
        return build_encoder(config, 3).get_weights()

    first = weights(1)
    assert all(map(np.array_equal, first, weights(1, before=2)))
    assert not np.array_equal(first[0], weights(2)[0])


def test_weights_that_are_not_there_are_refused():
    for name, weights in [("resnet18", "imagenet"), ("mine:own", "imagenet"), (MOBILENET, "no.weights.h5")]:
        with pytest.raises(UserError, match="`backbone_weights` must be random"):
            find(name, weights)
    with pytest.raises(UserError, match="`backbone_weights` must not be given with `init_from`"):
        Plan(Config(backbone=MOBILENET, backbone_weights="imagenet", init_from="x", queue_size=256), 1000, 3, 1)
    with pytest.raises(UserError, match="must have 3 channels for the weights.*Received: 1"):
        backbone(MOBILENET, (32, 32, 1), weights="imagenet")


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "ResNet50V2", "EfficientNetV2B0", "ConvNeXtTiny"])
def test_scaling_is_keras_own_for_the_weights(name):
    """Without building the networks: first in which order and range `preprocess_input` gives the colours."""
    form = find(f"keras.applications:{name}", "imagenet")
    scaling, is_bgr = form._scaling()
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 3, 3))
    ours = (images / 255 - scaling["mean"]) / scaling["std"]
    theirs = sys.modules[getattr(keras.applications, name).__module__].preprocess_input(images.copy())
    np.testing.assert_allclose(ours[..., ::-1] if is_bgr else ours, theirs, rtol=1e-5, atol=1e-4)
    assert is_bgr == (name == "ResNet50")


def test_weights_of_a_file_see_the_images_that_they_were_trained_with(tmp_path):
    """VGG's are for images in blue, green, red, which `preprocess_input` makes of others."""
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=SHAPE)
    path = tmp_path / "vgg.weights.h5"
    model.save_weights(path)
    name = "keras.applications:VGG16"
    found, scaling = backbone(name, SHAPE, weights=str(path))
    images = np.random.default_rng(0).uniform(0, 255, (1, *SHAPE)).astype("float32")
    expected = model(keras.applications.vgg16.preprocess_input(images.copy())).numpy().mean(axis=(1, 2))
    features = Encoder(found, linear_head(512, 8), **scaling).features(images)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    # What is built for a checkpoint has the same scaling, and other weights.
    empty, same = backbone(name, SHAPE, weights=str(path), fill=False)
    assert same == scaling and not np.array_equal(empty.get_weights()[0], found.get_weights()[0])


def test_a_keras_file_gives_architecture_and_weights(tmp_path):
    path = tmp_path / "net.keras"
    own(SHAPE).save(path)
    stored = keras.models.load_model(path).get_weights()
    with initial_seed(3):
        found, random = (backbone(str(path), SHAPE, weights=weights).model for weights in (None, "random"))
    assert all(map(np.array_equal, found.get_weights(), stored))
    assert not np.array_equal(random.get_weights()[0], stored[0])
    with pytest.raises(UserError, match=r"32 x 32 x 3, images of 16 x 16 x 3. Give --image_size=32"):
        backbone(str(path), (16, 16, 3))


# What a network needs


def encoder_of(name, **settings):
    config = Config(backbone=name, image_size=32, **settings)
    return config, build_encoder(config, 3)


def test_own_scaling_is_found_and_said():
    config, encoder = encoder_of("mine:own(rescale=True)", image_mean=(0.4,), image_std=(0.2,))
    assert encoder.mean == [0.0] * 3 and encoder.std == [1 / 255] * 3
    assert any("--image_mean and --image_std have no effect" in line for line in backbone_notes(config, encoder))
    config, encoder = encoder_of("mine:own", image_mean=(0.4,), image_std=(0.2,))
    assert encoder.mean == [0.4] * 3 and not any("scaling" in line for line in backbone_notes(config, encoder))


def test_random_networks_of_keras_leave_the_scaling_to_the_settings():
    found, scaling = backbone(MOBILENET, (32, 32, 5))  # any channels
    assert scaling == {} and not any(isinstance(layer, layers.Rescaling) for layer in found.layers)


class OwnNorm(layers.BatchNormalization):
    """One that cannot be split."""


def unsplittable(input_shape):
    images = keras.Input(input_shape)
    return keras.Model(images, OwnNorm(name="norm")(layers.Conv2D(4, 3)(images)))


def tokens(input_shape):
    images = keras.Input(input_shape)
    return keras.Model(images, layers.Dropout(0.5)(layers.Reshape((-1, 4))(layers.Conv2D(4, 8, 8)(images))))


def model_of(function, monkeypatch, batch_size=8, **settings):
    monkeypatch.setattr(sys.modules["mine"], "made", function, raising=False)
    settings = dict(image_size=32, embedding_dim=8, queue_size=64, head="linear") | settings
    plan = Plan(Config(backbone="mine:made", batch_size=batch_size, **settings), 1000, 3, 1)
    model = build_model(plan, make_strategy("one"))
    return model, " ".join(backbone_notes(plan.config, model.encoder, model.batch_norm))


def test_without_batch_norm_nothing_is_split_and_any_batch_fits(monkeypatch):
    model, notes = model_of(tokens, monkeypatch, batch_size=9)
    assert model.batch_norm.describe().startswith("plain")
    assert "BatchNorm: none in the encoder" in notes and "the mean of 16 tokens" in notes
    assert "dropout or stochastic depth: 1 layer(s)" in notes


def test_batch_norm_that_can_be_split_is(monkeypatch):
    model, notes = model_of(own, monkeypatch)
    assert model.batch_norm.splits == 8 and "BatchNorm: 1 layers, split, 8 groups" in notes
    with pytest.raises(UserError, match=r"`batch_size` must be divisible .*batch_size=12, 1 replica\(s\), 8 group"):
        model_of(own, monkeypatch, batch_size=12)


def test_batch_norm_that_cannot_be_split_is_said(monkeypatch):
    model, notes = model_of(unsplittable, monkeypatch)
    assert model.batch_norm.splits == 1
    assert "note: 1 of 1 BatchNorm layers cannot be split, such as 'norm' of class OwnNorm" in notes
    assert model_of(unsplittable, monkeypatch, bn_mode="plain")[1].endswith(
        "plain, a group per replica, nothing shuffled"
    )
    with pytest.raises(UserError, match="must be able to split.*Received: 'norm'"):
        model_of(unsplittable, monkeypatch, bn_mode="split")


def test_our_own_backbones_need_no_notes():
    assert backbone_notes(*encoder_of("resnet10", backbone_width=4)) == []


def test_every_form_has_a_place():
    assert set(FORMS) == {"keras.applications", "keras_hub"}


def test_a_file_that_takes_raw_values_is_trained_on_0_to_255(tmp_path):
    images = keras.Input((8, 8, 1))
    plain = keras.Model(images, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images)))
    takes_raw_values(plain, (0.0, 4095.0)).save(tmp_path / "raw.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    built = backbone(str(tmp_path / "raw.keras"), (8, 8, 1)).model
    np.testing.assert_allclose(built(pixels), plain(pixels), rtol=1e-5)
