"""What `docs/` shows can be done as it stands."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from keras_moco import presets
from keras_moco.convert import to_pytorch
from keras_moco.distribution import Cluster, read_cluster

DOCS = Path(__file__).resolve().parents[1] / "docs"
# The programs of transfer.md belong into processes without this package: tests/transfer runs them. What
# your_own_images.md shows goes on with what the block before has left: test_docs_your_own_images.py runs it as a whole.
PAGES = sorted(set(DOCS.glob("*.md")) - {DOCS / "transfer.md", DOCS / "your_own_images.md"})
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [
        pytest.param(match.group(2), id=f"{page.name} {number}")
        for page in PAGES
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8")))
        if match.group(1) == language
    ]


def python_blocks():
    """Those that read PyTorch's files belong to the tier `torch`."""
    for block in blocks("python"):
        torch = "keras_moco.convert" in block.values[0]
        yield pytest.param(*block.values, id=block.id, marks=[pytest.mark.torch] if torch else [])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file in the form of the authors', under the name of one of theirs, with random weights and a short queue."""
    folder = tmp_path_factory.mktemp("authors")
    model = presets.moco("moco_v2_resnet50_imagenet", queue_size=256)
    return to_pytorch(model, folder / "moco_v2_800ep_pretrain.pth.tar")


@pytest.mark.parametrize("source", [*python_blocks()])
def test_a_python_block_runs(source, tmp_path, monkeypatch, request):
    if "import torchvision" in source:
        pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    if ".pth.tar" in source:
        monkeypatch.chdir(request.getfixturevalue("checkpoint").parent)
    exec(compile(source, "docs", "exec"), {"__name__": "__main__"})


def launched(script, folder, **environment):
    """The clusters that a launch script gives its workers, in place of starting them."""
    tools = {
        "python": 'echo "$TF_CONFIG" >> configs; echo "$*" >> commands',
        "scontrol": "printf 'node7\\nnode9\\n'",
        "srun": 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done',
    }
    for name, text in tools.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={"PATH": path, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    commands = (folder / "commands").read_text().splitlines()
    assert all(re.match(r"train.py --flagfile=configs/\w+.cfg --strategy=multiworker", line) for line in commands)
    clusters = [read_cluster(line) for line in (folder / "configs").read_text().splitlines()]
    return sorted(clusters, key=lambda cluster: cluster.index)


def block_with(text):
    [found] = [
        block.values[0] for language in ("bash", "yaml") for block in blocks(language) if text in block.values[0]
    ]
    return found


def test_the_launch_on_one_machine_names_both_workers(tmp_path):
    addresses = ("localhost:12345", "localhost:12346")
    assert launched(block_with("localhost:12345"), tmp_path) == [Cluster(addresses, 0), Cluster(addresses, 1)]


def test_the_slurm_script_names_every_node(tmp_path):
    found = launched(block_with("#SBATCH"), tmp_path, SLURM_JOB_NODELIST="node[7,9]", SLURM_JOB_ID="1")
    addresses = ("node7:12345", "node9:12345")
    assert found == [Cluster(addresses, 0), Cluster(addresses, 1)]


def test_the_kubernetes_job_names_every_pod(tmp_path):
    manifest = block_with("kind: Job")
    script = manifest.partition("- |\n")[2]
    assert "completions: 2" in manifest and "parallelism: 2" in manifest
    addresses = ("moco-0.moco:12345", "moco-1.moco:12345")
    for index in range(2):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert launched(script, folder, JOB_COMPLETION_INDEX=str(index)) == [Cluster(addresses, index)]
