"""What Keras users do with models also works here: their losses, their backbones, their data, saving. Keras itself and
NumPy say what is right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_moco.export.backbone import standalone_backbone
from keras_moco.methods import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.networks import Encoder, linear_head
from keras_moco.networks.weights import duplicate
from keras_moco.optimizers import SGD
from keras_moco.runs.checkpoints import restore, save
from tests.small_training import strategy_of, without_autotune

BATCH, SHAPE, RATE = 8, (4, 4, 3), 0.1
METHODS = {
    "moco": lambda encoder: MoCo(encoder, queue_size=32, bn_mode="plain"),
    "end_to_end": lambda encoder: EndToEnd(encoder, bn_mode="plain", shared=False),
    "memory_bank": lambda encoder: MemoryBank(encoder, bank_size=32, num_negatives=16),
    "simclr": SimCLR,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*`build\\(\\)` was called on layer:UserWarning")


def views(images=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    query, key = rng.uniform(0, 255, (2, images, *SHAPE)).astype("float32")
    return {"query": query, "key": key, "index": np.arange(images)}


def batches(images=BATCH, seed=0):
    return without_autotune(tf.data.Dataset.from_tensor_slices(views(images, seed)).batch(BATCH, drop_remainder=True))


def encoder_of(*backbone_layers):
    backbone = keras.Sequential([keras.Input(SHAPE), *backbone_layers])
    return Encoder(backbone, linear_head(backbone.output_shape[-1], 8), mean=0, std=1)


def compiled(model, **settings):
    model.compile(SGD(RATE, momentum=0), **{"jit_compile": False, **settings})
    return model


def moco(make=lambda: [layers.Conv2D(5, 3)], **settings):
    """A model with the layers that a function makes: initial weights depend on the seed when a layer is made."""
    keras.utils.set_random_seed(0)
    made = MoCo(encoder_of(*make()), queue_size=32, **{"bn_mode": "plain", **settings})
    return compiled(made)


def slow_but(first, cases):
    """The first cases, and the others as slow ones."""
    return [case if place < first else pytest.param(case, marks=pytest.mark.slow) for place, case in enumerate(cases)]


# Losses of layers


def on_replicas(methods):
    """Each method on one replica; on two the first one, and the others as slow ones."""
    marks = [(), *[pytest.mark.slow] * (len(methods) - 1)]
    twice = [pytest.param(method, 2, marks=mark) for method, mark in zip(methods, marks, strict=True)]
    return [*((method, 1) for method in methods), *twice]


def one_step(method, replicas, layer):
    """Weights of the encoder before and after one step, and the loss."""
    keras.utils.set_random_seed(0)
    with strategy_of(replicas).scope():
        model = compiled(METHODS[method](encoder_of(*layer())))
    before = [np.array(weight) for weight in model.encoder.weights]
    loss = model.fit(batches(), verbose=0).history["loss"][0]
    return before, [np.array(weight) for weight in model.encoder.weights], loss


def a_convolution(l2=0.0):
    return lambda: [layers.Conv2D(5, 1, use_bias=False, kernel_regularizer=keras.regularizers.L2(l2) if l2 else None)]


@pytest.mark.parametrize("method, replicas", on_replicas(METHODS))
def test_weight_regularizers_are_added_once(method, replicas):
    (w, *_), (plain, *others), loss = one_step(method, replicas, a_convolution())
    _, (regularized, *same), regularized_loss = one_step(method, replicas, a_convolution(l2=0.3))
    kernels = 2 if method == "end_to_end" else 1  # two encoders are trained, identical at the start
    np.testing.assert_allclose(regularized_loss - loss, kernels * 0.3 * np.sum(w**2), rtol=1e-4)
    np.testing.assert_allclose(regularized, plain - RATE * 2 * 0.3 * w, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(same, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


class Added(layers.Layer):
    """Adds the mean square of what passes it to the loss, of each image for itself."""

    def call(self, inputs):
        self.add_loss(ops.mean(ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("method, replicas", on_replicas(METHODS)[:-1])  # SimCLR's on two replicas are refused
def test_what_layers_add_is_part_of_the_loss(method, replicas):
    (w, *_), (plain, *_), loss = one_step(method, replicas, a_convolution())
    _, (with_loss, *_), whole = one_step(method, replicas, lambda: [*a_convolution()(), Added()])
    # Of the views that pass with gradient: mean square of x W, whose gradient is 2 x^T x W / entries.
    passed = {"moco": ["query"], "memory_bank": ["query"]}.get(method, ["query", "key"])
    each, gradient = [], 0
    if method == "simclr":  # both views as one batch
        x = np.concatenate([views()[name] for name in passed]).reshape(-1, 3) / 255
        each, gradient = [np.mean((x @ w[0, 0]) ** 2)], 2 * x.T @ x @ w[0, 0] / (len(x) * 5)
    else:
        for name in passed:
            x = views()[name].reshape(-1, 3) / 255
            each.append(np.mean((x @ w[0, 0]) ** 2))
            gradient = gradient + (name == "query") * 2 * x.T @ x @ w[0, 0] / (len(x) * 5)
    np.testing.assert_allclose(whole - loss, sum(each), rtol=1e-3)
    np.testing.assert_allclose(with_loss[0, 0], plain[0, 0] - RATE * gradient, rtol=1e-3, atol=1e-6)


def test_both_looks_of_a_symmetric_step_add_to_the_loss():
    def loss(*more):
        model = moco(lambda: [*a_convolution()(), *more], symmetric=True)
        return model.fit(batches(), verbose=0).history["loss"][0]

    w = np.array(moco(a_convolution()).encoder.weights[0])[0, 0]
    added = [np.mean((views()[name].reshape(-1, 3) / 255 @ w) ** 2) for name in ("query", "key")]
    np.testing.assert_allclose(loss(Added()) - loss(), sum(added), rtol=1e-3)


def test_activity_regularizers_are_a_mean_over_images():
    """As Keras's: the sum over a batch, divided by its size."""

    def loss(l2):
        regularizer = keras.regularizers.L2(l2) if l2 else None
        model = moco(lambda: [layers.Conv2D(5, 1, activity_regularizer=regularizer)])
        return model.fit(batches(), verbose=0).history["loss"][0]

    w = np.array(moco(lambda: [layers.Conv2D(5, 1)]).encoder.weights[0])[0, 0]
    expected = 0.01 * np.sum((views()["query"].reshape(-1, 3) / 255 @ w) ** 2) / BATCH
    np.testing.assert_allclose(loss(0.01) - loss(0), expected, rtol=1e-3)


