"""The state of an interrupted training run with labels, kept in one file until the run is finished."""

import contextlib
import json
import shutil
import time
import zipfile
import zlib

import keras
import numpy as np

from keras_moco.networks.stored_weights import load_or_leave, random_states
from keras_moco.storage.atomic import NamedBytes, in_memory, replace_when_written
from keras_moco.storage.paths import user_path

SHARE = 0.05  # of the time, which saving the state may take


class Unfinished(keras.callbacks.Callback):
    """Saves the state of `fit` after its epochs, so that it resumes and ends with the bits of an uninterrupted run.

    Weights, optimizer, the number of epochs, the state of random layers and the images that could not be read are in
    one file, which is replaced as a whole. A damaged file is not used, and a line of the log says so.

    Args:
        path: path of the file; its folder exists.
        max_share: float in (0, 1], the share of the time that writing may take: where epochs are short, the state is
            not saved after each. Defaults to `1.0`: after each epoch.

    Example:

    ```python
    unfinished = Unfinished("classifier.unfinished")
    classifier = fine_tune(backbone, train, image_size=224, unfinished=unfinished)
    classifier.save("flowers.keras")
    unfinished.delete()
    ```
    """

    def __init__(self, path, max_share=1.0):
        super().__init__()
        self.path = user_path(path)
        self.max_share = max_share
        self._source = None
        self._last = None  # the time of the last write
        self._duration = 0.0  # of that write, in seconds

    def restore(self, model, source):
        """Restores the state that an earlier process saved.

        Args:
            model: compiled `keras.Model` whose optimizer is built, made like the saved model.
            source: `Source` of the training images; it is given the list of those that could not be read.

        Returns:
            int, the number of finished epochs; 0 if nothing was saved.
        """
        self._source = source
        try:
            with open(self.path, "rb") as file, np.load(file) as kept:
                epochs, weights, notes = int(kept["epochs"]), kept["weights"], json.loads(str(kept["notes"]))
            load_or_leave(model, NamedBytes("model.weights.h5", weights.tobytes()), notes["random"])
        except FileNotFoundError:
            return 0
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, UserWarning) as error:
            print(f"note: {self.path} cannot be used ({_short(error)}); training starts from the beginning", flush=True)
            return 0
        if source.bad:
            source.bad.remember(notes["bad_images"])
        print(f"resumed from {self.path} after {epochs} epochs", flush=True)
        return epochs

    def delete(self):
        """Deletes the file, once the results are recorded."""
        self.path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if self._last is not None and now - self._last < self._duration * (1 / self.max_share - 1):
            return
        try:
            replace_when_written(self.path, lambda temporary: self._write(temporary, epoch + 1))
        except OSError as error:
            print(f"warning: {self.path} was not written ({error}); training continues", flush=True)
        self._last = time.monotonic()
        self._duration = self._last - now

    def _write(self, temporary, epochs):
        notes = {
            "random": random_states(self.model),
            "bad_images": self._source.bad.met if self._source.bad else {},
        }
        weights = np.frombuffer(in_memory(self.model.save_weights, "model.weights.h5"), "uint8")
        with open(temporary, "wb") as file:  # given a name, NumPy would add a suffix
            np.savez(file, epochs=epochs, weights=weights, notes=json.dumps(notes))


def _short(error):
    """The start of an error message, in one line."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def unfinished_run(target, evaluation, *part):
    """The saved state of a long training run on the same checkpoint and images, with the same settings.

    Args:
        target: `EvaluationTarget`.
        evaluation: str, the name of the evaluation.
        *part: values that distinguish its training runs, where there are several.

    Returns:
        `Unfinished`, to be deleted once the metrics are recorded.
    """
    train, weights = target.train, target.checkpoint["weights"]
    what = (evaluation, part, target.config, train.name, train.num_examples, train.class_names, train.digests)
    name = f"unfinished_{evaluation}_{weights}_{zlib.crc32(repr(what).encode()):08x}.npz"
    return Unfinished(target.output.path_of(name), max_share=SHARE)


def delete_outdated(target, evaluation):
    """Deletes the saved state of runs on other checkpoints, which nothing resumes from."""
    for path in target.output.folder.glob(f"unfinished_{evaluation}_*"):
        if not path.name.startswith(f"unfinished_{evaluation}_{target.checkpoint['weights']}_"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process
                shutil.rmtree(path) if path.is_dir() else path.unlink()
