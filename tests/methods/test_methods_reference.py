"""Twenty steps of `fit` equal twenty steps of the NumPy references, in everything that a step changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_moco import distribution
from keras_moco.layers import SplitBatchNormalization
from keras_moco.methods import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.networks import Encoder
from keras_moco.optimizers import LARS, SGD
from tests import reference
from tests.reference_mechanisms import EndToEndReference, MemoryBankReference, SimCLRReference
from tests.small_training import strategy_of, without_autotune

BATCH, IMAGES, NEGATIVES, STEPS = 16, 50, 21, 20
QUEUE = 37  # divided by neither 16 nor 32 keys
# Groups of 8 images: with 2, batch norm magnifies rounding a thousandfold, in NumPy as well.
SPLITS, SEED = 2, 7
TEMPERATURE, MOMENTUM, WEIGHT_DECAY = 0.2, 0.9, 1e-2
SHAPE = (4, 4, 3)
HIDDEN, EMBEDDING = 24, 12
MEAN, STD = 0.5, 0.25
# Another rate at every step, and a fall to a tenth: an SGD that keeps the rate in the velocity differs.
RATES = 0.05 * np.where(np.arange(STEPS) < STEPS // 2, 1.0, 0.1) * (1 + 0.3 * np.sin(np.arange(STEPS)))
SETTINGS = {"temperature": TEMPERATURE, "sgd_momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
slow = pytest.mark.slow


class Listed(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of each step from a list, so that no schedule's formula stands between the two sides."""

    def __call__(self, step):
        return ops.take(ops.convert_to_tensor(RATES, "float32"), ops.cast(step, "int32"))

    def get_config(self):
        return {}


def make_start(batch_norm):
    return reference.initial_parameters(np.prod(SHAPE), HIDDEN, EMBEDDING, seed=5, batch_norm=batch_norm)


def make_encoder(start):
    """The encoder that `tests.reference` differentiates by hand, in Keras, with these weights."""
    norm = [SplitBatchNormalization()] if "gamma" in start else []
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(HIDDEN), *norm, layers.ReLU()], name="backbone"
    )
    head = keras.Sequential([keras.Input((HIDDEN,)), layers.Dense(EMBEDDING)], name="head")
    encoder = Encoder(backbone, head, mean=MEAN, std=STD)
    for variable, value in zip(encoder.trainable_variables, start.values(), strict=True):
        variable.assign(value)
    return encoder


def scaled(images):
    """What the encoder's scaling makes of images, in float64."""
    return (np.float64(images) / 255 - MEAN) / STD


def make_data():
    """Two noisy views of random images for every step, each time of 16 others of 50."""
    rng, choice = np.random.default_rng(11), np.random.default_rng(3)
    images = rng.uniform(20, 235, (STEPS, BATCH, *SHAPE))
    views = {view: np.float32(images + rng.normal(0, 20, images.shape)) for view in ("query", "key")}
    return {**views, "index": np.stack([choice.permutation(IMAGES)[:BATCH] for _ in range(STEPS)])}


