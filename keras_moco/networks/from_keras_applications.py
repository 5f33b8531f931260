"""Networks of keras.applications by name: random ones of any channels, or with the weights that Keras has for them."""

import re
import sys

import keras
import numpy as np

from keras_moco.errors import UserError
from keras_moco.networks.by_name import RANDOM, Named, check_arguments, form, near_match, parameters_of
from keras_moco.storage.paths import user_path

# Arguments that are set here: features instead of classes, weights by --backbone_weights, pooling by the `Encoder`.
OURS = ("input_shape", "include_top", "weights", "pooling", "input_tensor", "classes", "classifier_activation")
IMAGENET = "imagenet"


@form("keras.applications")
class KerasApplication:
    """A function of keras.applications.

    Random networks are made without scaling of their own where Keras allows that, so that any number of channels fits
    and the settings of the run scale the images. Weights of ImageNet come with the scaling that they were trained with.
    """

    def __init__(self, call, weights):
        self.name, self.arguments = f"{call.place}:{call.name}", call.arguments or {}
        known = [name for name in dir(keras.applications) if name[0].isupper()]
        if call.name not in known:
            raise UserError(
                f"`backbone` must name a network of keras.applications: {', '.join(known)}. "
                f"Received: {call.name}. {near_match(call.name, known)}Correct --backbone."
            )
        self.function = getattr(keras.applications, call.name)
        check_arguments(self.name, self.function, self.arguments, OURS)
        self.weights = None if weights in (None, RANDOM) else weights
        if self.weights and self.weights != IMAGENET:
            self.weights = user_path(self.weights)
            if not (self.weights.is_file() and self.weights.name.endswith(".weights.h5")):
                raise UserError(
                    "`backbone_weights` must be random, imagenet or an existing file .weights.h5 of the network "
                    f"without classifier. Received: {weights}. Correct --backbone_weights."
                )

    def build(self, input_shape, fill):
        arguments = {"input_shape": input_shape, "include_top": False, **self.arguments}
        if self.weights and input_shape[-1] != 3:
            raise UserError(
                "The images must have 3 channels for the weights of keras.applications. "
                f"Received: {input_shape[-1]} with --backbone_weights={self.weights}. "
                "Give --channels=3, which makes colour of gray images, or --backbone_weights=random."
            )
        if not self.weights and "include_preprocessing" in parameters_of(self.function):
            arguments.setdefault("include_preprocessing", False)
        model = self._make({**arguments, "weights": None})
        scaling, is_bgr = self._scaling() if self.weights else ({}, False)
        if self.weights and fill:
            self._fill(model, arguments, is_bgr)
        return Named(model, scaling)

    def _make(self, arguments):
        try:
            return self.function(**arguments)
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())
            size = arguments["input_shape"][0]
            if smallest := re.search(r"at least (\d+) ?x", said):
                raise UserError(
                    f"`image_size` must be at least {smallest[1]} for {self.name}. "
                    f"Received: image_size={size}. Raise --image_size, or choose another --backbone."
                ) from error
            raise UserError(
                f"{self.name} must take its arguments and the images of the run. Received: {arguments}, and Keras "
                f"says: {said} Correct --backbone or --image_size."
            ) from error

    def _scaling(self):
        """How images in 0..255 are scaled for the weights: `(scaling, is_bgr)`, with colours in the other order or not.

        `preprocess_input`, which is linear, says it; networks that scale images themselves get them as they are.
        """
        preprocess = sys.modules[self.function.__module__].preprocess_input
        pixels = 255.0 * np.concatenate([np.zeros((1, 3)), np.eye(3)])[:, None, None, :]  # black, red, green, blue
        black, *colours = preprocess(pixels.copy())[:, 0, 0, :]
        slopes = np.stack(colours) - black  # (3, 3), of what comes out by what goes in
        is_bgr = slopes[0, 0] == 0
        slopes, black = (slopes[:, ::-1], black[::-1]) if is_bgr else (slopes, black)
        std = 1 / np.diag(slopes)  # black + slope * image = (image - mean) / std, of images in 0..1
        return {"mean": [*map(float, -black * std)], "std": [*map(float, std)]}, is_bgr

    def _fill(self, model, arguments, is_bgr):
        try:
            if self.weights == IMAGENET:
                model.set_weights(self.function(**arguments, weights=IMAGENET).get_weights())
            else:
                model.load_weights(self.weights)
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            if not isinstance(error, ValueError | OSError) and "URL fetch failure" not in said:
                raise
            raise UserError(
                "The weights of the backbone must be there, or be downloaded, and fit it. Received: --backbone_weights="
                f"{self.weights} for {self.name}, and Keras says: {said}. Give the path of their file, put it into "
                "~/.keras/models, or give --backbone_weights=random."
            ) from error
        if is_bgr:  # images are in RGB here
            first = next(layer for layer in model.layers if layer.weights)
            kernel, *bias = first.get_weights()  # (h, w, 3, F)
            first.set_weights([kernel[:, :, ::-1], *bias])
