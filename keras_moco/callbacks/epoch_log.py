"""One row of metrics per epoch, in a CSV file."""

import csv
import io

import keras

from keras_moco.storage.atomic import write_text
from keras_moco.storage.paths import StrPath, user_path


class EpochLog(keras.callbacks.Callback):
    """Writes a CSV file with one row per epoch and one column per metric, whole after every epoch.

    As `keras.callbacks.CSVLogger`, for runs that are stopped and resumed: the file always is the log of the whole run,
    with each epoch once, whatever was in it before. Metrics that only some epochs have get a column when they first
    appear, and are `NA` in other epochs.

    Args:
        path: path of the CSV file.
        log: dict of epoch (from 0) to a dict of numbers, of the epochs before, such as `Checkpoint.log`. Defaults to
            none.

    Example:

    ```python
    model.fit(batches, epochs=20, callbacks=[EpochLog("log.csv")])
    ```
    """

    def __init__(self, path: StrPath, log: dict[int, dict[str, float]] | None = None) -> None:
        super().__init__()
        self.path = user_path(path)
        self.log = dict(log or {})

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.log or self.path.exists():
            self.write()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.log[epoch] = dict(logs or {})
        self.write()

    def write(self) -> None:
        """Writes the whole file."""
        names = sorted({name for row in self.log.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *names], restval="NA", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"epoch": epoch, **row} for epoch, row in sorted(self.log.items()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, text.getvalue())
