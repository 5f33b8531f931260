"""What a checkpoint is on the disk: a folder per step, written whole or not at all, and checked before it is read.

checkpoints/step-000001170/
    model.weights.h5    all variables of model and optimizer, as Keras stores them
    state.json          where training stands, its log so far, and what else was handed over
    manifest.json       size and SHA-256 of the two others
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_moco.durable import flush
from keras_moco.errors import UserError
from keras_moco.models.cloning import seed_generators
from keras_moco.paths import user_path
from keras_moco.trust.hdf5 import check_weights
from keras_moco.versions import versions

WEIGHTS, STATE, MANIFEST = "model.weights.h5", "state.json", "manifest.json"
_PREFIX, _UNFINISHED, _DAMAGED = "step-", ".unfinished-", "damaged-"


@dataclasses.dataclass(frozen=True)
class SavedState:
    """Where training stood when a checkpoint was saved.

    Attributes:
        path: `pathlib.Path` of the checkpoint.
        step: int, steps trained.
        epoch: int, from 0, in which training goes on.
        step_in_epoch: int, steps of it that are done; 0 between two epochs.
        log: dict of epoch to a dict of what it logged.
        versions: dict of the package versions that it was saved with.
        extra: dict of what else was handed to `save`.
    """

    path: Path
    step: int
    epoch: int
    step_in_epoch: int
    log: dict
    versions: dict
    extra: dict


class NotFiniteError(UserError):
    """The training has left the finite numbers."""


def save(model, directory, epoch=0, step_in_epoch=0, log=None, extra=None):
    """Saves the complete state of a model and its optimizer, as a new checkpoint.

    The files are written to a folder of another name, flushed to the disk, and the folder is renamed: whatever
    happens, there is either a whole checkpoint or none.

    Args:
        model: built and compiled model such as `MoCo` whose optimizer is built.
        directory: path of the folder of checkpoints, created if missing.
        epoch: int, from 0, in which training goes on. Defaults to `0`.
        step_in_epoch: int, steps of that epoch that are done. Defaults to `0`.
        log: dict of epoch to a dict of numbers. Defaults to an empty one.
        extra: dict of further things to remember, as JSON takes it. Defaults to an empty one.

    Returns:
        `pathlib.Path` of the checkpoint.

    Raises:
        ValueError: if model or optimizer are not built.
        NotFiniteError: if a variable is not finite; such a state is worth nothing.
        OSError: if it could not be written; the checkpoints before it are untouched, and nothing of it is left.
    """
    _check_built(model)
    _check_finite(model)
    directory = user_path(directory)
    step = model.steps_done
    final, unfinished = (directory / f"{prefix}{step:09d}" for prefix in (_PREFIX, _UNFINISHED))
    place = {"step": step, "epoch": epoch, "step_in_epoch": step_in_epoch}
    random = [keras.ops.convert_to_numpy(generator.state).tolist() for generator in seed_generators(model)]
    state = {**place, "log": log or {}, "versions": versions(), "extra": extra or {}, "random": random}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f"{_UNFINISHED}*"):  # of a process that was killed
            shutil.rmtree(left)
        unfinished.mkdir()
        _save_weights(model, unfinished / WEIGHTS)
        (unfinished / STATE).write_text(json.dumps(state), encoding="utf-8")
        manifest = {name: _measured(unfinished / name) for name in (WEIGHTS, STATE)}
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            flush(path)
        _replace(unfinished, final)
        flush(directory)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def saved_steps(directory):
    """The steps of all checkpoints in a folder, damaged ones included: a dict of step to path, the oldest first."""
    found = {}
    for path in sorted(user_path(directory).glob(f"{_PREFIX}*")):
        number = path.name.removeprefix(_PREFIX)
        if number.isdecimal() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items()))


def saved_states(directory):
    """The `SavedState` of every checkpoint in a folder that can be read: a dict of step to state, the oldest first."""
    states = {}
    for step, path in saved_steps(directory).items():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged, which `restore` tells
            states[step] = read_state(path)
    return states


def scores(states, figure):
    """What was logged at the ends of epochs behind which there is a checkpoint.

    Args:
        states: dict of step to `SavedState`.
        figure: name of a figure in the logs, such as `"knn_top1"`.

    Returns:
        dict of step to number.
    """
    ends = {step: state.log.get(state.epoch - 1, {}) for step, state in states.items() if state.step_in_epoch == 0}
    return {step: row[figure] for step, row in ends.items() if figure in row}


def find_step(directory, which, figure="knn_top1"):
    """The step of a checkpoint by a word.

    Args:
        directory: path of the folder of checkpoints.
        which: `"newest"`, `"best"` (highest `figure` of those that are there), or the number of a step, int or str.
        figure: name of a figure in the logs.

    Returns:
        int, or `None` for `"newest"`, which is known only when it has proved whole.

    Raises:
        ValueError: if there is no such checkpoint.
    """
    which = str(which)
    if which == "newest":
        return None
    steps, scored = saved_steps(directory), scores(saved_states(directory), figure)
    if which == "best" and scored:
        return max(scored, key=scored.get)
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise UserError(
        f"`checkpoint` must be newest, best (where {figure} was measured) or a step that is saved, of "
        f"{', '.join(map(str, steps))}. Received: {which}, in {directory}. Choose one of them."
    )


def is_saved(directory):
    """Whether a folder holds a checkpoint, of step 0 or later."""
    return bool(saved_steps(directory))


def restore(model, directory, set_aside=False, step=None):
    """Restores the newest whole checkpoint of a folder, or that of a step.

    Args:
        model: built and compiled model, made like the saved one and with its optimizer built:
            `model.optimizer.build(model.trainable_variables)`.
        directory: path, as of `save`.
        set_aside: bool, whether to rename damaged checkpoints, which training will come to write again. Defaults to
            `False`.
        step: int, of a checkpoint that is there. Defaults to `None`: the newest whole one.

    Returns:
        `SavedState`, or `None` if there is no checkpoint, and then the model is as it was. Of each damaged checkpoint
        that was passed over a `UserWarning` tells.

    Raises:
        ValueError: if model or optimizer are not built, all checkpoints are damaged, or the checkpoint belongs to
            another model. A damaged checkpoint leaves the model as it was.
    """
    _check_built(model)
    path = _whole(directory, set_aside, step)
    if path is None:
        return None
    _load_weights(model, path / WEIGHTS)
    # Which Keras does not save with the weights: by these, random layers such as `Dropout` go on drawing.
    random = json.loads((path / STATE).read_text(encoding="utf-8")).get("random", [])
    for generator, state in zip(seed_generators(model), random, strict=False):
        generator.state.assign(state)
    return read_state(path)


def restore_encoder(encoder, directory, step=None):
    """Restores the encoder alone, for which the rest of the model, such as a long queue, need not exist.

    Args:
        encoder: `Encoder`, made like that of the saved model.
        directory, step: as of `restore`.

    Returns:
        `SavedState`, or `None` if there is no checkpoint, and then the encoder is as it was.

    Raises:
        ValueError: as `restore`.
    """
    path = _whole(directory, step=step)
    if path is None:
        return None
    _load_weights(_EncoderAlone(encoder), path / WEIGHTS)
    return read_state(path)


def _whole(directory, set_aside=False, step=None):
    """Path of the newest whole checkpoint, or of that of a step; `None` if there is no checkpoint at all."""
    steps = saved_steps(directory)
    if step is not None:
        steps = {step: steps[step]}
    damaged = []
    for path in reversed(steps.values()):
        reason = _damage(path)
        if reason is None:
            break
        damaged.append((path, reason))
    else:
        if not damaged:
            return None
        listed = "; ".join(f"{path} ({reason})" for path, reason in damaged)
        raise UserError(
            f"A checkpoint must have all its files as they were saved. Received: {listed}, and no other. "
            f"Restore one from a backup, or delete {directory} to train from the start."
        )
    for passed_over, reason in damaged:
        place = passed_over
        if set_aside:
            place = _free(passed_over.with_name(_DAMAGED + passed_over.name))
            passed_over.rename(place)
        moved = f", now {place}" if set_aside else ""
        warnings.warn(f"{passed_over} is damaged ({reason}){moved}; the one before it is used.", stacklevel=3)
    return path


def read_state(path):
    """The `SavedState` of a whole checkpoint."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    state.pop("random", None)  # of no use but to `restore`
    state["log"] = {int(epoch): row for epoch, row in state["log"].items()}
    return SavedState(path=path, **state)


