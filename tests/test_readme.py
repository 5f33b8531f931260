"""Every Python block of the README runs as it stands, each in a folder of its own."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
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
