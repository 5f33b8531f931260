"""What all methods promise around their formulas: what is saved, logged and refused."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import CosineDecay

from keras_moco.methods import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.optimizers import LARS, SGD
from keras_moco.runs.checkpoints import restore, save
from tests.small_encoder import small_encoder
from tests.small_training import random_batches, strategy_of

ROOT = Path(__file__).resolve().parents[2]
BATCH, IMAGES = 16, 64
RISING = CosineDecay(0.9, 9, alpha=1 / 0.9)


def moco(encoder):
    return MoCo(encoder, queue_size=2 * BATCH, momentum=RISING, temperature=0.2, symmetric=True, bn_splits=2, seed=3)


def separate(encoder):
    return EndToEnd(encoder, temperature=0.2, shared=False, bn_splits=2, seed=3)


def memory_bank(encoder):
    return MemoryBank(encoder, IMAGES, num_negatives=20, bank_momentum=0.3, temperature=0.2, seed=3)


def simclr(encoder):
    return SimCLR(encoder, temperature=0.2)


def make_model(make, replicas=1, optimizer=None, **compile):
    keras.utils.set_random_seed(1)
    with strategy_of(replicas).scope():
        model = make(small_encoder(batch_norm=True))
        model.compile(optimizer=optimizer or SGD(0.1, weight_decay=1e-3), **{"jit_compile": False, **compile})
        model.optimizer.build(model.trainable_variables)
    return model


def make_data(steps=4, seed=0, batch=BATCH):
    return random_batches(steps, batch, seed, images=IMAGES)


def state(model):
    """All that the next step depends on."""
    return [np.array(variable) for variable in (*model.weights, *model.optimizer.variables)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# State


@pytest.mark.parametrize("make", [moco, separate, memory_bank, simclr])
def test_saved_model_resumes_to_the_bit(make, tmp_path):
    def optimizer():
        return LARS(CosineDecay(0.5, 20), trust=0.1)

    model = make_model(make, optimizer=optimizer())
    model.fit(make_data(2), verbose=0)
    model.save(tmp_path / "model.keras")
    save(model, tmp_path / "checkpoint")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and type(loaded.optimizer) is LARS
    assert_same(state(loaded), state(model))
    other = make_model(make, optimizer=optimizer())
    assert restore(other, tmp_path / "checkpoint").step == 2
    assert_same(state(other), state(model))
    loaded.compile(optimizer=loaded.optimizer, jit_compile=False)
    histories = [each.fit(make_data(2, seed=1), verbose=0).history for each in (model, loaded)]
    assert histories[0] == histories[1]
    assert_same(state(loaded), state(model))


# Logs


@pytest.mark.parametrize(
    "make, losses, candidates",
    [
        (moco, 2, 1 + 2 * BATCH),
        (separate, 1, BATCH),
        (memory_bank, 1, 1 + 20),
        (simclr, 1, 2 * BATCH - 1),
    ],
)
def test_collapsed_encoder_has_the_loss_at_chance_level(make, losses, candidates):
    model = make_model(make, optimizer=SGD(0.0, weight_decay=0.0))
    embedding = np.random.default_rng(0).normal(size=8).astype("float32")
    for encoder in (model.encoder, getattr(model, "key_encoder", model.encoder)):
        encoder.head.set_weights([np.zeros_like(encoder.head.get_weights()[0]), embedding])
    unit = embedding / np.linalg.norm(embedding)
    if make is memory_bank:
        model.bank.features.assign(np.tile(unit, (IMAGES, 1)))
    if make is moco:
        model.queue.features.assign(np.tile(unit, (2 * BATCH, 1)))
    logs = {name: float(value) for name, value in model.train_step(next(iter(make_data(1)))).items()}
    assert logs["loss"] == pytest.approx(losses * np.log(candidates), rel=1e-5)
    # All similarities tie, up to rounding, and ties count against the query.
    assert logs["contrast_top1"] == 0
    assert logs["feature_std"] == pytest.approx(0, abs=1e-5)
    assert [logs[f"{kind}_similarity"] for kind in ("positive", "negative")] == pytest.approx([1, 1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [moco, simclr])  # shuffled and synchronized BatchNorm
def test_four_replicas_stay_identical(make):
    model = make_model(make, replicas=4)
    history = model.fit(make_data(), epochs=5, verbose=0).history
    for variable in (*model.weights, *model.optimizer.variables):
        values = model.distribute_strategy.experimental_local_results(variable.value)
        assert len(values) == 4 and len({np.array(value).tobytes() for value in values}) == 1, variable.path
    assert np.ptp(history["loss"]) > 0.1


# What is refused


def refusal(model, data):
    with pytest.raises(ValueError) as error:
        model.fit(data, verbose=0)
    assert model.steps_done == 0
    return str(error.value)


def only(*names):
    return lambda views: {name: views[name] for name in names}


def test_memory_bank_needs_index_and_no_second_view():
    message = refusal(make_model(memory_bank), make_data().map(only("query", "key")))
    assert "'query' and 'index'. Received: ['key', 'query']" in message and "pretrain_dataset" in message
    model = make_model(memory_bank)
    model.fit(make_data().map(only("query", "index")), verbose=0)
    assert model.steps_done == 4


def refuse_an_index_outside_the_bank(replicas):
    model = make_model(memory_bank, replicas)
    before = [np.array(weight) for weight in model.weights]
    data = make_data().map(lambda views: {**views, "index": views["index"] + 1})
    wrong = next(step for step, batch in enumerate(data) if np.array(batch["index"]).max() == IMAGES)
    assert "the size of the bank, 64. Received: 64." in refusal(model, data.skip(wrong))
    for weight, value in zip(model.weights, before, strict=True):
        if "moving" not in weight.path:  # BatchNorm's statistics may have moved
            np.testing.assert_array_equal(weight, value, err_msg=weight.path)


def test_index_outside_the_bank_is_refused_and_changes_nothing():
    refuse_an_index_outside_the_bank(replicas=1)


@pytest.mark.slow
def test_index_outside_the_bank_is_refused_on_two_replicas():
    """In a process of its own: where a step fails on one replica, TensorFlow may cancel all that they share later."""
    program = (
        "from tests import conftest\n"
        "conftest.prepare_tensorflow()\n"
        "from tests.methods.test_methods_methods import refuse_an_index_outside_the_bank\n"
        "refuse_an_index_outside_the_bank(replicas=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_batches_without_negatives_are_refused():
    small_bank = make_model(lambda encoder: MemoryBank(encoder, BATCH))
    assert "bank_size=16, 16 images in a batch" in refusal(small_bank, make_data())
    for make in (simclr, lambda encoder: EndToEnd(encoder, bn_mode="plain")):
        assert "two images or more" in refusal(make_model(make), make_data(1, batch=1))


def test_memory_bank_goes_without_xla():
    # XLA would drop the check of indices. Keras says that it proceeds without XLA.
    with pytest.warns(UserWarning, match="jit_compile=False"):
        assert make_model(memory_bank, jit_compile=True).jit_compile is False


def test_number_of_negatives_must_be_a_positive_integer():
    for number in (0, 2.5):
        with pytest.raises(ValueError, match=f"Received: num_negatives={number}"):
            MemoryBank(small_encoder(), IMAGES, num_negatives=number)
