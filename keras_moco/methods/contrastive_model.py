"""The training step that every contrastive model shares; methods differ in four hooks, and in nothing else."""

import abc
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_moco import distribution
from keras_moco.checks.graph import plain_failures
from keras_moco.checks.pixel_range import check_pixels
from keras_moco.errors import UserError
from keras_moco.methods.epoch_means import EpochMeans
from keras_moco.methods.inputs import as_batches, known_size
from keras_moco.methods.trainer import ReplicatedTrainer
from keras_moco.networks.encoder import added_losses
from keras_moco.networks.shuffle_bn import Plain, moving_statistics


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
        batch_norm: `keras_moco.networks.shuffle_bn.BatchNorm`, how the BatchNorm layers of `encoder` group the
            batch in training steps. Defaults to `None`: each replica's batch is a group.
        logs: names of what `monitor` returns, and `loss_<name>` of each `Contrast` where there are several.
        **kwargs: of `keras.Model`.

    Attributes:
        encoder, batch_norm: as given.
        required: names that every batch must have; of a class.
        remembers_images: bool, whether something is kept for each image under its number, so that a resumed run needs
            the same images in the same order; of a class.
        augmentation: an `Augmentation` whose second half each step does (`keras_moco.data.pretrain_dataset` with
            `finish=False`, whose batches must hold `"draws"`). `None`, as at first: views come finished. Not saved.
        skip_not_finite: bool, whether a step whose loss or gradients are not finite changes nothing but the counters
            (and takes the key encoder its momentum step). False, as at first: such a step goes through, and
            `keras_moco.callbacks.NotFiniteGuard` ends the training behind it. Not saved.
    """

    required = ("query", "key")
    remembers_images = False

    def __init__(self, encoder, temperature, batch_norm=None, logs=(), **kwargs):
        super().__init__(**kwargs)
        if not temperature > 0:
            raise UserError(
                f"`temperature` must be positive. Received: temperature={temperature}. MoCo v1 uses 0.07, v2 0.2."
            )
        self.encoder = encoder
        self.batch_norm = batch_norm or Plain()
        self.batch_norm.set_on(encoder)
        self.temperature = temperature
        self.augmentation = None
        self._skips = False
        self._batch_size = None  # of the data of `fit`, where its batches do not tell
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

    def predict(self, x, *args, **kwargs):
        with plain_failures():
            return super().predict(x, *args, **kwargs)

    def predict_step(self, data):
        images, *_ = data if isinstance(data, tuple | list) else (data,)
        _check_images(images.shape, self.encoder.image_shape)
        return self(check_pixels(images), training=False)

    def compile(self, optimizer=None, loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """`keras.Model.compile`, which needs an optimizer; the loss is the model's own.

        Args:
            optimizer: `keras.optimizers.Optimizer`, such as `keras_moco.SGD`, or its name.
            loss, loss_weights, metrics, weighted_metrics: `None`.
            **kwargs: of `keras.Model.compile`: `steps_per_execution`, `jit_compile`, `run_eagerly`.

        Raises:
            ValueError: without an optimizer, or with losses or metrics.
        """
        own = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        given = [f"{name}={value!r}" for name, value in own.items() if value is not None]
        if given:
            raise UserError(
                "`compile` must be given no losses or metrics: the contrastive loss is the model's own, and nothing "
                f"else would be computed. Received: {', '.join(given)}. Leave them out; layers add to the loss by "
                "`add_loss` and regularizers, and `keras_moco.callbacks.KnnMonitor` measures features."
            )
        if optimizer is None:
            raise UserError(
                "`compile` must be given an optimizer. Received: none. Give one, such as "
                "`keras_moco.SGD(0.03, weight_decay=1e-4)` (MoCo v1 for 256 images per step)."
            )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        """Compiles as before saving; Keras's own leaves models alone that have a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """`keras.Model.fit` on batches of two views, which can also begin in the middle of an epoch.

        Args:
            x: `tf.data.Dataset` of batches of one size, of `{"query": (n, H, W, C), "key": (n, H, W, C)}` or
                `({...},)`; a dict of arrays; a `keras.utils.PyDataset` or Python generator of such batches.
            batch_size: int, for arrays. Defaults to `None`: 32, as in Keras. Images that do not fill a batch wait for
                the next epoch.
            epochs, verbose, callbacks, shuffle: of `keras.Model.fit`.
            y, validation_split, validation_data, class_weight, sample_weight: not given.
            **kwargs: `initial_epoch`, `steps_per_epoch` and the like of `keras.Model.fit`; `initial_step` of
                `ReplicatedTrainer.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: before the first step, if the model cannot learn from the data, nothing of it is trainable, or
                what is not given is given; as `ReplicatedTrainer.fit`.
        """
        if validation_data is not None or validation_split:
            raise UserError(
                "Validation data must not be given to `fit`: the contrastive loss of other images says little about "
                f"features. Received: {'validation_split' if validation_data is None else 'validation_data'}. "
                "Use the callback `keras_moco.callbacks.KnnMonitor`."
            )
        unused = {"y": y, "class_weight": class_weight, "sample_weight": sample_weight}
        given = [name for name, value in unused.items() if value is not None]
        if given:
            raise UserError(
                "`fit` must be given views alone: nothing is learnt from labels or weights. "
                f"Received: {', '.join(given)}. Leave them out."
            )
        if batch_size is not None and isinstance(x, tf.data.Dataset):
            raise UserError(
                "`batch_size` must not be given with a data set, which has batches already. "
                f"Received: batch_size={batch_size}. Leave it out, or batch the data set otherwise."
            )
        x, size = as_batches(x, batch_size, shuffle)
        if isinstance(x, tf.data.Dataset) and kwargs.get("steps_per_epoch") is None:
            if x.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise UserError(
                    "`steps_per_epoch` must be given with endless data, or its first epoch never ends. "
                    "Received: steps_per_epoch=None. Give `keras_moco.data.steps_per_epoch(source, batch_size)`."
                )
        if size != self._batch_size:
            self.train_function = None  # traced for another one
        self._batch_size = size
        settings = {"epochs": epochs, "verbose": verbose, "callbacks": callbacks, "shuffle": shuffle}
        if batch_size is not None and not isinstance(x, tf.data.Dataset):
            settings["batch_size"] = batch_size  # which Keras refuses in its own words
        return super().fit(x, **settings, **kwargs)

    def make_train_function(self, force=False):
        if not self.trainable_variables:
            raise UserError(
                "Some variable must be trainable. Received: a model of which everything is frozen. "
                "Set `trainable = True` on what is to be learnt; a learning rate of 0 fills the queue alone."
            )
        super().make_train_function(force)

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """`keras.Model.export` of `model(images)`, images to embeddings."""
        # Keras takes the shape of the images from `build`, which a model built by its constructor does without.
        signature = [keras.InputSpec(dtype="float32", shape=(None, *self.encoder.image_shape))]
        return super().export(filepath, *args, input_signature=input_signature or signature, **kwargs)

    def train_step(self, data):
        views = _views_of(data, self.required)
        if self._batch_size:
            views = known_size(views, self._batch_size // distribution.num_replicas())
        _check_shapes(views, self.required)
        if self.augmentation is None:
            _check_images(views["query"].shape, self.encoder.image_shape)
        # Where the end of the data is not known in advance, Keras runs the step once more without a batch: nothing
        # in here may happen before the batch exists.
        with self.batch_norm.grouping(), tf.control_dependencies(tf.nest.flatten(views)):
            views = self._finish(views)
            statistics = moving_statistics(self)
            before = [tf.identity(statistic) for statistic in statistics if self.skip_not_finite]
            self.before_step()
            targets = self.encode_targets(views)
            with tf.GradientTape() as tape, added_losses() as added:
                contrasts = self.contrast(views, targets)
                losses = [_cross_entropy(contrast) for contrast in contrasts]
                loss = ops.sum(ops.stack(losses))
                for term in (*self._checked(added), *_weight_penalties(self.trainable_variables)):
                    loss += ops.cast(term, loss.dtype)
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

    def _checked(self, added):
        """What layers added to the loss on this replica, if that can be told."""
        if added and self.batch_norm.synchronized and distribution.num_replicas() > 1:
            raise UserError(
                "Layers must not add to the loss (`add_loss`, activity regularizers) where BatchNorm is synchronized: "
                "Keras keeps what they add in one list, in which replicas overwrite each other while they wait for "
                f"statistics. Received: {len(added)} such losses on {distribution.num_replicas()} replicas. Regularize "
                "weights instead, or train on one replica."
            )
        return added

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
                views[name] = ops.cast(check_pixels(view), "float32")
        return views

    def evaluate(self, *args, **kwargs):
        raise UserError(
            "`evaluate` must not be called: the contrastive loss of other images says little about features. Received: "
            "a call. Use `keras_moco.evaluation`, or the callback `keras_moco.callbacks.KnnMonitor`."
        )

    test_on_batch = test_step = evaluate

    def monitor(self):
        """Further numbers to log: a dict of scalars under the names given as `logs`."""
        return {}

    def _measure(self, contrasts, losses):
        measures = [_measure(contrast, self.temperature) for contrast in contrasts]
        logs = {name: ops.mean(ops.stack([m[name] for m in measures])) for name in measures[0]}
        if len(contrasts) > 1:
            logs |= {f"loss_{contrast.name}": loss for contrast, loss in zip(contrasts, losses, strict=True)}
        return logs

    def logs_so_far(self):
        """What the steps of this epoch have logged so far: dict of name to scalar."""
        return self.means.result()

    @property
    def metrics(self):
        return []  # of Keras's; see `EpochMeans`

    @property
    def metrics_names(self):
        """Names of what `train_on_batch` returns, in its order: a list."""
        return sorted(self.means.names)

    def reset_metrics(self):
        if not self.resuming_epoch:
            self.means.reset()

    def get_config(self):
        # Keras's: name, dtype policy, `trainable`.
        config = keras.layers.Layer.get_config(self)
        return {
            **config,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


# Where what a batch must hold comes from.
ORIGINS = {
    "query": "Map your data set with `keras_moco.augment.two_views`.",
    "key": "Map your data set with `keras_moco.augment.two_views`.",
    "index": "Add the number of each image in the data set, as `keras_moco.data.pretrain_dataset` does.",
}


def _views_of(data, required):
    """The views of a batch, a dict, if a model can learn from them."""
    views, *others = data if isinstance(data, tuple | list) else (data,)
    if any(other is not None for other in others):
        raise UserError(
            f"Batches must be dictionaries with {' and '.join(map(repr, required))}, alone or as `(views,)`, without "
            f"labels and weights. Received: a {type(data).__name__} of {len(data)}. Map it, for example by "
            "`data.map(lambda views, label: views)`, or `data.map(lambda a, b: {'query': a, 'key': b})`."
        )
    missing = [name for name in required if not (isinstance(views, dict) and name in views)]
    if missing:
        raise UserError(
            f"Batches must be dictionaries with {' and '.join(map(repr, required))}. "
            f"Received: {sorted(views) if isinstance(views, dict) else type(views).__name__}. {ORIGINS[missing[0]]}"
        )
    return views


def _check_shapes(views, required):
    shapes = {name: views[name].shape for name in ("query", "key") if name in required}
    if len(set(map(tuple, shapes.values()))) > 1 or views["query"].shape[0] is None:
        raise UserError(
            "All views must have one shape with a known batch size, which the replicas divide. Received: "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())} on {distribution.num_replicas()} "
            "replica(s). Batch with `drop_remainder=True`."
        )


def _check_images(found, wanted):
    """Raises `ValueError` unless images of a shape `(n, H, W, C)` are those that the encoder takes, `(H, W, C)`."""
    pairs = list(zip(found[1:], wanted, strict=True)) if len(found) == 4 else [(0, 1)]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            "Images must have the shape that the encoder takes, (n, H, W, C). "
            f"Received: {tuple(found)} for an encoder of {tuple(wanted)}. Resize them, or build the backbone for them."
        )


def _weight_penalties(variables):
    """What Keras's weight regularizers of these variables say: a list of scalars."""
    return [variable.regularizer(variable) for variable in variables if variable.regularizer is not None]


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
    # Of the global batch, or the spread would grow with the share of each replica.
    everything = distribution.all_gather(ops.stop_gradient(contrast.queries))
    return {
        "contrast_top1": ops.mean(ops.cast(rank < 1, "float32")),
        "contrast_top5": ops.mean(ops.cast(rank < 5, "float32")),
        "positive_similarity": ops.mean(positive) * temperature,
        "negative_similarity": ops.mean(ops.sum(logits, axis=-1) - positive[:, 0]) / negatives * temperature,
        # 1: embeddings spread over the whole sphere; 0: all embeddings are one.
        "feature_std": ops.mean(ops.std(everything, axis=0)) * everything.shape[-1] ** 0.5,
    }