def test_what_replicas_would_overwrite_is_refused():
    with pytest.raises(ValueError, match="BatchNorm is synchronized.*on 2 replicas"):
        one_step("simclr", 2, lambda: [layers.Conv2D(5, 1), layers.BatchNormalization(), Added()])


# The user's backbone


@pytest.mark.parametrize("norm", [layers.LayerNormalization, layers.BatchNormalization])
def test_the_backbone_is_trained_itself_and_stays_what_it_was(norm):
    backbone = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3), norm(), layers.ReLU()])
    before, config = backbone.get_weights(), backbone.get_config()
    model = compiled(MoCo(Encoder(backbone, linear_head(6, 8)), queue_size=32, bn_mode="split", bn_splits=4))
    model.fit(batches(16), verbose=0)
    assert model.encoder.backbone is backbone and backbone.get_config() == config
    assert not any(np.array_equal(old, new) for old, new in zip(before[:2], backbone.get_weights()[:2], strict=True))
    # Five images cannot be four groups: nothing is left of the groups of the training.
    images = views(5)["query"]
    hidden = np.array(backbone.layers[0](images))
    mean, std = hidden.mean(axis=(0, 1, 2)), hidden.std(axis=(0, 1, 2))
    if norm is layers.BatchNormalization:
        weights = {weight.name: np.array(weight) for weight in backbone.layers[1].weights}
        expected = np.maximum((hidden - mean) / std * weights["gamma"] + weights["beta"], 0)
        np.testing.assert_allclose(backbone(images, training=True), expected, rtol=1e-2, atol=1e-3)


