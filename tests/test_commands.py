"""`python -m keras_moco` lists every command that there is."""

from pathlib import Path

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
