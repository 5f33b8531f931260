"""What a training step logs: accuracy and similarities of the contrasts, and means over the epoch."""

import keras
from keras import ops

from keras_moco import distribution

# Of every method.
SHARED_LOGS = ("loss", "contrast_top1", "contrast_top5", "positive_similarity", "negative_similarity", "feature_std")


def measure(contrasts, losses, temperature):
    """Metrics of a step on this replica, means over its contrasts, and the loss of each where there are several."""
    measures = [_measure(contrast, temperature) for contrast in contrasts]
    logs = {name: ops.mean(ops.stack([m[name] for m in measures])) for name in measures[0]}
    if len(contrasts) > 1:
        logs |= {f"loss_{contrast.name}": loss for contrast, loss in zip(contrasts, losses, strict=True)}
    return logs


def _measure(contrast, temperature):
    """Metrics of one contrast, means over the batch."""
    logits = ops.stop_gradient(contrast.logits)
    positive = ops.take_along_axis(logits, ops.cast(contrast.labels, "int32")[:, None], axis=-1)  # (n, 1)
    # Ties count against the query, so that a collapsed encoder reads 0 and not 100 %. They are ties up to rounding:
    # positives and negatives are summed in different orders.
    rank = ops.sum(ops.cast(logits >= positive - 1e-5 / temperature, "int32"), axis=-1) - 1
    negatives = logits.shape[-1] - 1
    # Of the global batch, or the standard deviation would grow with the share of each replica.
    everything = distribution.all_gather(ops.stop_gradient(contrast.queries))
    return {
        "contrast_top1": ops.mean(ops.cast(rank < 1, "float32")),
        "contrast_top5": ops.mean(ops.cast(rank < 5, "float32")),
        "positive_similarity": ops.mean(positive) * temperature,
        "negative_similarity": ops.mean(ops.sum(logits, axis=-1) - positive[:, 0]) / negatives * temperature,
        # 1: embeddings fill the whole sphere; 0: all embeddings are identical.
        "feature_std": ops.mean(ops.std(everything, axis=0)) * everything.shape[-1] ** 0.5,
    }


class EpochMeans(keras.layers.Layer):
    """Means over all replicas and the steps of the epoch so far, which are part of the model's state.

    Keras's own metrics keep a separate sum on each replica, and lose it when a model is saved. These are identical on
    all replicas, and saved, so that an interrupted epoch logs to the bit what it would have logged.

    Args:
        names: names of the metrics.
        **kwargs: keyword arguments of `keras.layers.Layer`.
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
        """Adds a step; every replica calls it.

        Args:
            values: dict of name to scalar, the metrics of this replica.
            counts: bool tensor, identical on each replica; a step that does not count changes nothing.

        Returns:
            dict of name to scalar, the means so far, identical on each replica.
        """
        step = distribution.mean(ops.stack([ops.cast(values[name], self.full_precision) for name in self.names]))
        self.sums.assign_add(ops.where(counts, step, ops.zeros_like(step)))
        self.steps.assign_add(ops.cast(counts, "int64"))
        return self.result()

    def result(self):
        """The means so far, identical on each replica: dict of name to scalar."""
        means = self.sums / ops.cast(self.steps, self.full_precision)
        return dict(zip(self.names, ops.unstack(means), strict=True))

    def reset(self):
        """Begins an epoch."""
        self.sums.assign(ops.zeros_like(self.sums))
        self.steps.assign(0)
