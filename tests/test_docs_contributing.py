"""The examples of CONTRIBUTING.md, added to a copy of the package: a run trains with all of them and is evaluated."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.user_environment import user_environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (keras_moco/\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
LINES = dict(re.findall(r"^```diff\n--- (\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
PROGRAM = """
import numpy as np

from keras_moco import data
from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.config import Config, EvaluationConfig

for split in ("train", "test"):
    images, labels = data.open_source("digits", split).arrays()
    np.savez(f"{split}.npz", images=images, labels=labels)
network = dict(backbone="convnet", backbone_width=4, stem="cifar", embedding_dim=8)
views = dict(image_mean=(0.3,), image_std=(0.4,), augment="crop_and_solarize", image_size=8, crop_min_area=0.4)
training = dict(method="stop_gradient", batch_size=128, epochs=1, temperature=0.2, strategy="one", knn_k=20)
pretrain(Config(dataset="npz:{split}.npz", workdir="run", **network, **views, **training))
evaluate("centroid", EvaluationConfig(workdir="run"))
"""


def patched(source, lines):
    """A source with the lines that begin with `+` added, each after the one before it, imports among the imports."""
    source = source.splitlines()
    place = next(number for number, line in enumerate(source) if line.startswith("from keras_moco"))
    for line in lines.splitlines():
        if line.startswith("+"):
            source.insert(place, line[1:])
        else:
            place = source.index(line[1:])
        place += 1
    return "\n".join(source) + "\n"


@pytest.mark.slow
def test_examples_work_in_a_copy_of_the_package(tmp_path):
    package = tmp_path / "keras_moco"
    shutil.copytree(ROOT / "keras_moco", package, ignore=shutil.ignore_patterns("__pycache__"))
    assert len(FILES) == len(LINES) == 5
    for name, source in FILES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    for name, lines in LINES.items():
        (tmp_path / name).write_text(patched((ROOT / name).read_text(encoding="utf-8"), lines), encoding="utf-8")
    environment = user_environment(PYTHONPATH=str(tmp_path))
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(?m)^centroid   top-1 [\d.]+ %", done.stdout)
