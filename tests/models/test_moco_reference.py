"""Twenty steps of `fit` equal twenty steps of the NumPy oracle, in everything that a step changes."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco import distribution
from keras_moco.models import MoCo
from keras_moco.optimizers import SGD
from tests import reference
from tests.dense_encoder import RATES, STEPS, Listed, make_encoder, make_start, make_views, scaled

BATCH, QUEUE = 16, 37  # neither 16 nor 32 keys divide the queue
MOMENTUM, TEMPERATURE, SGD_MOMENTUM, WEIGHT_DECAY = 0.9, 0.2, 0.9, 1e-2
# Shares of 8 images: with 2, batch norm magnifies rounding a thousandfold, in NumPy as well.
SEED, SPLITS = 7, 2


def make_model(start, symmetric):
    model = MoCo(
        make_encoder(start),
        queue_size=QUEUE,
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
        symmetric=symmetric,
        bn_splits=SPLITS,
        seed=SEED,
    )
    model.compile(optimizer=SGD(Listed(), momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY))
    return model


def train_both(symmetric, batch_norm, replicas=1):
    """Returns the model and its losses, the oracle and its losses."""
    devices = [f"CPU:{replica}" for replica in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    start = make_start(batch_norm)
    with strategy.scope():
        model = make_model(start, symmetric)
    oracle = reference.MoCoReference(
        start,
        np.float64(model.queue.features),
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
        sgd_momentum=SGD_MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        symmetric=symmetric,
        groups=reference.contiguous(BATCH, replicas) if replicas > 1 else reference.interleaved(BATCH, SPLITS),
    )
    batches = make_views(STEPS, BATCH)
    # One step per epoch: the history then holds every step's own loss.
    history = model.fit(tf.data.Dataset.from_tensor_slices(batches), epochs=STEPS, steps_per_epoch=1, verbose=0)
    expected = []
    for step in range(STEPS):
        # The order is an input of the oracle: which random one is drawn is no part of the method.
        order = np.array(distribution.permutation(BATCH, SEED, step))
        query, key = (scaled(batches[view][step]) for view in ("query", "key"))
        expected.append(oracle.step(query, key, RATES[step], permutation=order))
    return model, history.history["loss"], oracle, expected


@pytest.mark.parametrize(
    "batch_norm, replicas",
    [(False, 1), (True, 1), (False, 2), (True, 2)],
    ids=["plain", "split batch norm", "two replicas", "shuffled batch norm on two replicas"],
)
@pytest.mark.parametrize("symmetric", [False, True], ids=["one direction", "symmetric"])
def test_twenty_steps_equal_the_numpy_reference(symmetric, batch_norm, replicas):
    model, losses, oracle, expected_losses = train_both(symmetric, batch_norm, replicas)

    def check(name, variable, expected):
        np.testing.assert_allclose(np.array(variable), expected, rtol=1e-5, atol=1e-5, err_msg=name)

    check("loss", losses, expected_losses)
    check("queue", model.queue.features, oracle.queue)
    enqueued = STEPS * BATCH * (2 if symmetric else 1)
    assert int(model.queue.pointer) == oracle.pointer == enqueued % QUEUE != 0
    for side, encoder, expected in [
        ("query", model.query_encoder, oracle.query),
        ("key", model.key_encoder, oracle.key),
    ]:
        # The key encoder's are marked as not trainable, so that the name tells parameters from statistics.
        parameters = [w for w in encoder.weights if not w.name.startswith("moving_")]
        for variable, name in zip(parameters, expected, strict=True):
            check(f"{name} of the {side} encoder", variable, expected[name])
    for variable, name in zip(model.optimizer.velocities, oracle.velocity, strict=True):
        check(f"velocity of {name}", variable, oracle.velocity[name])
    if batch_norm:
        for side, encoder, expected in [
            ("query", model.query_encoder, oracle.query_statistics),
            ("key", model.key_encoder, oracle.key_statistics),
        ]:
            mean, variance = (w for w in encoder.weights if w.name.startswith("moving_"))
            check(f"moving mean of the {side} encoder", mean, expected["mean"])
            check(f"moving variance of the {side} encoder", variance, expected["variance"])


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "split batch norm"])
def test_the_comparison_is_about_numbers_that_moved(batch_norm):
    _, losses, oracle, _ = train_both(symmetric=False, batch_norm=batch_norm)
    start = make_start(batch_norm)
    for name, value in start.items():
        # Batch norm takes any offset out again, so that only weight decay moves a bias before it.
        least = 1e-3 if batch_norm and name == "b1" else 1e-2
        assert np.abs(oracle.query[name] - value).max() > least, name
        assert np.abs(oracle.query[name] - oracle.key[name]).max() > least / 10, name
    assert np.ptp(losses) > 0.1