def _replace(new, final):
    """Renames a folder to the name of another one, which is gone only when that is done."""
    old = final.with_name(f"{_UNFINISHED}{final.name}")
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
            continue  # a figure that is not a number does not make the training unsound
        values = keras.ops.convert_to_numpy(variable)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise NotFiniteError(
                "All variables must be finite to be saved. "
                f"Received: {variable.path} with NaN or infinity after {model.steps_done} steps. "
                "Go on from the checkpoint before, with a lower learning rate."
            )


class _File(io.BytesIO):
    """A file in memory with the name that Keras insists on."""

    def __str__(self):
        return WEIGHTS


def _save_weights(model, path):
    # HDF5 takes the process with it when a disk becomes full under it, so it never writes to one.
    file = _File()
    model.save_weights(file)
    path.write_bytes(file.getbuffer())


class _EncoderAlone(keras.Model):
    """A model with nothing but an encoder, in the place where every contrastive model has its own."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.built = True

    def load_own_variables(self, store):
        """Leaves the counters of the saved model where they are."""


def _load_weights(model, path):
    check_weights(path)
    with warnings.catch_warnings():
        # Keras only warns, and goes on with an optimizer that has forgotten everything.
        warnings.filterwarnings("error", message="Skipping variable loading for optimizer")
        try:
            model.load_weights(path)
        except (ValueError, KeyError, UserWarning) as error:
            raise UserError(
                "The checkpoint must have been saved from a model and optimizer of the same configuration. "
                f"Received: {path}, and Keras says: {error} Use the saved configuration or another directory."
            ) from error


def _measured(path):
    """Size and digest of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _damage(path):
    """What is wrong with a checkpoint, a few words; `None` if it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        for name in (WEIGHTS, STATE):
            if not (path / name).is_file():
                return f"{name} is missing"
            if _measured(path / name) != manifest[name]:
                return f"{name} is not what was saved"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    return None


def _free(path):
    """`path`, or the first of `path.2`, `path.3`... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
