"""What MoCo promises around the formulas: who learns, who follows, what is saved, what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from keras.optimizers.schedules import CosineDecay

from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder, MoCo, linear_head, mlp_head
from keras_moco.optimizers import SGD

BATCH, SHAPE, DIM = 4, (4, 4, 3), 6


def make_encoder(head=mlp_head):
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(8, 3), SplitBatchNormalization(), layers.ReLU()], name="backbone"
    )
    return Encoder(backbone, head(8, DIM), mean=0.5, std=0.25, name="query_encoder")


def make_model(learning_rate=0.1, compile=None, encoder=None, **arguments):
    defaults = {"queue_size": 13, "momentum": 0.9, "temperature": 0.2, "bn_splits": 2}
    model = MoCo(encoder or make_encoder(), **{**defaults, **arguments})
    model.compile(optimizer=SGD(learning_rate, weight_decay=1e-3), **{"jit_compile": False, **(compile or {})})
    return model


def make_data(steps=3, seed=0):
    images = np.random.default_rng(seed).uniform(0, 255, (2, steps * BATCH, *SHAPE)).astype("float32")
    views = {"query": images[0], "key": images[1]}
    return tf.data.Dataset.from_tensor_slices(views).batch(BATCH, drop_remainder=True)


def a_batch(seed=0):
    return next(iter(make_data(1, seed)))


def values(variables):
    return [np.array(variable) for variable in variables]


def parameters(model):
    """Those of the query encoder, and the variables that follow them in the key encoder."""
    pairs = zip(model.query_encoder.weights, model.key_encoder.weights, strict=True)
    queries, keys = zip(*(pair for pair in pairs if pair[0].trainable), strict=True)
    return values(queries), values(keys)


def statistics(encoder):
    """BatchNorm's moving mean and variance."""
    return values(w for w in encoder.weights if w.name.startswith("moving_"))


def assert_same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        if tolerance:
            np.testing.assert_allclose(one, other, **tolerance)
        else:
            np.testing.assert_array_equal(one, other)


def state(model):
    """All that the next step depends on; the averages of the logs are not among it."""
    parts = (model.query_encoder, model.key_encoder, model.queue)
    return values([*(w for part in parts for w in part.weights), model.step, *model.optimizer.variables])


# Who learns and who follows.


@pytest.mark.parametrize("head", [linear_head, mlp_head])
def test_the_key_encoder_starts_as_an_exact_copy_head_included(head):
    encoder = make_encoder(head)
    encoder(a_batch()["query"], training=True)  # moves the statistics away from their start
    model = make_model(encoder=encoder)
    assert len(model.key_encoder.weights) == 6 + len(encoder.head.weights)
    assert_same(values(model.key_encoder.weights), values(model.query_encoder.weights))
    shared = {id(w) for w in model.key_encoder.weights} & {id(w) for w in model.query_encoder.weights}
    assert not shared


def test_only_the_query_encoder_is_trainable_and_known_to_the_optimizer():
    model = make_model()
    expected = [id(w) for w in model.query_encoder.trainable_variables]
    assert [id(w) for w in model.trainable_variables] == expected
    assert model.key_encoder.trainable_variables == []
    model.train_step(a_batch())
    assert len(model.optimizer.velocities) == len(expected) == 8
    # Beside a velocity per parameter: the iteration and the learning rate.
    assert len(model.optimizer.variables) == 8 + 2


def test_gradient_reaches_the_queries_only():
    model, views = make_model(), a_batch()
    with tf.GradientTape() as tape:
        tape.watch([w.value for w in model.key_encoder.variables if w.dtype == "float32"])
        targets = model.encode_targets(views)
        [contrast] = model.contrast(views, targets)
        loss = ops.mean(ops.logsumexp(contrast.logits, axis=-1) - contrast.logits[:, 0])
    query, key = model.query_encoder.trainable_variables, model.key_encoder.variables
    gradients = tape.gradient(loss, [*query, *key])
    assert all(gradient is not None for gradient in gradients[: len(query)])
    assert all(gradient is None for gradient in gradients[len(query) :])


