"""A finished run, opened again."""

import dataclasses

from keras_moco import data, distribution
from keras_moco.building import build_model, open_split, plan_of
from keras_moco.callbacks import is_saved, restore
from keras_moco.config import Config
from keras_moco.models import Encoder
from keras_moco.plan import Plan
from keras_moco.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run that `train.py` has left, opened for evaluation.

    Attributes:
        run: `RunDirectory`.
        config: `Config`.
        encoder: the query `Encoder` of its last checkpoint.
        train: `Source`, the training split.
    """

    run: RunDirectory
    config: Config
    encoder: Encoder
    train: data.Source

    @property
    def num_classes(self):
        """int."""
        return self.train.num_classes

    def labelled_data(self):
        """The images of both splits without augmentation, `(train, test)`.

        Raises:
            ValueError: if they have no labels, or there is no test split.
        """
        if self.train.class_names is None:
            raise ValueError(
                "The data must have labels to be evaluated by them. "
                f"Received: {self.config.dataset}, without labels. Give a folder with one sub-folder per class."
            )
        test = open_split(self.config, "test")
        return [data.evaluation_dataset(split, self.config.image_size) for split in (self.train, test)]


def load_run(workdir, data_dir=None):
    """Opens the newest checkpoint of a run, and its data.

    Args:
        workdir: path of the run's folder.
        data_dir: path, where tfds data sets lie now. Defaults to `None`: as in training.

    Returns:
        `TrainedRun`.

    Raises:
        ValueError: if there is no run, or it has no checkpoint.
    """
    run, config = _opened(workdir, data_dir)
    train = open_split(config, "train")
    model = _restored(run, Plan.of(config, train, _replicas(run)))
    return TrainedRun(run, config, model.encoder, train)


def load_model(workdir, data_dir=None):
    """The model of the newest checkpoint of a run, with its optimizer; needs no data if the flagfile says its size.

    Args:
        workdir, data_dir: as in `load_run`.

    Returns:
        `(Plan, model)`.

    Raises:
        ValueError: as `load_run`.
    """
    run, config = _opened(workdir, data_dir)
    plan = plan_of(config, _replicas(run))
    return plan, _restored(run, plan)


def _opened(workdir, data_dir):
    run = RunDirectory(workdir)
    config = run.config()
    return run, dataclasses.replace(config, data_dir=data_dir or config.data_dir)


def _replicas(run):
    """Those of its training; here on one replica, where nothing is trained, moving statistics do for BatchNorm."""
    return run.results().get("replicas", 1)


def _restored(run, plan):
    if not is_saved(run.checkpoints):
        raise ValueError(
            f"`workdir` must hold a checkpoint. Received: {run.path} without one. Train with train.py first."
        )
    model = build_model(plan, distribution.make_strategy("one"))
    restore(model, run.checkpoints)
    return model
