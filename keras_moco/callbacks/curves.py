"""Training curves as an image file that is always up to date."""

import keras

from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import StrPath, user_path

# name in the logs: (title, unit, factor)
PANELS = {
    "loss": ("Contrastive loss", "nats", 1.0),
    "contrast_top1": ("Contrast accuracy (top-1)", "%", 100.0),
    "knn_top1": ("kNN accuracy of the features", "%", 1.0),
    "learning_rate": ("Learning rate", "", 1.0),
}


class Curves(keras.callbacks.Callback):
    """After each epoch draws loss, contrast accuracy, kNN accuracy and learning rate into a PNG file.

    The file is replaced in one piece, so a viewer never sees half an image. Place this callback after those that add
    to the logs (`KnnMonitor`, `Progress`).

    Args:
        path: path of the PNG file; its directory must exist when the first epoch ends.
        chance_loss: float, the loss at chance level, where all similarities are equal: `ln(K + 1)` for MoCo with `K`
            keys in the queue. It is drawn as a dashed line; a run that stays there has learned nothing. Defaults to
            no line.
        log: dict of epoch (counted from 0) to a dict of numbers, of the epochs before, such as `Checkpoint.log`.
            Defaults to none.

    Attributes:
        log: dict of all epochs, those before included.

    Example:

    ```python
    curves = Curves("runs/1/curves.png", chance_loss=math.log(65536 + 1), log=checkpoint.log)
    model.fit(batches, epochs=200, initial_epoch=100, callbacks=[monitor, progress, curves, checkpoint])
    ```
    """

    def __init__(
        self, path: StrPath, chance_loss: float | None = None, log: dict[int, dict[str, float]] | None = None
    ) -> None:
        super().__init__()
        self.path = user_path(path)
        self.chance_loss = chance_loss
        self.log = dict(log or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.log[epoch] = {name: float(value) for name, value in (logs or {}).items()}
        self.draw()

    def draw(self) -> None:
        """Draws `log` into the file."""
        # The object interface: it needs no window system, and leaves the caller's pyplot figures alone.
        from matplotlib.figure import Figure  # half a second of import time

        figure = Figure(figsize=(10, 7), layout="constrained")
        for axes, (name, (title, unit, factor)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
            points = [(epoch + 1, factor * row[name]) for epoch, row in sorted(self.log.items()) if name in row]
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
        replace_when_written(self.path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
