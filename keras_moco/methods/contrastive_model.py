"""The training step that every contrastive model shares; methods differ mainly in four hooks."""

import abc
from collections.abc import Sequence
from typing import Any, NoReturn

import keras
from keras import ops

from keras_moco import distribution
from keras_moco.checks.graph import plain_failures
from keras_moco.checks.pixel_range import check_pixels
from keras_moco.checks.ranges import check_number
from keras_moco.errors import UserError
from keras_moco.methods.inputs import as_batches, check_compile, check_images, check_only_views, views_of
from keras_moco.methods.logs import SHARED_LOGS, EpochMeans, measure
from keras_moco.methods.losses import Contrast
from keras_moco.methods.trainer import ReplicatedTrainer
from keras_moco.networks.encoder import Encoder, added_losses
from keras_moco.networks.shuffle_bn import BatchGrouping, Plain, moving_statistics, synchronize_layers
from keras_moco.storage.paths import StrPath


class ContrastiveModel(ReplicatedTrainer, abc.ABC):
    """A model that trains an encoder to recognise the other view of an image among other images.

    `fit` takes batches `{"query": (n, H, W, C), "key": (n, H, W, C)}`, two augmentations of the same images with
    values in 0..255 (further entries, such as `"index"`, are passed to the hooks), and `compile` an optimizer; the loss
    is the model's own. `model(images)` embeds, so `predict`, export and notebooks need nothing special.

    A subclass implements `contrast`; `before_step`, `encode_targets`, `after_step` and `monitor` are there for methods
    that need them.

    Args:
        encoder: the `Encoder` to train.
        temperature: positive float, the divisor of all similarities.
        batch_norm: `keras_moco.networks.shuffle_bn.BatchGrouping`, how the BatchNorm layers of `encoder` group the
            batch in training steps. Defaults to `None`: each replica's batch is a group.
        logs: names of the metrics of `monitor`, and `loss_<name>` of each `Contrast` where there are several.
        **kwargs: keyword arguments of `keras.Model`.

    Attributes:
        encoder, batch_norm: the arguments.
        required: names of the entries that every batch must have; an attribute of the class.
        remembers_images: bool, whether the model stores something for each image under its index, so that a resumed run
            needs the same images in the same order; an attribute of the class.
        augmentation: an `Augmentation` whose second half each step applies (`keras_moco.data.pretrain_dataset` with
            `finish=False`, whose batches must hold `"draws"`). Defaults to `None`: views arrive complete. Not saved.
        skip_not_finite: bool, whether a step whose loss or gradients are not finite updates only the counters and the
            momentum encoder. Defaults to `False`: the update is applied, and `keras_moco.callbacks.NotFiniteGuard`
            stops training after it. Not saved.
    """

    required = ("query", "key")
    remembers_images = False

    def __init__(
        self,
        encoder: Encoder,
        temperature: float,
        batch_norm: BatchGrouping | None = None,
        logs: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("temperature", temperature, "positive", "MoCo v1 uses 0.07, v2 0.2.")
        self.encoder = encoder
        self.batch_norm = batch_norm or Plain()
        self.batch_norm.check_layers(encoder)
        synchronize_layers(encoder, self.batch_norm.synchronized)
        self.temperature = temperature
        self.augmentation = None
        self._skips = False
        self._batch_size = None  # of the data of `fit`, where the shape of its batches does not give it
        # Steps trained. Random numbers and schedules depend on it, so a restored model resumes exactly.
        self.step = self._counter("step")
        # The number of steps whose loss or gradients were not finite.
        self.not_finite = self._counter("not_finite")
        self.means = EpochMeans((*SHARED_LOGS, *logs), name="means")

    @property
    def skip_not_finite(self) -> bool:
        return self._skips

    @skip_not_finite.setter
    def skip_not_finite(self, skips: bool) -> None:
        if skips != self._skips:
            self.train_function = None  # traced without it
        self._skips = skips

    def _counter(self, name):
        return self.add_weight((), "zeros", dtype="int64", name=name, trainable=False, aggregation="none")

    # The hooks of a method.

    def before_step(self) -> None:  # noqa: B027
        """Runs before anything is encoded."""

    def encode_targets(self, views: dict[str, Any]) -> Any:
        """Encodes what queries are compared with and what takes no gradient."""

    @abc.abstractmethod
    def contrast(self, views: dict[str, Any], targets: Any) -> list[Contrast]:
        """Returns a list of `Contrast`, whose losses are summed; gradient flows through what is encoded here."""

    def after_step(self, views: dict[str, Any], targets: Any, contrasts: list[Contrast]) -> None:  # noqa: B027
        """Runs after the gradient step."""

    def monitor(self) -> dict[str, Any]:
        """Further metrics to log: a dict of scalars under the names given as `logs`."""
        return {}

    # The training step.

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step on a batch of views; returns the means of its logs over the epoch so far."""
        views = views_of(data, self.required, self._batch_size and self._batch_size // distribution.num_replicas())
        if self.augmentation is None:
            check_images(views["query"].shape, self.encoder.image_shape)
        # Where the end of the data is not known in advance, the step runs once more without a batch: nothing in here
        # may happen before the batch exists.
        with self.batch_norm.grouping(), self.after(views):
            views = self._finish(views)
            statistics = moving_statistics(self)
            before = [ops.copy(statistic) for statistic in statistics] if self.skip_not_finite else []

            self.before_step()
            targets = self.encode_targets(views)
            (loss, losses, contrasts), gradients = self.differentiate(self._loss, views, targets)

            finite = self._all_finite(loss, gradients, statistics)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                gradients = distribution.share_overflow(gradients)
            if self.skip_not_finite:
                distribution.run_if(finite, self._update, gradients, views, targets, contrasts)
            else:
                self._update(gradients, views, targets, contrasts)

            # In every step, so that evaluation, checkpoints and exports find all replicas identical whenever they run.
            # Two ResNet-50 have 106,240 of these numbers, and 25 million gradients. The mean of moving averages is the
            # moving average of means, so the result does not depend on when it is taken.
            distribution.average(statistics)
            if self.skip_not_finite:
                for statistic, old in zip(statistics, before, strict=True):
                    statistic.assign(ops.where(finite, statistic, old))

            values = {"loss": loss, **measure(contrasts, losses, self.temperature), **self.monitor()}
            logs = self.means.update(values, counts=finite | (not self.skip_not_finite))
        self._count(loss, finite)
        return logs

    def _finish(self, views):
        """The views as float32, with the second half of the augmentation where the pipeline leaves it to the step."""
        views = dict(views)
        for number, name in enumerate(("query", "key")):
            if name in views:
                view = views[name]
                if self.augmentation is not None:
                    view = self.augmentation.finish(view, views["draws"][:, number], on_host=False)
                views[name] = ops.cast(check_pixels(view), "float32")
        return views

    def _loss(self, views, targets):
        """The scalar to differentiate, and `(loss, losses, contrasts)` as they are logged."""
        with added_losses() as added:
            contrasts = self.contrast(views, targets)
            losses = [contrast.loss for contrast in contrasts]
            loss = ops.sum(ops.stack(losses))
            for term in (*self._checked(added), *_weight_penalties(self.trainable_variables)):
                loss += ops.cast(term, loss.dtype)
            # Gradients are summed over replicas, the loss is a mean over all their examples.
            scaled = self.optimizer.scale_loss(loss / distribution.num_replicas())
        return scaled, (loss, losses, contrasts)

    def _checked(self, added):
        """What layers added to the loss on this replica, where it can be separated from that of other replicas."""
        if added and self.batch_norm.synchronized and distribution.num_replicas() > 1:
            raise UserError(
                "Layers must not add to the loss (`add_loss`, activity regularizers) where BatchNorm is synchronized: "
                "Keras keeps what they add in one list, in which replicas overwrite each other while they wait for "
                f"statistics. Received: {len(added)} such losses on {distribution.num_replicas()} replicas. Regularize "
                "weights instead, or train on one replica."
            )
        return added

    def _all_finite(self, loss, gradients, statistics):
        """Whether loss and gradients are finite on all replicas: a bool tensor, identical on each."""
        finite = distribution.all_finite([loss, *gradients])
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # It lets gradients overflow to find its scale. The scale is not the cause at a scale of 1, nor where
            # BatchNorm has seen NaN: ReLU turns that into 0 on some CPUs, and the loss is finite.
            finite |= distribution.all_finite([loss, *statistics]) & (self.optimizer.dynamic_scale > 1)
        return finite

    def _update(self, gradients, views, targets, contrasts):
        self.optimizer.apply(gradients, self.trainable_variables)
        self.after_step(views, targets, contrasts)

    def _count(self, loss, finite):
        """Counts the step once all replicas have completed it, so that a step that fails counts on none."""
        # The last variable is read after its update, for which the optimizer needs the gradients of all replicas.
        with self.after([loss, ops.copy(self.trainable_variables[-1])]):
            self.step.assign_add(1)
            self.not_finite.assign_add(ops.cast(~finite, "int64"))

    # Everything else that Keras calls.

    @property
    def steps_done(self) -> int:
        """The number of steps trained so far, over all runs: int."""
        return int(ops.convert_to_numpy(self.step))

    @property
    def steps_not_finite(self) -> int:
        """The number of steps whose loss or gradients were not finite: int."""
        return int(ops.convert_to_numpy(self.not_finite))

    def call(self, images: Any, training: bool = False) -> Any:
        """Embeds images: `(n, H, W, C)`, values in 0..255, to `(n, D)` float32, unit vectors of the query encoder."""
        return self.encoder(images, training=training)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        with plain_failures():
            return super().predict(x, *args, **kwargs)

    def predict_step(self, data: Any) -> Any:
        images, *_ = data if isinstance(data, tuple | list) else (data,)
        check_images(images.shape, self.encoder.image_shape)
        return self(check_pixels(images), training=False)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        loss: None = None,
        loss_weights: None = None,
        metrics: None = None,
        weighted_metrics: None = None,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.compile`, which needs an optimizer; the loss is the model's own.

        Args:
            optimizer: `keras.optimizers.Optimizer`, such as `keras_moco.SGD`, or its name.
            loss, loss_weights, metrics, weighted_metrics: `None`.
            **kwargs: `steps_per_execution`, `jit_compile` and `run_eagerly` of `keras.Model.compile`.

        Raises:
            ValueError: without an optimizer, or with losses or metrics.
        """
        check_compile(
            optimizer, loss=loss, loss_weights=loss_weights, metrics=metrics, weighted_metrics=weighted_metrics
        )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as before saving; Keras skips this for models with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: None = None,
        shuffle: bool = True,
        class_weight: None = None,
        sample_weight: None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit` on batches of two views, which can also begin in the middle of an epoch.

        Args:
            x: `tf.data.Dataset` of batches of one size, of `{"query": (n, H, W, C), "key": (n, H, W, C)}` or
                `({...},)`; a dict of arrays; a `keras.utils.PyDataset` or Python generator of such batches.
            batch_size: int, for arrays. Defaults to `None`: 32, as in Keras. Images that do not fill a batch are
                skipped in an epoch.
            epochs, verbose, callbacks, shuffle: arguments of `keras.Model.fit`.
            y, validation_split, validation_data, class_weight, sample_weight: must not be given.
            **kwargs: further arguments of `keras.Model.fit`, such as `initial_epoch` and `steps_per_epoch`, and
                `initial_step` of `ReplicatedTrainer.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: before the first step, if the model cannot train on the data, has no trainable variable, or is
                given an argument that it does not use; and as `ReplicatedTrainer.fit`.
        """
        check_only_views(validation_data, validation_split, y=y, class_weight=class_weight, sample_weight=sample_weight)
        data, size = as_batches(x, batch_size, shuffle, kwargs.get("steps_per_epoch"))
        if size != self._batch_size:
            self.train_function = None  # traced for another size
        self._batch_size = size
        settings: dict[str, Any] = {"epochs": epochs, "verbose": verbose, "callbacks": callbacks, "shuffle": shuffle}
        return super().fit(data, batch_size=batch_size, **settings, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        if not self.trainable_variables:
            raise UserError(
                "Some variable must be trainable. Received: a model of which everything is frozen. "
                "Set `trainable = True` on a layer; to fill only the queue, use a learning rate of 0."
            )
        super().make_train_function(force)

    def export(self, filepath: StrPath, *args: Any, input_signature: Any = None, **kwargs: Any) -> None:
        """`keras.Model.export` of `model(images)`, images to embeddings."""
        # Keras takes the shape of the images from `build`, which a model built by its constructor does not call.
        signature = [keras.InputSpec(dtype="float32", shape=(None, *self.encoder.image_shape))]
        return super().export(filepath, *args, input_signature=input_signature or signature, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UserError(
            "`evaluate` must not be called: the contrastive loss of other images says little about features. Received: "
            "a call. Use `keras_moco.evaluation`, or the callback `keras_moco.callbacks.KnnMonitor`."
        )

    test_on_batch = test_step = evaluate

    def logs_so_far(self) -> dict[str, Any]:
        """The logs of this epoch so far: dict of name to scalar."""
        return self.means.result()

    @property
    def metrics(self) -> list[keras.Metric]:
        return []  # Keras's; see `EpochMeans`

    @property
    def metrics_names(self) -> list[str]:
        """Names of the values that `train_on_batch` returns, in their order: a list."""
        return sorted(self.means.names)

    def reset_metrics(self) -> None:
        if not self.resuming_epoch:
            self.means.reset()

    def get_config(self) -> dict[str, Any]:
        # Name, dtype policy and `trainable`.
        config = keras.layers.Layer.get_config(self)
        return {
            **config,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ContrastiveModel":
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


def _weight_penalties(variables):
    """The penalties of the weight regularizers of variables: a list of scalars."""
    return [variable.regularizer(variable) for variable in variables if variable.regularizer is not None]
