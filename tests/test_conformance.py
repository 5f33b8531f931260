"""Every public object goes through one matrix, or a reason says why not; `tests/registry.py` lists them.

| column | what holds |
| --- | --- |
| config | an object made from its configuration, which is JSON, has the same one |
| keras_file | a `.keras` file gives back an object that computes the same from the same state |
| graph | a `tf.function` gives what eager mode gives |
| mixed | under mixed_bfloat16 and mixed_float16 results are finite, near, and of the promised type |
| replicas | two replicas, each with half of the rows, give what one gives |
| xla | XLA gives what eager mode gives |
"""

import dataclasses
import functools
import importlib
import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_moco
from tests.registry import (
    BATCH,
    COLUMNS,
    MAKERS,
    MATRIX,
    MODULES,
    OUTSIDE,
    Whole,
    is_class,
    is_in_matrix_or_keras,
    public_names,
    public_object,
)

PACKAGE = Path(keras_moco.__file__).parent
KEPT = (keras.layers.Layer, keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule)


# The columns. Each is a function of an entry, and of a folder of its own, that raises.


def config(entry, folder):
    made = entry.part(entry.make())
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    if type(made).__module__.startswith("keras_moco."):
        assert _named_arguments(type(made)) <= made.get_config().keys()
    for again in (keras.saving.deserialize_keras_object(saved), type(made).from_config(made.get_config())):
        assert type(again) is type(made)
        assert _as_json(again) == _as_json(made)


def keras_file(entry, folder):
    made = entry.make()
    model, kept = _model_of(made, entry)
    entry.run(made, *_values(entry))  # so that optimiser, queue and bank have something to be saved
    for place, weight in enumerate(getattr(made, "weights", [])):
        if weight.dtype == "float32":
            weight.assign_add(np.full(weight.shape, 0.01 * (place + 1)))
    model.save(folder / "model.keras")
    loaded = kept(keras.models.load_model(folder / "model.keras"))
    assert type(loaded) is type(made)
    assert_close(entry.run(loaded, *_values(entry)), _numbers(entry.run(made, *_values(entry))), entry.tolerance)


def graph(entry, folder, **options):
    made = entry.make()
    run = tf.function(lambda *inputs: entry.run(made, *inputs), **options)
    assert_close(run(*map(tf.constant, _values(entry))), _eager(entry), entry.tolerance)


def xla(entry, folder):
    graph(entry, folder, jit_compile=True)


