"""Every public object goes through one matrix, or a reason says why not; `tests/registry.py` lists them.

| column | what holds |
| --- | --- |
| config | an object made from its configuration, which is JSON, has the same configuration |
| keras_file | an object loaded from a `.keras` file computes the same from the same state |
| graph | a `tf.function` computes what eager mode does; left to `xla` where that applies |
| mixed | under mixed_bfloat16 and mixed_float16 results are finite, near, and of the promised type |
| replicas | two replicas, each with half of the rows, compute what one does |
| xla | XLA computes what eager mode does |

The default tier has the layers, the models under XLA, and the column `config`; the other cells are slow.
`tests/methods/test_methods_reference.py` has each model on two replicas.
"""

import importlib
import inspect
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_moco
from tests import half_precision
from tests.registry import (
    BATCH,
    COLUMNS,
    INTERNALS,
    MATRIX,
    MODULES,
    TESTED_APART,
    Whole,
    is_class,
    is_outside,
    public_names,
    public_object,
)

PACKAGE = Path(keras_moco.__file__).parent
SAVED_BY_KERAS = (keras.layers.Layer, keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule)


# The columns: functions of an entry and of an empty folder, which raise if something does not hold.


def config(entry, folder):
    made = entry.part(entry.make())
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    if type(made).__module__.startswith("keras_moco."):
        named = {name for name, p in inspect.signature(type(made)).parameters.items() if p.kind != p.VAR_KEYWORD}
        assert named <= made.get_config().keys()
    for again in (keras.saving.deserialize_keras_object(saved), type(made).from_config(made.get_config())):
        assert type(again) is type(made)
        assert _as_json(again) == _as_json(made)


def keras_file(entry, folder):
    made = entry.make()
    model, find = _model_of(made, entry)
    entry.run(made, *_values(entry))  # so that optimizer, queue and bank have a state to be saved
    for place, weight in enumerate(getattr(made, "weights", [])):
        if weight.dtype == "float32":
            weight.assign_add(np.full(weight.shape, 0.01 * (place + 1)))
    model.save(folder / "model.keras")
    loaded = find(keras.models.load_model(folder / "model.keras"))
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
        half_precision.require(policy)
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
    for ours, whole in zip(tf.nest.flatten(found), tf.nest.flatten(_eager(entry)), strict=True):
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
    """A model that holds what was made, to be saved, and the function that finds it in a loaded model."""
    if isinstance(made, keras.Model):
        return made, lambda model: model
    if type(made).call is keras.layers.Layer.call:
        return Holder(made), lambda model: model.layer
    return keras.Sequential([keras.Input(entry.inputs[0].shape[1:]), made]), lambda model: model.layers[0]


CHECKS = {check.__name__: check for check in (config, keras_file, graph, mixed, replicas, xla)}
_eager_results = {}


def _eager(entry):
    """What one replica computes in eager mode, once for all columns."""
    if id(entry) not in _eager_results:
        keras.utils.set_random_seed(0)
        _eager_results[id(entry)] = _numbers(entry.run(entry.make(), *_values(entry)))
    return _eager_results[id(entry)]


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
    """Entries and columns as parameters; most are slow."""
    for name, entry in MATRIX.items():
        for column in entry.columns:
            if (column in entry.exempt) != exempt:
                continue
            if column == "graph" and "xla" in set(entry.columns) - set(entry.exempt):
                continue
            model = name.startswith(("methods.", "networks.")) and name != "networks.resnet"
            default = column == "config" or name.startswith("layers.") or (model and column == "xla")
            marks = [] if default or exempt else pytest.mark.slow
            yield pytest.param(entry, column, id=f"{name}-{column}", marks=marks)


@pytest.mark.parametrize("entry, column", list(cells(exempt=False)))
def test_conformance(entry, column, tmp_path):
    CHECKS[column](entry, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("entry, column", list(cells(exempt=True)))
def test_an_exemption_is_necessary(entry, column, tmp_path):
    try:
        CHECKS[column](entry, tmp_path)
    except Exception:
        return
    pytest.fail(f"This exemption is no longer needed: {entry.exempt[column]}")


# What is registered.


def unlisted():
    """Public objects without a row, and of no kind that needs none, by name."""
    names = {*public_names(), *INTERNALS} - {name.split()[0] for name in MATRIX}
    found = {name: public_object(name) for name in names if not name.startswith(TESTED_APART)}
    return {name: each for name, each in found.items() if not is_outside(each)}


def test_every_public_object_has_a_row_or_a_reason():
    assert {name.split()[0] for name in MATRIX} <= {*public_names(), *INTERNALS}
    assert not {*public_names()} & {*INTERNALS}
    assert [name for name, found in unlisted().items() if isinstance(found, type) or not callable(found)] == []
    for name, entry in MATRIX.items():
        assert set(entry.exempt) <= set(entry.columns) <= set(COLUMNS), name
        assert "config" in entry.columns or not is_class(public_object(name.split()[0]), *SAVED_BY_KERAS), name


@pytest.mark.slow
def test_functions_without_a_row_fail_in_a_graph():
    for name, function in unlisted().items():
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in required)
        with pytest.raises(Exception):  # noqa: B017, whatever fails
            tf.function(function).get_concrete_function(*[tf.TensorSpec((4, 4))] * count)
            pytest.fail(f"{name} computes with tensors: it needs a row of the matrix")


def test_every_module_with_public_names_is_registered():
    found = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        for path in PACKAGE.rglob("*.py")
        if "\n__all__ = " in path.read_text(encoding="utf-8")
    }
    assert {*MODULES, "__init__"} <= found
    for module in found - {*MODULES, "__init__"}:  # a file of a room, whose names the room makes public
        names, room = (
            importlib.import_module(f"keras_moco.{name}").__all__ for name in (module, module.rpartition(".")[0])
        )
        assert set(names) <= set(room), module
    public = [public_object(name) for name in public_names()]
    for name in keras_moco.__all__:
        assert any(getattr(keras_moco, name) is each for each in public), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["methods.MoCo", "methods.EndToEnd", "methods.MemoryBank", "methods.SimCLR"])
def test_compiled_step_has_static_shapes_only(name):
    """As a TPU wants it."""
    entry = MATRIX[name]
    made, inputs = entry.make(), [tf.constant(value) for value in entry.inputs]
    step = tf.function(lambda *inputs: entry.run(made, *inputs), jit_compile=True)
    step(*inputs)
    shapes = re.findall(r"[a-z]+\d+\[([^\]]*)\]", step.experimental_get_compiler_ir(*inputs)(stage="hlo"))
    assert len(shapes) > 200
    assert not [shape for shape in shapes if "<=" in shape or "?" in shape]
