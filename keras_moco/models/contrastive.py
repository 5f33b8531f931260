"""The training step that every contrastive model shares; methods differ in four hooks, and in nothing else."""

import abc
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_moco import batch_norm, distribution
from keras_moco.errors import UserError
from keras_moco.models.epoch_means import EpochMeans
from keras_moco.models.trainer import ReplicatedTrainer


class Contrast(NamedTuple):
    """One look-up of queries in a dictionary.

    Attributes:
        name: str, for the logs.
        queries: `(n, D)` unit vectors.
        logits: `(n, candidates)`, similarities divided by the temperature.
        labels: `(n,)` int, the column of each query's positive.
    """

    name: str
    queries: object
    logits: object
    labels: object


SHARED_LOGS = (
    "loss",
    "contrast_top1",
    "contrast_top5",
    "positive_similarity",
    "negative_similarity",
    "feature_std",
)


class ContrastiveModel(ReplicatedTrainer, abc.ABC):
    """A model that learns an encoder by telling the other view of an image from other images.

    `fit` takes batches `{"query": (n, H, W, C), "key": (n, H, W, C)}`, two augmentations of the same images with
    values in 0..255 (further entries, such as `"index"`, are handed to the hooks), and `compile` an optimiser; the loss
    is the model's own. `model(images)` embeds, so `predict`, export and notebooks need nothing special.

    A subclass implements `contrast`; `before_step`, `encode_targets`, `after_step` and `monitor` are there for methods
    that need them.

    Args:
        encoder: the `Encoder` that is to be learnt.
        temperature: positive float that divides all similarities.
        logs: names of what `monitor` returns, and `loss_<name>` of each `Contrast` where there are several.
        **kwargs: of `keras.Model`.

    Attributes:
        encoder: as given.
        required: names that every batch must have; of a class.
        augmentation: an `Augmentation` whose second half each step does (`keras_moco.data.pretrain_dataset` with
            `finish=False`, whose batches must hold `"draws"`). `None`, as at first: views come finished. Not saved.
        skip_not_finite: bool, whether a step whose loss or gradients are not finite changes nothing but the counters
            (and takes the key encoder its momentum step). False, as at first: such a step goes through, and
            `keras_moco.callbacks.NotFiniteGuard` ends the training behind it. Not saved.
    """

    required = ("query", "key")

    def __init__(self, encoder, temperature, logs=(), **kwargs):
        super().__init__(**kwargs)
        if not temperature > 0:
            raise UserError(
                f"`temperature` must be positive. Received: temperature={temperature}. MoCo v1 uses 0.07, v2 0.2."
            )
        self.encoder = encoder
        self.temperature = temperature
        self.augmentation = None
        self._skips = False
        # Steps trained. Random numbers and schedules hang on it, so a restored model goes on exactly where it was.
        self.step = self._counter("step")
        # How many of them had a loss or gradients that were not finite.
        self.not_finite = self._counter("not_finite")
        self.means = EpochMeans((*SHARED_LOGS, *logs), name="means")

    @property
    def skip_not_finite(self):
        return self._skips

    @skip_not_finite.setter
    def skip_not_finite(self, skips):
        if skips != self._skips:
            self.train_function = None  # traced without it
        self._skips = skips

    def _counter(self, name):
        return self.add_weight((), "zeros", dtype="int64", name=name, trainable=False, aggregation="none")

    # What a method is made of.

    def before_step(self):  # noqa: B027
        """Runs before anything is encoded."""

    def encode_targets(self, views):
        """Encodes what queries are compared with and that takes no gradient; runs outside the tape."""

    @abc.abstractmethod
    def contrast(self, views, targets):
        """Returns a list of `Contrast`, whose losses are summed; gradient flows through what is encoded here."""

    def after_step(self, views, targets, contrasts):  # noqa: B027
        """Runs after the gradient step."""

    # What they share.

    @property
    def steps_done(self):
        """int: steps trained so far, over all runs."""
        return int(ops.convert_to_numpy(self.step))

    @property
    def steps_not_finite(self):
        """int: how many of them had a loss or gradients that were not finite."""
        return int(ops.convert_to_numpy(self.not_finite))

    def call(self, images, training=False):
        return self.encoder(images, training=training)

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """`keras.Model.export` of `model(images)`, images to embeddings."""
        # Keras takes the shape of the images from `build`, which a model built by its constructor does without.
        signature = [keras.InputSpec(dtype="float32", shape=(None, *self.encoder.image_shape))]
        return super().export(filepath, *args, input_signature=input_signature or signature, **kwargs)

    def train_step(self, views):
        _check_views(views, self.required)
        # Where the end of the data is not known in advance, Keras runs the step once more without a batch: nothing
        # in here may happen before the batch exists.
        with tf.control_dependencies(tf.nest.flatten(views)):
            views = self._finish(views)
            statistics = batch_norm.moving_statistics(self)
            before = [tf.identity(statistic) for statistic in statistics if self.skip_not_finite]
            self.before_step()
            targets = self.encode_targets(views)
            with tf.GradientTape() as tape:
                contrasts = self.contrast(views, targets)
                losses = [_cross_entropy(contrast) for contrast in contrasts]
                loss = ops.sum(ops.stack(losses))
                # Gradients are summed over replicas, the loss is a mean over all their examples.
                scaled = self.optimizer.scale_loss(loss / distribution.num_replicas())
            gradients = tape.gradient(scaled, self.trainable_variables)
            finite = self._all_finite(loss, gradients, statistics)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                gradients = distribution.share_overflow(gradients)

            def update(gradients, views, targets, contrasts):
                self.optimizer.apply(gradients, self.trainable_variables)
                self.after_step(views, targets, contrasts)

            if self.skip_not_finite:
                distribution.run_if(finite, update, gradients, views, targets, contrasts)
            else:
                update(gradients, views, targets, contrasts)
            # In every step, so that evaluation, checkpoints and exports find all replicas alike whenever they come. Two
            # ResNet-50 have 106,240 of these numbers, beside 25 million gradients. An average of moving averages is
            # the moving average of averages, so nothing is changed by when it is taken.
            distribution.average(statistics)
            if self.skip_not_finite:
                for statistic, old in zip(statistics, before, strict=True):
                    statistic.assign(tf.where(finite, statistic, old))
            values = {"loss": loss, **self._measure(contrasts, losses), **self.monitor()}
            logs = self.means.update(values, counts=finite | (not self.skip_not_finite))
        # A step that fails does not count, on any replica: the new weights are there once all have gone through.
        with tf.control_dependencies([loss, tf.identity(self.trainable_variables[-1])]):
            self.step.assign_add(1)
            self.not_finite.assign_add(tf.cast(~finite, "int64"))
        return logs

    def _all_finite(self, loss, gradients, statistics):
        """Whether loss and gradients are finite on all replicas: a bool tensor, the same on each."""
        finite = distribution.all_finite([loss, *gradients])
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # It lets gradients overflow to find its scale. At a scale of 1 it is not the scale that made them so, nor
            # where BatchNorm has seen NaN: ReLU makes 0 of it on some CPUs, and the loss is finite.
            finite |= distribution.all_finite([loss, *statistics]) & (self.optimizer.dynamic_scale > 1)
        return finite

    def _finish(self, views):
        """The views as float32, augmented to the end where the pipeline has left that to the step."""
        views = dict(views)
        for number, name in enumerate(("query", "key")):
            if name in views:
                view = views[name]
                if self.augmentation is not None:
                    view = self.augmentation.finish(view, views["draws"][:, number], on_host=False)
                views[name] = ops.cast(view, "float32")
        return views

    def test_step(self, data):
        raise UserError(
            "`validation_data` must not be given: the contrastive loss of other images says little about features. "
            "Received: some. Use the callback `keras_moco.callbacks.KnnMonitor`."
        )

    def monitor(self):
        """Further numbers to log: a dict of scalars under the names given as `logs`."""
        return {}

    def _measure(self, contrasts, losses):
        measures = [_measure(contrast, self.temperature) for contrast in contrasts]
        logs = {name: ops.mean(ops.stack([m[name] for m in measures])) for name in measures[0]}
        if len(contrasts) > 1:
            logs |= {f"loss_{contrast.name}": loss for contrast, loss in zip(contrasts, losses, strict=True)}
        return logs

    @property
    def metrics(self):
        return []  # of Keras's; see `EpochMeans`

    def reset_metrics(self):
        if not self.resuming_epoch:
            self.means.reset()

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {"name": self.name, "encoder": encoder, "temperature": self.temperature}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


