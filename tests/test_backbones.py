"""Backbones from elsewhere train, resume, are exported and fine-tuned; docs/backbones.md has a row of each."""

import contextlib
import importlib.util
import os
import sys

import numpy as np
import pytest

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.runs.load import load_backbone
from tests import backbones
from tests.backbones import CASES, PAGE, rows_of, thin, try_backbone
from tests.tiny import tiny_config
from tests.whole_runs import expect_same, pretrain, stop_in_mid_epoch


def needs_keras_hub():
    """Skips a test where KerasHub is not installed; not in CI, which installs it."""
    expected = os.environ.get("CI") and sys.version_info >= (3, 11)
    if not expected and importlib.util.find_spec("keras_hub") is None:
        pytest.skip("needs the extra `hub`")


def test_the_page_has_a_row_of_each_and_of_no_other():
    page = PAGE.read_text(encoding="utf-8")
    assert list(rows_of(page)) == [case.name for case in CASES.values()]
    assert backbones.HEADER in page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_backbone_does_what_its_row_says(name):
    if CASES[name].name.startswith("keras_hub:"):
        needs_keras_hub()
    with thin():
        row = try_backbone(CASES[name])
    assert row == rows_of(PAGE.read_text(encoding="utf-8"))[CASES[name].name], "write it: python -m tests.backbones"


@pytest.mark.slow
def test_a_run_stops_resumes_and_is_evaluated_by_the_name_in_its_folder(tmp_path):
    ours = dict(backbone="tests.backbones:own_network(width=4)", stem="imagenet", backbone_width=64)
    whole = pretrain(tiny_config(tmp_path / "whole", **ours), contextlib.nullcontext)
    assert "dropout or stochastic depth: 1 layer(s), also active in the key encoder" in whole.printed
    assert "BatchNorm: 1 layers, split, 4 groups" in whole.printed
    stopped = tiny_config(tmp_path / "stopped", **ours)
    stop_in_mid_epoch(stopped)
    pretrain(stopped, contextlib.nullcontext)
    expect_same(tmp_path / "stopped", tmp_path / "whole")
    card = (tmp_path / "whole" / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| backbone | `{ours['backbone']}` |" in card and "backbone_width" not in card
    exported, loaded = (load_backbone(path) for path in (tmp_path / "whole" / "export", tmp_path / "whole"))
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(exported(images), loaded(images), rtol=1e-5)
    evaluate("knn", EvaluationConfig(workdir=str(tmp_path / "whole")))
