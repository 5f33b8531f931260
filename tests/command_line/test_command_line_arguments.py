"""`python -m keras_moco` lists every command that there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_moco
from keras_moco.__main__ import COMMANDS, main

PACKAGE = Path(keras_moco.__file__).parent
ROOT = PACKAGE.parent


def test_the_commands_are_listed(capsys):
    main()
    listed = capsys.readouterr().out
    assert all(f"  {command} " in listed and what in listed for command, what in COMMANDS.items())


def test_every_command_is_listed_and_there():
    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
        for path in PACKAGE.rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    scripts = {"train.py", "evaluate.py"}
    listed = {command.removeprefix("python ").removeprefix("-m ") for command in COMMANDS}
    assert listed == modules - {"keras_moco"} | scripts


@pytest.mark.slow
@pytest.mark.parametrize("command", ["python -m keras_moco", *COMMANDS])
def test_every_command_runs_without_standard_streams(command):
    """As after `<&- >&- 2>&-` in a shell."""
    arguments = [*command.split()[1:], *(["--help"] if command != "python -m keras_moco" else [])]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, preexec_fn=lambda: [os.close(each) for each in range(3)]
    )
    assert done.returncode == (1 if command.endswith(".py") else 0)  # absl ends its help so
