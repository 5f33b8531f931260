"""The settings of an evaluation: every field is declared once, with its type, default, help and source."""

import sys
from dataclasses import dataclass
from functools import partial

from keras_moco.config.settings import Settings, setting
from keras_moco.errors import UserError, did_you_mean

__all__ = ["EvaluationConfig"]

_model, _images, _features, _linear, _tuning, _retrieval, _export, _all = (
    partial(setting, group=group)
    for group in "model|images|features and kNN|linear classifiers|fine-tuning|retrieval|export|all evaluations".split(
        "|"
    )
)

# What each evaluation of `keras_moco.evaluation.registry` does: it is chosen before TensorFlow is loaded.
MODES = {
    "knn": "weighted k-nearest-neighbour accuracy",
    "linear": "linear classifiers by SGD, as the authors train them (a minute with --linear_on=features)",
    "logistic": "logistic regression on the frozen features",
    "semi": "fine-tuning on 1 % and 10 % of the labels, beside the same network from random weights",
    "finetune": "fine-tuning on all labels; saves the classifier",
    "retrieve": "the most similar training images, as a picture",
    "embed": "the features of all images, in a file for NumPy",
    "measures": "alignment, uniformity, embedding std and effective rank; needs no labels",
    "export": "SavedModel and .keras file of the backbone, again; --to=hf:FOLDER for the Hugging Face Hub",
}


def check_mode(name):
    """Refuses a name of no evaluation; those that were added to the registry are known, too."""
    known = MODES | getattr(sys.modules.get("keras_moco.evaluation.registry"), "EVALUATIONS", {})
    if name not in known:
        raise UserError(
            f"evaluate must be given one mode of {', '.join(known)}. Received: {name or 'none'}. "
            f"{did_you_mean(name, known)}Write for example: keras-moco evaluate knn --workdir=runs/quickstart."
        )


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What is evaluated, on which images, and how; the defaults are the protocols of the papers.

    Raises:
        ValueError: if a number is out of its range, or a word is none of the choices.

    Example:

    >>> EvaluationConfig(workdir="runs/quickstart", knn_k=(20, 200)).knn_temperature
    (0.1,)
    """

    workdir: str | None = _model(None, "Folder of a run of pretrain.")
    checkpoint: str = _model("newest", "Checkpoint of the run: newest, best (by kNN, of those kept), or a step.")
    model: str | None = _model(
        None,
        "Model to evaluate instead: .keras file, exported folder, SavedModel, .pth, .pth.tar or .safetensors; or "
        "hf://user/name.",
    )
    trust_saved_model: bool = _model(False, "Allow a SavedModel for --model; it can run any code.")
    output: str | None = _model(
        None, "Folder for results.json, model card and pictures. The run's, or evaluation/<name of the model>."
    )

    dataset: str | None = _images(None, "Images, as for pretrain. Those of the run if not given.")
    test_fraction: float | None = _images(
        None,
        "Share of the images that is the test split. For the images of the run its own if not given, else none.",
        range="in [0, 1)",
        used_by=("folder", "list"),
    )
    data_dir: str | None = _images(None, "Folder of prepared TensorFlow Datasets. That of training if not given.")
    data_licence: str | None = _images(None, "Licence of the images, for the model card, if the data set does not say.")
    image_size: int | None = _images(
        None, "Height and width of the images, in pixels. As in the run if not given.", range="at least 1"
    )
    split: str = _images("test", "Split for embed, retrieve and measures", choices=("train", "test"))

    features: str | None = _features(
        None,
        "Features to evaluate (knn: both if not given; else the backbone's)",
        choices={"backbone": "before the head", "embedding": "after it"},
        table="keras_moco.evaluation.features:LEVELS",
    )
    knn_k: tuple[int, ...] = _features(
        (), "Neighbours of kNN, one or more. As suits the data, at most 200, if not given.", range="at least 1"
    )
    knn_temperature: tuple[float, ...] = _features(
        (0.1,), "Temperatures of the kNN votes (CIFAR-10 demo).", range="positive"
    )

    linear_on: str = _linear("images", "Input of linear", choices={"images": "augmented", "features": "fast"})
    # The authors' 30 is no misprint: features are small, and there is no weight decay.
    rates: tuple[float, ...] = _linear(
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        "Learning rates of linear for 256 images, trained at once (the authors: 30).",
        range="positive",
    )
    epochs: int | None = _linear(
        None,
        "Passes over the images. linear: 100 (the authors); finetune: 30; semi: 60 up to 1 %, else 30 (SimCLR).",
        range="at least 1",
    )
    crop_min_area: float = _linear(
        0.08, "Smallest random crop, as a fraction of the image's area (torchvision).", range="in (0, 1]"
    )

    learning_rate: float = _tuning(
        0.05, "Learning rate of finetune and semi for 256 images; scaled linearly (SimCLR, B.5).", range="positive"
    )
    weight_decay: float = _tuning(
        0.0, "L2 penalty of finetune and semi, added to the gradient (SimCLR, B.5).", range="at least 0"
    )
    fractions: tuple[float, ...] = _tuning((1.0, 10.0), "Percentages of labels for semi.", range="in (0, 100]")
    seeds: int = _tuning(3, "Label subsets for each percentage of semi.", range="at least 1")
    random_weights: bool = _tuning(True, "Let semi train the same network from random weights too.")

    queries: tuple[str, ...] = _retrieval(
        ("0", "1", "2", "3", "4", "5", "6", "7"), "Queries of retrieve: image files, or numbers in --split."
    )
    neighbours: int = _retrieval(10, "Images that retrieve finds for each query.", range="at least 1")

    to: str | None = _export(
        None, "What export writes instead: hf:FOLDER, a folder for the Hugging Face Hub, with model card and metadata."
    )
    overwrite: bool = _export(False, "Let export replace files in a folder that is not empty.")

    batch_size: int = _all(256, "Images per step.", range="at least 1")
    seed: int = _all(0, "Random seed.", range="in [0, 2**32)")
    pictures: bool = _all(True, "Draw confusion matrices, projections and curves.")

    def __post_init__(self):
        super().__post_init__()
        if (self.workdir is None) == (self.model is None):
            raise UserError(
                "Either a run or a model must be given to be evaluated. "
                f"Received: workdir={self.workdir}, model={self.model}. Give --workdir or --model."
            )
