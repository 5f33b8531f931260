"""Lists the checkpoints of a folder, reads where training stood, and finds the newest whole one.

A checkpoint that cannot be read still counts as one: otherwise the run would start from scratch and overwrite it.
"""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from pathlib import Path

from keras_moco.errors import UserError, UserOSError
from keras_moco.runs.versions import versions
from keras_moco.storage.atomic import read_json
from keras_moco.storage.paths import StrPath, refuse_pipe, user_path

WEIGHTS, STATE, MANIFEST = "model.weights.h5", "state.json", "manifest.json"
PREFIX, UNFINISHED, DAMAGED = "step-", ".unfinished-", "damaged-"
FORMAT = 1  # of `state.json`; raised by each change that earlier versions could not read


@dataclasses.dataclass(frozen=True)
class SavedState:
    """Where training stood when a checkpoint was saved.

    Attributes:
        path: `pathlib.Path` of the checkpoint.
        step: int, the number of steps trained.
        epoch: int, from 0, the epoch in which training resumes.
        step_in_epoch: int, the number of its steps that are done; 0 between two epochs.
        log: dict of epoch to a dict of its metrics.
        versions: dict of package names to the versions that saved it.
        extra: dict of further facts that were passed to `save`.
        random: list, the states of the model's random layers (`networks.stored_weights.random_states`).
    """

    path: Path
    step: int
    epoch: int
    step_in_epoch: int
    log: dict[int, dict[str, float]]
    versions: dict[str, str]
    extra: dict
    random: list = dataclasses.field(default_factory=list, compare=False, repr=False)


def saved_steps(directory: StrPath) -> dict[int, Path]:
    """The steps of all checkpoints in a folder, damaged ones included: a dict of step to path, the oldest first.

    Raises:
        OSError: if the folder exists and cannot be read, as where a share is not mounted.
    """
    directory = user_path(directory)
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError as error:
        if directory.is_symlink():
            raise _unreadable(directory, error) from error
        return {}
    except OSError as error:
        raise _unreadable(directory, error) from error
    numbers = {path: path.name.removeprefix(PREFIX) for path in paths if path.name.startswith(PREFIX)}
    # A broken link counts too: its target may be on a disk that is not mounted now.
    found = {int(n): path for path, n in numbers.items() if n.isdecimal() and (path.is_symlink() or path.is_dir())}
    return dict(sorted(found.items()))


def saved_states(directory):
    """The `SavedState` of every checkpoint in a folder that can be read: a dict of step to state, the oldest first."""
    states = {}
    for step, path in saved_steps(directory).items():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged, which `restore` reports
            states[step] = read_state(path)
    return states


def scores(states, metric):
    """A metric of the logs at the ends of epochs after which a checkpoint was saved: a dict of step to number."""
    ends = {step: state.log.get(state.epoch - 1, {}) for step, state in states.items() if state.step_in_epoch == 0}
    return {step: row[metric] for step, row in ends.items() if metric in row}


def find_step(directory: StrPath, which: str | int, figure: str = "knn_top1") -> int | None:
    """The step of the newest or best checkpoint, or of that of a step.

    Args:
        directory: path of the folder of checkpoints.
        which: `"newest"`, `"best"` (highest `figure` of the saved ones), or the number of a step, int or str.
        figure: str, the name of a metric in the logs.

    Returns:
        int, or `None` for `"newest"`, which is not known before it was checked for damage.

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


def is_saved(directory: StrPath) -> bool:
    """Whether a folder holds a checkpoint, of step 0 or later."""
    return bool(saved_steps(directory))


def find_whole(directory, set_aside=False, step=None):
    """The `SavedState` of the newest whole checkpoint of a folder, or of that of a step, as `checkpoints.restore`.

    Raises:
        ValueError: if all checkpoints are damaged, none is of that step, or its format is not known.
        OSError: if one cannot be read, so that it is not known whether it is damaged.
    """
    steps = saved_steps(directory)
    if step is not None:
        if step not in steps:
            raise UserError(
                f"`step` must be that of a checkpoint. Received: {step}, which is not in {directory}, or no longer. "
                f"Choose one of {', '.join(map(str, steps))}."
            )
        steps = {step: steps[step]}
    damaged, gone = [], 0
    for path in reversed(steps.values()):
        try:
            reason = _damage(path)
            if reason is None:
                state = read_state(path)
                break
        except FileNotFoundError as error:
            reason = str(error)
        if os.path.lexists(path):
            damaged.append((path, reason))
        else:
            gone += 1  # deleted meanwhile, by a training run that keeps the newest ones
    else:
        if gone:
            return find_whole(directory, set_aside, step)
        if not damaged:
            return None
        listed = "; ".join(f"{path} ({reason})" for path, reason in damaged)
        raise UserError(
            f"A checkpoint must have all its files as they were saved. Received: {listed}, and no other. "
            "Restore one from a backup, or train from the start in another folder."
        )
    for passed_over, reason in damaged:
        place = passed_over
        if set_aside:
            place = _free(passed_over.with_name(DAMAGED + passed_over.name))
            passed_over.rename(place)
        moved = f", now {place}" if set_aside else ""
        warnings.warn(f"{passed_over} is damaged ({reason}){moved}; the one before it is used.", stacklevel=4)
    return state


def read_state(path):
    """The `SavedState` of a whole checkpoint.

    Raises:
        ValueError: if its `state.json` has another format, such as that of a later version.
    """
    state = None
    try:
        state = read_json(path / STATE)
        if state.get("format", FORMAT) > FORMAT:
            raise ValueError("a later format")
        fields = {field.name for field in dataclasses.fields(SavedState)} - {"path"}
        # Later versions may add fields that earlier ones do not need.
        known = {name: value for name, value in state.items() if name in fields}
        known["log"] = {int(epoch): dict(row) for epoch, row in known["log"].items()}
        places = (known[name] for name in ("step", "epoch", "step_in_epoch"))
        if not all(isinstance(each, int) and each >= 0 for each in places):
            raise ValueError("not numbers of steps")
        return SavedState(path=path, **known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        made_by = state.get("versions") if isinstance(state, dict) else None
        made_by = made_by.get("keras_moco") if isinstance(made_by, dict) else None
        raise UserError(
            f"`{STATE}` of a checkpoint must have the format that this version of keras_moco writes. "
            f"Received: {path / STATE} of version {made_by or 'unknown'}, here is {versions()['keras_moco']}. "
            "Use the version that saved it, or a later one."
        ) from error


def measured(path):
    """Size and SHA-256 of a file."""
    refuse_pipe(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _damage(path):
    """What is wrong with a checkpoint, in a few words; `None` if it is whole.

    Raises:
        OSError: if a file of it cannot be read.
    """
    try:
        if path.is_symlink():
            os.stat(path)
        manifest = read_json(path / MANIFEST)
        for name in (WEIGHTS, STATE):
            if measured(path / name) != manifest[name]:
                return f"{name} is not what was saved"
    except FileNotFoundError as error:
        if path.is_symlink() and not path.exists():
            raise _unreadable(path, error) from error
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    return None


def _unreadable(path, error):
    """The error to raise where a checkpoint cannot be read, so that it is not known what it holds."""
    reason = "a link to what is not there" if isinstance(error, FileNotFoundError) else error.strerror
    return UserOSError(
        "Checkpoints must be readable, or a run would continue without them. "
        f"Received: {error.filename or path} ({reason}). Correct its permissions, or mount or restore its disk."
    )


def _free(path):
    """`path`, or the first of `path.2`, `path.3`... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
