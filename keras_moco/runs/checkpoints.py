"""The format of a checkpoint: a folder per step, written whole or not at all, and checked before it is read.

checkpoints/step-000001170/
    model.weights.h5    all variables of model and optimizer, as Keras stores them
    state.json          where training stands, its log so far, random states and further facts
    manifest.json       size and SHA-256 of the two others
"""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np

from keras_moco.errors import UserError
from keras_moco.networks.encoder import Encoder
from keras_moco.networks.stored_weights import every_variable, load_or_leave, random_states
from keras_moco.runs.checkpoint_index import (
    FORMAT,
    MANIFEST,
    PREFIX,
    STATE,
    UNFINISHED,
    WEIGHTS,
    SavedState,
    find_whole,
    measured,
)
from keras_moco.runs.versions import versions
from keras_moco.storage.atomic import flush, in_memory
from keras_moco.storage.locks import locked
from keras_moco.storage.paths import StrPath, user_path
from keras_moco.trust.hdf5 import check_weights


class NotFiniteError(UserError):
    """Loss, gradients or variables are NaN or infinite."""


def save(
    model: keras.Model,
    directory: StrPath,
    epoch: int = 0,
    step_in_epoch: int = 0,
    log: dict[int, dict[str, float]] | None = None,
    extra: dict | None = None,
) -> Path:
    """Saves the complete state of a model and its optimizer, as a new checkpoint.

    The files are written to a folder of another name, flushed to the disk, and the folder is renamed: whatever
    happens, there is either a whole checkpoint or none.

    Args:
        model: built and compiled model such as `MoCo` whose optimizer is built.
        directory: path of the folder of checkpoints, created if missing.
        epoch: int, from 0, the epoch in which training resumes. Defaults to `0`.
        step_in_epoch: int, the number of its steps that are done. Defaults to `0`.
        log: dict of epoch to a dict of numbers. Defaults to an empty one.
        extra: dict of further facts, as JSON takes it. Defaults to an empty one.

    Returns:
        `pathlib.Path` of the checkpoint.

    Raises:
        ValueError: if model or optimizer are not built.
        NotFiniteError: if a variable is not finite.
        OSError: if it could not be written; earlier checkpoints are untouched, and nothing of this one remains.
    """
    _check_built(model)
    _check_finite(model)
    directory = user_path(directory)
    step = model.steps_done
    state = {"format": FORMAT, "step": step, "epoch": epoch, "step_in_epoch": step_in_epoch}
    state |= {"log": log or {}, "versions": versions(), "extra": extra or {}, "random": random_states(model)}
    directory.mkdir(parents=True, exist_ok=True)
    # One process at a time: the unfinished folder of another one must not be taken for that of a killed process.
    with locked(directory / "save"):
        return _write(model, state, directory)


def _write(model, state, directory):
    """Writes a checkpoint, whole or not at all, while no other process does."""
    final, unfinished = (directory / f"{prefix}{state['step']:09d}" for prefix in (PREFIX, UNFINISHED))
    try:
        for left in directory.glob(f"{UNFINISHED}*"):  # by a process that was killed
            shutil.rmtree(left)
        unfinished.mkdir()
        # By way of memory: HDF5 crashes the process (a segmentation fault at its end) where it meets a full disk.
        with every_variable(model):
            (unfinished / WEIGHTS).write_bytes(in_memory(model.save_weights, WEIGHTS))
        (unfinished / STATE).write_text(json.dumps(state), encoding="utf-8")
        manifest = {name: measured(unfinished / name) for name in (WEIGHTS, STATE)}
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            flush(path)
        _replace(unfinished, final)
        flush(directory)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def restore(
    model: keras.Model, directory: StrPath, set_aside: bool = False, step: int | None = None
) -> SavedState | None:
    """Restores the newest whole checkpoint of a folder, or that of a step.

    Args:
        model: built and compiled model, made like the saved one and with its optimizer built:
            `model.optimizer.build(model.trainable_variables)`.
        directory: path, as of `save`.
        set_aside: bool, whether to rename damaged checkpoints, since training will save the same steps again. Defaults
            to `False`.
        step: int, the step of a saved checkpoint. Defaults to `None`: the newest whole one.

    Returns:
        `SavedState`, or `None` if there is no checkpoint; then the model is as it was. A `UserWarning` names each
        damaged checkpoint that was skipped.

    Raises:
        ValueError: if model or optimizer are not built, all checkpoints are damaged, or the checkpoint belongs to
            another model or was saved by a later version; then the model is as it was.
        OSError: if a checkpoint cannot be read, so that it is not known whether it is damaged.
    """
    _check_built(model)
    return _load(model, directory, set_aside, step)


def restore_encoder(encoder: Encoder, directory: StrPath, step: int | None = None) -> SavedState | None:
    """Restores the encoder alone, so that the rest of the model, such as a long queue, need not be built.

    Args:
        encoder: `Encoder`, made like that of the saved model.
        directory, step: as of `restore`.

    Returns:
        `SavedState`, or `None` if there is no checkpoint; then the encoder is as it was.

    Raises:
        ValueError: as `restore`.
    """
    return _load(_EncoderAlone(encoder), directory, step=step)


def _load(model, directory, set_aside=False, step=None):
    """Loads the weights of the newest whole checkpoint, or of that of a step; its `SavedState`, `None` without one."""
    while state := find_whole(directory, set_aside, step):
        try:
            _load_weights(model, state)
            return state
        except FileNotFoundError:
            if state.path.exists():
                raise
            # A training run that keeps the newest ones has deleted it meanwhile, and saved another one.
    return None


def _replace(new, final):
    """Renames a folder to the name of another one, which is gone only when that is done."""
    old = final.with_name(f"{UNFINISHED}{final.name}")
    if final.exists():  # saved before at this very step
        os.rename(final, old)
    try:
        os.rename(new, final)
    except OSError:
        if old.exists():
            os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_built(model):
    optimizer = getattr(model, "optimizer", None)  # absent until `compile`
    if not model.built or optimizer is None or not optimizer.built:
        raise UserError(
            "`model` and its optimizer must be built, or the optimizer's state would be skipped. "
            f"Received: model.built={model.built}, optimizer "
            f"{'missing' if optimizer is None else f'built={optimizer.built}'}. "
            "Call `model.compile(...)` and `model.optimizer.build(model.trainable_variables)` first."
        )


def _check_finite(model):
    logged = {id(variable) for variable in model.means.weights} if hasattr(model, "means") else ()
    for variable in (*model.variables, *model.optimizer.variables):
        if id(variable) in logged:
            continue  # training does not depend on a metric that is NaN
        values = keras.ops.convert_to_numpy(variable)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise NotFiniteError(
                "All variables must be finite to be saved. "
                f"Received: {variable.path} with NaN or infinity after {model.steps_done} steps. "
                "Resume from the checkpoint before, with a lower learning rate."
            )


class _EncoderAlone(keras.Model):
    """A model with nothing but an encoder, under the name that it has in every contrastive model."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.built = True

    def load_own_variables(self, store):
        """Ignores the counters of the saved model."""


def _load_weights(model, state):
    path = state.path / WEIGHTS
    check_weights(path)
    try:
        load_or_leave(model, path, () if isinstance(model, _EncoderAlone) else state.random)
    except (ValueError, KeyError, UserWarning) as error:
        raise UserError(
            "The checkpoint must have been saved from a model and optimizer of the same configuration. "
            f"Received: {path}, and Keras says: {error} Use the saved configuration or another directory."
        ) from error
