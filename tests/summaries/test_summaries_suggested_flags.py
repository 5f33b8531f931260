"""Which settings are suggested for images."""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_moco.config import Config
from keras_moco.data.survey import Entry, Survey
from keras_moco.runs.plan import Plan
from keras_moco.summaries.suggested_flags import suggested_flags
from tests.run_command import parsed


def flags_of(count=1000, size=(500, 375), channels=3, labels=None, decoded=1, std=0.2):
    """The settings that are suggested for a number of images of one size, as a `Config`."""
    source = SimpleNamespace(num_examples=count, image_shape=(None, None, channels), decoding=None)
    labels = np.full(count, -1) if labels is None else labels
    entries = [Entry(index, int(label), size=size) for index, label in enumerate(labels)]
    mean, std = np.full(channels, 0.4567), np.full(channels, std)
    survey = Survey(source, entries, list(range(decoded)), mean, std, None, None, [], [])
    lines = suggested_flags(survey, Config(dataset="folder:photos"))
    return parsed(Config, lines)[0], lines


@pytest.mark.parametrize(
    "size, expected",
    [
        ((8, 8), (16, "cifar")),
        ((28, 28), (28, "cifar")),
        ((32, 900), (32, "cifar")),
        ((63, 63), (32, "cifar")),
        ((64, 80), (64, "half")),
        ((100, 96), (96, "half")),
        ((200, 130), (128, "imagenet")),
        ((4000, 3000), (224, "imagenet")),
    ],
)
def test_views_are_no_larger_than_the_images_and_the_stem_is_that_of_the_page(size, expected):
    config, _ = flags_of(size=size)
    assert (config.image_size, config.stem) == expected


@pytest.mark.parametrize("count, batch, queue", [(20, 8, 8), (128, 16, 16), (1000, 128, 128), (30_000, 256, 5888)])
def test_the_queue_is_a_fifth_of_the_images_in_whole_batches(count, batch, queue):
    config, _ = flags_of(count)
    assert (config.batch_size, config.queue_size, config.train_examples) == (batch, queue, count)
    notes = Plan(config, count, 3, replicas=1).describe()
    assert ("note" in notes) == (queue > count / 5)


def test_neighbours_are_suggested_only_for_labels():
    config, _ = flags_of(labels=np.repeat(np.arange(5), 200))
    assert config.knn_k == 100  # a tenth of the images
    config, _ = flags_of()
    assert config.knn_k is None


def test_mean_and_std_have_three_digits_and_can_be_used():
    config, _ = flags_of(channels=5, std=0.0)
    assert config.image_mean == 5 * (0.457,) and config.image_std == 5 * (0.001,)
    _, lines = flags_of(decoded=0)
    assert not any("image_mean" in line for line in lines)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="There must be two training images or more"):
        flags_of(1)
    with pytest.raises(ValueError, match="`batch_size` must not exceed"):
        flags_of(7)