def mixed(entry, folder):
    for policy in ("mixed_bfloat16", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        found = entry.run(entry.make(), *_values(entry))
        keras.config.set_dtype_policy("float32")
        for ours, expected in zip(tf.nest.flatten(found), tf.nest.flatten(_eager(entry)), strict=True):
            half = entry.compute_dtype and expected.dtype.kind == "f"
            assert ours.dtype == (policy.removeprefix("mixed_") if half else expected.dtype)
            assert np.isfinite(np.asarray(ours, "float64")).all()
        assert_close(found, _eager(entry), entry.half_tolerance)


def replicas(entry, folder):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        made = entry.make()

    def share(value, replica):
        return value.value if isinstance(value, Whole) else np.split(value, 2)[replica]

    inputs = [
        strategy.experimental_distribute_values_from_function(
            lambda context, value=value: tf.constant(share(value, context.replica_id_in_sync_group))
        )
        for value in entry.inputs
    ]
    found = tf.function(lambda *inputs: strategy.run(entry.run, (made, *inputs)))(*inputs)
    expected = tf.nest.flatten(entry.expected() if entry.expected else _eager(entry))
    for ours, whole in zip(tf.nest.flatten(found), expected, strict=True):
        ours = [np.asarray(value) for value in strategy.experimental_local_results(ours)]
        if not entry.same and np.shape(whole)[:1] == (BATCH,):
            ours = [np.concatenate(ours)]
        for each in ours:
            assert_close(each, whole, entry.tolerance)


@keras.saving.register_keras_serializable(package="keras_moco_tests")
class Holder(keras.Model):
    """A model with a layer that is not called."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})


def _model_of(made, entry):
    """A model to save that holds what was made, and the function that finds it in a loaded one."""
    if entry.keep:
        return entry.keep(made), entry.kept
    if isinstance(made, keras.Model):
        return made, lambda model: model
    if type(made).call is keras.layers.Layer.call:
        return Holder(made), lambda model: model.layer
    return keras.Sequential([keras.Input(entry.inputs[0].shape[1:]), made]), lambda model: model.layers[0]


CHECKS = {check.__name__: check for check in (config, keras_file, graph, mixed, replicas, xla)}


@functools.cache
def _eager_by_name(name):
    keras.utils.set_random_seed(0)
    entry = MATRIX[name]
    return _numbers(entry.run(entry.make(), *_values(entry)))


def _eager(entry):
    """What one replica gives in eager mode, run once for all columns."""
    for name, other in MATRIX.items():
        if other is entry:
            return _eager_by_name(name)
    return _numbers(entry.run(entry.make(), *_values(entry)))


def _named_arguments(kind):
    return {name for name, p in inspect.signature(kind).parameters.items() if p.kind != p.VAR_KEYWORD}


def _as_json(made):
    return json.dumps(made.get_config(), sort_keys=True)


def _values(entry):
    return [value.value if isinstance(value, Whole) else value for value in entry.inputs]


def _numbers(structure):
    return tf.nest.map_structure(np.asarray, structure)


def assert_close(found, expected, tolerance):
    tf.nest.assert_same_structure(found, expected)
    for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype("float64"), theirs.astype("float64"), rtol=tolerance, atol=tolerance)


# The matrix.


def cells(exempt):
    return [
        pytest.param(entry, column, id=f"{name}-{column}")
        for name, entry in MATRIX.items()
        for column in entry.columns
        if (column in entry.exempt) == exempt
    ]


@pytest.mark.parametrize("entry, column", cells(exempt=False))
def test_conformance(entry, column, tmp_path):
    CHECKS[column](entry, tmp_path)


def assert_needed(entry, column, folder):
    """Fails for an exemption from what the object does fulfil."""
    try:
        CHECKS[column](entry, folder)
    except Exception:
        return
    pytest.fail(f"This exemption is no longer needed: {entry.exempt[column]}")


@pytest.mark.parametrize("entry, column", cells(exempt=True))
def test_an_exemption_is_needed(entry, column, tmp_path):
    assert_needed(entry, column, tmp_path)
    keras.config.set_dtype_policy("float32")


def test_an_exemption_that_is_not_needed_fails(tmp_path):
    entry = dataclasses.replace(MATRIX["schedules.Warmup"], exempt={"graph": "made up"})
    with pytest.raises(pytest.fail.Exception, match="no longer needed: made up"):
        assert_needed(entry, "graph", tmp_path)


# What is registered.


def test_everything_public_is_registered_and_nothing_else():
    registered = {name.split()[0] for name in MATRIX} | {name for kind in OUTSIDE for name in kind.names}
    public = set(public_names())
    assert public - registered == set(), "public, but in no registry"
    assert registered - public == set(), "registered, but not public"


def test_nothing_is_registered_twice():
    names = [*{name.split()[0] for name in MATRIX}, *(name for kind in OUTSIDE for name in kind.names)]
    assert len(names) == len(set(names))


def test_every_module_that_says_what_is_public_is_known():
    found = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        for path in PACKAGE.rglob("*.py")
        if "\n__all__ = " in path.read_text(encoding="utf-8")
    }
    assert found == {*MODULES, "__init__"}
    assert all("__all__" in vars(importlib.import_module(f"keras_moco.{module}")) for module in MODULES)


def test_the_package_itself_offers_public_names_only():
    public = [public_object(name) for name in public_names()]
    for name in keras_moco.__all__:
        assert any(getattr(keras_moco, name) is found for found in public), name


@pytest.mark.parametrize("name", MATRIX)
def test_an_entry_names_columns_that_there_are(name):
    entry = MATRIX[name]
    assert set(entry.exempt) <= set(entry.columns) <= set(COLUMNS)
    assert all(len(reason) > 20 for reason in entry.exempt.values())
    assert entry.columns == COLUMNS or not is_class(public_object(name.split()[0]), *KEPT)


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in OUTSIDE for name in kind.names])
def test_what_is_outside_of_the_matrix_is_there_for_a_reason_that_holds(kind, name):
    found = public_object(name)
    assert kind.holds(found), f"not so: {kind.reason}"
    assert kind.reason == "abstract" or not is_class(found, *KEPT)


@pytest.mark.parametrize("name", MAKERS)
def test_what_makes_an_object_makes_one_of_the_matrix_or_of_keras(name):
    assert is_in_matrix_or_keras(MAKERS[name](public_object(name)))
