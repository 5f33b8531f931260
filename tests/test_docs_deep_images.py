"""The pages on medical and on multispectral images run from start to end, on small images, in less time."""

import contextlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.datasets import load_digits

from keras_moco.checks.ranges import value_limits
from keras_moco.runs.directory import RunDirectory
from tests import tiny  # noqa: F401 (the backbone "tiny")
from tests.run_command import run_command

DOCS = Path(__file__).resolve().parents[1] / "docs"
# Appended to every command that trains, by its program or mode.
SMALLER = {
    "train.py": "--epochs=1 --image_size=16 --stem=cifar --backbone=tiny --backbone_width=8 --queue_size=64 "
    "--batch_size=32 --bn_splits=4 --log_steps=2",
    "finetune": "--epochs=1 --batch_size=8",
}
SIDE, IMAGES = 24, 96


def scan(image):
    """Fourteen bits, and a few pixels that are far brighter."""
    values = np.round(500 + 3000 * image).astype("uint16")
    values[0, :2] = 16000
    return values


def tile(image):
    """13 bands of reflectance times 10,000, each of its own brightness."""
    return np.stack([np.round(100 + (300 + 150 * band) * image) for band in range(13)], axis=-1).astype("uint16")


def write(folder, numbers, values, labelled):
    digits = load_digits()
    for number in numbers:
        digit = Image.fromarray((digits.images[number] * 15).astype("uint8")).resize((SIDE, SIDE))
        place = folder / str(digits.target[number]) if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        image = values(np.asarray(digit) / 255.0)
        options = {"planarconfig": "contig"} if image.ndim == 3 else {}
        tifffile.imwrite(place / f"{number:03}.tif", image, photometric="minisblack", **options)


def run_page(name):
    """Runs the blocks of a page, without the installation: what they printed."""
    page = (DOCS / name).read_text(encoding="utf-8")
    printed = []
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            if language == "python":
                exec(compile(block, name, "exec"), {"__name__": "__main__"})
            else:  # a file that is written in place is one command
                for command in re.findall(r"^.+<<'END'\n(?:.*\n)*?END$|^(?!pip install).+$", block, re.MULTILINE):
                    run_command(command, *(flags for each, flags in SMALLER.items() if f" {each} " in command))
        printed.append(text.getvalue())
    return printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "folder", "values", "channels"),
    [("medical_images.md", "scans", scan, 1), ("multispectral_images.md", "tiles", tile, 13)],
)
def test_page_runs_from_start_to_end(page, folder, values, channels, tmp_path, monkeypatch):
    write(tmp_path / folder, range(IMAGES), values, labelled=False)
    write(tmp_path / "labelled" / "train", range(200, 250), values, labelled=True)
    write(tmp_path / "labelled" / "test", range(250, 290), values, labelled=True)
    monkeypatch.chdir(tmp_path)
    printed = run_page(page)
    if page == "medical_images.md":
        assert "\n--value_range=percentile:0.5,99.5\n" in printed[1] and Path("check.png").exists()
    run = RunDirectory(f"runs/{folder}")
    limits = value_limits(run.config().value_range)
    whole = np.stack([tifffile.imread(path) for path in Path(folder).glob("*.tif")])
    axes = None if channels == 1 else (0, 1, 2)  # of bands each by itself
    np.testing.assert_allclose(limits, np.percentile(whole, (0.5, 99.5), axis=axes), rtol=0.01)
    assert Path("views.png").exists() and run.config().channels == channels
    assert "knn_top1_backbone" in run.results.read()["other_data"]["folder:labelled"]
    features = keras.models.load_model(run.export / "backbone.keras").output_shape[-1]
    assert f"(1, {features})" in printed[-1]
