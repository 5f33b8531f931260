"""A training with labels that was interrupted, kept in one file until it is finished."""

import json
import time
import warnings
import zipfile

import keras
import numpy as np

from keras_moco.data import labelled_dataset, steps_per_epoch
from keras_moco.networks.seeds import seed_generators
from keras_moco.storage.atomic import NamedBytes, in_memory, replace_when_written
from keras_moco.storage.paths import user_path


def fit_labelled(model, source, augmentation, batch_size, epochs, seed, callbacks=(), verbose=0, unfinished=None):
    """Trains a compiled model, whose optimizer is built, on augmented images with their labels.

    Args:
        model: `keras.Model` from images to logits.
        source: labelled `Source`.
        augmentation, batch_size, seed: as of `keras_moco.data.labelled_dataset`.
        epochs: int.
        callbacks, verbose: as of `keras.Model.fit`.
        unfinished: `Unfinished`, from which an interrupted training resumes. Defaults to `None`.
    """
    done = unfinished.begin(model, source) if unfinished else 0
    if done >= epochs:
        return
    model.fit(
        labelled_dataset(source, augmentation, batch_size, seed, first_epoch=done),
        steps_per_epoch=steps_per_epoch(source, batch_size),
        initial_epoch=done,
        epochs=epochs,
        callbacks=[*callbacks, *filter(None, [unfinished])],
        verbose=verbose,
        shuffle=False,
    )


class Unfinished(keras.callbacks.Callback):
    """Keeps a training after its epochs, so that it resumes there and ends in the bits of an undisturbed one.

    Weights, optimizer, the number of epochs, the state of random layers and the images that could not be read lie in
    one file, which is replaced in one piece. A file that was damaged meanwhile is not used, and a line says so.

    Args:
        path: path of the file; its folder exists.
        max_share: float in (0, 1], the share of the time that writing may take: where epochs are short, some are not
            kept. Defaults to `1.0`: after each epoch.

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
        self._last = None  # when it was written
        self._duration = 0.0  # how long that took

    def begin(self, model, source):
        """Restores a model that is not trained yet, as far as an earlier process has come.

        Args:
            model: compiled `keras.Model` whose optimizer is built, made like the one that was kept.
            source: `Source` of the images that it is trained on; it learns which ones could not be read.

        Returns:
            int, how many epochs are done; 0 where nothing was kept.
        """
        self._source = source
        before = [keras.ops.convert_to_numpy(variable) for variable in _state(model)]
        try:
            with open(self.path, "rb") as file, np.load(file) as kept:
                epochs, weights, notes = int(kept["epochs"]), kept["weights"], json.loads(str(kept["notes"]))
            _load_weights(model, weights.tobytes())
            for generator, state in zip(seed_generators(model), notes["random"], strict=True):
                generator.state.assign(state)
        except FileNotFoundError:
            return 0
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, UserWarning) as error:
            for variable, value in zip(_state(model), before, strict=True):
                variable.assign(value)
            print(f"note: {self.path} cannot be used ({_short(error)}); its training begins anew", flush=True)
            return 0
        if source.bad:
            source.bad.remember(notes["bad_images"])
        print(f"resumed from {self.path} after {epochs} epochs", flush=True)
        return epochs

    def delete(self):
        """Deletes the file, when what came of the training is in a safe place."""
        self.path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if self._last is not None and now - self._last < self._duration * (1 / self.max_share - 1):
            return
        try:
            replace_when_written(self.path, lambda temporary: self._write(temporary, epoch + 1))
        except OSError as error:
            print(f"warning: {self.path} was not written ({error}); the training goes on", flush=True)
        self._last = time.monotonic()
        self._duration = self._last - now

    def _write(self, temporary, epochs):
        notes = {
            "random": [keras.ops.convert_to_numpy(each.state).tolist() for each in seed_generators(self.model)],
            "bad_images": self._source.bad.met if self._source.bad else {},
        }
        weights = np.frombuffer(in_memory(self.model.save_weights, "model.weights.h5"), "uint8")
        with open(temporary, "wb") as file:  # to a name, NumPy would add an ending
            np.savez(file, epochs=epochs, weights=weights, notes=json.dumps(notes))


def _load_weights(model, content):
    with warnings.catch_warnings():
        # Keras only warns, and goes on with an optimizer that has forgotten everything.
        warnings.filterwarnings("error", message="Skipping variable loading for optimizer")
        model.load_weights(NamedBytes("model.weights.h5", content))


def _state(model):
    """All that a training changes: a list of variables."""
    return [*model.variables, *model.optimizer.variables]


def _short(error):
    """The beginning of what an error says, in one line."""
    return " ".join(str(error).split())[:100] or type(error).__name__
