"""What each method makes of a configuration: dictionary, loss at chance level, model, and the settings it refuses."""

import math

import keras
import numpy as np
import pytest

from keras_moco import distribution
from keras_moco.config import Config
from keras_moco.methods import METHODS, EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.optimizers import LARS, SGD
from keras_moco.runs import build
from keras_moco.runs.plan import Plan
from tests import tiny  # noqa: F401, for the backbone

# Settings of each method beside those of all, with other values than the defaults.
OWN = {
    "moco": {"queue_size": 512, "key_momentum": 0.9, "symmetric": True, "bn_mode": "plain", "bn_splits": 4},
    "end_to_end": {"separate_encoders": True, "bn_mode": "plain", "bn_splits": 4},
    "memory_bank": {"num_negatives": 300, "bank_momentum": 0.25},
    "simclr": {},
}
CLASSES = {"moco": MoCo, "end_to_end": EndToEnd, "memory_bank": MemoryBank, "simclr": SimCLR}
SMALL = {"queue_size": 512}  # what moco needs to fit the thousand images


def make_plan(method, replicas=1, **settings):
    settings = {"batch_size": 128, "dataset": "digits", **(SMALL if method == "moco" else {}), **settings}
    return Plan(Config(method=method, **settings), train_examples=1000, channels=1, replicas=replicas)


def refusal(method, **settings):
    with pytest.raises(ValueError) as caught:
        make_plan(method, **settings)
    return str(caught.value)


def test_unknown_names_list_the_known():
    message = refusal("byol")
    assert "moco, end_to_end, memory_bank or simclr" in message and "'byol'" in message


def test_setting_of_another_method_is_refused():
    for method, own in OWN.items():
        for owner, settings in OWN.items():
            for name in settings.keys() - own.keys():
                message = refusal(method, **{name: settings[name]})
                assert f"`{name}` must not be given with method={method}" in message
                assert f"Received: {name}={settings[name]}." in message
                if name not in ("bn_mode", "bn_splits"):  # which two methods have
                    assert f"--method={owner}" in message


def test_method_derived_from_another_one_has_its_settings(monkeypatch):
    class Derived(type(METHODS["moco"])):
        pass

    monkeypatch.setitem(METHODS, "derived", Derived())
    assert make_plan("derived", queue_size=384, key_momentum=0.9).config.queue_size == 384
    assert "`num_negatives` must not be given" in refusal("derived", num_negatives=300)


@pytest.mark.parametrize(
    "method, settings, negatives",
    [
        ("moco", {"queue_size": 777}, 777),
        ("end_to_end", {}, 127),
        ("memory_bank", {"num_negatives": 300}, 300),
        ("simclr", {}, 254),
    ],
)
def test_loss_at_chance_level_depends_on_the_number_of_negatives(method, settings, negatives):
    assert make_plan(method, **settings).chance_loss == pytest.approx(math.log(1 + negatives))


def test_methods_have_their_batch_norm():
    expected = {
        "moco": [(8, False), (1, False)],
        "end_to_end": [(8, False), (1, False)],
        "memory_bank": [(1, False), (1, False)],
        "simclr": [(1, True), (1, True)],
    }
    for method in METHODS:
        found = [make_plan(method, replicas=replicas).batch_norm for replicas in (1, 2)]
        assert [(each.splits, each.synchronized) for each in found] == expected[method], method


def test_batch_without_negatives_is_refused():
    for method in ("end_to_end", "simclr"):
        assert "Received: batch_size=1." in refusal(method, batch_size=1)
    assert "bank_size=1000, 1000 images in a batch" in refusal("memory_bank", batch_size=1000)
    assert make_plan("memory_bank", batch_size=999).steps_per_epoch == 1


@pytest.mark.parametrize("method", METHODS)
def test_model_is_built_as_configured(method):
    network = {"backbone": "tiny", "backbone_width": 4, "stem": "cifar", "image_size": 8}
    shared = {"temperature": 0.3, "seed": 5, "embedding_dim": 16}
    plan = make_plan(method, **network, **shared, **OWN[method])
    model = build.build_model(plan, distribution.make_strategy("one"))
    assert type(model) is CLASSES[method]
    config = model.get_config()
    assert config["temperature"] == 0.3 and model.encoder.embedding_dim == 16
    assert config.get("seed", 5) == 5
    names = {"key_momentum": "momentum", "separate_encoders": "shared"}
    for name, value in OWN[method].items():
        assert config[names.get(name, name)] == ((not value) if name == "separate_encoders" else value), name
    if method == "memory_bank":
        assert model.bank.size == 1000
    assert model.optimizer.built


@pytest.mark.parametrize("name, kind", [("sgd", SGD), ("lars", LARS)])
def test_optimizer_is_built_as_configured(name, kind):
    settings = {"optimizer_momentum": 0.8, "weight_decay": 0.5, "base_learning_rate": 2.0, "schedule": "constant"}
    optimizer = build.build_optimizer(make_plan("simclr", optimizer=name, **settings))
    assert type(optimizer) is kind
    config = optimizer.get_config()
    assert (config["momentum"], config["weight_decay"]) == (0.8, 0.5)
    np.testing.assert_allclose(float(keras.ops.convert_to_numpy(optimizer.learning_rate)), 1.0)
