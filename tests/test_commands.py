"""`python -m keras_moco` lists every command that there is, at once."""

import subprocess
import sys
from pathlib import Path

import keras_moco
from keras_moco.__main__ import COMMANDS

PACKAGE = Path(keras_moco.__file__).parent
ROOT = PACKAGE.parent


def test_the_commands_are_listed_without_loading_tensorflow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_moco"], capture_output=True, text=True, check=True
    )
    for command, what in COMMANDS.items():
        assert f"  {command} " in done.stdout and what in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "keras_moco" in loaded and not loaded & {"tensorflow", "keras", "numpy", "matplotlib", "sklearn"}


def test_every_command_is_listed_and_there():
    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
        for path in PACKAGE.rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    scripts = {"train.py", "evaluate.py"}
    listed = {command.removeprefix("python ").removeprefix("-m ") for command in COMMANDS}
    assert listed == modules - {"keras_moco"} | scripts
