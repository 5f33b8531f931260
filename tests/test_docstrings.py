"""Every example in a docstring runs and prints what it shows."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_moco

SOURCES = {
    module.name: Path(module.module_finder.find_spec(module.name).origin).read_text(encoding="utf-8")
    for module in pkgutil.walk_packages(keras_moco.__path__, "keras_moco.")
}
# These build published networks in full.
SLOW = {"keras_moco.convert.detectron2", "keras_moco.convert.writing", "keras_moco.methods.presets"}
WITH_EXAMPLES = {name for name, source in SOURCES.items() if ">>>" in source}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Names that examples may use without an import, besides those of their own module.
GIVEN = {"keras": keras, "np": np, "ops": ops}


def run_examples(name):
    """Runs the examples of a module with a fixed seed, and returns their number."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    module, report = importlib.import_module(name), []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder().find(module, name, extraglobs={**GIVEN, **vars(module)}):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
    return runner.tries


def test_examples_hold():
    counts = {name: run_examples(name) for name in sorted(WITH_EXAMPLES - SLOW)}
    assert len(counts) > 30 and all(counts.values()), counts


@pytest.mark.slow
def test_examples_of_published_networks_hold():
    assert all(run_examples(name) for name in sorted(SLOW & WITH_EXAMPLES))
