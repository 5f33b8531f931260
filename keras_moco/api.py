"""The functions to start with: `pretrain` and `embed`, in one call each.

They do what the commands do, and are at the top: `keras_moco.pretrain`, `keras_moco.embed`, and `load_backbone` of
`keras_moco.runs.load` beside them.
"""

import csv
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_moco.commands import evaluate as evaluate_command
from keras_moco.commands import pretrain as pretrain_command
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.settings import to_text
from keras_moco.data.open import name_of
from keras_moco.distribution import count_replicas, has_accelerator
from keras_moco.errors import UserError, did_you_mean
from keras_moco.evaluation.features import extract_features
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.networks.by_name import is_ours
from keras_moco.runs.build import open_split
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.fitted_settings import fitted_settings, images_of
from keras_moco.runs.load import load_backbone
from keras_moco.storage.paths import StrPath, user_path

__all__ = ["Embedded", "PretrainedRun", "embed", "load_backbone", "pretrain"]


@dataclasses.dataclass(frozen=True)
class PretrainedRun:
    """A run of `pretrain`, or of `train.py`, in its folder.

    Args:
        path: the folder of the run; as an attribute a `pathlib.Path`.

    Raises:
        ValueError: if there is no run.
    """

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", self._run.path)  # it is frozen
        self._run.config()  # refuses another folder

    @property
    def _run(self):
        return RunDirectory(self.path)

    @property
    def config(self) -> Config:
        """`Config`: all settings of the run, those that followed from the images too."""
        return self._run.config()

    @functools.cached_property
    def backbone(self) -> keras.Model:
        """`keras.Model` from images with the values of their files to features `(n, F)`, as of `load_backbone`."""
        return load_backbone(self.path)

    @property
    def history(self) -> dict[str, list[float]]:
        """dict of metrics to a list with a number for each epoch, as `keras.callbacks.History.history`.

        A metric that is not measured in every epoch, such as `knn_top1`, is NaN in the others. Empty before the end of
        the first epoch.
        """
        if not self._run.log_csv.exists():
            return {}
        with open(self._run.log_csv, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else {})}

    @property
    def results(self) -> dict[str, Any]:
        """dict: the content of `results.json`, such as `knn_top1` in percent."""
        return self._run.results.read()

    def export(self, path: StrPath, overwrite: bool = False) -> Path:
        """Writes the backbone into a folder, as `keras_moco.export.export_backbone`, beside the export of the run.

        Args:
            path: the folder.
            overwrite: bool. Replace the files of an export in a folder that is not empty. Defaults to `False`.

        Returns:
            `pathlib.Path` of the folder.

        Raises:
            ValueError: if the folder is not empty.
        """
        folder = user_path(path)
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise UserError(
                f"`path` must be a new or empty folder. Received: {folder}, which holds other things. Choose another "
                "one, or give overwrite=True."
            )
        self.evaluate("export", output=str(folder))
        return folder

    def evaluate(self, mode: str, **settings: Any) -> dict[str, Any]:
        """Evaluates the encoder, as `evaluate.py` does.

        Args:
            mode: str, such as `"knn"`: a mode of `evaluate.py`.
            **settings: fields of `EvaluationConfig`, such as `dataset="folder:labelled"`.

        Returns:
            dict of the results of the run so far.
        """
        _check_names(settings, EvaluationConfig)
        if "dataset" in settings:
            settings["dataset"] = name_of(settings["dataset"])
        return evaluate_command.evaluate(mode, EvaluationConfig(workdir=str(self.path), **settings))