class Block(layers.Layer):
    """A layer of the user's, of several others."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.convolution, self.norm = layers.Conv2D(filters, 3), layers.BatchNormalization()

    def call(self, images, training=False):
        return ops.relu(self.norm(self.convolution(images), training=training))


class Network(keras.Model):
    def __init__(self, filters=6):
        super().__init__()
        self.block, self.drop = Block(filters), layers.Dropout(0.1)
        self(keras.Input(SHAPE))

    def call(self, images, training=False):
        return self.drop(self.block(images, training=training), training=training)


def functional(*backbone_layers):
    image = tensor = keras.Input(SHAPE)
    for layer in backbone_layers:
        tensor = layer(tensor)
    return keras.Model(image, tensor)


BACKBONES = {
    "subclassed": Network,
    "lambda": lambda: functional(layers.Conv2D(6, 3), layers.Lambda(lambda maps: 2 * maps)),
    "nested": lambda: functional(keras.Sequential([keras.Input(SHAPE), Block(5), layers.Lambda(ops.relu)])),
    "BatchNorm over rows": lambda: functional(layers.Conv2D(6, 3), layers.BatchNormalization(axis=1)),
    "layer of several": lambda: functional(Block(6)),
    "tokens": lambda: functional(Block(6), layers.Reshape((4, 6))),
    "built later": lambda: built(keras.Sequential([layers.Conv2D(6, 3), layers.BatchNormalization()])),
    "partly frozen": lambda: functional(layers.Conv2D(5, 1, trainable=False), layers.Conv2D(6, 3)),
}


def built(model):
    model.build((None, *SHAPE))
    return model


@pytest.mark.parametrize("kind", slow_but(4, BACKBONES))
def test_any_keras_model_is_a_backbone(kind):
    backbone = BACKBONES[kind]()
    features = 5 if kind == "nested" else 6
    model = compiled(MoCo(Encoder(backbone, linear_head(features, 8)), queue_size=32, momentum=0.9, bn_splits=4))
    query, key = model.query_encoder.weights, model.key_encoder.weights
    assert not {id(weight) for weight in query} & {id(weight) for weight in key}
    for ours, theirs in zip(query, key, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before = [np.array(weight) for weight in query]
    frozen = [not weight.trainable and "moving" not in weight.name for weight in query]
    model.fit(batches(16), verbose=0)
    changed = [not np.array_equal(old, new) for old, new in zip(before, query, strict=True)]
    assert changed == [not still for still in frozen]
    # Two steps: the key encoder has moved once, by a tenth of the first gradient step.
    moved = [not np.array_equal(old, new) for old, new in zip(before, key, strict=True)]
    assert moved == changed


class Hands(layers.Layer):
    """Hands its own layer over instead of describing it."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, images):
        return self.inner(images)


class HandsOver(Hands):
    def get_config(self):
        return {**super().get_config(), "inner": self.inner}


def test_backbones_that_cannot_be_made_again_are_refused():
    for kind, received in ((Hands, "'hands' of class Hands.*`get_config`"), (HandsOver, "hands over .*kernel itself")):
        encoder = Encoder(functional(kind(layers.Conv2D(6, 3), name="hands")), linear_head(6, 8))
        with pytest.raises(ValueError, match=received):
            MoCo(encoder, queue_size=32)
        SimCLR(encoder)  # which needs no second one


