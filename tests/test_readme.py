"""The README is short, leads to every page, and its numbers are those of the pages and of the constraints."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading):
    """The text of the README from a heading to the next."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL).group(1)


def test_it_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150
    block = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL).group(1)
    assert len([line for line in block.splitlines() if line]) <= 15


def test_every_page_is_linked():
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name}" not in README]


def test_every_result_is_on_the_page_of_results():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    results = re.findall(r"\d[\d.]*(?: \+- [\d.]+)? %", section("Results"))
    assert len(results) > 10
    assert not [result for result in results if result not in page]


def test_the_versions_are_those_of_the_constraints():
    pins = dict(re.findall(r"^(\w+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert f"| 3.11 | {pins['tensorflow']} | {pins['keras']} |" in section("Tested with, and limits")
