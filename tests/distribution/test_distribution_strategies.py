"""Which devices train, by name and number; what is not there is said."""

import json

import pytest
import tensorflow as tf

from keras_moco import distribution

NAMES = "auto, one, mirrored, multiworker, tpu"


@pytest.mark.parametrize("name", ["auto", "one"])
def test_without_gpus_one_device_trains(name):
    strategy = distribution.make_strategy(name)
    assert strategy.num_replicas_in_sync == 1
    assert distribution.describe(strategy) == "one CPU"
    assert distribution.is_chief(strategy)
    assert distribution.count_replicas(name) == 1


@pytest.mark.parametrize("name", ["auto", "mirrored"])
def test_replicas_can_be_asked_for(name):
    strategy = distribution.make_strategy(name, replicas=3)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == distribution.count_replicas(name, 3) == 3
    assert distribution.describe(strategy) == "3 CPUs, MirroredStrategy"
    assert distribution.is_chief(strategy)


def test_a_process_has_one_strategy_per_kind():
    assert distribution.make_strategy("mirrored", 2) is distribution.make_strategy("mirrored", 2)


def test_mirrored_is_the_mirrored_strategy():
    assert isinstance(distribution.make_strategy("mirrored"), tf.distribute.MirroredStrategy)


@pytest.mark.parametrize("function", [distribution.make_strategy, distribution.count_replicas])
def test_an_unknown_strategy_lists_the_known(function):
    with pytest.raises(ValueError) as error:
        function("horovod")
    assert str(error.value) == f"`strategy` must be one of {NAMES}. Received: 'horovod'. Choose one of them."


@pytest.mark.parametrize(
    "name, replicas, message",
    [
        ("mirrored", 5, "`strategy=mirrored` finds, or less. Received: replicas=5, 4 device(s). Correct or omit"),
        ("auto", 5, "`strategy=mirrored` finds, or less. Received: replicas=5, 4 device(s). Correct or omit"),
        ("one", 2, "`strategy=one` finds. Received: replicas=2, 1 device(s). Correct or omit --replicas."),
    ],
)
def test_more_replicas_than_devices_are_refused(name, replicas, message):
    with pytest.raises(ValueError) as error:
        distribution.make_strategy(name, replicas)
    assert str(error.value).startswith("`replicas` must be the number of devices that ")
    assert message in str(error.value)


def test_several_machines_are_counted_without_waiting_for_them(monkeypatch):
    cluster = {"worker": ["nowhere.invalid:1", "nowhere.invalid:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    assert distribution.count_replicas("multiworker") == 2


@pytest.mark.parametrize("function", [distribution.make_strategy, distribution.count_replicas])
def test_several_machines_need_their_names(function, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="^`TF_CONFIG` must be set.* Received: none. Set it on every worker"):
        function("multiworker")


def test_a_gpu_that_is_required_and_not_there_is_told_with_what_hides_it(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        ValueError, match=rf"Received: none, by TensorFlow {tf.__version__}, built with(out)? support of"
    ):
        distribution.check_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(
        ValueError, match=", with CUDA_VISIBLE_DEVICES=-1. Look at what nvidia-smi lists, .* on the CPU.$"
    ):
        distribution.check_gpu()


def test_a_gpu_that_is_there_is_enough(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["/physical_device:GPU:0"] * (kind == "GPU"))
    distribution.check_gpu()


def test_without_a_tpu_it_is_said_what_is_wanted():
    with pytest.raises(ValueError, match="^`strategy=tpu` must find a TPU. Received: TensorFlow .* Set TPU_NAME"):
        distribution.make_strategy("tpu")
    with pytest.raises(ValueError, match="Received: replicas=None. Add --replicas=N.$"):
        distribution.count_replicas("tpu")
    assert distribution.count_replicas("tpu", 8) == 8
