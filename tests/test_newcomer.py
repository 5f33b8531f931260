"""The commands of the README and of docs/evaluation.md, in their order, in a clean clone.

`make quickstart` trains as long as it does for a user, the rest less (`SHORTER`). `.venv` is this Python's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_moco.evaluation.registry import EVALUATIONS
from tests.run_command import run_command, write_script
from tests.user_environment import user_environment

ROOT = Path(__file__).resolve().parents[1]
README, EVALUATION = ROOT / "README.md", ROOT / "docs" / "evaluation.md"
BASH = re.compile(r"^```bash\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

EVALUATE = "keras-moco evaluate {} --workdir=runs/quickstart"
LINEAR = EVALUATE.format("linear") + " --linear_on=features"
# The commands of the README, in their order, and what each prints.
RUN = {
    "make quickstart": r"kNN top-1: [\d.]+ % before, [\d.]+ % after training\n(.*\n)+evaluate: ",
    ". .venv/bin/activate": "",
    "keras-moco": r"(?s)(?=.*pretrain)(?=.*evaluate)(?=.*preview)",
    "keras-moco recipes": r"(?s)(?=.*\nquickstart\n)(?=.*\nimagenet_v2\n)",
    "keras-moco preview --source digits --recipe moco_cifar --out runs/views.png": "",
    "keras-moco pretrain --recipe=imagenet --dry_run": r"steps: 5,004 per epoch of 256 images",
    EVALUATE.format("knn"): r"top-1 [\d.]+ %",
    LINEAR: r"top-1 [\d.]+ %",
    "keras-moco export --workdir=runs/quickstart": r"exported to runs/quickstart/export",
}
# Not run: this test itself, a server, commands that take hours or download data (.ci/run trains on Fashion-MNIST for an
# epoch).
SKIPPED = re.compile(
    r"make test|pip install|.*--recipe=quickstart|.*folder:photos|tensorboard|.*fashion_mnist|.*\$TUNE "
)
# Flags appended to a command, or a mode, that trains for long.
SHORTER = {
    LINEAR: "--epochs=5",
    "linear": "--epochs=2",
    "semi": "--epochs=1 --fractions=10 --seeds=2",
    "finetune": "--epochs=2",
}


def commands(page):
    """The commands in the bash blocks of a page, one a line, without comments."""
    lines = "".join(BASH.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines)
    return [line for line in stripped if line]


def modes():
    """The first column of the table of docs/evaluation.md: `linear --linear_on=features`."""
    return re.findall(r"^\| `([^`]+)` \|", EVALUATION.read_text(encoding="utf-8"), flags=re.MULTILINE)


class Shell:
    """Runs commands in a folder whose environment is activated, and returns their output."""

    def __init__(self, folder):
        self.folder = folder
        # PYTHONPATH: the package of this clone, whatever is installed.
        path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
        self.settings = {"cwd": folder, "env": user_environment(PATH=path, PYTHONPATH=str(folder))}

    def run(self, command):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", command], **self.settings, **pipes, encoding="utf-8", timeout=1500)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """In a clean clone of what is committed, with the `.venv` of this Python, stamped as complete."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("newcomer") / "keras_moco"
    # The checkout may belong to somebody else, which git refuses unless its configuration allows it.
    settings = folder.with_name("gitconfig")
    settings.write_text("[safe]\n\tdirectory = *\n")
    environment = user_environment(GIT_CONFIG_GLOBAL=str(settings))
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, env=environment)
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".stamp-"):
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv" / ".stamp-test").touch()
    scripts = write_script(folder.with_name("scripts"))
    shell = Shell(folder)
    shell.settings["env"]["PATH"] += f":{scripts}"
    return shell


def test_every_command_of_the_pages_is_run_or_listed_as_skipped():
    assert [command for command in commands(README) if not SKIPPED.match(command)] == [*RUN]
    assert {mode.partition(" ")[0] for mode in modes()} == set(EVALUATIONS)


def test_nested_make_prints_only_its_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "w")
    monkeypatch.setenv("MAKELEVEL", "1")
    (tmp_path / "Makefile").write_text("hello:\n\techo $(MAKELEVEL)\n")
    assert Shell(tmp_path).run("make hello") == "echo 0\n0\n"


@pytest.mark.slow
def test_commands_run_in_a_clean_clone(shell, monkeypatch):
    for command, expected in RUN.items():
        printed = shell.run(f"{command} {SHORTER.get(command, '')}".strip())
        assert re.search(expected, printed), (command, printed)
    run = shell.folder / "runs" / "quickstart"
    for name in ("log.csv", "curves.png", "checkpoints", "export/saved_model", "export/backbone.keras"):
        assert (run / name).exists(), name
    assert (shell.folder / "runs" / "views.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(shell.folder)
    for mode in modes():
        if mode not in ("knn", "linear --linear_on=features"):  # of the README too
            run_command(EVALUATE.format(mode), SHORTER.get(mode, ""))
    results = json.loads((run / "results.json").read_text())
    # Stored in configs/quickstart.cfg: from 81 to 92 %.
    assert results["epochs"] == 40 and results["knn_top1"] > results["knn_top1_initial"] + 5
    assert results["linear_top1"] > 50 and results["finetune_top1"] > 50  # two epochs: 84 and 78 %, chance is 10
    assert not shell.run("git -c safe.directory='*' status --short")
