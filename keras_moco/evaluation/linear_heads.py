"""Linear classifiers side by side, as one layer."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_moco")
class LinearHeads(keras.layers.Layer):
    """Several linear classifiers of the same features, side by side.

    All start with the same weights, N(0, 0.01), and zero biases (official `main_lincls.py`).

    Args:
        num_classes: int, `C`.
        num_heads: int, `H`.
        seed: int, the random seed of the initial weights.

    Call arguments:
        features: `(n, F)`.

    Call returns:
        Logits `(n, H, C)`.

    Example:

    >>> LinearHeads(num_classes=10, num_heads=3)(ops.zeros((2, 8))).shape
    TensorShape([2, 3, 10])
    """

    def __init__(self, num_classes: int, num_heads: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.num_heads, self.seed = num_classes, num_heads, seed

    def build(self, shape: tuple[int | None, ...]) -> None:
        small = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed)

        def alike(shape, dtype=None):
            return ops.broadcast_to(small((shape[0], 1, shape[2]), dtype), shape)

        self.kernel = self.add_weight((shape[-1], self.num_heads, self.num_classes), alike, name="kernel")
        self.bias = self.add_weight((self.num_heads, self.num_classes), "zeros", name="bias")

    def call(self, features: Any) -> Any:
        return ops.einsum("nf,fhc->nhc", features, self.kernel) + self.bias

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (shape[0], self.num_heads, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        own = {"num_classes": self.num_classes, "num_heads": self.num_heads, "seed": self.seed}
        return {**super().get_config(), **own}
