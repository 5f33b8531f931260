"""What each method makes of a configuration: its dictionary, its chance loss, its model, and settings it refuses."""

import math

import keras
import numpy as np
import pytest

from keras_moco import building, distribution
from keras_moco.config import Config
from keras_moco.methods import METHODS
from keras_moco.models import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.optimizers import LARS, SGD
from keras_moco.plan import Plan

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


def test_these_are_the_methods():
    assert METHODS.keys() == OWN.keys() == CLASSES.keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_these_settings_of_its_own(method):
    assert set(METHODS[method].settings) == set(OWN[method])


FOREIGN = [
    (method, name, value)
    for method in OWN
    for other in OWN.values()
    for name, value in other.items()
    if name not in OWN[method]
]


@pytest.mark.parametrize("method, name, value", sorted(FOREIGN, key=str))
def test_a_setting_of_another_method_is_refused(method, name, value):
    owner = next(other for other in OWN if name in OWN[other])
    assert refusal(method, **{name: value}) == (
        f"`{name}` must not be given with method={method}, which has no use for it. Received: {name}={value}. "
        f"Leave out --{name}, or choose --method={owner}."
    )


def test_an_unknown_method_lists_the_known():
    assert refusal("byol") == (
        "`method` must be one of moco, end_to_end, memory_bank, simclr. Received: 'byol'. Choose one of them."
    )


@pytest.mark.parametrize(
    "method, settings, negatives",
    [
        ("moco", {"queue_size": 777}, 777),
        ("end_to_end", {}, 127),
        ("memory_bank", {"num_negatives": 300}, 300),
        ("simclr", {}, 254),
    ],
)
def test_the_chance_loss_is_that_of_so_many_negatives(method, settings, negatives):
    plan = make_plan(method, **settings)
    assert plan.chance_loss == pytest.approx(math.log(1 + negatives))
    text = plan.describe()
    assert f"method: {method}\n" in text
    assert f"{negatives:,}" in text and f"chance is {plan.chance_loss:.2f}" in text


def test_the_bank_has_a_vector_for_every_image():
    # 1000 * 64 * 4 / 2**20 = 0.244
    text = make_plan("memory_bank", num_negatives=300, embedding_dim=64).describe()
    assert "bank: 1,000 vectors of 64, 0.24 MiB, of which 300 are drawn in each step" in text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_method_has_its_batchnorm(method, replicas):
    found = make_plan(method, replicas=replicas).batch_norm
    expected = {
        "moco": (8, False) if replicas == 1 else (1, False),
        "end_to_end": (8, False) if replicas == 1 else (1, False),
        "memory_bank": (1, False),
        "simclr": (1, True),
    }
    assert (found.splits, found.synchronized) == expected[method]


@pytest.mark.parametrize("method", ["end_to_end", "simclr"])
def test_one_image_has_no_others(method):
    assert refusal(method, batch_size=1) == (
        "`batch_size` must be at least 2, since the other images of a batch are the negatives. "
        "Received: batch_size=1. Raise --batch_size."
    )


def test_a_bank_is_larger_than_the_batch():
    assert refusal("memory_bank", batch_size=1000) == (
        "`batch_size` must be less than the number of training images, or there are no negatives. "
        "Received: batch_size=1000, 1000 images in digits. Lower --batch_size."
    )
    assert make_plan("memory_bank", batch_size=999).steps_per_epoch == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_built_as_configured(method):
    network = {"backbone": "resnet10", "backbone_width": 4, "stem": "cifar", "image_size": 8}
    shared = {"temperature": 0.3, "seed": 5, "embedding_dim": 16}
    plan = make_plan(method, **network, **shared, **OWN[method])
    model = building.build_model(plan, distribution.make_strategy("one"))
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
def test_the_optimizer_is_built_as_configured(name, kind):
    settings = {"optimizer_momentum": 0.8, "weight_decay": 0.5, "base_learning_rate": 2.0, "schedule": "constant"}
    optimizer = building.build_optimizer(make_plan("simclr", optimizer=name, **settings))
    assert type(optimizer) is kind
    config = optimizer.get_config()
    assert (config["momentum"], config["weight_decay"]) == (0.8, 0.5)
    np.testing.assert_allclose(float(keras.ops.convert_to_numpy(optimizer.learning_rate)), 1.0)


def test_an_unknown_optimizer_lists_the_known():
    with pytest.raises(ValueError) as caught:
        building.build_optimizer(make_plan("simclr", optimizer="adam"))
    assert str(caught.value) == "`optimizer` must be one of sgd, lars. Received: 'adam'. Choose one of them."
