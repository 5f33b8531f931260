"""Backbones from elsewhere train, resume, are exported and fine-tuned; docs/backbones.md has a row of each."""

import importlib.util
import os
import sys

import pytest

from tests import backbones
from tests.backbones import CASES, PAGE, rows_of, thin, try_backbone


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
