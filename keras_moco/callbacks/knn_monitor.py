"""kNN accuracy of the features during training."""

from typing import Any

import keras

from keras_moco.callbacks.feature_monitor import FeatureMonitor
from keras_moco.checks.ranges import check_number
from keras_moco.evaluation.batches import check_batches
from keras_moco.evaluation.knn import knn_accuracy


class KnnMonitor(FeatureMonitor):
    """Weighted kNN accuracy of the encoder's embedding or features, before training and at the ends of epochs.

    The contrastive loss does not show how good features are; this does, in seconds and without a parameter to
    fit (official CIFAR demo). The logs get it as `"knn_top1"`, in percent, so place this callback before those that
    read logs (`EpochLog`, `EventLog`, `Progress`, `Curves`).

    Args:
        bank_dataset: finite data set of `{"image", "label"}` or `(image, label)` batches, the reference set whose
            images vote, usually training images without augmentation; or arrays of them. As for
            `FeatureExtractor.blocks`, and labelled.
        query_dataset: data set of the same form with the images to classify, usually of the test split.
        num_classes: int, the number of classes.
        k: int, the number of neighbours. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float, the temperature of the vote. Defaults to `0.1` (official CIFAR demo).
        features: `"embedding"`, the unit vectors after the head, as in the official CIFAR demo, or `"backbone"`, the
            pooled features before it, which transfer better to other tasks. Defaults to `"embedding"`.
        every_epochs: int, the epochs from one evaluation to the next; the last one is evaluated too. Defaults to `1`.

    Attributes:
        initial_top1: float, accuracy in percent before the first step; `None` where the model was trained before
            (`model.steps_done`). Set it beforehand where it is known.
        history: list of `(epoch, accuracy in percent)`, epochs counted from 0 as Keras does.

    Raises:
        ValueError: if a number is out of its range; when training begins, so that no epoch is lost, if data sets,
            encoder and `k` do not fit each other.

    Example:

    ```python
    monitor = KnnMonitor(evaluation_dataset(train, 32), evaluation_dataset(test, 32), num_classes=10)
    model.fit(batches, epochs=20, callbacks=[monitor, EpochLog("log.csv")])
    print(monitor.initial_top1, monitor.history[-1])
    ```
    """

    def __init__(
        self,
        bank_dataset: Any,
        query_dataset: Any,
        num_classes: int,
        k: int = 200,
        temperature: float = 0.1,
        features: str = "embedding",
        every_epochs: int = 1,
    ) -> None:
        super().__init__(features, every_epochs)
        check_number("num_classes", num_classes, "at least 1", "Count the classes of the labels.", whole=True)
        check_number("k", k, "at least 1", "The CIFAR-10 demo uses 200.", whole=True)
        check_number("temperature", temperature, "positive", "The CIFAR-10 demo uses 0.1.")
        self.bank_dataset = bank_dataset
        self.query_dataset = query_dataset
        self.num_classes = num_classes
        self.k = k
        self.temperature = temperature
        self.initial_top1: float | None = None
        self.history: list[tuple[int, float]] = []

    def set_model(self, model: keras.Model) -> None:
        if model is not self._model:
            for name in ("bank_dataset", "query_dataset"):
                check_batches(name, getattr(self, name), model.encoder.image_shape)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.initial_top1 is None:
            found = self.evaluate()  # in any case, since it refuses what does not fit
            # Other models than this package's do not count their steps.
            self.initial_top1 = None if getattr(self.model, "steps_done", 0) else found

    def metrics(self, epoch: int) -> dict[str, float]:
        top1 = self.evaluate()
        self.history.append((epoch, top1))
        return {"knn_top1": top1}

    def evaluate(self) -> float:
        """Measures the current model.

        Returns:
            float, top-1 accuracy in percent.
        """
        bank = self.extractor.extract(self.bank_dataset)
        queries = self.extractor.extract(self.query_dataset)
        accuracy = knn_accuracy(
            bank.features,
            bank.labels,
            queries.features,
            queries.labels,
            self.num_classes,
            k=self.k,
            temperature=self.temperature,
        )
        return accuracy.top1
