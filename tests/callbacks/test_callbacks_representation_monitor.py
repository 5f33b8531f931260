import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco.callbacks import EpochLog, RepresentationMonitor
from keras_moco.evaluation import representation_measures
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD
from tests.small_training import strategy_of

NAMES = ("alignment", "uniformity", "effective_rank")
RNG = np.random.default_rng(0)
QUERIES = RNG.uniform(0, 255, (50, 4, 4, 1)).astype("float32")
KEYS = np.clip(QUERIES + RNG.normal(0, 30, QUERIES.shape), 0, 255).astype("float32")


def pairs(batch_size=16, **more):
    """Fifty pairs, the last batch smaller."""
    return tf.data.Dataset.from_tensor_slices({"query": QUERIES, "key": KEYS, **more}).batch(batch_size)


def views():
    return tf.data.Dataset.from_tensor_slices({"query": QUERIES[:32], "key": KEYS[:32]}).batch(16, True)


def small_moco(learning_rate=0.5, replicas=1):
    keras.utils.set_random_seed(0)
    with strategy_of(replicas).scope():
        backbone = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(6, 3), layers.BatchNormalization()])
        model = MoCo(Encoder(backbone, linear_head(6, 5), mean=0.3, std=0.3), queue_size=32)
        model.compile(optimizer=SGD(learning_rate))
        model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def model():
    """One that no test trains."""
    return small_moco()


def by_hand(model, features="embedding"):
    """The pure functions, of features computed outside of any graph."""
    embed = {"embedding": model.encoder, "backbone": model.encoder.features}[features]
    return representation_measures(*(embed(images, training=False).numpy() for images in (QUERIES, KEYS)))


def evaluate(model, *args, **settings):
    monitor = RepresentationMonitor(*args, **settings)
    monitor.set_model(model)
    return monitor.evaluate()


@pytest.mark.parametrize("features", ["embedding", "backbone"])
def test_the_current_features_are_measured_after_each_epoch(features, tmp_path):
    model, expected = small_moco(), []
    monitor = RepresentationMonitor(pairs(), features=features)
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: expected.append(by_hand(model, features)))
    log = EpochLog(tmp_path / "log.csv")
    history = model.fit(views(), epochs=3, verbose=0, callbacks=[monitor, after, log]).history
    for name in NAMES:
        assert history[name] == pytest.approx([getattr(measures, name) for measures in expected], rel=1e-4)
        assert history[name] == [row[name] for row in log.log.values()]
        assert len(set(history[name])) == 3


def test_it_is_what_predict_gives_for_the_same_pairs(model):
    embeddings = (model.predict(images, verbose=0) for images in (QUERIES, KEYS))
    assert evaluate(model, pairs()) == pytest.approx(representation_measures(*embeddings), rel=1e-4)


def test_the_figure_of_the_training_step_stays_as_it_is(model):
    monitor = RepresentationMonitor(pairs())
    monitor.set_model(model)
    logs = {"feature_std": 0.5, "loss": 1.0}
    monitor.on_epoch_end(0, logs)
    assert logs.keys() == {"feature_std", "loss", *NAMES}
    assert (logs["feature_std"], logs["loss"]) == (0.5, 1.0)
    assert all(type(logs[name]) is float for name in NAMES)


@pytest.mark.parametrize(
    ("every", "first", "last", "epochs"), [(3, 0, 7, [2, 5, 6]), (2, 3, 6, [3, 5]), (5, 1, 2, [1])]
)
def test_every_so_many_epochs_of_the_whole_run_are_measured_and_the_last_one(every, first, last, epochs, model):
    monitor = RepresentationMonitor(pairs(), every_epochs=every)
    monitor.set_model(model)
    monitor.set_params({"epochs": last})
    logs = {epoch: {} for epoch in range(first, last)}
    for epoch in logs:
        monitor.on_epoch_end(epoch, logs[epoch])
    assert [epoch for epoch, figures in logs.items() if figures] == epochs


def test_a_collapsed_encoder_is_seen(model):
    collapsed = keras.models.clone_model(model.encoder)
    *_, kernel, bias = collapsed.head.weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.ones(bias.shape))
    model = MoCo(collapsed, queue_size=32)
    assert evaluate(model, pairs()) == pytest.approx((0, 0, 0, 1), abs=1e-4)


def test_views_that_are_alike_are_aligned_and_no_less_spread(model):
    same = evaluate(model, tf.data.Dataset.from_tensor_slices({"query": QUERIES, "key": QUERIES}).batch(16))
    assert same.alignment == 0
    assert same[1:] == pytest.approx(evaluate(model, pairs())[1:])