def pretrain(data: StrPath, out: StrPath, **settings: Any) -> PretrainedRun | None:
    """Pre-trains an encoder on images, in one call; what is not given follows from the images.

    If `out` is a run already, it is resumed, with its own settings; a finished one is returned at once.

    Args:
        data: a folder of images, a `.zip`, `.tar`, `.tfrecord` or `.csv` file, or a name as of `--dataset` of train.py.
        out: path of the folder of the run: checkpoints, curves, results, exported backbone.
        **settings: fields of `Config`, which are the flags of train.py, such as `epochs=100`.

    Returns:
        `PretrainedRun`; `None` on workers that do not see the folder of the run.

    Raises:
        ValueError: for an unknown setting, or as `train.py`, before any work starts.

    Example:

    ```python
    run = keras_moco.pretrain("photos", out="runs/photos", epochs=100)
    features = run.backbone.predict(images)
    ```
    """
    _check_names(settings, Config)
    for name, argument in (("dataset", "data"), ("workdir", "out")):
        if name in settings:
            raise UserError(f"`{name}` must be given as `{argument}`. Received: the setting {name}. Rename it.")
    if settings.get("dry_run"):
        raise UserError(
            "`dry_run` must be given to the command. Received: dry_run=True. Run keras-moco pretrain --dry_run."
        )
    places: dict[str, Any] = {"dataset": name_of(data), "workdir": str(out)}
    run = RunDirectory(out)
    if run.flagfile.exists():
        pretrain_command.pretrain(dataclasses.replace(run.config(), **settings, **places))
        return PretrainedRun(run.path)
    config = Config(**settings, **places)
    run.check(config)
    train = open_split(config, "train")
    accelerator = has_accelerator() or config.strategy == "tpu"
    replicas = count_replicas(config.strategy, config.replicas)
    fitted = fitted_settings(images_of(train), accelerator, replicas, settings.get("image_size"))
    fitted = {
        name: value for name, value in fitted.items() if name not in settings and _is_used(name, config, settings)
    }
    flags = " ".join(f"--{name}={to_text(value)}" for name, value in fitted.items())
    print(f"not given, so they follow from the images and the devices: {flags}", flush=True)
    pretrain_command.pretrain(dataclasses.replace(config, **fitted), train)
    return PretrainedRun(run.path) if run.flagfile.exists() else None


class Embedded(NamedTuple):
    """The features of `n` images, in the order of the data set.

    Attributes:
        features: float32 array `(n, F)`.
        labels: int32 array `(n,)`; -1 for images without a label.
        files: list of the path of each image, `None` where it has none.
    """

    features: np.ndarray
    labels: np.ndarray
    files: list[str | None]


def embed(model: StrPath | PretrainedRun, data: StrPath | None = None, **settings: Any) -> Embedded:
    """The features of images, read as in the training of the model. Writes nothing.

    Args:
        model: a `PretrainedRun`, the folder of a run, or what `--model` of evaluate.py takes.
        data: images, as of `pretrain`. Defaults to `None`: those of the run.
        **settings: fields of `EvaluationConfig`, such as `split="train"` (the default is the test split of the run, and
            for other images all of them) or `features="embedding"`.

    Returns:
        `Embedded`. Without the images that cannot be read.

    Raises:
        ValueError: as `evaluate.py embed`.

    Example:

    ```python
    features, labels, files = keras_moco.embed("runs/photos", "new_photos")
    ```
    """
    _check_names(settings, EvaluationConfig)
    path = str(model.path if isinstance(model, PretrainedRun) else model)
    settings["workdir" if RunDirectory(path).flagfile.is_file() else "model"] = path
    if data is not None:
        settings = {"split": "train", **settings, "dataset": name_of(data)}
    target = EvaluationTarget(EvaluationConfig(**settings), writes=False)
    source = target.images
    found = extract_features(target.features, target.dataset_of(source))
    return Embedded(found.features, found.labels, source.files_of(found.index))


def _is_used(name, config, settings):
    """Whether a setting has a meaning for the method, and for a backbone that is given."""
    if name in ("stem", "backbone_width") and not is_ours(config.backbone):
        return False
    if name == "backbone_width" and "backbone" in settings:  # a network that is chosen has its own width
        return False
    users = Config.__dataclass_fields__[name].metadata["used_by"]
    return not users or config.method in users


def _number(text):
    return float("nan") if text in ("", "NA") else float(text)


def _check_names(settings, kind):
    names = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in names:
            raise UserError(
                f"Settings must be fields of `{kind.__name__}`. Received: {name}. "
                f"{did_you_mean(name, names)}`help({kind.__name__})` lists them."
            )