def sgd():
    return SGD(Listed(), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def train(replicas, make_model, data, optimizer=sgd):
    """The model after twenty steps, and its losses."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = make_model()
        model.compile(optimizer=optimizer())
    # With one step per epoch the history holds the loss of every step.
    slices = without_autotune(tf.data.Dataset.from_tensor_slices(data))
    history = model.fit(slices, epochs=STEPS, steps_per_epoch=1, verbose=0)
    for variable in (*model.variables, *model.optimizer.variables):
        values = [np.array(value).tobytes() for value in strategy.experimental_local_results(variable.value)]
        assert len(values) == replicas and len(set(values)) == 1, f"{variable.path} differs between replicas"
    return model, history.history["loss"]


def groups_of(replicas):
    return reference.contiguous(BATCH, replicas) if replicas > 1 else reference.interleaved(BATCH, SPLITS)


def steps_of(oracle, data):
    """Losses of the steps of an oracle that takes both views. The order of the keys is an input of it."""
    losses = []
    for step, rate in enumerate(RATES):
        order = np.array(distribution.permutation(BATCH, SEED, step))
        losses.append(oracle.step(scaled(data["query"][step]), scaled(data["key"][step]), rate, order))
    return losses


def check(name, found, expected):
    # Twenty steps in float32 against float64.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def check_encoder(name, encoder, parameters, statistics, unbiased=1.0):
    """`unbiased`: factor from Keras's moving variance to the oracle's, apart from the initial 1."""
    trained = [w for w in encoder.weights if not w.name.startswith("moving_")]
    for variable, (weight, expected) in zip(trained, parameters.items(), strict=True):
        check(f"{weight} of the {name}", variable, expected)
    if statistics:
        mean, variance = (np.array(w) for w in encoder.weights if w.name.startswith("moving_"))
        kept = reference.BATCH_NORM_MOMENTUM**STEPS
        check(f"moving mean of the {name}", mean, statistics["mean"])
        check(f"moving variance of the {name}", (variance - kept) * unbiased + kept, statistics["variance"])


def check_velocities(model, *expected):
    velocities = [value for each in expected for value in each.values()]
    for number, (variable, velocity) in enumerate(zip(model.optimizer.velocities, velocities, strict=True)):
        check(f"velocity {number}", variable, velocity)


def check_moved(start, parameters, least=5e-3):
    """Two sides that both stood still would agree too."""
    for name, value in start.items():
        # Batch norm removes any offset, so only weight decay moves a bias before it.
        if not ("gamma" in start and name == "b1"):
            assert np.abs(parameters[name] - value).max() > least, name


@pytest.mark.parametrize(
    "symmetric, batch_norm, replicas",
    [
        (False, True, 1),
        (True, True, 2),
        pytest.param(True, True, 1, marks=slow),
        pytest.param(False, True, 2, marks=slow),
        pytest.param(False, False, 1, marks=slow),  # the bias before batch norm learns here alone
    ],
)
def test_moco_equals_its_reference(symmetric, batch_norm, replicas):
    start, data = make_start(batch_norm), make_data()
    settings = {"momentum": MOMENTUM, "symmetric": symmetric, "temperature": TEMPERATURE}
    model, losses = train(
        replicas, lambda: MoCo(make_encoder(start), QUEUE, bn_splits=SPLITS, seed=SEED, **settings), data
    )
    queue = np.float64(MoCo(make_encoder(start), QUEUE, seed=SEED).queue.features)
    oracle = reference.MoCoReference(start, queue, groups=groups_of(replicas), **{**SETTINGS, **settings})
    check("loss", losses, steps_of(oracle, data))
    check_moved(start, oracle.query)
    check_moved(oracle.query, oracle.key, least=5e-4)
    check_encoder("query encoder", model.query_encoder, oracle.query, oracle.query_statistics)
    check_encoder("key encoder", model.key_encoder, oracle.key, oracle.key_statistics)
    check_velocities(model, oracle.velocity)
    check("queue", model.queue.features, oracle.queue)
    assert int(model.queue.pointer) == oracle.pointer == STEPS * BATCH * (1 + symmetric) % QUEUE != 0


@pytest.mark.parametrize(
    "shared, replicas",
    [(True, 1), (False, 2), pytest.param(True, 2, marks=slow), pytest.param(False, 1, marks=slow)],
)
def test_end_to_end_equals_its_reference(shared, replicas):
    start, data = make_start(batch_norm=True), make_data()
    settings = {"temperature": TEMPERATURE, "shared": shared, "bn_splits": SPLITS, "seed": SEED}
    model, losses = train(replicas, lambda: EndToEnd(make_encoder(start), **settings), data)
    oracle = EndToEndReference(start, shared=shared, groups=groups_of(replicas), **SETTINGS)
    check("loss", losses, steps_of(oracle, data))
    check_moved(start, oracle.query)
    check_encoder("query encoder", model.encoder, oracle.query, oracle.query_statistics)
    check_encoder("key encoder", model.key_encoder, oracle.key, oracle.key_statistics)
    check_velocities(model, oracle.velocity, *([] if shared else [oracle.key_velocity]))
    assert shared or np.abs(oracle.query["w1"] - oracle.key["w1"]).max() > 1e-3


@pytest.mark.parametrize("replicas", [1, 2])
def test_memory_bank_equals_its_reference(replicas):
    start, data = make_start(batch_norm=True), make_data()
    settings = {"num_negatives": NEGATIVES, "bank_momentum": 0.3, "temperature": TEMPERATURE, "seed": SEED}
    first_bank = np.float64(MemoryBank(make_encoder(start), IMAGES, **settings).bank.features)
    model, losses = train(replicas, lambda: MemoryBank(make_encoder(start), IMAGES, **settings), data)
    groups = reference.contiguous(BATCH, replicas)
    oracle = MemoryBankReference(start, first_bank, bank_momentum=0.3, groups=groups, **SETTINGS)
    expected = []
    for step, rate in enumerate(RATES):
        # Which rows are drawn is an input of the oracle; tests/layers tests the choice.
        drawn = np.array(model.bank.draw_indices(NEGATIVES, data["index"][step], step))
        expected.append(oracle.step(scaled(data["query"][step]), data["index"][step], drawn, rate))
    check("loss", losses, expected)
    check_moved(start, oracle.query)
    check_encoder("encoder", model.encoder, oracle.query, oracle.statistics)
    check_velocities(model, oracle.velocity)
    check("bank", model.bank.features, oracle.bank)
    assert np.abs(oracle.bank - first_bank).max(axis=-1).min() > 1e-2  # every image was seen


@pytest.mark.parametrize("replicas", [1, 2])
def test_simclr_equals_its_reference(replicas):
    start, data = make_start(batch_norm=True), make_data()
    settings = {"momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "trust": 0.2}
    model, losses = train(
        replicas,
        lambda: SimCLR(make_encoder(start), temperature=TEMPERATURE),
        data,
        optimizer=lambda: LARS(Listed(), **settings),
    )
    oracle = SimCLRReference(start, TEMPERATURE, **settings)
    views = [[scaled(data[name][step]) for name in ("query", "key")] for step in range(STEPS)]
    check("loss", losses, [oracle.step(*both, rate) for both, rate in zip(views, RATES, strict=True)])
    check_moved(start, oracle.query)
    # Keras's synchronized BatchNorm follows the biased variance, as TensorFlow's, which SimCLR's code uses.
    check_encoder("encoder", model.encoder, oracle.query, oracle.statistics, 2 * BATCH / (2 * BATCH - 1))
    check_velocities(model, oracle.velocity)
