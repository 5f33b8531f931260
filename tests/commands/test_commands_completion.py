"""The Tab key completes commands, flags, values, recipes and files, in real shells."""

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_moco.commands.completion import SCRIPTS, complete
from keras_moco.commands.registry import COMMANDS
from keras_moco.config.recipes import recipe_names
from tests.run_command import write_script
from tests.user_environment import user_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """With a folder, a folder with a blank in its name, and a flagfile."""
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "my scans").mkdir()
    (tmp_path / "mine.cfg").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line, words",
    [
        ("", [f"{name} " for name in COMMANDS]),
        ("pret", ["pretrain "]),
        ("import_idx --na", ["--name="]),
        ("pretrain --queue", ["--queue_size="]),
        ("pretrain --sym", ["--symmetric "]),
        ("pretrain --nosym", ["--nosymmetric "]),
        ("pretrain --head=", ["--head=linear ", "--head=mlp ", "--head=simclr "]),
        ("pretrain --head s", ["simclr "]),
        ("pretrain --epochs=", []),
        ("pretrain --recipe=", [f"--recipe={name} " for name in recipe_names()]),
        ("pretrain --dataset=fo", ["--dataset=folder:"]),
        ("pretrain --dataset=folder:ph", ["--dataset=folder:photos/"]),
        ("pretrain --dataset=folder:photos/", ["--dataset=folder:photos/cats/"]),
        ("pretrain --dataset=tfds:", []),
        ("pretrain --flagfile=mi", ["--flagfile=mine.cfg "]),
        ("pretrain --flagfile=configs/q", ["--flagfile=configs/quickstart.cfg "]),
        ("pretrain --workdir my\\ s", ["my scans/"]),
        ("evaluate lo", ["logistic "]),
        ("evaluate --workdir=photos lo", ["logistic "]),
        ("evaluate knn --features=", ["--features=backbone ", "--features=embedding "]),
        ("evaluate --recip", []),
        ("preview --recipe=moco_c", ["--recipe=moco_cifar "]),
        ("check li", ["list:"]),
        ("check digits --overw", ["--overwrite "]),
        ("convert to_", ["to_pytorch ", "to_detectron2 "]),
        ("convert run mi", ["mine.cfg "]),
        ("convert run mine.cfg --flagf", ["--flagfile="]),
        ("recipes quick", ["quickstart "]),
        ("completion ", [f"{shell} " for shell in SCRIPTS]),
        ("fly --", []),
    ],
)
def test_last_word_becomes(line, words):
    assert complete(f"keras-moco {line}") == words


def test_every_flag_of_every_command_is_offered():
    for name in [*COMMANDS.keys() - {"convert"}, "convert run"]:
        command = COMMANDS[name.split()[0]]
        if hasattr(command, "kind"):
            named = {*command.kind.__dataclass_fields__, "flagfile", "help"}
        else:  # as argparse lists them
            with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
                command.main([*name.split()[1:], "--help"])
            named = set(re.findall(r"^  (?:-h, )?--(\w+)", text.getvalue(), re.M))
        assert named and named <= {each.strip("-= ") for each in complete(f"keras-moco {name} --")}, name


# What is typed, with tabs, and what stands there.
TYPED = {
    "keras-moco pretr\t--recipe=quick\t--dry\t": "keras-moco pretrain --recipe=quickstart --dry_run",
    "keras-moco check --sp\ttest fol\tph\tca\t": "keras-moco check --split=test folder:photos/cats/",
    "keras-moco evaluate emb\t--work\tmy\t": "keras-moco evaluate embed --workdir=my scans/",
}


def in_a_shell(command, lines, folder):
    """What an interactive shell makes of lines with tabs: its output."""
    environment = user_environment(
        PATH=f"{write_script(folder / 'bin')}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), PS1="$ ", TERM="dumb"
    )
    reader, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder, env=environment, start_new_session=True
    ) as shell:
        os.close(terminal)
        # Back to the start of the line (Ctrl-A), to have it printed; bash and zsh read on when a completion is done.
        typed = "".join(f"{line}\x01echo 'is:'\n" for line in lines)
        os.write(reader, f"{typed}exit\n".encode())
        said = b""
        try:
            while part := os.read(reader, 65536):
                said += part
        except OSError:  # the end, on Linux
            pass
        shell.wait(60)
    os.close(reader)
    return said.decode(errors="replace").replace("\r", "")


@pytest.mark.parametrize("shell", [["bash", "--norc", "--noprofile", "-i"], ["zsh", "-f", "-i"]], ids=[*SCRIPTS])
def test_a_shell_completes(shell, folder):
    if sys.platform == "win32" or not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    said = in_a_shell(shell, [f"source <(keras-moco completion {shell[0]})\n", *TYPED], folder)
    assert re.findall(r"^is: ?(keras-moco .*?) *$", said, re.M) == [*TYPED.values()], said


def test_the_name_of_a_file_is_no_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("x`touch y`.csv", "x|sh.csv", "x*.csv", "xé.csv", "x\n.csv"):
        (tmp_path / name).touch()
    assert COMMANDS["completion"].main(["bash", "keras-moco pretrain --init_from=x", "="]) in (0, None)
    assert capsys.readouterr().out.splitlines() == [r"x\*.csv ", r"x\`touch\ y\`.csv ", r"x\|sh.csv ", "xé.csv "]
