"""What the other mechanisms promise around their formulas: who learns, what is saved, what is refused."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay

from keras_moco import distribution
from keras_moco.callbacks import restore, save
from keras_moco.models import EndToEnd, MemoryBank, SimCLR
from keras_moco.optimizers import LARS, SGD
from tests.small_encoder import SHAPE, small_encoder

ROOT = Path(__file__).resolve().parents[2]
BATCH, IMAGES = 16, 64


def end_to_end(encoder):
    return EndToEnd(encoder, temperature=0.2, bn_splits=2, seed=3)


def separate(encoder):
    return EndToEnd(encoder, temperature=0.2, shared=False, bn_splits=2, seed=3)


def memory_bank(encoder):
    return MemoryBank(encoder, IMAGES, num_negatives=20, bank_momentum=0.3, temperature=0.2, seed=3)


def simclr(encoder):
    return SimCLR(encoder, temperature=0.2)


MAKERS = [end_to_end, separate, memory_bank, simclr]
every = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def make_model(make, strategy=None, optimizer=None, compile=None):
    keras.utils.set_random_seed(1)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = make(small_encoder(batch_norm=True))
        model.compile(optimizer=optimizer or SGD(0.1, weight_decay=1e-3), **{"jit_compile": False, **(compile or {})})
    return model


def make_data(steps=4, seed=0):
    """Each image once in four steps."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (2, steps * BATCH, *SHAPE)).astype("float32")
    views = {"query": images[0], "key": images[1], "index": np.resize(rng.permutation(IMAGES), steps * BATCH)}
    return tf.data.Dataset.from_tensor_slices(views).batch(BATCH, drop_remainder=True)


def state(model):
    """All that the next step depends on."""
    return [np.array(variable) for variable in (*model.weights, *model.optimizer.variables)]


def assert_same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0, "atol": 0, **tolerance})


# Who learns.


