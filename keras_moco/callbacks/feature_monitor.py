"""What the monitors share: which features they measure, and after which epochs."""

import abc

import keras

from keras_moco.checks.ranges import check_number
from keras_moco.evaluation.features import FeatureExtractor, at_level, check_level


class FeatureMonitor(keras.callbacks.Callback, abc.ABC):
    """Measures features of the model's encoder at the ends of epochs, and adds the metrics to the logs.

    A subclass implements `metrics`. The features come from one compiled graph, which reads the current weights.

    Args:
        features: `"embedding"`, the unit vectors after the head, or `"backbone"`, the pooled features before it.
        every_epochs: int, the epochs from one measurement to the next; the last epoch is measured too.
    """

    def __init__(self, features: str, every_epochs: int) -> None:
        super().__init__()
        check_level(features)
        check_number("every_epochs", every_epochs, "at least 1", "Omit the callback for never.", whole=True)
        self.features = features
        self.every_epochs = every_epochs
        self.extractor: FeatureExtractor | None = None

    @abc.abstractmethod
    def metrics(self, epoch: int) -> dict[str, float]:
        """Measures the model after an epoch, counted from 0: a dict of floats for the logs."""

    def set_model(self, model: keras.Model) -> None:
        if model is not self._model:
            self.extractor = FeatureExtractor(at_level(model.encoder, self.features))
        super().set_model(model)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        last = (self.params or {}).get("epochs")
        if (epoch + 1) % self.every_epochs == 0 or epoch + 1 == last:
            metrics = self.metrics(epoch)
            if logs is not None:
                logs.update(metrics)