# Where what a batch must hold comes from.
ORIGINS = {
    "query": "Map your data set with `keras_moco.augment.two_views`.",
    "key": "Map your data set with `keras_moco.augment.two_views`.",
    "index": "Add the number of each image in the data set, as `keras_moco.data.pretrain_dataset` does.",
}


def _check_views(views, required):
    missing = [name for name in required if not (isinstance(views, dict) and name in views)]
    if missing:
        raise UserError(
            f"Batches must be dictionaries with {' and '.join(map(repr, required))}. "
            f"Received: {sorted(views) if isinstance(views, dict) else type(views).__name__}. {ORIGINS[missing[0]]}"
        )
    shapes = {name: views[name].shape for name in ("query", "key") if name in required}
    if len(set(map(tuple, shapes.values()))) > 1 or views["query"].shape[0] is None:
        raise UserError(
            "All views must have one shape with a known batch size, which the replicas divide. Received: "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())} on {distribution.num_replicas()} "
            "replica(s). Batch with `drop_remainder=True`."
        )


def _cross_entropy(contrast):
    return ops.mean(keras.losses.sparse_categorical_crossentropy(contrast.labels, contrast.logits, from_logits=True))


def _measure(contrast, temperature):
    """What a look-up tells about the state of the training; all means over the batch."""
    logits = ops.stop_gradient(contrast.logits)
    positive = ops.take_along_axis(logits, ops.cast(contrast.labels, "int32")[:, None], axis=-1)  # (n, 1)
    # Ties count against the query, so that a collapsed encoder reads 0 and not 100 %. They are ties up to rounding:
    # positives and negatives are summed up in different orders.
    rank = ops.sum(ops.cast(logits >= positive - 1e-5 / temperature, "int32"), axis=-1) - 1
    negatives = logits.shape[-1] - 1
    return {
        "contrast_top1": ops.mean(ops.cast(rank < 1, "float32")),
        "contrast_top5": ops.mean(ops.cast(rank < 5, "float32")),
        "positive_similarity": ops.mean(positive) * temperature,
        "negative_similarity": ops.mean(ops.sum(logits, axis=-1) - positive[:, 0]) / negatives * temperature,
        # 1: embeddings spread over the whole sphere; 0: all embeddings are one.
        "feature_std": ops.mean(ops.std(contrast.queries, axis=0)) * contrast.queries.shape[-1] ** 0.5,
    }
