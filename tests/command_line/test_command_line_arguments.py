"""`keras-moco` lists and runs every command, also by its former names."""

import os
import pkgutil
import re
import subprocess
import sys

import pytest

import keras_moco
from keras_moco.__main__ import main
from keras_moco.command_line import how_to_call
from keras_moco.commands.registry import COMMANDS, GROUPS
from keras_moco.data import survey
from keras_moco.evaluation.registry import EVALUATIONS
from tests.processes import ROOT

EXPECTED = "pretrain evaluate export check preview convert import-idx recipes completion".split()


def test_every_command_is_listed_in_one_group(capsys):
    assert main([]) == 0
    listed = re.findall(r"^  (\S+) +(.*)$", capsys.readouterr().out, re.M)
    assert listed == [(command.name, command.what) for commands in GROUPS.values() for command in commands]
    assert {name for name, _ in listed} == {*EXPECTED} and len(listed) == len(EXPECTED)


def test_every_command_has_help_and_work(capsys):
    for name, command in COMMANDS.items():
        assert callable(pkgutil.resolve_name(command.work))
        assert command.help().startswith(f"usage: keras-moco {name} ")
        with pytest.raises(SystemExit) as ended:
            main(["help", name])
        assert not ended.value.code and capsys.readouterr().out == f"{command.help()}" + "\n" * hasattr(command, "kind")


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{keras_moco.__version__}\n"


def test_unknown_command_is_refused_with_the_known_ones(capsys):
    assert main(["a\nb"]) == 2
    known, received, _ = capsys.readouterr().err.partition("Received: a\\nb.")
    assert received and all(name in known for name in COMMANDS)
    assert main(["pretrian"]) == 2
    assert "Received: pretrian. Did you mean pretrain? " in capsys.readouterr().err


def test_unknown_flag_is_refused_with_the_nearest_one(capsys):
    for command, flag, nearest in (
        (["preview"], "--recpe=x", "--recipe"),
        (["convert", "run", "file"], "--flagfle=x", "--flagfile"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, flag])
        name = flag.partition("=")[0]
        assert ended.value.code == 2 and f"unknown flag {name}. Did you mean {nearest}? " in capsys.readouterr().err


def test_unknown_choice_is_refused_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["convert", "to_pytroch"])
    assert ended.value.code == 2 and "Received: to_pytroch. Did you mean to_pytorch? " in capsys.readouterr().err


def test_command_is_suggested_as_it_was_called(monkeypatch):
    for program, expected in (("/bin/keras-moco", "keras-moco evaluate"), ("a/train.py", "python evaluate.py")):
        monkeypatch.setattr(sys, "argv", [program])
        assert how_to_call("evaluate") == expected


def test_flags_may_be_shortened(capsys):
    assert main(["preview", "--sour=digits", "--rec=moco_v3", "--out=x.png"]) == 2
    assert "Received: recipe=moco_v3. Did you mean moco_v2? " in capsys.readouterr().err


def test_defaults_that_are_written_twice_agree():
    assert COMMANDS["check"].parser().parse_args(["digits"]).sample == survey.SAMPLE
    assert [*COMMANDS["evaluate"].modes] == [*EVALUATIONS]


FORMER = {"keras_moco.convert": "convert", "keras_moco.augment.preview": "preview"}
FORMER["keras_moco.data.import_idx"] = "import-idx"
PROGRAMS = [
    ["train.py"],
    ["evaluate.py"],
    ["-m", "keras_moco"],
    *(["-m", "keras_moco", name] for name in [*COMMANDS, "import_idx"]),
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
    assert done.stdout.startswith(f"usage: keras-moco {FORMER[module]} ") and "Warning" not in done.stderr
