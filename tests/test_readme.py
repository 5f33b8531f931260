"""The README: its Python blocks run as they stand, its links lead somewhere, its figures are those of the pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def python_blocks():
    """The blocks with the line of the README that each starts on, so that a failure is easy to find."""
    # Without a README there are no blocks here, and the last test says so; the other files still run.
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    blocks = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        blocks.append(pytest.param(match.group(1), line, id=f"line {line}"))
    return blocks


@pytest.mark.parametrize("source, line", python_blocks())
def test_readme_block_runs(source, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Empty lines in front make tracebacks point at the line of the README.
    code = compile("\n" * (line - 1) + source, str(README), "exec")
    exec(code, {"__name__": "__main__"})


def test_readme_has_python_blocks():
    assert python_blocks()


def section(heading):
    """The text of the README from a heading to the next."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S).group(1)


def test_it_fits_on_a_few_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_first_python_block_is_short():
    source = python_blocks()[0].values[0]
    assert len([line for line in source.splitlines() if line]) <= 15


def test_every_link_leads_to_a_page_and_a_heading():
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", README.read_text(encoding="utf-8"))
    assert targets
    missing = [path for path, _ in targets if path and not (ROOT / path).is_file()]
    assert not missing
    for path, anchor in targets:
        text = (ROOT / path if path else README).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, (path, anchor)


def test_every_page_is_linked():
    text = README.read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name}" not in text]


def test_every_figure_of_the_results_is_on_the_page_of_results():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d[\d.]*(?: \+- [\d.]+)? %", section("Results"))
    assert len(figures) > 10
    assert not [figure for figure in figures if figure not in page]


def test_the_versions_are_those_of_the_constraints():
    pins = dict(re.findall(r"^(\w+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.M))
    assert f"| 3.11 | {pins['tensorflow']} | {pins['keras']} |" in section("Tested with, and limits")