def test_random_layers_draw_other_numbers_for_keys():
    encoder = encoder_of(layers.Flatten(), layers.Dropout(0.5, seed=1))
    key_encoder = duplicate(encoder, "key_encoder")
    images = np.full((4, *SHAPE), 255.0, "float32")
    dropped, others = (np.array(each.features(images, training=True)) == 0 for each in (encoder, key_encoder))
    assert 0.3 < np.mean(dropped != others) < 0.7  # half of them, by chance


# Data


class Sequence(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


def parts():
    return [views(seed=seed) for seed in range(3)]


def joined():
    return {name: np.concatenate([part[name] for part in parts()]) for name in parts()[0]}


FORMS = {
    "PyDataset": lambda: Sequence(parts()),
    "generator": lambda: (part for part in parts()),
    "arrays in a tuple, with a rest": lambda: (
        {name: np.concatenate([array, array[:5]]) for name, array in joined().items()},
    ),
    "Dataset of tuples": lambda: tf.data.Dataset.from_generator(
        lambda: ((part,) for part in parts()),
        output_signature=({name: tf.TensorSpec(array.shape, array.dtype) for name, array in views().items()},),
    ),
    "arrays": lambda: {name: array[: 3 * BATCH] for name, array in joined().items()},
    "generator of tuples": lambda: ((part,) for part in parts()),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("form", slow_but(3, FORMS))
def test_fit_takes_what_keras_takes(form):
    expected = moco()
    whole = without_autotune(tf.data.Dataset.from_tensor_slices(joined()).batch(BATCH, drop_remainder=True))
    loss = expected.fit(whole, shuffle=False, verbose=0).history["loss"]
    found = moco()
    arrays = {"batch_size": BATCH} if form.startswith("arrays") else {}
    assert found.fit(FORMS[form](), shuffle=False, verbose=0, **arrays).history["loss"] == pytest.approx(loss, rel=1e-5)
    assert found.steps_done == 3
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_arrays_are_shuffled_again_in_every_epoch():
    order = []

    class Seen(MoCo):
        def encode_targets(self, views):
            tf.py_function(lambda index: order.append(index.numpy().tolist()), [views["index"]], [])
            return super().encode_targets(views)

    model = compiled(Seen(encoder_of(layers.Conv2D(5, 3)), queue_size=32, bn_mode="plain"), run_eagerly=True)
    model.fit(joined() | {"index": np.arange(24)}, batch_size=8, epochs=2, verbose=0)
    first, second = sum(order[:3], []), sum(order[3:], [])
    assert sorted(first) == sorted(second) == list(range(24)) and first != second != list(range(24))


def test_train_on_batch_is_a_step_of_fit():
    expected, found = moco(), moco()
    history = expected.fit(batches(), verbose=0).history
    logs = dict(zip(found.metrics_names, found.train_on_batch(views()), strict=True))
    assert logs == pytest.approx({name: value for name, [value] in history.items()}, rel=1e-5)
    assert found.steps_done == 1
    assert found.train_on_batch(views(), return_dict=True).keys() == history.keys()


def test_unusable_data_is_refused():
    def uneven():
        yield views()
        yield views(images=5)

    for data, received in (
        (views()["query"], "one array of shape \\(8, 4, 4, 3\\).*two_views"),
        ((part for part in []), "The generator must yield a batch"),
        ({"query": np.zeros((32, *SHAPE))}, "Received: \\['query'\\]"),
        (joined() | {"key": views()["key"]}, "24 in 'query', 8 in 'key'"),
        (views(images=5), "5 in 'query'.*batch_size=32"),
        (uneven(), "as many images as the first one, here 8 .* Received: 5. Omit"),
    ):
        model = moco()
        with pytest.raises(ValueError, match=received):
            model.fit(data, verbose=0)
    assert model.steps_done == 1  # of the generator, whose first batch was good


def test_images_that_were_scaled_are_refused_at_the_first_batch():
    scaled = {name: views()[name] / 255 for name in ("query", "key")}
    model = moco()
    for data in (scaled, tf.data.Dataset.from_tensors(scaled)):
        with pytest.raises(ValueError, match="`images` must have values in 0..255.*values from 0.0"):
            model.fit(data, verbose=0, **({"batch_size": BATCH} if data is scaled else {}))
    with pytest.raises(ValueError, match="`images` must have values in 0..255"):
        model.predict(scaled["query"], verbose=0)
    assert model.steps_done == 0
    dark = {name: np.zeros((BATCH, *SHAPE), "float32") for name in ("query", "key")}
    model.fit(dark, batch_size=BATCH, verbose=0)


# What is refused before the first step


def test_what_would_be_ignored_is_refused():
    model = moco()
    for settings, received in (
        ({"validation_data": views()}, "Received: validation_data"),
        ({"validation_split": 0.5}, "Received: validation_split"),
        ({"y": np.zeros(8)}, "Received: y"),
        ({"sample_weight": np.zeros(8), "class_weight": {0: 1.0}}, "Received: class_weight, sample_weight"),
    ):
        with pytest.raises(ValueError, match=received):
            model.fit(views(), batch_size=BATCH, verbose=0, **settings)
    with pytest.raises(ValueError, match="`evaluate` must not be called"):
        model.evaluate(views(), verbose=0)
    with pytest.raises(ValueError, match="Received: loss='mse', metrics=\\['accuracy'\\]"):
        model.compile("sgd", loss="mse", metrics=["accuracy"])
    with pytest.raises(ValueError, match="an optimizer. Received: none"):
        model.compile()
    model.trainable = False
    compiled(model)
    with pytest.raises(ValueError, match="everything is frozen"):
        model.fit(batches(), verbose=0)
    assert model.steps_done == 0


# Saving


def test_policy_and_loss_scale_are_saved(tmp_path):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3, dtype="mixed_float16")])
    encoder = Encoder(backbone, linear_head(6, 8), dtype="mixed_float16")
    model = compiled(MoCo(encoder, queue_size=32, dtype="mixed_float16"))
    model.fit(batches(24), verbose=0)
    model.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    assert [each.dtype_policy.name for each in (again, again.encoder)] == 2 * ["mixed_float16"]
    assert type(again.optimizer) is keras.optimizers.LossScaleOptimizer
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_frozen_stays_so(tmp_path):
    model = moco()
    model.encoder.backbone.trainable = False
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [w.path for w in again.trainable_variables] == [w.path for w in again.encoder.head.trainable_variables]
    model.encoder.trainable = False
    assert not Encoder.from_config(model.encoder.get_config()).trainable


