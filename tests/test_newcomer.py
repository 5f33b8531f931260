"""The newcomer's path: the commands of the README and of the pages it leads to, in their order, as they stand there.

By default in a folder that looks like a fresh clone, and less of some: what `LESS` appends to a command. In the tier
`slow` nothing less, in a real `git clone`. Only installing is left out: `.venv` is this Python's.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BASH = re.compile(r"^```bash\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

QUICKSTART = "make quickstart"
KNN = "python evaluate.py knn --workdir=runs/quickstart"
LINEAR = "python evaluate.py linear --workdir=runs/quickstart --linear_on=features"
TENSORBOARD = "tensorboard --logdir runs"
# The commands of the README that run here, and what each prints.
RUN = {
    QUICKSTART: r"kNN top-1: [\d.]+ % before, [\d.]+ % after training\n(.*\n)+evaluate: ",
    ". .venv/bin/activate": "",
    "python -m keras_moco": r"(?s)(?=.*train\.py)(?=.*evaluate\.py)(?=.*keras_moco\.augment\.preview)",
    "python -m keras_moco.augment.preview --source digits --recipe moco_cifar --out runs/views.png": "",
    "python train.py --flagfile=configs/imagenet.cfg --dry_run": r"steps: 5,004 per epoch of 256 images",
    TENSORBOARD: r"http://\S+",
    KNN: r"top-1 [\d.]+ %",
    LINEAR: r"top-1 [\d.]+ %",
}
# What is less by default. Nothing else is changed.
LESS = {QUICKSTART: "--epochs=1", LINEAR: "--epochs=2"}
HOURS = "takes hours, or a download; .ci/run trains on these data for an epoch"
# The commands of the README that do not run here, and why.
LEFT_OUT = {
    "make test": "runs this test",
    "python benchmarks/baselines.py configs/fashion_mnist.cfg --data_dir data": HOURS,
    "python train.py --flagfile=configs/fashion_mnist.cfg --data_dir=data": HOURS,
    "python evaluate.py knn --workdir=runs/fashion_mnist": HOURS,
    "python evaluate.py logistic --workdir=runs/fashion_mnist": HOURS,
    'TUNE="--workdir=runs/fashion_mnist --learning_rate=0.2 --batch_size=64 --crop_min_area=0.5"': HOURS,
    "python evaluate.py semi $TUNE --fractions=1": HOURS,
    "python evaluate.py semi $TUNE --fractions=10 --epochs=10": HOURS,
}


def commands(page):
    """The commands in the bash blocks of a page, one a line, without comments."""
    lines = "".join(BASH.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines)
    return [line for line in stripped if line]


def pretend_installed(folder):
    """Gives a clone the `.venv` of this Python, with stamps that say that everything is installed."""
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".stamp-"):
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv" / ".stamp-test").touch()


class Walk:
    """Runs commands in a folder, as somebody would who has activated its environment."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),  # for benchmarks: the package of this clone, whatever is installed
        }

    def start(self, command):
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command, less=""):
        """What a command prints, both streams; `less` is appended to it, or to what its target of make runs."""
        if less and command.startswith("make "):
            command = self.run(command.replace("make", "make --dry-run", 1)).strip()
        process = self.start(f"{command} {less}".strip())
        printed, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, f"{command} {less}\n{printed[-3000:]}"
        return printed


def answers_over_http(walk):
    """Starts TensorBoard as the page says, asks it which runs there are, and ends it; returns what it printed."""
    process = walk.start(f"{TENSORBOARD} --port 0")  # the usual port may be taken
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if address := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail(f"{TENSORBOARD} has ended.\n{printed}")
        url = address.group().rstrip("/")
        with urllib.request.urlopen(f"{url}/", timeout=60) as answer:
            assert "<title>TensorBoard" in answer.read().decode()
        with urllib.request.urlopen(f"{url}/data/environment", timeout=60) as answer:
            assert json.load(answer)["data_location"].endswith("runs")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    return printed


def walk_readme(walk, less):
    """Runs the commands of the README in their order; returns what each printed."""
    printed = {}
    for command in commands(README):
        if command == TENSORBOARD:
            printed[command] = answers_over_http(walk)
        elif command not in LEFT_OUT:
            printed[command] = walk.run(command, less.get(command, ""))
    return printed


def check_what_is_left(folder):
    """The files that the README promises, and figures that are what they say."""
    run = folder / "runs" / "quickstart"
    for name in ("log.csv", "curves.png", "checkpoints", "export/saved_model", "export/backbone.keras"):
        assert (run / name).exists(), name
    assert (folder / "runs" / "views.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((run / "results.json").read_text())
    assert 10 < results["knn_top1_initial"] < 100 and 10 < results["knn_top1"] < 100
    return results


def test_every_command_of_the_readme_runs_here_or_is_left_out_for_a_reason():
    found = commands(README)
    assert sorted(found) == sorted([*RUN, *LEFT_OUT])
    assert len(found) == len(set(found))


def test_the_path_of_a_newcomer(tmp_path):
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt", "train.py", "evaluate.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "keras_moco").symlink_to(ROOT / "keras_moco")
    pretend_installed(tmp_path)
    printed = walk_readme(Walk(tmp_path), LESS)
    for command, text in printed.items():
        assert re.search(RUN[command], text), (command, text)
    assert check_what_is_left(tmp_path)["epochs"] == 1


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clean clone of what is committed, and what the commands of its README have printed in it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("newcomer") / "keras_moco"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    pretend_installed(folder)
    return folder, walk_readme(Walk(folder), {})


@pytest.mark.slow
def test_the_path_of_a_newcomer_in_a_clean_clone(clone):
    folder, printed = clone
    for command, text in printed.items():
        assert re.search(RUN[command], text), (command, text)
    results = check_what_is_left(folder)
    assert results["epochs"] == 40 and results["knn_top1"] > results["knn_top1_initial"] + 5
    changed = subprocess.run(["git", "status", "--short"], cwd=folder, check=True, capture_output=True, text=True)
    assert not changed.stdout


@pytest.mark.slow
def test_every_mode_of_the_page_on_evaluation(clone):
    folder, _ = clone
    page = (folder / "docs" / "evaluation.md").read_text(encoding="utf-8")
    modes = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(modes) > 8
    for mode in modes:
        Walk(folder).run(f"python evaluate.py {mode} --workdir=runs/quickstart")
    results = json.loads((folder / "runs" / "quickstart" / "results.json").read_text())
    assert results["linear_top1"] > 90 and results["finetune_top1"] > 90


@pytest.mark.slow
def test_the_programs_of_the_page_on_transfer(clone):
    folder, _ = clone
    programs = PYTHON.findall((folder / "docs" / "transfer.md").read_text(encoding="utf-8"))
    assert len(programs) > 5
    for program in programs:
        (folder / "program.py").write_text(program)
        Walk(folder).run("python program.py")
