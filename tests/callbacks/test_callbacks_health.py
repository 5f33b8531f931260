import dataclasses
import importlib.util
import io
import re

import pytest

from keras_moco.callbacks import Health, health
from keras_moco.config import Config

HEALTHY = {"loss": 2.5, "feature_std": 0.8, "contrast_top1": 0.6, "queue_fill": 1.0}
ILL = {
    "collapse": ({"feature_std": 0.0123}, health.COLLAPSE, 0.0123),
    "too easy": ({"contrast_top1": 0.9973}, health.TOO_EASY, 0.9973),
    "at chance": ({"loss": 5.001}, health.AT_CHANCE, 5.001),
}


def told(*epochs, **settings):
    """What is printed for the logs of so many epochs."""
    callback = Health(**{"chance_loss": 5.0, "stream": (stream := io.StringIO()), **settings})
    for epoch, logs in enumerate(epochs):
        callback.on_epoch_end(epoch, logs)
    return stream.getvalue()


@pytest.mark.parametrize("figures, text, value", ILL.values(), ids=ILL)
def test_each_warning_comes_once_after_three_epochs(figures, text, value):
    assert told(*[HEALTHY | figures] * 3) == ""
    assert told(*[HEALTHY | figures] * 7) == text.format(epoch=4, value=value) + "\n"


@pytest.mark.parametrize("figures, text, value", ILL.values(), ids=ILL)
def test_no_warning_comes_before_the_queue_is_full(figures, text, value):
    filling = HEALTHY | figures | {"queue_fill": 0.99}
    assert told(*[filling] * 7) == ""
    assert told(*[filling] * 7, HEALTHY | figures) == text.format(epoch=8, value=value) + "\n"


@pytest.mark.parametrize("figures, text, value", ILL.values(), ids=ILL)
def test_an_illness_that_has_passed_in_the_first_epochs_is_not_told(figures, text, value):
    assert told(*[HEALTHY | figures] * 3, *[HEALTHY] * 5) == ""


def test_healthy_logs_get_no_warning():
    assert told(*[HEALTHY] * 10) == ""
    assert told(*[HEALTHY | {"loss": 4.97, "feature_std": 0.051, "contrast_top1": 0.989}] * 10) == ""


def test_different_illnesses_are_told_one_after_the_other():
    lines = told(*[HEALTHY] * 3, *[HEALTHY | figures for figures, *_ in ILL.values()] * 2).splitlines()
    assert [line.split(" the ")[0] for line in lines if line.startswith("warning")] == [
        "warning: after epoch 4",
        "warning: after epoch 5 99.7% of",
        "warning: after epoch 6",
    ]


def test_the_first_lines_name_epoch_and_figure():
    first = [told(*[HEALTHY | figures] * 4).splitlines()[0] for figures, *_ in ILL.values()]
    assert first == [
        "warning: after epoch 4 the embeddings of all images are nearly one (feature_std 0.012; 1 is spread out): the "
        "encoder has collapsed. Look at",
        "warning: after epoch 4 99.7% of the queries find their key: the task is solved, and teaches nothing more. "
        "Look at",
        "warning: after epoch 4 the loss is still 5.001, what all similarities being equal would give: nothing has "
        "been learnt. Look at",
    ]


@pytest.mark.parametrize("missing", HEALTHY)
def test_a_missing_figure_is_fine(missing):
    assert told(*[{name: value for name, value in HEALTHY.items() if name != missing}] * 5) == ""


@pytest.mark.parametrize("chance_loss", [None, 5.0])
def test_logs_may_be_absent(chance_loss):
    assert told(*[None] * 5, *[{}] * 5, chance_loss=chance_loss) == ""


def test_without_a_chance_loss_the_loss_is_not_looked_at():
    assert told(*[HEALTHY | {"loss": 5.0}] * 5, chance_loss=None) == ""


def test_the_epochs_not_looked_at_can_be_chosen():
    assert told(HEALTHY | {"feature_std": 0.0}, after_epochs=0).startswith("warning: after epoch 1 the embeddings ")


def test_it_prints_to_the_standard_output_of_the_time(capsys):
    told(*[HEALTHY | {"feature_std": 0.0}] * 5, stream=None)
    assert capsys.readouterr().out == health.COLLAPSE.format(epoch=4, value=0.0) + "\n"


@pytest.mark.parametrize("text", [text for _, text, _ in ILL.values()], ids=ILL)
def test_the_warnings_name_flags_and_modules_that_exist(text):
    flags = re.findall(r"--(\w+)", text)
    assert flags and set(flags) <= {field.name for field in dataclasses.fields(Config)}
    assert all(importlib.util.find_spec(module) for module in re.findall(r"python -m ([\w.]+)", text))
