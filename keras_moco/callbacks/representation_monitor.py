"""Alignment, uniformity and effective rank of the features during training, which need no labels."""

import keras
import tensorflow as tf

from keras_moco.callbacks.feature_monitor import FeatureMonitor
from keras_moco.errors import UserError
from keras_moco.evaluation.batches import check_batches
from keras_moco.evaluation.measures import RepresentationMeasures, representation_measures, similarities

COMPARED = 512  # images whose views are all compared with each other for `distributions`


class RepresentationMonitor(FeatureMonitor):
    """Alignment, uniformity and effective rank of the encoder's embedding or features at the ends of epochs.

    For images without labels, where there is no kNN accuracy: views of the same image should be close to each other
    (low `"alignment"`), different images far apart (low `"uniformity"`; Wang & Isola 2020), in many dimensions (high
    `"effective_rank"`; Garrido et al. 2023). The logs get them under these names, so place this callback before those
    that read logs (`EpochLog`, `EventLog`, `Progress`, `Curves`).

    Args:
        pairs: finite `tf.data.Dataset` of `{"query": (b, H, W, C), "key": (b, H, W, C)}` batches, or of tuples that
            begin with such a dict: two augmented views of the same images. They must be the same at every epoch, or
            the metrics are not comparable. Thousands of images are enough.
        features: `"embedding"`, the unit vectors after the head, which the loss is computed from, or `"backbone"`, the
            pooled features before it. Defaults to `"embedding"`.
        every_epochs: int, the epochs from one evaluation to the next; the last one is evaluated too. Defaults to `1`.

    Attributes:
        distributions: dict of `"similarities/positive"` and `"similarities/negative"` to cosines: of both views of an
            image, and of views of different images, among the first 512 of `pairs`. All views are encoded by the query
            encoder in inference mode, without key encoder and queue, so that epochs and methods are comparable. Empty
            where an epoch was not measured.

    Raises:
        ValueError: if `pairs` is infinite, or its batches are not pairs; when training begins, if the encoder does not
            take them.

    Example:

    ```python
    pairs = pretrain_dataset(train, augmentation, batch_size=128, entries=("query", "key")).take(16)
    model.fit(batches, epochs=20, callbacks=[RepresentationMonitor(pairs), EpochLog("log.csv")])
    ```
    """

    def __init__(self, pairs: tf.data.Dataset, features: str = "embedding", every_epochs: int = 1) -> None:
        super().__init__(features, every_epochs)
        _check(pairs)
        self.views = pairs.map(lambda views, *_: _one_after_the_other(views))
        self.distributions = {}

    def set_model(self, model: keras.Model) -> None:
        if model is not self._model:
            check_batches("pairs", self.views, model.encoder.image_shape, labelled=False)
        super().set_model(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.distributions = {}

    def metrics(self, epoch: int) -> dict[str, float]:
        measures = self.evaluate()
        return {name: getattr(measures, name) for name in ("alignment", "uniformity", "effective_rank")}

    def evaluate(self) -> RepresentationMeasures:
        """Measures the current model.

        Returns:
            `RepresentationMeasures`; its `feature_std` is that of all first views together.
        """
        views = self.extractor.extract(self.views)
        first, second = (views.features[views.labels == number] for number in range(2))
        positive, negative = similarities(first[:COMPARED], second[:COMPARED])
        self.distributions = {"similarities/positive": positive, "similarities/negative": negative}
        return representation_measures(first, second)


def _one_after_the_other(pairs):
    """A batch of pairs as a batch of images, for `FeatureExtractor`; an image's label is the number of its view."""
    views = [tf.cast(pairs[name], tf.float32) for name in ("query", "key")]
    number = tf.repeat([0, 1], tf.shape(views[0])[0])
    return {"image": tf.concat(views, axis=0), "label": number, "index": tf.range(tf.size(number))}


def _check(pairs):
    if not isinstance(pairs, tf.data.Dataset):
        raise UserError(
            f"`pairs` must be a `tf.data.Dataset`. Received: a {type(pairs).__name__}. "
            "Make one of arrays by `tf.data.Dataset.from_tensor_slices(pairs).batch(256)`."
        )
    entries = pairs.element_spec
    if isinstance(entries, tuple) and entries and isinstance(entries[0], dict):
        entries = entries[0]
    if not (isinstance(entries, dict) and {"query", "key"} <= entries.keys()):
        raise UserError(
            "Batches of `pairs` must be dictionaries with 'query' and 'key'. "
            f"Received: {sorted(entries) if isinstance(entries, dict) else type(entries).__name__}. "
            "Map your data set with `keras_moco.augment.two_views`."
        )
    if pairs.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError(
            "`pairs` must be finite, or measuring never ends. Received: an infinite data set. Add `.take(16)` to it."
        )
