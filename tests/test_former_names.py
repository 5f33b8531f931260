"""Names of modules that have moved still work, and a warning says where."""

import importlib
import sys
import warnings

import pytest

import keras_moco
from keras_moco.former_names import COMMANDS, MOVED


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    for name in MOVED | COMMANDS:
        monkeypatch.delitem(sys.modules, f"keras_moco.{name}", raising=False)
        if "." not in name:
            monkeypatch.delitem(vars(keras_moco), name, raising=False)


WAYS = {
    "from": lambda: exec("from keras_moco.models import MoCo"),
    "import_module": lambda: importlib.import_module("keras_moco.models"),
    "attribute": lambda: keras_moco.models,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_warning_names_the_new_place_at_the_line_that_imports(way):
    with pytest.warns(
        FutureWarning,
        match="keras_moco.models has moved to keras_moco.methods .*MoCo.* and keras_moco.networks .*Encoder",
    ) as caught:
        way()
    assert [warning.filename for warning in caught] in ([__file__], ["<string>"])


def test_each_former_module_is_an_attribute_of_the_package():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for name in MOVED:
            assert getattr(keras_moco, name) is importlib.import_module(f"keras_moco.{name}")
        assert keras_moco.models.MoCo is keras_moco.MoCo
        assert importlib.import_module("keras_moco.augment.preview").preview is not None


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="no attribute 'moodels'"):
        keras_moco.moodels  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("keras_moco.moodels")
