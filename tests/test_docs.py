"""The Python blocks of README and `docs/` run unchanged, and the launch scripts start every worker."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from keras_moco.convert import to_pytorch
from keras_moco.distribution import Cluster, read_cluster
from keras_moco.methods import presets
from tests.user_environment import user_environment

ROOT = Path(__file__).resolve().parents[1]
# tests/transfer runs the programs of transfer.md in processes without this package. test_docs_your_own_images.py runs
# that page as a whole, since each block needs the results of the one before.
ELSEWHERE = {
    ROOT / "docs" / name
    for name in ("transfer.md", "your_own_images.md", "medical_images.md", "multispectral_images.md")
}
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - ELSEWHERE)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(*languages):
    """`(source, page and number)` of the blocks in some languages."""
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8"))):
            if match.group(1) in languages:
                yield match.group(2), f"{page.name} {number}"


def python_blocks():
    """Blocks that read PyTorch files are in the tier `torch`."""
    for source, name in blocks("python"):
        tier = pytest.mark.torch if "keras_moco.convert" in source else pytest.mark.slow
        yield pytest.param(source, id=name, marks=tier)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file in the form of the authors', under the name of one of theirs, with random weights and a short queue."""
    folder = tmp_path_factory.mktemp("authors")
    model = presets.moco("moco_v2_resnet50_imagenet", queue_size=256)
    return to_pytorch(model, folder / "moco_v2_800ep_pretrain.pth.tar")


@pytest.mark.parametrize("source", [*python_blocks()])
def test_python_block_runs(source, tmp_path, monkeypatch, request):
    if "import torchvision" in source:
        pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    if ".pth.tar" in source:
        monkeypatch.chdir(request.getfixturevalue("checkpoint").parent)
    exec(compile(source, "docs", "exec"), {"__name__": "__main__"})


def launched(text, folder, after="", **environment):
    """The clusters that the launch script with this text passes to its workers, which are not started."""
    [script] = [source for source, _ in blocks("bash", "yaml") if text in source]
    tools = {
        "python": 'echo "$TF_CONFIG" >> configs; echo "$*" >> commands',
        "scontrol": "printf 'node7\\nnode9\\n'",
        "srun": 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done',
    }
    folder.mkdir()
    for name, lines in tools.items():
        (folder / name).write_text(f"#!/bin/bash\n{lines}\n")
        (folder / name).chmod(0o755)
    environment = user_environment(PATH=f"{folder}:{os.environ['PATH']}", **environment)
    command = ["bash", "-c", script.partition(after)[2] if after else script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr, done.stderr
    commands = (folder / "commands").read_text().splitlines()
    assert all(re.match(r"train.py --flagfile=configs/\w+.cfg --strategy=multiworker", line) for line in commands)
    clusters = [read_cluster(line) for line in (folder / "configs").read_text().splitlines()]
    return sorted(clusters, key=lambda cluster: cluster.index)


def workers(*addresses):
    return [Cluster(addresses, index) for index in range(len(addresses))]


def test_launch_scripts_name_every_worker(tmp_path):
    local = launched("localhost:12345", tmp_path / "local")
    assert local == workers("localhost:12345", "localhost:12346")
    slurm = launched("#SBATCH --nodes", tmp_path / "slurm", SLURM_JOB_NODELIST="node[7,9]", SLURM_JOB_ID="1")
    assert slurm == workers("node7:12345", "node9:12345")
    kubernetes = [
        launched("kind: Job", tmp_path / index, after="- |\n", JOB_COMPLETION_INDEX=index)[0] for index in "01"
    ]
    assert kubernetes == workers("moco-0.moco:12345", "moco-1.moco:12345")
    [manifest] = [source for source, _ in blocks("yaml") if "kind: Job" in source]
    assert "completions: 2" in manifest and "parallelism: 2" in manifest
