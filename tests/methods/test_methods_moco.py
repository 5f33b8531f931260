"""What MoCo promises around its formulas: who learns, how the key momentum rises, what is logged and refused."""

import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay

from keras_moco.methods import MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import small_encoder
from tests.small_training import random_batches

BATCH, DIM = 4, 8


def make_model(encoder=None, learning_rate=0.1, **arguments):
    defaults = {"queue_size": 13, "momentum": 0.9, "temperature": 0.2, "bn_splits": 2}
    model = MoCo(encoder or small_encoder(batch_norm=True), **{**defaults, **arguments})
    model.compile(optimizer=SGD(learning_rate, weight_decay=1e-3), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def make_data(steps=3, seed=0):
    return random_batches(steps, BATCH, seed)


def a_batch(seed=0):
    return next(iter(make_data(1, seed)))


def values(variables):
    return [np.array(variable) for variable in variables]


def test_key_encoder_starts_as_an_exact_copy():
    encoder = small_encoder(batch_norm=True)
    encoder(a_batch()["query"], training=True)  # moves the statistics away from their start
    model = make_model(encoder)
    assert len(model.key_encoder.weights) == len(model.query_encoder.weights) == 6 + 2 + 2
    for ours, theirs in zip(model.key_encoder.weights, model.query_encoder.weights, strict=True):
        assert ours is not theirs
        np.testing.assert_array_equal(ours, theirs)
    assert list(map(id, model.trainable_variables)) == list(map(id, model.query_encoder.trainable_variables))


def test_gradient_reaches_the_queries_only():
    model, views = make_model(), a_batch()
    with tf.GradientTape() as tape:
        tape.watch([w.value for w in model.key_encoder.variables if w.dtype == "float32"])
        [contrast] = model.contrast(views, model.encode_targets(views))
        loss = tf.reduce_sum(contrast.logits[:, 0])
    query, key = model.query_encoder.trainable_variables, model.key_encoder.variables
    gradients = tape.gradient(loss, [*query, *key])
    assert all(gradient is not None for gradient in gradients[: len(query)])
    assert all(gradient is None for gradient in gradients[len(query) :])


def test_model_embeds_with_the_query_encoder():
    model = make_model(learning_rate=0.5)
    model.fit(make_data(), verbose=0)
    images = a_batch()["query"]
    # Compiled against eager, in float32.
    np.testing.assert_allclose(model.predict(images, verbose=0), model.query_encoder(images), rtol=1e-5, atol=1e-6)
    assert np.abs(np.array(model(images)) - np.array(model.key_encoder(images))).max() > 1e-3


def test_momentum_rises_on_a_schedule_and_is_logged():
    steps = 4
    model = make_model(momentum=CosineDecay(0.9, steps, alpha=1 / 0.9))
    for step in range(steps):
        momentum = 1 - 0.1 * (1 + np.cos(np.pi * step / steps)) / 2
        pairs = zip(model.query_encoder.weights, model.key_encoder.weights, strict=True)
        query, key = zip(*(pair for pair in pairs if pair[0].trainable), strict=True)
        old, new = values(key), values(query)
        model.reset_metrics()
        logged = model.train_step(a_batch(step))["key_momentum"]
        assert float(logged) == pytest.approx(momentum, rel=1e-6)
        for found, ours, theirs in zip(key, old, new, strict=True):
            np.testing.assert_allclose(found, momentum * ours + (1 - momentum) * theirs, rtol=1e-5, atol=1e-6)


def test_end_of_data_of_unknown_length_is_no_step():
    known, unknown = make_model(), make_model()
    for part in ("query_encoder", "key_encoder"):
        getattr(unknown, part).set_weights(getattr(known, part).get_weights())
    known.fit(make_data(), epochs=2, verbose=0)
    with pytest.warns(UserWarning, match="ran out of data"):  # by which Keras finds the length
        unknown.fit(make_data().filter(lambda *_: True), epochs=2, verbose=0)
    assert int(unknown.step) == 6 and int(unknown.queue.count) == 24
    for ours, theirs in zip(unknown.weights, known.weights, strict=True):
        # Two graphs, which may order sums differently.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=ours.path)


# Logs


def test_logs_are_what_they_say():
    rng = np.random.default_rng(0)
    model, views = make_model(queue_size=30), a_batch()
    rows = rng.normal(size=(30, DIM))
    model.queue.features.assign(np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True)))
    with model.batch_norm.grouping():
        queue, [keys] = np.array(model.queue.features), values(model.encode_targets(views))
    with model.batch_norm.grouping():
        queries = np.array(model.query_encoder(views["query"], training=True))
    logs = {name: float(value) for name, value in model.train_step(views).items()}
    positive, negative = (queries * keys).sum(axis=-1), queries @ queue.T
    better = (negative >= positive[:, None]).sum(axis=-1)
    assert logs.pop("contrast_top1") == np.mean(better < 1) and logs.pop("contrast_top5") == np.mean(better < 5)
    loss = np.log(np.exp(positive / 0.2) + np.exp(negative / 0.2).sum(axis=-1)) - positive / 0.2
    expected = {
        "loss": loss.mean(),
        "positive_similarity": positive.mean(),
        "negative_similarity": negative.mean(),
        "feature_std": queries.std(axis=0).mean() * DIM**0.5,
        "queue_fill": BATCH / 30,
        "key_momentum": 0.9,
    }
    assert logs == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_symmetric_logs_both_losses():
    model = make_model(symmetric=True)
    for _ in range(2):
        logs = {name: float(value) for name, value in model.train_step(a_batch()).items()}
    assert logs["loss"] == pytest.approx(logs["loss_query_to_key"] + logs["loss_key_to_query"], rel=1e-5)
    assert logs["loss_query_to_key"] != logs["loss_key_to_query"]


# What is refused


def test_other_batches_are_refused():
    for change, received in (
        (lambda query, key: (query, key), "Received: a tuple of 2. Map it"),
        (lambda query, key: {"query": query, "label": key}, "Received: ['label', 'query']"),
        (lambda query, key: {"query": query, "key": key[:, :3]}, "query (4, 4, 4, 3), key (4, 3, 4, 3) on 1 replica"),
    ):
        model = make_model()
        with pytest.raises(ValueError) as error:
            model.fit(make_data().map(lambda views, change=change: change(views["query"], views["key"])), verbose=0)
        assert received in str(error.value) and model.steps_done == 0


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"query \(None, 4, 4, 3\), key .* `drop_remainder=True`"):
        make_model().fit(make_data().unbatch().batch(BATCH), verbose=0)
    with pytest.raises(ValueError, match="queue_size=7, keys per step=8"):
        make_model(queue_size=7, symmetric=True).fit(make_data(), verbose=0)


def test_arguments_out_of_range_are_refused():
    for name, value in (("momentum", -0.1), ("momentum", 1.1), ("temperature", 0.0), ("temperature", float("nan"))):
        with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value}"):
            make_model(**{name: value})
