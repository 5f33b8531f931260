"""The settings of an evaluation: every field is declared once, with its type, default, help and source."""

import dataclasses
from dataclasses import dataclass

from keras_moco.config.settings import check, setting
from keras_moco.errors import UserError

__all__ = ["EvaluationConfig"]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, on which images, and how; the defaults are the protocols of the papers.

    Raises:
        ValueError: if a number is out of its range, or a word is none of the choices.

    Example:

    >>> EvaluationConfig(workdir="runs/quickstart", knn_k=(20, 200)).knn_temperature
    (0.1,)
    """

    workdir: str | None = setting(None, "Folder of a run of train.py.")
    checkpoint: str = setting("newest", "Which one of the run: newest, best (by kNN, of those kept), or a step.")
    model: str | None = setting(
        None, "What else is evaluated: a .keras file, an exported folder or SavedModel, .pth, .pth.tar or .safetensors."
    )
    trust_saved_model: bool = setting(
        False, "Open a SavedModel of --model, which is a program: only of somebody you trust."
    )
    output: str | None = setting(
        None, "Folder for results.json, model card and pictures. The run's, or evaluation/<name of the model>."
    )
    dataset: str | None = setting(None, "Images, as for train.py. Those of the run if not given.")
    data_dir: str | None = setting(None, "Where tfds data sets lie, if not as in training.")
    data_licence: str | None = setting(None, "Licence of the images, for the model card, if the data set does not say.")
    image_size: int | None = setting(
        None, "Height and width of the images, in pixels. As in the run if not given.", range="at least 1"
    )
    split: str = setting("test", "Which images: train or test (embed, retrieve, measures).", choices=("train", "test"))
    batch_size: int = setting(256, "Images per step.", range="at least 1")
    seed: int = setting(0, "Of everything random.", range="in [0, 2**32)")
    pictures: bool = setting(True, "Draw confusion matrices, projections and curves.")

    features: str | None = setting(
        None,
        "Where features are taken: backbone, or embedding, behind the head. knn: both; else backbone.",
        choices=("backbone", "embedding"),
        table="keras_moco.evaluation.features:LEVELS",
    )
    knn_k: tuple[int, ...] = setting(
        (),
        "Neighbours that vote, one or several numbers. If not given, as many as suit the data, 200 (CIFAR-10 demo) at "
        "most.",
        range="at least 1",
    )
    knn_temperature: tuple[float, ...] = setting(
        (0.1,), "Temperatures of their votes (CIFAR-10 demo).", range="positive"
    )

    linear_on: str = setting(
        "images",
        "What linear trains on: images, augmented (the authors), or features, extracted once (fast).",
        choices=("images", "features"),
    )
    rates: tuple[float, ...] = setting(
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        "Learning rates of linear for 256 images, trained at once. The authors' is 30, which is no misprint: features "
        "are small, and there is no weight decay.",
        range="positive",
    )
    epochs: int | None = setting(
        None,
        "Passes over the images. linear: 100 (the authors); finetune: 30; semi: 60 up to 1 %, else 30 (SimCLR).",
        range="at least 1",
    )
    crop_min_area: float = setting(
        0.08, "Smallest share of the image that a random crop keeps (torchvision).", range="in (0, 1]"
    )

    learning_rate: float = setting(
        0.05, "Of finetune and semi, for 256 images; scaled linearly (SimCLR, B.5).", range="positive"
    )
    weight_decay: float = setting(
        0.0, "Of finetune and semi, L2 added to the gradient (SimCLR, B.5).", range="at least 0"
    )
    fractions: tuple[float, ...] = setting((1.0, 10.0), "Percent of the labels that semi uses.", range="in (0, 100]")
    seeds: int = setting(3, "How often semi repeats each, with other labels.", range="at least 1")
    random_weights: bool = setting(True, "Have semi train the same network from random weights too.")

    queries: tuple[str, ...] = setting(
        ("0", "1", "2", "3", "4", "5", "6", "7"),
        "What retrieve looks up: image files, or numbers in --split.",
    )
    neighbours: int = setting(10, "How many images retrieve finds for each.", range="at least 1")

    def __post_init__(self):
        check(self)
        if (self.workdir is None) == (self.model is None):
            raise UserError(
                "Either a run or a model must be given to be evaluated. "
                f"Received: workdir={self.workdir}, model={self.model}. Give --workdir or --model."
            )

    def changed(self):
        """Names of fields that have other values than their defaults: a list."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
