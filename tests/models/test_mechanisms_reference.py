"""Twenty steps of the other mechanisms equal twenty steps of their NumPy oracles, on one replica and on two."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco import distribution
from keras_moco.models import EndToEnd, MemoryBank, SimCLR
from keras_moco.optimizers import LARS, SGD
from tests import reference
from tests.dense_encoder import RATES, STEPS, Listed, make_encoder, make_start, make_views, scaled
from tests.reference_mechanisms import EndToEndReference, MemoryBankReference, SimCLRReference

BATCH, IMAGES, NEGATIVES = 16, 50, 21
TEMPERATURE, MOMENTUM, WEIGHT_DECAY, SEED, SPLITS = 0.2, 0.9, 1e-2, 7, 2
SETTINGS = {"temperature": TEMPERATURE, "sgd_momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}

replicas = pytest.mark.parametrize("replicas", [1, 2])
batch_norm = pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(replicas)])


def groups_of(replicas):
    return reference.contiguous(BATCH, replicas) if replicas > 1 else reference.interleaved(BATCH, SPLITS)


def make_data():
    """Views of the images of every step, of which each step takes others: of 50, 16 at a time."""
    views = make_views(STEPS, BATCH)
    rng = np.random.default_rng(3)
    return {**views, "index": np.stack([rng.permutation(IMAGES)[:BATCH] for _ in range(STEPS)])}


def train(replicas, make_model, optimizer):
    """The model after twenty steps, its losses, and the data."""
    data = make_data()
    with strategy_of(replicas).scope():
        model = make_model()
        model.compile(optimizer=optimizer())
    # One step per epoch: the history then holds every step's own loss.
    history = model.fit(tf.data.Dataset.from_tensor_slices(data), epochs=STEPS, steps_per_epoch=1, verbose=0)
    return model, history.history["loss"], data


def sgd():
    return SGD(Listed(), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def check(name, found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def check_encoder(name, encoder, parameters, statistics, unbiased=1.0):
    """`unbiased`: what the oracle's moving variance gains over Keras's in each step, its start aside."""
    trained = [w for w in encoder.weights if not w.name.startswith("moving_")]
    for variable, (weight, expected) in zip(trained, parameters.items(), strict=True):
        check(f"{weight} of the {name}", variable, expected)
    if statistics:
        mean, variance = (np.array(w) for w in encoder.weights if w.name.startswith("moving_"))
        kept = reference.BATCH_NORM_MOMENTUM**STEPS
        check(f"moving mean of the {name}", mean, statistics["mean"])
        check(f"moving variance of the {name}", (variance - kept) * unbiased + kept, statistics["variance"])


def check_moved(start, parameters):
    """A comparison with what stood still would prove nothing."""
    for name, value in start.items():
        # Batch norm takes any offset out again, so that only weight decay moves a bias before it.
        if not ("gamma" in start and name == "b1"):
            assert np.abs(parameters[name] - value).max() > 5e-3, name


@replicas
@batch_norm
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_end_to_end_equals_its_reference(replicas, batch_norm, shared):
    start = make_start(batch_norm)
    settings = {"temperature": TEMPERATURE, "shared": shared, "bn_splits": SPLITS, "seed": SEED}
    model, losses, data = train(replicas, lambda: EndToEnd(make_encoder(start), **settings), sgd)
    oracle = EndToEndReference(start, shared=shared, groups=groups_of(replicas), **SETTINGS)
    expected = []
    for step, rate in enumerate(RATES):
        order = np.array(distribution.permutation(BATCH, SEED, step))
        expected.append(oracle.step(scaled(data["query"][step]), scaled(data["key"][step]), rate, order))
    check("loss", losses, expected)
    check_moved(start, oracle.query)
    check_encoder("query encoder", model.encoder, oracle.query, oracle.query_statistics)
    check_encoder("key encoder", model.key_encoder, oracle.key, oracle.key_statistics)
    velocities = [*oracle.velocity.values(), *([] if shared else oracle.key_velocity.values())]
    for variable, velocity in zip(model.optimizer.velocities, velocities, strict=True):
        check("velocity", variable, velocity)
    assert shared or np.abs(oracle.query["w1"] - oracle.key["w1"]).max() > 1e-3


@replicas
@batch_norm
def test_the_memory_bank_equals_its_reference(replicas, batch_norm):
    start = make_start(batch_norm)
    settings = {"num_negatives": NEGATIVES, "bank_momentum": 0.3, "temperature": TEMPERATURE, "seed": SEED}
    first_bank = np.float64(MemoryBank(make_encoder(start), IMAGES, **settings).bank.features)
    model, losses, data = train(replicas, lambda: MemoryBank(make_encoder(start), IMAGES, **settings), sgd)
    groups = reference.contiguous(BATCH, replicas)
    oracle = MemoryBankReference(start, first_bank, bank_momentum=0.3, groups=groups, **SETTINGS)
    expected = []
    for step, rate in enumerate(RATES):
        # Which rows are drawn is an input of the oracle: the choice has tests of its own.
        drawn = np.array(model.bank.draw_indices(NEGATIVES, data["index"][step], step))
        expected.append(oracle.step(scaled(data["query"][step]), data["index"][step], drawn, rate))
    check("loss", losses, expected)
    check_moved(start, oracle.query)
    check_encoder("encoder", model.encoder, oracle.query, oracle.statistics)
    check("bank", model.bank.features, oracle.bank)
    assert np.abs(oracle.bank - first_bank).max(axis=-1).min() > 1e-2  # every image was seen
    for variable, velocity in zip(model.optimizer.velocities, oracle.velocity.values(), strict=True):
        check("velocity", variable, velocity)


@replicas
@batch_norm
def test_simclr_equals_its_reference(replicas, batch_norm):
    start = make_start(batch_norm)

    def lars():
        return LARS(Listed(), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, trust=0.2)

    model, losses, data = train(replicas, lambda: SimCLR(make_encoder(start), temperature=TEMPERATURE), lars)
    oracle = SimCLRReference(start, TEMPERATURE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, trust=0.2)
    views = [[scaled(data[name][step]) for name in ("query", "key")] for step in range(STEPS)]
    check("loss", losses, [oracle.step(*both, rate) for both, rate in zip(views, RATES, strict=True)])
    check_moved(start, oracle.query)
    # Keras's synchronised BatchNorm follows the biased variance, as TensorFlow's, which SimCLR's code uses.
    unbiased = 2 * BATCH / (2 * BATCH - 1)
    check_encoder("encoder", model.encoder, oracle.query, oracle.statistics, unbiased)
    for variable, velocity in zip(model.optimizer.velocities, oracle.velocity.values(), strict=True):
        check("velocity", variable, velocity)
