"""The settings that follow from a look at the images, as lines of a flagfile."""

import math

import numpy as np

from keras_moco.config import Config
from keras_moco.config.settings import to_text
from keras_moco.data.channel_statistics import SMALLEST_STD
from keras_moco.data.survey import Survey
from keras_moco.data.value_range import FULL, PERCENTILE
from keras_moco.evaluation.knn import usual_k
from keras_moco.runs.fitted_settings import batch_size_for, views_for
from keras_moco.runs.plan import Plan, settled_by


def suggested_flags(survey: Survey, config: Config) -> list[str]:
    """Lines of a flagfile for a run on these images; the rest is decided by what the images show.

    - `image_size`, `stem` and `batch_size`: as `keras_moco.runs.fitted_settings`. `queue_size`: what `Plan` derives.
    - `image_mean`, `image_std`: as measured. `value_range`, `channels`: as all images are decoded; percentiles as they
      are given.
    - `max_bad_fraction`: where more images are unreadable than the default allows, their share and 1 % more.
    - `knn_k`: `usual_k` of the labels, if there are any.

    Args:
        survey: `Survey` of the training images.
        config: `Config` whose `dataset`, `data_dir` and `background` are those of the images.

    Returns:
        list of str.

    Raises:
        ValueError: if no run is possible, such as of too few images.

    Example:

    >>> from keras_moco.data import open_source
    >>> from keras_moco.data.survey import survey
    >>> lines = suggested_flags(survey(open_source("digits")), Config(dataset="digits"))
    >>> lines[:3]
    ['--dataset=digits', '--train_examples=1437', '--channels=1']
    >>> lines[3:]  # doctest: +NORMALIZE_WHITESPACE
    ['--image_mean=0.305', '--image_std=0.376', '--image_size=16', '--stem=cifar', '--batch_size=256',
     '--queue_size=256', '--knn_k=138']
    """
    source = survey.source
    images, channels = source.num_examples, source.image_shape[-1]
    found = settled_by(config, source)
    values = {
        "dataset": config.dataset,
        "data_dir": config.data_dir,
        "train_examples": images,
        "channels": channels,
        "value_range": _value_range(config.value_range, found.value_range),
        "background": None if config.background == Config.background else config.background,
        **_normalisation(survey),
        **views_for(survey.sizes()),
        "batch_size": batch_size_for(images),
    }
    values = {name: value for name, value in values.items() if value is not None}
    values["queue_size"] = Plan(Config(**values), images, channels, replicas=1).config.queue_size
    share = len(survey.skipped) / images
    if share > Config.max_bad_fraction:
        values["max_bad_fraction"] = min(0.99, math.ceil(100 * share + 1) / 100)
    if (survey.labels() >= 0).any():
        values["knn_k"] = usual_k(survey.labels())
    Config(**values)  # checks their ranges
    return [f"--{name}={to_text(value)}" for name, value in values.items()]


def _value_range(given, found):
    if given.startswith(PERCENTILE):
        return given
    return None if found in (FULL, Config.value_range) else found


def _normalisation(survey):
    if not survey.decoded:
        return {}
    std = np.maximum(survey.std, SMALLEST_STD)
    parts = {"image_mean": survey.mean, "image_std": std}
    return {name: tuple(round(float(number), 3) for number in numbers) for name, numbers in parts.items()}