# Logs


def test_feature_std_is_that_of_the_global_batch():
    logged = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(0)
        with strategy_of(replicas).scope():
            model = compiled(METHODS["moco"](encoder_of(layers.Conv2D(5, 3))))
        queries = np.array(model.encoder(views()["query"], training=True))
        logged.append(model.fit(batches(), verbose=0).history["feature_std"][0])
        np.testing.assert_allclose(logged[-1], queries.std(axis=0).mean() * 8**0.5, rtol=1e-4)


# State outside of the variables


def test_constants_of_normalization_follow_its_weights(tmp_path):
    images = views(32)["query"]
    norm = layers.Normalization()
    norm.adapt(images)
    encoder = Encoder(keras.Sequential([keras.Input(SHAPE), norm, layers.Conv2D(5, 3)]), linear_head(5, 8))
    key_encoder = duplicate(encoder, "key_encoder")
    scaled = (images - images.mean(axis=(0, 1, 2))) / images.std(axis=(0, 1, 2))
    convolution = encoder.backbone.layers[-1]
    expected = np.array(convolution(scaled)).mean(axis=(1, 2))
    for features in (encoder.features, key_encoder.features, standalone_backbone(encoder)):
        np.testing.assert_allclose(features(images), expected, rtol=1e-3, atol=1e-4)