@every
def test_the_loss_falls_and_the_model_embeds(make):
    model = make_model(make)
    history = model.fit(make_data(), epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    images = next(iter(make_data()))["query"]
    np.testing.assert_array_equal(model(images), model.encoder(images))
    np.testing.assert_allclose(model.predict(images, verbose=0), model.encoder(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make, encoders", [(end_to_end, 1), (separate, 2), (memory_bank, 1), (simclr, 1)])
def test_so_many_encoders_are_trained(make, encoders):
    model = make_model(make)
    model.fit(make_data(), verbose=0)
    trained = len(model.encoder.trainable_variables)
    assert len(model.trainable_variables) == len(model.optimizer.velocities) == encoders * trained


def test_separate_encoders_start_alike_and_part():
    model = make_model(separate)

    def distance():
        pairs = zip(model.encoder.trainable_variables, model.key_encoder.trainable_variables, strict=True)
        return max(np.abs(np.array(query) - np.array(key)).max() for query, key in pairs)

    assert distance() == 0 and model.key_encoder is not model.encoder
    model.fit(make_data(), verbose=0)
    assert distance() > 1e-3
    assert make_model(end_to_end).key_encoder is not None


@pytest.mark.parametrize("make", [end_to_end, separate], ids=["shared", "separate"])
def test_gradient_flows_through_queries_and_through_keys(make):
    model = make_model(make)
    views = next(iter(make_data()))
    with tf.GradientTape(persistent=True) as tape:
        queries = model.encoder(views["query"], training=True)
        keys = model._encode_keys(views["key"])
    for side, encoder in ((queries, model.encoder), (keys, model.key_encoder)):
        gradients = tape.gradient(side, encoder.trainable_variables)
        assert all(np.abs(np.array(gradient)).max() > 0 for gradient in gradients)


def test_no_gradient_flows_into_the_bank():
    model = make_model(memory_bank)
    views = next(iter(make_data(1)))
    assert not model.bank.features.trainable
    start = np.array(model.bank.features)
    model.compile(optimizer=SGD(0.0))
    model.fit(make_data(1), verbose=0)
    moved = np.abs(np.array(model.bank.features) - start).max(axis=-1) > 0
    np.testing.assert_array_equal(np.flatnonzero(moved), np.sort(views["index"]))  # the update, and no optimiser


def test_a_positive_is_the_images_own_row_and_no_negative_is():
    model = make_model(memory_bank)
    views = next(iter(make_data()))
    rows = np.array(model.bank.features)
    present, own, drawn = (np.array(target) for target in model.encode_targets(views))
    np.testing.assert_array_equal(present, views["index"])
    np.testing.assert_array_equal(own, rows[np.array(views["index"])])
    assert drawn.shape == (20, 8)
    of_rows = {tuple(row): index for index, row in enumerate(rows)}
    assert not {of_rows[tuple(row)] for row in drawn} & set(np.array(views["index"]).tolist())


def test_end_to_end_normalises_a_key_in_other_company_than_its_query():
    """With equal views and shared weights, queries and keys differ by the groups of their BatchNorm alone."""
    model = make_model(end_to_end)
    images = next(iter(make_data()))["query"]
    queries, keys = model.encoder(images, training=True), model._encode_keys(images)
    assert np.abs(np.array(queries) - np.array(keys)).max() > 1e-2
    plain = make_model(lambda encoder: EndToEnd(encoder, bn_mode="plain"))
    queries, keys = plain.encoder(images, training=True), plain._encode_keys(images)
    np.testing.assert_allclose(queries, keys, atol=1e-5)


# What the logs tell.


@pytest.mark.parametrize(
    "make, candidates", [(end_to_end, BATCH), (separate, BATCH), (memory_bank, 21), (simclr, 2 * BATCH - 1)]
)
def test_a_constant_encoder_has_the_loss_of_chance(make, candidates):
    model = make_model(make, optimizer=SGD(0.0, weight_decay=0.0))
    head = model.encoder.head
    for encoder in {id(e): e for e in (model.encoder, getattr(model, "key_encoder", model.encoder))}.values():
        encoder.head.set_weights([np.zeros_like(w) if w.ndim > 1 else np.ones_like(w) for w in head.get_weights()])
    if make is memory_bank:  # where the rows have to become constant too
        model.bank.features.assign(np.full((IMAGES, 8), 8**-0.5, "float32"))
    logs = {name: values[0] for name, values in model.fit(make_data(1), verbose=0).history.items()}
    assert logs["loss"] == pytest.approx(np.log(candidates), rel=1e-5)
    assert logs["contrast_top1"] == 0 and logs["feature_std"] == pytest.approx(0, abs=1e-5)


# State.


@every
def test_a_saved_model_goes_on_bit_for_bit(make, tmp_path):
    model = make_model(make, optimizer=LARS(CosineDecay(0.5, 20), trust=0.1))
    model.fit(make_data(), verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    ours, theirs = model.get_config(), restored.get_config()
    assert type(restored) is type(model) and type(restored.optimizer) is LARS
    assert {name: ours[name] for name in ours if name != "encoder"} == {n: theirs[n] for n in ours if n != "encoder"}
    assert_same(state(restored), state(model))
    restored.compile(optimizer=restored.optimizer, jit_compile=False)
    histories = [each.fit(make_data(seed=1), verbose=0).history for each in (model, restored)]
    assert histories[0] == histories[1]
    assert_same(state(restored), state(model))


@every
def test_a_checkpoint_brings_everything_back(make, tmp_path):
    model, other = make_model(make), make_model(make)
    model.fit(make_data(), verbose=0)
    save(model, tmp_path)
    other.optimizer.build(other.trainable_variables)
    assert restore(other, tmp_path).step == 4
    assert_same(state(other), state(model))


# How it is run.


@every
@pytest.mark.parametrize(
    "compile", [{"steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}], ids=" and ".join
)
def test_how_steps_are_executed_does_not_matter(make, compile):
    if make is memory_bank and "jit_compile" in compile:
        # Keras's way of saying that it goes on without XLA, which would leave out the check of indices.
        with pytest.warns(UserWarning, match="Proceeding with `jit_compile=False`"):
            assert make_model(make, compile=compile).jit_compile is False
        return
    models = [make_model(make), make_model(make, compile=compile)]
    losses = [model.fit(make_data(), epochs=2, verbose=0).history["loss"] for model in models]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert_same(state(models[1]), state(models[0]), rtol=1e-3, atol=1e-3)


@every
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(make, policy):
    keras.config.set_dtype_policy(policy)
    model = make_model(make)
    start = np.array(model.trainable_variables[0])
    history = model.fit(make_data(), epochs=2, verbose=0).history
    assert all(np.isfinite(logged).all() for logged in history.values())
    assert all(np.isfinite(values).all() for values in state(model))
    assert np.abs(np.array(model.trainable_variables[0]) - start).max() > 0


@every
def test_replicas_stay_alike_to_the_bit(make):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(4)])
    model = make_model(make, strategy)
    history = model.fit(make_data(), epochs=5, verbose=0).history
    for variable in (*model.weights, *model.optimizer.variables):
        first, *others = (np.array(value) for value in strategy.experimental_local_results(variable.value))
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other, err_msg=variable.path)
    assert np.ptp(history["loss"]) > 0.1


# What is refused.


def refusal(model, data):
    with pytest.raises(ValueError) as error:
        model.fit(data, verbose=0)
    assert model.steps_done == 0
    return str(error.value)


def test_batches_without_index_are_refused_by_the_bank():
    data = make_data().map(lambda views: {name: views[name] for name in ("query", "key")})
    assert refusal(make_model(memory_bank), data) == (
        "Batches must be dictionaries with 'query' and 'index'. Received: ['key', 'query']. "
        "Add the number of each image in the data set, as `keras_moco.data.pretrain_dataset` does."
    )


def test_the_bank_needs_no_second_view():
    model = make_model(memory_bank)
    model.fit(make_data().map(lambda views: {name: views[name] for name in ("query", "index")}), verbose=0)
    assert model.steps_done == 4


def refuse_an_index_outside_of_the_bank(replicas):
    strategy = distribution.make_strategy("mirrored", 2) if replicas == 2 else None
    model = make_model(memory_bank, strategy)
    before = [np.array(weight) for weight in model.weights]
    data = make_data().map(lambda views: {**views, "index": views["index"] + 1})
    wrong = next(step for step, batch in enumerate(data) if np.array(batch["index"]).max() == IMAGES)
    assert refusal(model, data.skip(wrong)) == (
        "`index` of an image must be at least 0 and less than the size of the bank, 64. Received: 64. "
        "Make `bank_size` the number of training images, and count them from 0."
    )
    for weight, value in zip(model.weights, before, strict=True):
        if "moving" not in weight.path:  # BatchNorm's own statistics may have moved
            np.testing.assert_array_equal(weight, value, err_msg=weight.path)


def test_an_index_outside_of_the_bank_is_told_in_one_sentence_and_nothing_is_changed():
    refuse_an_index_outside_of_the_bank(replicas=1)


def test_an_index_outside_of_the_bank_is_told_on_two_replicas():
    """In a process of its own: where a step fails on one replica, TensorFlow may cancel all that they share later."""
    program = (
        "from tests import conftest\n"
        "conftest.pytest_configure()\n"
        "from tests.models.test_models_mechanisms import refuse_an_index_outside_of_the_bank\n"
        "refuse_an_index_outside_of_the_bank(replicas=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_bank_as_small_as_a_batch_is_refused():
    model = make_model(lambda encoder: MemoryBank(encoder, BATCH))
    assert refusal(model, make_data()) == (
        "The bank must hold more images than a batch, or there are no negatives. "
        "Received: bank_size=16, 16 images in a batch. Lower the batch size."
    )


@pytest.mark.parametrize("make", [lambda encoder: EndToEnd(encoder, bn_mode="plain"), simclr])
def test_one_image_is_refused_where_the_others_are_the_negatives(make):
    data = make_data().unbatch().batch(1, drop_remainder=True)
    assert refusal(make_model(make), data) == (
        "The global batch must hold two images or more, since the others are the negatives. "
        "Received: 1 image. Raise the batch size."
    )


@pytest.mark.parametrize("number", [0, -3, 2.5])
def test_the_number_of_negatives_must_be_a_positive_integer(number):
    with pytest.raises(ValueError) as error:
        MemoryBank(small_encoder(), IMAGES, num_negatives=number)
    assert str(error.value) == (
        f"`num_negatives` must be a positive integer. Received: num_negatives={number}. Wu et al. use 4096."
    )


@pytest.mark.parametrize("setting", ["queue_size", "momentum"])
@pytest.mark.parametrize("model", [SimCLR, EndToEnd])
def test_settings_of_a_queue_are_refused_where_there_is_none(model, setting):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments passed to {model.__name__}.*{setting}"):
        model(small_encoder(), **{setting: 1})