def test_batches_further_entries_and_the_type_of_images_do_not_matter(model):
    whole = evaluate(model, pairs(50))
    assert evaluate(model, pairs(7, index=np.arange(50))) == pytest.approx(whole, rel=1e-5)
    rounded = {"query": QUERIES.astype("uint8"), "key": KEYS.astype("uint8")}
    as_float = {name: images.astype("float32") for name, images in rounded.items()}
    bytes_, floats = (tf.data.Dataset.from_tensor_slices(views).batch(50) for views in (rounded, as_float))
    assert evaluate(model, bytes_) == evaluate(model, floats)


def test_one_trace_serves_all_epochs():
    model = small_moco()
    monitor = RepresentationMonitor(pairs())
    traces = []
    embed = type(model.encoder).call

    def counted(self, *args, **kwargs):
        traces.append(1)
        return embed(self, *args, **kwargs)

    monitor.set_model(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.encoder), "call", counted)
        first = monitor.evaluate()
        assert traces
        traces.clear()
        monitor.set_model(model)  # as `fit` does
        model.encoder.head.weights[-2].assign_add(np.eye(6, 5))
        assert monitor.evaluate() != first
        assert traces == []


def test_measuring_changes_nothing():
    def state(callbacks):
        model = small_moco(learning_rate=0.1)
        model.fit(views(), epochs=2, verbose=0, callbacks=callbacks)
        return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]

    assert state([RepresentationMonitor(pairs())]) == state([])


def test_several_replicas_are_measured_as_one():
    model = small_moco(replicas=2)
    monitor = RepresentationMonitor(pairs())
    history = model.fit(views(), epochs=1, verbose=0, callbacks=[monitor]).history
    expected = by_hand(model)
    assert [history[name][0] for name in NAMES] == pytest.approx([getattr(expected, name) for name in NAMES], rel=1e-4)


def test_a_mixed_precision_model_is_measured():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_moco()
    assert evaluate(model, pairs()) == pytest.approx(by_hand(model), rel=1e-2)


@pytest.mark.parametrize(
    "dataset, received",
    [
        (pairs().map(lambda batch: {"query": batch["query"]}), "['query']"),
        (pairs().map(lambda batch: (batch["query"], batch["key"])), "tuple"),
    ],
)
def test_what_is_no_pair_is_refused(dataset, received):
    with pytest.raises(ValueError) as error:
        RepresentationMonitor(dataset)
    assert str(error.value) == (
        f"Batches of `pairs` must be dictionaries with 'query' and 'key'. Received: {received}. "
        "Map your data set with `keras_moco.augment.two_views`."
    )


def test_pairs_without_an_end_are_refused():
    with pytest.raises(ValueError) as error:
        RepresentationMonitor(pairs().repeat())
    assert str(error.value) == (
        "`pairs` must be finite, or measuring never ends. Received: an infinite data set. Add `.take(16)` to it."
    )


def test_every_epochs_must_be_positive_and_features_known():
    with pytest.raises(ValueError, match="^`every_epochs` must be at least 1. Received: every_epochs=0."):
        RepresentationMonitor(pairs(), every_epochs=0)
    with pytest.raises(ValueError, match="^`features` must be one of embedding, backbone. Received: 'head'."):
        RepresentationMonitor(pairs(), features="head")


def test_similarities_of_the_first_images_are_there_for_the_epochs_that_are_measured(model, monkeypatch):
    monkeypatch.setattr("keras_moco.callbacks.representation_monitor.COMPARED", 20)
    monitor = RepresentationMonitor(pairs(), every_epochs=2)
    monitor.set_model(model)
    monitor.on_epoch_begin(0)
    monitor.on_epoch_end(0, {})
    assert monitor.distributions == {}
    monitor.on_epoch_begin(1)
    monitor.on_epoch_end(1, logs := {})
    queries, keys = (model.encoder(images[:20], training=False).numpy() for images in (QUERIES, KEYS))
    cosines = queries @ keys.T  # of unit vectors
    positive, negative = monitor.distributions["similarities/positive"], monitor.distributions["similarities/negative"]
    np.testing.assert_allclose(positive, np.diagonal(cosines), atol=1e-5)
    assert len(negative) == 20 * 19
    assert negative.sum() == pytest.approx(cosines.sum() - np.trace(cosines), abs=1e-3)
    assert not monitor.distributions.keys() & logs.keys()  # TensorBoard shows one kind of thing under one name
    monitor.on_epoch_begin(2)
    assert monitor.distributions == {}
