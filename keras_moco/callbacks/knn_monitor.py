"""How good are the features now? Measured during training, without training anything."""

from keras_moco.callbacks.feature_monitor import FeatureMonitor
from keras_moco.checks.ranges import check_number
from keras_moco.evaluation.batches import check_batches
from keras_moco.evaluation.knn import knn_accuracy


class KnnMonitor(FeatureMonitor):
    """Weighted kNN accuracy of the encoder's embedding or features, before training and at the ends of epochs.

    The contrastive loss does not tell how good features are; this does, in seconds and without a parameter to
    fit (official CIFAR demo). The result is put into the logs as `"knn_top1"`, in percent, so place this
    callback in front of those that read logs (`EpochLog`, `EventLog`, `Progress`, `Curves`).

    Args:
        bank_dataset: finite data set of `{"image", "label"}` or `(image, label)` batches that vote, usually training
            images without augmentation; or arrays of them. As for `FeatureExtractor.blocks`, and labelled.
        query_dataset: likewise, the images to classify, usually of the test split.
        num_classes: int.
        k: int, number of neighbours. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float, of the vote. Defaults to `0.1` (official CIFAR demo).
        features: `"embedding"`, the unit vectors after the head, as in the official CIFAR demo, or `"backbone"`, the
            pooled features before it, which transfer better to other tasks. Defaults to `"embedding"`.
        every_epochs: int, evaluates after every so many epochs, and after the last one. Defaults to `1`.

    Attributes:
        initial_top1: accuracy in percent before the first step of the model; `None` where `fit` continues one that
            has been trained (`model.steps_done`). Set it beforehand where it is known.
        history: list of `(epoch, accuracy in percent)`, epochs counted from 0 as Keras does.

    Raises:
        ValueError: if a number is out of its range; when training begins, if the data sets, the encoder and `k` do not
            fit; so no epoch is lost.

    Example:

    ```python
    monitor = KnnMonitor(evaluation_dataset(train, 32), evaluation_dataset(test, 32), num_classes=10)
    model.fit(batches, epochs=20, callbacks=[monitor, EpochLog("log.csv")])
    print(monitor.initial_top1, monitor.history[-1])
    ```
    """

    def __init__(
        self, bank_dataset, query_dataset, num_classes, k=200, temperature=0.1, features="embedding", every_epochs=1
    ):
        super().__init__(features, every_epochs)
        check_number("num_classes", num_classes, "at least 1", "Count the classes of the labels.", whole=True)
        check_number("k", k, "at least 1", "The CIFAR-10 demo uses 200.", whole=True)
        check_number("temperature", temperature, "positive", "The CIFAR-10 demo uses 0.1.")
        self.bank_dataset = bank_dataset
        self.query_dataset = query_dataset
        self.num_classes = num_classes
        self.k = k
        self.temperature = temperature
        self.initial_top1 = None
        self.history = []

    def set_model(self, model):
        if model is not self._model:
            for name in ("bank_dataset", "query_dataset"):
                check_batches(name, getattr(self, name), model.encoder.image_shape)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        if self.initial_top1 is None:
            found = self.evaluate()  # in any case, which finds out what does not fit
            # Other models than this package's do not count their steps.
            self.initial_top1 = None if getattr(self.model, "steps_done", 0) else found

    def figures(self, epoch):
        top1 = self.evaluate()
        self.history.append((epoch, top1))
        return {"knn_top1": top1}

    def evaluate(self):
        """Measures the model as it stands.

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
