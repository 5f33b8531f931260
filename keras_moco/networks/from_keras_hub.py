"""Backbones of KerasHub by name: a class with its arguments, or a preset with its weights."""

import numpy as np

from keras_moco.errors import MissingPackageError, UserError
from keras_moco.networks.by_name import RANDOM, Named, check_arguments, form, near_match, parameters_of, refuse_weights

OURS = ("image_shape", "data_format", "dtype", "name")
PRESET = "preset"


@form("keras_hub")
class KerasHub:
    """A subclass of `keras_hub.models.Backbone`, or the name of a preset, a folder of one included."""

    def __init__(self, call, weights):
        models = _models()
        self.name, self.arguments = f"{call.place}:{call.name}", call.arguments or {}
        known = {name: found for name, found in vars(models).items() if _is_backbone(found, models)}
        if call.arguments is None and call.name not in known and not call.name.endswith("Backbone"):
            self.preset, self.weights = call.name, weights
            if weights not in (None, RANDOM, PRESET):
                raise UserError(
                    "`backbone_weights` must be random or preset for a preset of KerasHub. "
                    f"Received: {weights} for {self.name}. Correct --backbone_weights."
                )
            return
        self.preset = None
        if call.name not in known:
            raise UserError(
                f"`backbone` must name a preset of KerasHub or one of its backbones, such as ResNetBackbone. "
                f"Received: {call.name}. {near_match(call.name, known)}Correct --backbone."
            )
        refuse_weights(self.name, weights)
        self.kind = known[call.name]
        if "image_shape" not in parameters_of(self.kind.__init__):
            raise UserError(
                f"`backbone` must name a backbone of KerasHub for images. Received: {call.name}. Choose another one."
            )
        check_arguments(self.name, self.kind.__init__, self.arguments, OURS)

    def build(self, input_shape, fill):
        if self.preset:
            return self._from_preset(input_shape, fill and self.weights != RANDOM)
        try:
            return Named(self.kind(image_shape=input_shape, **self.arguments), {})
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            raise UserError(
                f"{self.name} must take its arguments and the images of the run. Received: {self.arguments}, images of "
                f"{input_shape}, and KerasHub says: {_first_line(error)} Correct --backbone or --image_size."
            ) from error

    def _from_preset(self, input_shape, load_weights):
        models = _models()
        import keras_hub

        try:
            model = models.Backbone.from_preset(self.preset, load_weights=load_weights, image_shape=input_shape)
            converter = keras_hub.layers.ImageConverter.from_preset(self.preset) if self.weights != RANDOM else None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                "A preset of KerasHub must be there, or be downloaded, and take the images of the run. Received: "
                f"{self.name}, images of {input_shape}, and KerasHub says: {_first_line(error)} Download it on a "
                "machine with internet, or name a class with its arguments instead, which needs no download."
            ) from error
        return Named(model, {} if converter is None else _scaling(converter, input_shape[-1]))


def _models():
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        if error.name != "keras_hub":
            raise
        raise MissingPackageError(
            "A backbone of KerasHub must have KerasHub installed. Received: no module keras_hub. "
            "Run: pip install 'keras_moco[hub]'."
        ) from error
    return keras_hub.models


def _is_backbone(found, models):
    return isinstance(found, type) and issubclass(found, models.Backbone) and found is not models.Backbone


def _scaling(converter, channels):
    """The scaling of a preset, as `mean` and `std` of an `Encoder`: `image * scale + offset`, of images in 0..255."""
    scale, offset = (
        np.broadcast_to(default if value is None else np.ravel(value), (channels,)).astype(float)
        for value, default in ((converter.scale, 1.0), (converter.offset, 0.0))
    )
    std = 1 / (255 * scale)
    return {"mean": (-offset * std).tolist(), "std": std.tolist()}


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".") + "."
