"""Which devices train, by name and number, and what is refused."""

import json

import keras
import pytest
import tensorflow as tf

from keras_moco import distribution
from tests.small_training import strategy_of


@pytest.mark.parametrize("name", ["auto", "one"])
def test_without_gpus_one_device_trains(name, monkeypatch):
    monkeypatch.setattr("keras_moco.distribution.strategies._gpus", list)
    strategy = distribution.make_strategy(name)
    assert strategy.num_replicas_in_sync == distribution.count_replicas(name) == 1
    assert distribution.is_chief(strategy)


@pytest.mark.parametrize("name", ["auto", "mirrored"])
def test_replicas_can_be_asked_for(name):
    strategy = distribution.make_strategy(name, replicas=3)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == distribution.count_replicas(name, 3) == 3
    assert distribution.make_strategy("mirrored", 3) is strategy  # one of a kind in a process


def test_strategies_that_cannot_be_made_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for function in (distribution.make_strategy, distribution.count_replicas):
        with pytest.raises(ValueError, match="auto, one, mirrored, multiworker, tpu.*'horovod'"):
            function("horovod")
        with pytest.raises(ValueError, match="`TF_CONFIG`.* Received: none"):
            function("multiworker")
    for name, replicas in (("mirrored", 50), ("auto", 50), ("one", 2)):
        with pytest.raises(ValueError, match=rf"Received: replicas={replicas}, \d device"):
            distribution.make_strategy(name, replicas)


@pytest.mark.parametrize("function", [distribution.make_strategy, distribution.count_replicas])
def test_numbers_of_replicas_that_no_machine_has_are_refused(function, monkeypatch):
    monkeypatch.setattr("keras_moco.distribution.strategies._mirrored", lambda _: pytest.fail("it was tried"))
    with pytest.raises(ValueError, match=r"`strategy=one` finds\. Received: replicas=8, 1 device"):
        function("one", 8)
    for name in distribution.STRATEGIES:
        for replicas in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=f"`replicas` must be .* Received: replicas={replicas}\\."):
                function(name, replicas)


def test_several_machines_are_counted_without_waiting_for_them(monkeypatch):
    monkeypatch.setattr("keras_moco.distribution.strategies._gpus", list)
    cluster = {"worker": ["nowhere.invalid:1", "nowhere.invalid:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    assert distribution.count_replicas("multiworker") == 2
    assert distribution.count_replicas("multiworker", 8) == 8  # planned for from elsewhere
    with pytest.raises(ValueError, match=r"`strategy=multiworker` finds\. Received: replicas=3, 2 device"):
        distribution.make_strategy("multiworker", 3)


def test_required_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ValueError, match=rf"Received: none, by TensorFlow {tf.__version__}") as error:
        distribution.check_gpu()
    assert "CUDA_VISIBLE_DEVICES" not in str(error.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=-1"):
        distribution.check_gpu()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["/physical_device:GPU:0"] * (kind == "GPU"))
    distribution.check_gpu()


def test_tpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="`strategy=tpu`.* Received: TensorFlow .*TPU_NAME"):
        distribution.make_strategy("tpu")
    with pytest.raises(ValueError, match="Received: replicas=None"):
        distribution.count_replicas("tpu")
    assert distribution.count_replicas("tpu", 8) == 8


@pytest.mark.parametrize(
    "option", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 1.0}, {"gradient_accumulation_steps": 2}]
)
def test_optimizer_options_that_keras_applies_per_replica_are_refused(option):
    [(name, value)] = option.items()
    optimizer = keras.optimizers.SGD(0.1, **option)
    for each in (optimizer, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, **option))):
        with pytest.raises(ValueError, match=f"`{name}` .* Received: {name}={value}"):
            distribution.check_training(strategy_of(2), each, jit_compile=False)
    distribution.check_training(strategy_of(1), optimizer, jit_compile=True)  # left to Keras
    distribution.check_training(strategy_of(2), keras.optimizers.SGD(0.1), jit_compile=False)


def test_a_gpu_that_is_not_used_is_named(monkeypatch, tmp_path):
    strategy = distribution.make_strategy("one")
    assert "does not use the GPU" not in distribution.describe(strategy)
    (tmp_path / "version").touch()
    monkeypatch.setattr("keras_moco.distribution.strategies.NVIDIA", str(tmp_path / "version"))
    assert distribution.describe(strategy).startswith("one CPU; TensorFlow does not use the GPU of this machine")
