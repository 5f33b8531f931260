import dataclasses
import importlib.util
import io
import math
import re

import pytest

from keras_moco.callbacks import Health, health
from keras_moco.config import Config

HEALTHY = {"loss": 2.5, "feature_std": 0.8, "contrast_top1": 0.6, "queue_fill": 1.0}
UNHEALTHY = {
    "collapsed": ({"feature_std": 0.0123}, health.COLLAPSE, 0.0123),
    "too easy": ({"contrast_top1": 0.9973}, health.TOO_EASY, 0.9973),
    "at chance": ({"loss": 5.001}, health.AT_CHANCE, 5.001),
}


def printed(*epochs, **settings):
    """What is printed for the logs of a number of epochs."""
    callback = Health(**{"chance_loss": 5.0, "stream": (stream := io.StringIO()), **settings})
    for epoch, logs in enumerate(epochs):
        callback.on_epoch_end(epoch, logs)
    return stream.getvalue()


@pytest.mark.parametrize("metrics, text, value", UNHEALTHY.values(), ids=UNHEALTHY)
def test_each_warning_comes_once_after_three_epochs_with_a_full_queue(metrics, text, value):
    unhealthy = HEALTHY | metrics
    assert printed(*[unhealthy] * 3, *[HEALTHY] * 5) == ""
    assert printed(*[unhealthy] * 7) == text.format(epoch=4, value=value) + "\n"
    assert printed(*[unhealthy | {"queue_fill": 0.99}] * 7, unhealthy) == text.format(epoch=8, value=value) + "\n"
    assert printed(HEALTHY, unhealthy, after_epochs=1) == text.format(epoch=2, value=value) + "\n"


def test_warnings_name_epoch_and_metric():
    lines = printed(*[HEALTHY] * 3, *[HEALTHY | metrics for metrics, *_ in UNHEALTHY.values()] * 2).splitlines()
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == 3
    for line, epoch, value in zip(warnings, (4, 5, 6), ("0.012", "99.7%", "5.001"), strict=True):
        assert f"epoch {epoch} " in line and value in line


def test_healthy_or_missing_metrics_get_no_warning():
    assert printed(*[HEALTHY | {"loss": 4.97, "feature_std": 0.051, "contrast_top1": 0.989}] * 10) == ""
    for missing in HEALTHY:
        assert printed(*[{name: value for name, value in HEALTHY.items() if name != missing}] * 5) == "", missing
    assert printed(*[None] * 5, *[{}] * 5) == printed(*[{}] * 5, chance_loss=None) == ""
    assert printed(*[HEALTHY | {"loss": 5.0}] * 5, chance_loss=None) == ""


def test_warnings_name_flags_and_modules_that_exist():
    for _, text, _ in UNHEALTHY.values():
        flags = re.findall(r"--(\w+)", text)
        assert flags and set(flags) <= {field.name for field in dataclasses.fields(Config)}
        assert all(importlib.util.find_spec(module) for module in re.findall(r"python -m ([\w.]+)", text))


def test_arguments_out_of_range_are_refused():
    for name, value in (("chance_loss", 0.0), ("chance_loss", math.nan), ("after_epochs", -1), ("after_epochs", 0.5)):
        with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}={value}\."):
            Health(**{name: value})
