"""Notices in the first epochs a run that learns nothing, before it takes days."""

import sys
from typing import TextIO

import keras

from keras_moco.checks.ranges import check_number

COLLAPSED = 0.05  # `feature_std` is 1 where embeddings fill the sphere, 0 where all are identical
SOLVED = 0.99  # share of queries whose key is more similar than all others

COLLAPSE = """warning: after epoch {epoch} all embeddings are nearly identical (feature_std {value:.3f}; 1 is spread \
out): the encoder has collapsed. Look at
  - the learning rate: is it too high for this batch size? (--base_learning_rate, --warmup_epochs)
  - the views: are they more than a flat colour? (keras-moco preview)
  - the scaling: are --image_mean and --image_std those of images in 0..1?
  - the temperature: 0.07 to 0.2 is usual (--temperature)"""

TOO_EASY = """warning: after epoch {epoch} {value:.1%} of the queries find their key: the task is solved, and the \
encoder learns nothing more from it. Look at
  - the views: are both crops nearly the same? (--crop_min_area, --augment; keras-moco preview)
  - the number of negatives: more are harder (--queue_size, --num_negatives)
  - BatchNorm: query and key must not share statistics (--bn_mode=split on one device, shuffle on several)
  - the images: is there a frame, a time stamp or a mark that identifies each image?"""

AT_CHANCE = """warning: after epoch {epoch} the loss is still {value:.3f}, as at chance level, where all similarities \
are equal: the encoder has learned nothing. Look at
  - the learning rate: is it far too low, or so high that training diverged? (--base_learning_rate)
  - the views: can the image still be recognised in them? (keras-moco preview)"""


class Health(keras.callbacks.Callback):
    """Warns, once each, of a collapsed encoder, of a solved pretext task, and of a loss that stays at chance level.

    Only after the first epochs, and with a full queue: random keys are easy negatives. Training continues.
    Place this callback after those that add to the logs.

    Args:
        chance_loss: float, the loss at chance level, where all similarities are equal: `ln(K + 1)` for MoCo. Defaults
            to `None`: the loss is not checked.
        after_epochs: int, the number of first epochs that are not checked. Defaults to `3`.
        stream: text file to print to. Defaults to the standard output at the time of printing.

    Raises:
        ValueError: if a number is out of its range.

    Example:

    ```python
    model.fit(batches, epochs=200, callbacks=[Health(chance_loss=math.log(65536 + 1))])
    ```
    """

    def __init__(self, chance_loss: float | None = None, after_epochs: int = 3, stream: TextIO | None = None) -> None:
        super().__init__()
        if chance_loss is not None:
            check_number("chance_loss", chance_loss, "positive", "It is ln(K + 1) for MoCo with K keys in the queue.")
        check_number("after_epochs", after_epochs, "at least 0", "Use 0 to check from the first epoch on.", whole=True)
        self.chance_loss = chance_loss
        self.after_epochs = after_epochs
        self.stream = stream
        self._warned: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if epoch < self.after_epochs or logs.get("queue_fill", 1.0) < 1.0:
            return
        if logs.get("feature_std", 1.0) < COLLAPSED:
            self._warn(COLLAPSE, epoch, logs["feature_std"])
        elif self.chance_loss is not None and abs(logs.get("loss", 0.0) / self.chance_loss - 1) < 0.005:
            self._warn(AT_CHANCE, epoch, logs["loss"])
        elif logs.get("contrast_top1", 0.0) > SOLVED:
            self._warn(TOO_EASY, epoch, logs["contrast_top1"])

    def _warn(self, text, epoch, value):
        if text not in self._warned:
            self._warned.add(text)
            print(text.format(epoch=epoch + 1, value=value), file=self.stream or sys.stdout, flush=True)
