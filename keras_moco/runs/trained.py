"""A finished run, opened again."""

import dataclasses

from keras_moco import distribution
from keras_moco.errors import UserError
from keras_moco.runs.build import build_encoder, build_model, plan_of, precision
from keras_moco.runs.checkpoint_index import find_step, is_saved
from keras_moco.runs.checkpoints import restore, restore_encoder
from keras_moco.runs.directory import RunDirectory


def load_model(workdir, data_dir=None, checkpoint="newest"):
    """The model of a checkpoint of a run, with its optimizer; needs no data if the flagfile says its size.

    Args:
        workdir: path of the run's folder.
        data_dir: path, where tfds data sets lie now. Defaults to `None`: as in training.
        checkpoint: `"newest"`, `"best"` (by kNN, of those kept), or the number of a step.

    Returns:
        `(Plan, model)`.

    Raises:
        ValueError: if there is no run, or it has no such checkpoint.
    """
    checkpoints, step, plan = _opened(workdir, data_dir, checkpoint)
    model = build_model(plan, distribution.make_strategy("one"))
    restore(model, checkpoints, step=step)
    return plan, model


def load_trained_encoder(workdir, data_dir=None, checkpoint="newest"):
    """The encoder of a checkpoint of a run, without what only its training needs.

    Neither key encoder nor queue, bank or optimizer are made, which are most of a checkpoint.

    Args:
        workdir, data_dir, checkpoint: as of `load_model`.

    Returns:
        `Encoder`.

    Raises:
        ValueError: as `load_model`.
    """
    return open_trained_encoder(workdir, data_dir, checkpoint)[0]


def open_trained_encoder(workdir, data_dir=None, checkpoint="newest"):
    """As `load_trained_encoder`, with the number of steps that it was trained: `(Encoder, int)`."""
    checkpoints, step, plan = _opened(workdir, data_dir, checkpoint)
    with distribution.make_strategy("one").scope(), precision(plan.config.precision):
        encoder = build_encoder(plan)
    return encoder, restore_encoder(encoder, checkpoints, step=step).step


def is_run(path):
    """Whether a folder is that of a run of train.py which has a checkpoint, whatever else lies in it."""
    run = RunDirectory(path)
    return run.flagfile.is_file() and is_saved(run.checkpoints)


def _opened(workdir, data_dir, checkpoint):
    """`(checkpoints, step, Plan)`: the folder of its checkpoints, which of them, and what it was."""
    run = RunDirectory(workdir)
    config = run.config()
    config = dataclasses.replace(config, data_dir=data_dir or config.data_dir)
    if not is_saved(run.checkpoints):
        raise UserError(
            f"`workdir` must hold a checkpoint. Received: {run.path} without one. Train with train.py first."
        )
    step = find_step(run.checkpoints, checkpoint)
    # The replicas are those of its training; here on one, where nothing is trained, moving statistics do for BatchNorm.
    return run.checkpoints, step, plan_of(config, run.results().get("replicas", 1))