def test_the_key_encoder_normalises_by_its_batch_and_gathers_its_own_statistics():
    model = make_model(learning_rate=0.0, momentum=1.0)
    views = a_batch()
    before, queries_before = map(statistics, (model.key_encoder, model.query_encoder))
    batch_statistics = np.array(model.encode_targets(views)[0])
    moving_statistics = np.array(model.key_encoder(views["key"], training=False))
    assert np.abs(batch_statistics - moving_statistics).max() > 0.05
    for old, new in zip(before, statistics(model.key_encoder), strict=True):
        assert np.abs(new - old).min() > 1e-5
    assert_same(statistics(model.query_encoder), queries_before)


def test_with_momentum_0_the_key_encoder_is_the_query_encoder_of_the_step_before():
    model = make_model(momentum=0.0)
    for seed in range(3):
        learnt = values(model.query_encoder.trainable_variables)
        model.train_step(a_batch(seed))
        assert_same(parameters(model)[1], learnt)
        assert np.abs(values(model.query_encoder.trainable_variables)[0] - learnt[0]).max() > 1e-4


def test_with_momentum_1_the_key_encoder_stays():
    model = make_model(momentum=1.0)
    start = parameters(model)[1]
    model.fit(make_data(), verbose=0)
    assert_same(parameters(model)[1], start)


# The dictionary.


@pytest.mark.parametrize("symmetric", [False, True], ids=["one direction", "symmetric"])
def test_the_keys_of_a_batch_are_no_negatives_of_their_own_queries(symmetric):
    model, views = make_model(queue_size=8, symmetric=symmetric), a_batch()
    queue = np.array(model.queue.features)
    targets = model.encode_targets(views)
    contrasts = model.contrast(views, targets)
    for contrast in contrasts:
        expected = np.array(contrast.queries) @ queue.T / 0.2
        np.testing.assert_allclose(contrast.logits[:, 1:], expected, rtol=1e-4, atol=1e-5)
    losses = [np.mean(np.log(np.exp(c.logits).sum(axis=-1)) - np.array(c.logits)[:, 0]) for c in contrasts]
    # At the start eq. 2 changes nothing, so the whole step must report the loss of just these logits.
    np.testing.assert_allclose(model.train_step(views)["loss"], sum(losses), rtol=1e-5)
    keys = np.concatenate(targets)
    np.testing.assert_allclose(model.queue.features[: len(keys)], keys, rtol=1e-4, atol=1e-5)


def test_symmetric_reports_both_losses_and_enqueues_both_views():
    model = make_model(symmetric=True)
    for _ in range(2):
        logs = {name: float(value) for name, value in model.train_step(a_batch()).items()}
    assert logs["loss"] == pytest.approx(logs["loss_query_to_key"] + logs["loss_key_to_query"], rel=1e-5)
    assert logs["loss_query_to_key"] != logs["loss_key_to_query"]
    assert int(model.queue.count) == 2 * 2 * BATCH


def test_symmetric_moves_the_key_encoder_once_per_step():
    model = make_model(symmetric=True, momentum=0.5)
    model.train_step(a_batch())
    query, key = parameters(model)
    model.train_step(a_batch(1))
    expected = [0.5 * ours + 0.5 * theirs for ours, theirs in zip(key, query, strict=True)]
    assert_same(parameters(model)[1], expected, rtol=1e-6, atol=1e-7)


def test_one_direction_reports_no_loss_per_direction():
    model = make_model()
    assert not {"loss_query_to_key", "loss_key_to_query"} & model.train_step(a_batch()).keys()
    assert int(model.queue.count) == BATCH


def test_more_keys_per_step_than_the_queue_holds_are_refused():
    with pytest.raises(ValueError, match="Received: queue_size=7, keys per step=8. Raise `queue_size`"):
        make_model(queue_size=7, symmetric=True).fit(make_data(), verbose=0)


# The key encoder's momentum as a schedule.


def test_momentum_may_rise_on_a_cosine():
    start, steps = 0.9, 6
    model = make_model(momentum=CosineDecay(start, steps, alpha=1 / start))
    expected = [1 - (1 - start) * (1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)]
    for step, momentum in enumerate(expected):
        query, key = parameters(model)
        model.train_step(a_batch(step))
        moved = [momentum * ours + (1 - momentum) * theirs for ours, theirs in zip(key, query, strict=True)]
        assert_same(parameters(model)[1], moved, rtol=1e-5, atol=1e-6)


