"""Any backbone by its name: ours, keras.applications, KerasHub, a function of your own, or a `.keras` file."""

import difflib
import functools
import importlib
import inspect
from typing import Any, NamedTuple

import keras

from keras_moco.checks.calls import BACKBONE_FORM, is_backbone_form, read_call
from keras_moco.errors import UserError
from keras_moco.networks.encoder import Encoder, image_shape_of, scales_images
from keras_moco.networks.keras_file import load_keras
from keras_moco.networks.raw_values import takes_0_to_255
from keras_moco.networks.resnet import RESNETS, resnet
from keras_moco.networks.weights import clone
from keras_moco.storage.paths import user_path

# The networks that a configuration can name alone: functions of `width`, `stem` and `input_shape`. A name that is added
# to `RESNETS` is one too.
BACKBONES = {name: functools.partial(resnet, name) for name in RESNETS}
RANDOM = "random"


class Named(NamedTuple):
    """What a name stands for.

    Attributes:
        model: built `keras.Model` from images `(n, H, W, C)` to feature maps, tokens or features.
        scaling: dict, the arguments `mean` and `std` of the `Encoder` where the network decides them; otherwise empty.
    """

    model: keras.Model
    scaling: dict[str, Any]


def is_ours(name: str) -> bool:
    """Whether a name is that of a network which takes `width` and `stem`."""
    return name in BACKBONES or name in RESNETS


def backbone(
    name: str,
    input_shape: tuple[int | None, int | None, int],
    width: int = 64,
    stem: str = "imagenet",
    weights: str | None = None,
    fill: bool = True,
) -> Named:
    """A backbone by its name, for `Encoder(named.model, head, **named.scaling)`.

    Args:
        name: one of `BACKBONES`, such as `"resnet18"`; `"keras.applications:MobileNetV3Small"`; a class or a preset of
            KerasHub, such as `"keras_hub:resnet_50_imagenet"`; `"package.module:function"`, a function that takes
            `input_shape` and returns a model; or the path of a `.keras` file. All but the first and the last may be
            followed by arguments, `"package.module:function(depth=2)"`.
        input_shape: `(height, width, channels)` of the images.
        width, stem: as of `resnet`; for names in `BACKBONES` alone.
        weights: `"random"`; `"imagenet"` or the path of a weights file, of keras.applications; or `None`: those of a
            `.keras` file or a preset, otherwise random ones.
        fill: bool. Fill the model with these weights. `False` builds the same model, scaling included, with random
            ones. Defaults to `True`.

    Returns:
        `Named`.

    Raises:
        ValueError: for an unknown name, arguments, sizes or channels that the network does not take, or weights that
            are not there.

    Example:

    >>> named = backbone("keras.applications:MobileNetV3Small(alpha=0.35, minimalistic=True)", (32, 32, 1))
    >>> named.model.output_shape, named.scaling
    ((None, 1, 1, 192), {})
    """
    found = find(name, weights)
    if isinstance(found, Ours):
        return Named(found.make(width=width, stem=stem, input_shape=input_shape), {})
    named = found.build(tuple(input_shape), fill)
    _check_images(name, named.model, input_shape)
    if not named.scaling and scales_images(named.model):
        named = named._replace(scaling={"mean": None, "std": None})
    return named


def find(name, weights=None):
    """The form of a name, whose module, function, class and arguments are there; nothing is built.

    Raises:
        ValueError: as `backbone`.
    """
    if is_ours(name):
        return Ours(name, weights)
    if not is_backbone_form(name):
        near = near_match(name, {*BACKBONES, *RESNETS})
        raise UserError(
            f"`backbone` must be {', '.join(dict.fromkeys((*BACKBONES, *RESNETS)))}, {BACKBONE_FORM}. "
            f"Received: {name!r}. {near}Choose one of them."
        )
    if name.endswith(".keras"):
        return KerasFile(name, weights)
    call = read_call(name)
    return FORMS.get(call.place, OwnFunction)(call, weights)


class Ours:
    """A name in `BACKBONES` or `RESNETS`."""

    def __init__(self, name, weights):
        self.make = BACKBONES.get(name, functools.partial(resnet, name))
        if weights not in (None, RANDOM):
            raise UserError(
                "`backbone_weights` must be random for a network of this package, which comes without weights. "
                f"Received: {weights} for {name}. Give a pre-trained encoder as --init_from."
            )


