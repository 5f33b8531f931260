"""The training curves as a picture that is always up to date."""

import csv
import os
from pathlib import Path

import keras

# name in the logs: (title, unit, factor)
PANELS = {
    "loss": ("Contrastive loss", "nats", 1.0),
    "contrast_top1": ("Contrast accuracy (top-1)", "%", 100.0),
    "knn_top1": ("kNN accuracy of the features", "%", 1.0),
    "learning_rate": ("Learning rate", "", 1.0),
}


class Curves(keras.callbacks.Callback):
    """After each epoch draws loss, contrast accuracy, kNN accuracy and learning rate into a PNG file.

    The file is replaced in one piece, so a viewer never sees half a picture. Place this callback behind those
    that add to the logs (`KnnMonitor`, `Progress`).

    Args:
        path: path of the PNG file; its directory must exist when the first epoch ends.
        chance_loss: float, drawn as a dashed line: the loss if all similarities are equal, `ln(K + 1)` for
            MoCo with a queue of `K`. A run that settles there has learned nothing. Defaults to no line.
        log_csv: path of the `CSVLogger` file of a run that goes on: its rows come before the new epochs. A
            file that does not exist yet is an empty one. Defaults to none.

    Attributes:
        rows: dict, epoch (counted from 0) to a dict of logs.

    Example:

    ```python
    curves = Curves("runs/1/curves.png", chance_loss=math.log(65536 + 1), log_csv="runs/1/log.csv")
    model.fit(batches, epochs=200, initial_epoch=100, callbacks=[monitor, progress, csv_logger, curves])
    ```
    """

    def __init__(self, path, chance_loss=None, log_csv=None):
        super().__init__()
        self.path = Path(path)
        self.chance_loss = chance_loss
        self.rows = read_log(log_csv) if log_csv is not None and Path(log_csv).exists() else {}

    def on_epoch_begin(self, epoch, logs=None):
        # A run that was stopped after its last checkpoint repeats epochs that are in the log already.
        self.rows = {earlier: row for earlier, row in self.rows.items() if earlier < epoch}

    def on_epoch_end(self, epoch, logs=None):
        self.rows[epoch] = {name: float(value) for name, value in (logs or {}).items()}
        self.draw()

    def draw(self):
        """Writes the picture of `rows`."""
        # The object interface: no window system, and nobody else's pyplot figures are touched.
        from matplotlib.figure import Figure  # half a second of import time

        figure = Figure(figsize=(10, 7), layout="constrained")
        for axes, (name, (title, unit, factor)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
            points = [(epoch + 1, factor * row[name]) for epoch, row in sorted(self.rows.items()) if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
            else:
                axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
            if name == "loss" and self.chance_loss is not None:
                axes.axhline(self.chance_loss, color="gray", linestyle="--", label=f"chance {self.chance_loss:.2f}")
                axes.legend()
            axes.set(title=title, xlabel="epoch", ylabel=unit)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        figure.savefig(temporary, format="png", dpi=100)
        os.replace(temporary, self.path)


def read_log(path):
    """Reads a file of `keras.callbacks.CSVLogger`.

    Args:
        path: path of the CSV file.

    Returns:
        dict, epoch to a dict of the numbers in its row. Of an epoch that was repeated the last row counts;
        what is not a number (`NA`), and the broken last line of a run that was killed, is left out.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "log.csv")
    >>> _ = path.write_text("epoch,loss,knn_top1\\n0,5.5,NA\\n1,5.25,71.5\\n")
    >>> read_log(path)
    {0: {'loss': 5.5}, 1: {'loss': 5.25, 'knn_top1': 71.5}}
    """
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            numbers = {name: _number(text) for name, text in line.items() if isinstance(name, str)}
            numbers = {name: number for name, number in numbers.items() if number is not None}
            if "epoch" in numbers:
                rows[int(numbers.pop("epoch"))] = numbers
    return rows


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