def test_random_layers_continue_their_sequence_after_a_restore(tmp_path):
    def dropping():
        model = moco(lambda: [layers.Conv2D(5, 3), layers.Dropout(0.3)])
        model.optimizer.build(model.trainable_variables)
        return model

    whole = dropping()
    whole.fit(batches(32), shuffle=False, verbose=0)
    history = whole.fit(batches(32, seed=1), shuffle=False, verbose=0).history
    stopped = dropping()
    stopped.fit(batches(32), shuffle=False, verbose=0)
    save(stopped, tmp_path)
    resumed = dropping()
    restore(resumed, tmp_path)
    assert resumed.fit(batches(32, seed=1), shuffle=False, verbose=0).history == history


def test_batches_may_have_another_size_in_the_next_fit():
    model = moco()
    model.fit(batches(16), verbose=0)
    model.fit({name: array[:8] for name, array in views().items()}, batch_size=4, verbose=0)
    model.fit((part for part in parts()), steps_per_epoch=3, verbose=0)
    model.train_on_batch(views(5))
    assert model.steps_done == 2 + 2 + 3 + 1


def test_methods_leave_batch_norm_as_it_was():
    backbone = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(5, 3), layers.BatchNormalization()])
    config = backbone.get_config()
    first = compiled(MoCo(Encoder(backbone, linear_head(5, 8)), queue_size=32, bn_mode="split", bn_splits=4))
    compiled(SimCLR(Encoder(backbone, linear_head(5, 8)))).fit(batches(), verbose=0)
    assert backbone.get_config() == config and first.batch_norm.splits == 4


def test_keys_are_normalised_as_queries_where_the_backbone_is_frozen_later():
    model = moco(lambda: [layers.Conv2D(5, 3), layers.BatchNormalization()])
    model.encoder.backbone.trainable = False
    compiled(model)
    before = [np.array(weight) for weight in model.key_encoder.backbone.weights]
    model.fit(batches(16), verbose=0)
    for old, new in zip(before, model.key_encoder.backbone.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    model.encoder.backbone.trainable = True
    compiled(model).fit(batches(16), verbose=0)
    assert not any(
        np.array_equal(*pair) for pair in zip(before[-2:], model.key_encoder.backbone.weights[-2:], strict=True)
    )


def test_parts_and_images_that_do_not_fit_the_encoder_are_refused():
    backbone = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(5, 3)])
    for parts_of_it, received in (
        ((backbone, linear_head(7, 8)), r"inputs \(None, 7\), and 5 features"),
        ((backbone, None), "`head` must be a Keras model or layer. Received: None"),
        (("resnet50", linear_head(5, 8)), "`backbone` must be a Keras model or layer. Received: 'resnet50'"),
        ((backbone, keras.Sequential([layers.Dense(4), layers.Reshape((2, 2))])), r"output shape \(None, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=received):
            Encoder(*parts_of_it)
    model = moco()
    gray = {name: views()[name][..., :1] for name in ("query", "key")}
    with pytest.raises(ValueError, match=r"\(8, 4, 4, 1\) for an encoder of \(4, 4, 3\)"):
        model.fit(gray, batch_size=BATCH, verbose=0)
    with pytest.raises(ValueError, match=r", 4, 4\) for an encoder of \(4, 4, 3\)"):
        model.predict(gray["query"][..., 0], verbose=0)
    with pytest.raises(ValueError, match="two values per channel.*splits=8, batch=8"):
        dense = [layers.Flatten(), layers.Dense(5), layers.BatchNormalization()]
        moco(lambda: dense, bn_mode="split").fit(batches(), verbose=0)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given with endless data"):
        model.fit(batches().repeat(), verbose=0)
    with pytest.raises(ValueError, match="batch_size=4. Omit it"):
        model.fit(batches(), batch_size=4, verbose=0)
