"""`python -m keras_moco` lists and runs every command, also by its former name."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_moco
from keras_moco.__main__ import COMMANDS, SCRIPTS, main

ROOT = Path(keras_moco.__file__).parents[1]


def test_every_command_is_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for command, what in (SCRIPTS | {f"python -m keras_moco {name}": what for name, what in COMMANDS.items()}).items():
        assert f"  {command} " in listed and what in listed


def test_every_command_is_a_module_with_a_main():
    for name in COMMANDS:
        assert callable(importlib.import_module(f"keras_moco.commands.{name}").main)


def test_unknown_command_is_refused_with_the_known_ones(capsys):
    assert main(["a\nb"]) == 2
    known, received, _ = capsys.readouterr().err.partition("Received: a\\nb.")
    assert received and all(name in known for name in COMMANDS)


FORMER = ["keras_moco.convert", "keras_moco.augment.preview", "keras_moco.data.import_idx"]
PROGRAMS = [
    *([script.removeprefix("python ")] for script in SCRIPTS),
    ["-m", "keras_moco"],
    *(["-m", "keras_moco", name] for name in COMMANDS),
    *(["-m", name] for name in FORMER),
]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_every_command_runs_without_standard_streams(program):
    """As after `<&- >&- 2>&-` in a shell."""
    done = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, preexec_fn=lambda: [os.close(each) for each in range(3)]
    )
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("module", FORMER)
def test_a_command_runs_by_its_former_name(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    name = module.rpartition(".")[2]
    assert done.stdout.startswith(f"usage: python -m keras_moco {name} ") and "Warning" not in done.stderr
