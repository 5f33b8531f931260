import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import KnnMonitor, RepresentationMonitor
from keras_moco.evaluation import representation_measures
from tests.small_encoder import SHAPE
from tests.small_training import batches, make_model, state, variables

RNG = np.random.default_rng(0)
QUERIES = RNG.uniform(0, 255, (50, *SHAPE)).astype("float32")
KEYS = np.clip(QUERIES + RNG.normal(0, 30, QUERIES.shape), 0, 255).astype("float32")
NAMES = ("alignment", "uniformity", "effective_rank")


def pairs():
    """Fifty pairs, the last batch smaller."""
    return tf.data.Dataset.from_tensor_slices({"query": QUERIES, "key": KEYS}).batch(16)


def by_hand(model, features="embedding"):
    """The pure functions, of features computed outside of any graph."""
    embed = {"embedding": model.encoder, "backbone": model.encoder.features}[features]
    return representation_measures(*(embed(images, training=False).numpy() for images in (QUERIES, KEYS)))


@pytest.mark.parametrize("features", ["embedding", "backbone"])
def test_the_current_features_are_measured_after_each_epoch(features, model):
    monitor = RepresentationMonitor(pairs(), features=features)
    monitor.set_model(model)
    extractor, kernel, seen = monitor.extractor, model.encoder.variables[0], []
    for epoch in range(2):
        kernel.assign(np.random.default_rng(epoch).normal(size=kernel.shape))
        monitor.set_model(model)  # as each `fit` does
        monitor.on_epoch_end(epoch, logs := {"feature_std": 0.5, "loss": 1.0})
        # float32 sums of another order: 1e-6 of a similarity, more of what is left of alike ones.
        expected = {name: getattr(by_hand(model, features), name) for name in NAMES}
        assert logs == pytest.approx({"feature_std": 0.5, "loss": 1.0, **expected}, rel=1e-4)
        assert all(type(logs[name]) is float for name in NAMES)
        seen.append(logs["alignment"])
    assert seen[0] != pytest.approx(seen[1], rel=1e-2)
    assert monitor.extractor is extractor  # whose graph is traced once


def test_measuring_changes_nothing(model):
    labelled = tf.data.Dataset.from_tensor_slices(
        {"image": QUERIES, "label": np.arange(50) % 2, "index": np.arange(50)}
    )
    monitors = [KnnMonitor(labelled.batch(16), labelled.batch(16), 2, k=5), RepresentationMonitor(pairs())]
    first, found = [np.array(variable) for variable in variables(model)], []
    for callbacks in (monitors, []):
        for variable, value in zip(variables(model), first, strict=True):
            variable.assign(value)
        model.fit(batches(), steps_per_epoch=2, epochs=2, verbose=0, callbacks=callbacks)
        found.append(state(model))
    assert found[0] == found[1]


def test_several_replicas_are_measured_as_one():
    monitor = RepresentationMonitor(pairs())
    monitor.set_model(model := make_model(replicas=2))
    assert monitor.evaluate() == pytest.approx(by_hand(model), rel=1e-4)


def test_tuples_that_begin_with_views_are_measured_like_these(model):
    found = []
    for form in (pairs(), pairs().map(lambda views: (views,)), pairs().map(lambda views: (views, 0))):
        monitor = RepresentationMonitor(form)
        monitor.set_model(model)
        found.append(monitor.evaluate())
    assert found[0] == found[1] == found[2] == pytest.approx(by_hand(model), rel=1e-4)


def test_what_the_encoder_does_not_take_is_refused_before_the_first_step(model):
    for dataset, received in ((pairs().unbatch(), r"shape \(8, 4, 3\)"), (pairs().map(cut), r"\(3, 4, 3\)")):
        with pytest.raises(ValueError, match=rf"\A.* must .*Received: .*{received}.*\Z"):
            model.fit(batches(), steps_per_epoch=1, verbose=0, callbacks=[RepresentationMonitor(dataset)])
        assert model.steps_done == 0


def cut(views):
    return {name: view[:, :3] for name, view in views.items()}


def test_data_without_pairs_or_an_end_are_refused():
    for dataset, received in (
        ({"query": QUERIES, "key": KEYS}, "a dict"),
        (pairs().map(lambda batch: {"query": batch["query"]}), r"\['query'\]"),
        (pairs().map(lambda batch: (batch["query"], batch["key"])), "tuple"),
        (pairs().repeat(), "infinite"),
    ):
        with pytest.raises(ValueError, match=f"Received: .*{received}"):
            RepresentationMonitor(dataset)


def test_similarities_of_the_first_images_are_kept_for_epochs_that_are_measured(model, monkeypatch):
    monkeypatch.setattr("keras_moco.callbacks.representation_monitor.COMPARED", 20)
    monitor = RepresentationMonitor(pairs(), every_epochs=2)
    monitor.set_model(model)
    monitor.on_epoch_begin(0)
    monitor.on_epoch_end(0, {})
    assert monitor.distributions == {}
    monitor.on_epoch_begin(1)
    monitor.on_epoch_end(1, logs := {})
    queries, keys = (model.encoder(images[:20], training=False).numpy() for images in (QUERIES, KEYS))
    np.testing.assert_allclose(monitor.distributions["similarities/positive"], np.sum(queries * keys, 1), atol=1e-5)
    assert len(monitor.distributions["similarities/negative"]) == 20 * 19
    assert not monitor.distributions.keys() & logs.keys()  # TensorBoard shows one kind of thing under one name
    monitor.on_epoch_begin(2)
    assert monitor.distributions == {}
