"""Classes that the configuration of a Keras model may name: Keras's own, and those that this program has registered.

Keras builds any class that a configuration names, and may import its module. Its safe mode refuses lambdas; other
classes that read files or load models pass in some versions and not in others (keras-team/keras#23654).
"""

import sys

import keras

from keras_moco.errors import UserError

DEEPEST = 100
# Layers called while a model is built: models nested in models multiply the calls.
MOST_CALLS = 100_000
# Keras's names for values, not classes. `__lambda__` is missing here: its value is code.
VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
NUMBERS = {"bool", "float16", "bfloat16", "float32", "float64"}
NUMBERS |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
# Modules of functions that only compute. Keras also calls them "builtins".
FUNCTIONS = ("activations",)
TRAINING_FUNCTIONS = ("activations", "losses", "metrics")
MAKERS = {"get", "deserialize", "serialize"}
# They run code, load another model, or read a file that they name, such as a vocabulary.
NAMES_REFUSED = {
    *("Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"),
    *("StringLookup", "IntegerLookup", "TextVectorization", "IndexLookup"),
}
# Plain settings of quantized models, which earlier versions of Keras do not have.
QUANTIZATION = tuple(
    getattr(keras.quantizers, name)
    for name in ("Int8QuantizationConfig", "Int4QuantizationConfig", "Float8QuantizationConfig", "AbsMaxQuantizer")
    if hasattr(keras.quantizers, name)
)
REFUSED = (
    *(getattr(keras.layers, name) for name in NAMES_REFUSED if hasattr(keras.layers, name)),
    *keras.layers.StringLookup.__bases__,
)
KINDS = (
    *(keras.Operation, keras.DTypePolicy, keras.Initializer, keras.Regularizer, keras.constraints.Constraint),
    *QUANTIZATION,
)
# Only in `compile_config`: a metric creates its variables at once, as many as its configuration says.
TRAINING_KINDS = (
    *KINDS,
    *(keras.Optimizer, keras.optimizers.schedules.LearningRateSchedule, keras.Loss, keras.Metric),
)


def check_config(config, path):
    """Refuses the configuration of a model that names anything but known classes. Nothing is built or imported.

    Args:
        config: dict, the content of `config.json`. `compile_config` is skipped, since nothing is compiled.
        path: path of the file, for messages.

    Raises:
        ValueError: if it names anything else, or is nested deeper than any model.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise UserError(
            "A .keras file must describe a model. "
            f"Received: {path} with a {type(config).__name__} that names no class. Save it again."
        )
    config = {name: value for name, value in config.items() if name != "compile_config"}
    for part, is_compiling in _parts(config):
        named = _foreign(part, is_compiling) if "class_name" in part else ""
        if not named and "inbound_nodes" in part and not _is_only_planned(part["inbound_nodes"]):
            named = f"a layer {part.get('name')} that computes while it is built"
        if named:
            raise UserError(
                "A .keras file must consist of layers of Keras, and of classes that this program has registered, "
                f"and hold no code. Received: {path} with {named}; nothing of it was run. "
                "Save it without that, or import the module that registers its classes first."
            )
    if (calls := _calls(config)) > MOST_CALLS:
        raise UserError(
            f"A .keras file must call its layers at most {MOST_CALLS:,} times while it is built. "
            f"Received: {path} with models in models, and {calls:,} calls. Do not use this file."
        )


def _parts(config):
    """All dicts in a configuration, itself included, and whether each belongs to a `compile_config`."""
    # Not by recursion, whose depth Python limits.
    waiting = [(config, 0, False)]
    while waiting:
        part, depth, is_compiling = waiting.pop()
        if depth > DEEPEST:
            raise RecursionError
        if isinstance(part, dict):
            yield part, is_compiling
            is_object = "class_name" in part and "config" in part
            waiting += [
                (value, depth + 1, is_compiling or is_object and name == "compile_config")
                for name, value in part.items()
            ]
        elif isinstance(part, list):
            waiting += [(value, depth + 1, is_compiling) for value in part]


def _calls(part):
    """The number of calls of layers while something is built; each call of a layer calls the layers in it."""
    if isinstance(part, list):
        return sum(map(_calls, part))
    if not isinstance(part, dict):
        return 0
    calls = sum(_calls(value) for name, value in part.items() if name != "inbound_nodes")
    nodes = part.get("inbound_nodes")
    return (calls + ("class_name" in part)) * (max(1, len(nodes)) if isinstance(nodes, list) else 1)


def _is_only_planned(nodes):
    """Whether all calls of a layer take outputs of other layers: a call with numbers alone would compute at once."""
    return isinstance(nodes, list) and all(
        isinstance(node, dict) and any(part.get("class_name") == "__keras_tensor__" for part, _ in _parts(node))
        for node in nodes
    )


def _foreign(part, is_compiling):
    """What in the configuration of one object is not known to be harmless, in words; empty if it is harmless."""
    name, module = part["class_name"], part.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        return "an object without a name"
    if name in VALUES:
        value = part.get("config")
        kind = value.get("dtype", "float32") if isinstance(value, dict) else "float32"
        return "" if name == "__keras_tensor__" or kind in NUMBERS else f"an array of {kind!r}"
    if name == "function":
        return _foreign_function(part.get("config"), module, is_compiling)
    # Keras takes the first of these two, and imports the module if it finds neither. In other places it looks for the
    # name alone, which must be harmless too.
    taken = [_registered(part.get("registered_name", name)), _of_keras(module, name)]
    found = [each for each in (*taken, _registered(name)) if each is not None]
    is_known = taken != [None, None] and name not in NAMES_REFUSED
    is_known = is_known and all(_is_harmless(each, is_compiling) for each in found)
    return "" if is_known else f"{name} of {module or 'nowhere'}"


def _registered(name):
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None


def _of_keras(module, name):
    """What a loaded module of Keras has under a name; `None` for any other module or name."""
    is_keras = module is not None and module.partition(".")[0] == "keras"
    return getattr(sys.modules.get(module), name, None) if is_keras else None


def _is_harmless(found, is_compiling):
    if not isinstance(found, type):
        return callable(found) and not _is_of_keras(found)
    if issubclass(found, REFUSED):
        return False
    return not _is_of_keras(found) or issubclass(found, TRAINING_KINDS if is_compiling else KINDS)


def _is_of_keras(found):
    return (getattr(found, "__module__", None) or "").partition(".")[0] == "keras"


def _foreign_function(name, module, is_compiling):
    if not isinstance(name, str):
        return "a function without a name"
    allowed = TRAINING_FUNCTIONS if is_compiling else FUNCTIONS
    homes = [home for home in allowed if module in ("builtins", f"keras.{home}")]
    functions = [getattr(keras, home) for home in homes if name not in MAKERS and not name.startswith("_")]
    found = [getattr(home, name, None) for home in functions]
    known = _registered(name) is not None or any(callable(each) and not isinstance(each, type) for each in found)
    return "" if known else f"the function {name} of {module or 'nowhere'}"
