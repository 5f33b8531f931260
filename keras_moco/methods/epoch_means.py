"""What a training logs: means over the steps of an epoch."""

import keras
from keras import ops

from keras_moco import distribution


class EpochMeans(keras.layers.Layer):
    """Means over all replicas and the steps so far, which are part of the model's state.

    Keras's own metrics have a sum of their own on each replica, and forget it when a model is saved. These are alike on
    all, and saved, so that an epoch that is interrupted logs to the bit what it would have logged.

    Args:
        names: of the figures.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, names, **kwargs):
        # In float64 where Keras computes in it, else in float32 whatever the precision of the model.
        self.full_precision = keras.backend.result_type(keras.config.floatx(), "float32")
        super().__init__(**{"dtype": self.full_precision, "autocast": False, **kwargs})
        self.names = tuple(names)
        settings = {"initializer": "zeros", "trainable": False, "aggregation": "none"}
        self.sums = self.add_weight((len(self.names),), name="sums", **settings)
        self.steps = self.add_weight((), dtype="int64", name="steps", **settings)
        self.built = True

    def update(self, values, counts=True):
        """Takes in a step, from each replica.

        Args:
            values: dict of name to scalar, of this replica.
            counts: bool tensor, the same on each replica; a step that does not count changes nothing.

        Returns:
            dict of name to scalar, the means so far, the same on each replica.
        """
        step = distribution.mean(ops.stack([ops.cast(values[name], self.full_precision) for name in self.names]))
        self.sums.assign_add(ops.where(counts, step, ops.zeros_like(step)))
        self.steps.assign_add(ops.cast(counts, "int64"))
        return self.result()

    def result(self):
        """The means so far, the same on each replica: dict of name to scalar."""
        means = self.sums / ops.cast(self.steps, self.full_precision)
        return dict(zip(self.names, ops.unstack(means), strict=True))

    def reset(self):
        """Begins an epoch."""
        self.sums.assign(ops.zeros_like(self.sums))
        self.steps.assign(0)