class OwnFunction:
    """A function of any module, which takes `input_shape` and returns a model."""

    def __init__(self, call, weights):
        self.name = f"{call.place}:{call.name}"
        self.arguments = call.arguments or {}
        refuse_weights(self.name, weights)
        self.function = _attribute(_module(call), call)
        # A name may come with the flagfile of other people: no function is called that was not made for this.
        parameters = parameters_of(self.function)
        if "input_shape" not in parameters:
            raise UserError(
                "`backbone` must name a function that takes `input_shape`, (height, width, channels). "
                f"Received: {self.name} with {', '.join(parameters) or 'no parameters'}. Give it that parameter."
            )
        check_arguments(self.name, self.function, self.arguments, ("input_shape",))

    def build(self, input_shape, fill):
        model = self.function(input_shape=input_shape, **self.arguments)
        if not isinstance(model, keras.Model):
            raise UserError(
                "The function of a backbone must return a `keras.Model`. "
                f"Received: {type(model).__name__} of {self.name}. Return `keras.Model(images, maps)`."
            )
        return Named(model, {})


class KerasFile:
    """A `.keras` file, whose architecture is taken, and its weights where none are asked for."""

    def __init__(self, name, weights):
        self.path, self.weights = user_path(name), weights
        if weights not in (None, RANDOM):
            raise UserError(
                "`backbone_weights` must be random, or not given for those of the file, where the backbone is a .keras "
                f"file. Received: {weights}. Omit --backbone_weights."
            )
        if not self.path.is_file():
            raise UserError(
                "`backbone` must be an existing .keras file. "
                f"Received: {self.path}. Correct --backbone, or put the file back that the run began with."
            )

    def build(self, input_shape, fill):
        model, scaling = takes_0_to_255(load_keras(self.path)), {}  # as images are read in training
        if isinstance(model, Encoder):
            model, scaling = model.backbone, {"mean": model.mean, "std": model.std}
        if not fill or self.weights == RANDOM:
            model = clone(model)
        return Named(model, scaling)


# Of each place before the colon: a class whose instances check name and arguments at once, and build by
# `build(input_shape, fill)`. Other places are modules.
FORMS: dict[str, Any] = {}


def form(place):
    """Adds the decorated class to `FORMS`."""
    return lambda kind: FORMS.setdefault(place, kind)


# What the forms have in common


def parameters_of(function):
    """The parameters of a function that are named, a dict; empty for one that does not say them."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in found.items() if parameter.kind in kinds}


def check_arguments(name, function, arguments, ours):
    """Refuses arguments that a function does not take, or that are set here (`ours`), and missing ones."""
    parameters = parameters_of(function)
    taken = [parameter for parameter in parameters if parameter not in (*ours, "self")]
    for argument in arguments:
        if argument not in taken:
            raise UserError(
                f"The arguments of {name} must be among: {', '.join(taken)}. "
                f"Received: {argument}. {near_match(argument, taken)}Correct --backbone."
            )
    required = [each for each in taken if parameters[each].default is inspect.Parameter.empty]
    if missing := [each for each in required if each not in arguments]:
        raise UserError(
            f"The arguments of {name} must include: {', '.join(required)}. "
            f"Received: none for {', '.join(missing)}. Write --backbone='{name}({missing[0]}=..., ...)'."
        )


def refuse_weights(name, weights):
    """Refuses any weights but random ones."""
    if weights not in (None, RANDOM):
        raise UserError(
            f"`backbone_weights` must be random for {name}, which has no other ones. "
            f"Received: {weights}. Omit --backbone_weights; a pre-trained encoder is given as --init_from."
        )


def near_match(name, known):
    """`Perhaps you mean X. `, if a known name is like this one; otherwise empty."""
    found = difflib.get_close_matches(name, known, n=1) or [each for each in known if each.lower() == name.lower()]
    return f"Perhaps you mean {found[0]}. " if found else ""


def _module(call):
    try:
        return importlib.import_module(call.place)
    except ModuleNotFoundError as error:
        if not call.place.startswith(error.name or "?"):
            raise  # of another module that this one imports
        raise UserError(
            "`backbone` must name a module that can be imported. "
            f"Received: {call.place} of {call.place}:{call.name}, and Python says: {error}. "
            "Correct the name, or put its folder on PYTHONPATH."
        ) from error


def _attribute(module, call):
    found = getattr(module, call.name, None)
    if callable(found):
        return found
    known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    raise UserError(
        f"`backbone` must name a function of {call.place}. "
        f"Received: {call.name}. {near_match(call.name, known)}Correct --backbone."
    )


def _check_images(name, model, input_shape):
    """Refuses a network that takes other images."""
    found = image_shape_of(model)
    if any(None not in (theirs, ours) and theirs != ours for theirs, ours in zip(found, input_shape, strict=True)):
        height, width, channels = found
        raise UserError(
            "The backbone must take the images of the run, height x width x channels. "
            f"Received: {name} for {height} x {width} x {channels}, images of {' x '.join(map(str, input_shape))}. "
            f"Give --image_size={height} and --channels={channels}, or a backbone for other images."
        )