def test_the_momentum_that_a_step_used_is_logged():
    model = make_model(momentum=CosineDecay(0.9, 4, alpha=1 / 0.9))
    logged = []
    for step in range(4):
        model.reset_metrics()
        logged.append(float(model.train_step(a_batch(step))["key_momentum"]))
    expected = [1 - 0.1 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    np.testing.assert_allclose(logged, expected, rtol=1e-6)


# State.


@pytest.mark.parametrize("arguments", [{}, {"symmetric": True, "momentum": CosineDecay(0.9, 9, alpha=1 / 0.9)}])
def test_a_saved_model_goes_on_bit_for_bit(tmp_path, arguments):
    model = make_model(CosineDecay(0.1, 9), **arguments)
    model.fit(make_data(), verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert type(restored) is MoCo and type(restored.optimizer) is SGD
    ours, theirs = model.get_config(), restored.get_config()
    assert {name: ours[name] for name in ours if name != "encoder"} == {n: theirs[n] for n in ours if n != "encoder"}
    assert_same(state(restored), state(model))
    restored.compile(optimizer=restored.optimizer, jit_compile=False)
    histories = [each.fit(make_data(seed=1), verbose=0).history for each in (model, restored)]
    assert histories[0] == histories[1]
    assert_same(state(restored), state(model))


def test_the_model_embeds_with_the_query_encoder():
    model = make_model(learning_rate=0.5)
    model.fit(make_data(), verbose=0)
    images = a_batch()["query"]
    np.testing.assert_array_equal(model(images), model.query_encoder(images))
    np.testing.assert_allclose(model.predict(images, verbose=0), model.query_encoder(images), rtol=1e-5, atol=1e-6)
    assert np.abs(np.array(model(images)) - np.array(model.key_encoder(images))).max() > 1e-3


# How it is run.


def test_the_end_of_data_of_unknown_length_is_no_step():
    known, unknown = make_model(), make_model()
    for part in ("query_encoder", "key_encoder"):
        getattr(unknown, part).set_weights(getattr(known, part).get_weights())
    known.fit(make_data(3), epochs=2, verbose=0)
    with pytest.warns(UserWarning, match="ran out of data"):  # Keras's way of saying that the length was unknown
        unknown.fit(make_data(3).filter(lambda *_: True), epochs=2, verbose=0)
    assert int(unknown.step) == 6 and int(unknown.queue.count) == 24
    assert_same(state(unknown), state(known), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "compile",
    [
        {"steps_per_execution": 4},
        {"jit_compile": True},
        {"jit_compile": True, "steps_per_execution": 3},
        {"run_eagerly": True},
    ],
    ids=" and ".join,
)
def test_how_steps_are_executed_does_not_matter(compile):
    start, histories, states = make_encoder().get_weights(), [], []
    for arguments in ({}, compile):
        encoder = make_encoder()
        encoder.set_weights(start)
        model = make_model(encoder=encoder, compile=arguments)
        histories.append(model.fit(make_data(8), epochs=2, verbose=0).history)
        states.append(state(model))
    assert int(model.step) == 16
    # Accuracies are counts, which the last bit can tip.
    for name in histories[0].keys() - {"contrast_top1", "contrast_top5"}:
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert_same(states[1], states[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_with_the_queue_in_single(policy):
    keras.config.set_dtype_policy(policy)
    model = make_model()
    assert model.query_encoder.backbone.layers[0].compute_dtype == policy.removeprefix("mixed_")
    start = values(model.trainable_variables)
    history = model.fit(make_data(), epochs=2, verbose=0).history
    assert all(np.isfinite(logged).all() for logged in history.values())
    assert model.queue.features.dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(model.queue.features, axis=-1), np.ones(13), rtol=1e-5)
    assert all(np.isfinite(w).all() for w in values(model.weights))
    assert np.abs(values(model.trainable_variables)[0] - start[0]).max() > 0


def test_float16_scales_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    assert isinstance(make_model().optimizer, keras.optimizers.LossScaleOptimizer)


# What the logs tell.


def constant_encoder(embedding):
    """Every image becomes this one embedding."""
    encoder = Encoder(
        keras.Sequential([keras.Input(SHAPE), layers.Flatten()]), linear_head(int(np.prod(SHAPE)), len(embedding))
    )
    encoder.head.set_weights([np.zeros((int(np.prod(SHAPE)), len(embedding)), "float32"), np.float32(embedding)])
    return encoder


@pytest.mark.parametrize("seed", range(8))
def test_a_collapsed_encoder_is_told_by_the_logs(seed):
    embedding = np.random.default_rng(seed).normal(size=128)
    model = make_model(learning_rate=0.0, queue_size=BATCH, encoder=constant_encoder(embedding))
    model.train_step(a_batch())
    # From now on the queue holds nothing but that embedding: all similarities tie, rounding aside.
    model.reset_metrics()
    logs = {name: float(value) for name, value in model.train_step(a_batch()).items()}
    assert logs["contrast_top1"] == 0
    assert logs["feature_std"] == pytest.approx(0, abs=1e-5)
    assert logs["positive_similarity"] == pytest.approx(1, rel=1e-5)
    assert logs["negative_similarity"] == pytest.approx(1, rel=1e-5)
    assert logs["loss"] == pytest.approx(np.log(1 + BATCH), rel=1e-5)


def test_the_logs_are_what_they_say():
    rng = np.random.default_rng(0)
    model, views = make_model(queue_size=30), a_batch()
    rows = rng.normal(size=(30, DIM))
    model.queue.features.assign(np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True)))
    queue, keys = np.array(model.queue.features), np.array(model.encode_targets(views)[0])
    queries = np.array(model.query_encoder(views["query"], training=True))
    logs = {name: float(value) for name, value in model.train_step(views).items()}
    positive, negative = (queries * keys).sum(axis=-1), queries @ queue.T
    better = (negative >= positive[:, None]).sum(axis=-1)
    assert logs["contrast_top1"] == np.mean(better < 1) and logs["contrast_top5"] == np.mean(better < 5)
    assert logs["positive_similarity"] == pytest.approx(positive.mean(), abs=1e-5)
    assert logs["negative_similarity"] == pytest.approx(negative.mean(), abs=1e-5)
    assert logs["feature_std"] == pytest.approx(queries.std(axis=0).mean() * DIM**0.5, rel=1e-4)
    assert logs["queue_fill"] == pytest.approx(BATCH / 30)
    assert logs["key_momentum"] == pytest.approx(0.9)


# What is refused.


def as_tuple(views):
    return views["query"], views["key"]


def without_key(views):
    return {"query": views["query"], "label": views["key"]}


VIEWS = (
    "Batches must be dictionaries with 'query' and 'key'. Received: {}. "
    "Map your data set with `keras_moco.augment.two_views`."
)
SHAPES = (
    "All views must have one shape with a known batch size, which the replicas divide. "
    "Received: query {}, key {} on 1 replica(s). Batch with `drop_remainder=True`."
)


@pytest.mark.parametrize(
    "data, message",
    [
        (make_data().map(as_tuple), VIEWS.format("tuple")),
        (make_data().map(as_tuple).map(lambda query, key: query), VIEWS.format("SymbolicTensor")),
        (make_data().map(without_key), VIEWS.format("['label', 'query']")),
        (make_data().unbatch().batch(BATCH), SHAPES.format("(None, 4, 4, 3)", "(None, 4, 4, 3)")),
        (
            make_data().map(lambda views: {**views, "key": views["key"][:, :3]}),
            SHAPES.format("(4, 4, 4, 3)", "(4, 3, 4, 3)"),
        ),
    ],
    ids=["tuple", "images alone", "no key", "no drop_remainder", "two shapes"],
)
def test_other_batches_are_refused(data, message):
    with pytest.raises(ValueError) as error:
        make_model().fit(data, verbose=0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"momentum": -0.1}, "`momentum` must be in [0, 1]. Received: momentum=-0.1. The paper uses 0.999."),
        ({"momentum": 1.1}, "`momentum` must be in [0, 1]. Received: momentum=1.1. The paper uses 0.999."),
        (
            {"temperature": 0.0},
            "`temperature` must be positive. Received: temperature=0.0. MoCo v1 uses 0.07, v2 0.2.",
        ),
        ({"queue_size": 0}, "`size` must be a positive integer. Received: size=0. Give 1 or more."),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        make_model(**arguments)
    assert str(error.value) == message
