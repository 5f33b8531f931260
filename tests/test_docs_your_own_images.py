"""All blocks of docs/your_own_images.md, in their order, on crops of two photographs.

The page assumes 30,000 images of 128 pixels. Here flags are appended to the commands that train (`SMALLER`); nothing
else is changed or skipped.
"""

import contextlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_moco import data
from keras_moco.config import Config
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.runs.build import open_split
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.plan import Plan
from tests import tiny  # noqa: F401 (the backbone "tiny")
from tests.run_command import parsed, run_command

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your_own_images.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
# Appended to every command that trains, by its program or mode.
SMALLER = {
    "train.py": "--epochs=2 --image_size=16 --stem=cifar --backbone=tiny --backbone_width=8 --queue_size=64 "
    "--batch_size=16 --log_steps=2",
    "finetune": "--epochs=1 --batch_size=8",
}
PHOTOS = 128


def save_crops(folder, count, rng, names=("china", "flower")):
    """Crops of different sizes of scikit-learn's two photographs: half JPEG, half PNG."""
    for name, photograph in zip(names, load_sample_images().images, strict=True):
        for number in range(count):
            height, width = rng.integers(24, 65, 2)
            top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
            place = folder / name if folder.name in ("train", "test") else folder  # a class each
            place.mkdir(parents=True, exist_ok=True)
            crop = Image.fromarray(photograph[top : top + height, left : left + width])
            crop.save(place / f"{name}{number:03d}.{'jpg' if number % 2 else 'png'}")


def make_photos(folder):
    """The files that the page assumes."""
    rng = np.random.default_rng(0)
    save_crops(folder / "photos", PHOTOS // 2 - 1, rng)
    Image.fromarray(rng.integers(0, 256, (40, 30), dtype="uint8")).save(folder / "photos" / "gray.png")
    whole = (folder / "photos" / "china001.jpg").read_bytes()
    (folder / "photos" / "damaged.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "photos" / "notes.txt").write_text("no image")
    save_crops(folder / "labelled" / "train", 12, rng)
    save_crops(folder / "labelled" / "test", 8, rng)
    save_crops(folder / "new", 1, rng, names=("one", "two"))
    (folder / "new" / "one000.png").rename(folder / "new" / "one.jpg")  # a PNG by its content
    (folder / "new" / "two000.png").rename(folder / "new" / "two.png")


def run_block(language, block):
    """Runs a block of the page: what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if language == "python":
            exec(compile(block, "docs/your_own_images.md", "exec"), {"__name__": "__main__"})
        else:  # a file that is written in place is one command
            for command in re.findall(r"^.+<<'END'\n(?:.*\n)*?END$|^.+$", re.sub(r"\\\n *", "", block), re.MULTILINE):
                smaller = [flags for name, flags in SMALLER.items() if f" {name} " in command]
                run_command(command, *smaller)
    return printed.getvalue()


@pytest.mark.slow
def test_page_runs_from_start_to_end(tmp_path, monkeypatch):
    make_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = {block: run_block(language, block) for language, block in BLOCKS}

    def printed_by(part):
        [text] = [text for block, text in printed.items() if part in block]
        return text

    plan = Plan(read_flagfile("photos.cfg"), train_examples=30000, channels=3, replicas=1)
    assert plan.steps_per_epoch == 117 and "note" not in plan.describe()
    assert "folder:photos, 30,000 training images" in printed_by("--dry_run")
    report = printed_by("keras-moco check")
    assert f"{PHOTOS} images, of which {PHOTOS - 1} can be read and 1 are skipped" in report
    measured, _ = parsed(Config, [line for line in report.splitlines() if line.startswith("--")])
    assert measured.dataset == "folder:photos" and measured.train_examples == PHOTOS
    assert len(measured.image_mean) == len(measured.image_std) == 3
    assert all(0 < number < 1 for number in measured.image_mean + measured.image_std)

    text = printed_by("python train.py --flagfile=photos.cfg\n")
    assert "no labels" in text and "JPEG" in text  # the damaged one
    for name in ("curves.png", "log.csv", "tensorboard", "checkpoints", "export/backbone.keras", "results.json"):
        assert Path("runs/photos", name).exists(), name
    results = RunDirectory("runs/photos").results.read()
    assert {"measures_train_embedding", "measures_train_backbone"} <= results.keys()
    assert Path("runs/photos/evaluation/neighbours.png").exists()
    assert {"knn_top1_embedding", "logistic_top1", "finetune_top1"} <= results["other_data"]["folder:labelled"].keys()
    assert keras.models.load_model("runs/photos/evaluation/classifier.keras").output_shape == (None, 2)

    with np.load("runs/photos/evaluation/features_train.npz") as saved:
        assert len(saved["features"]) == PHOTOS - 1  # without the damaged one
        assert {*saved["files"], "photos/damaged.jpg"} == {str(path) for path in Path("photos").glob("*.[jp][pn]g")}
    pair = re.fullmatch(r"(photos/\S+) and (photos/\S+): cosine (\S+)\n", printed_by("similarity.argmax"))
    assert pair and pair[1] != pair[2] and -1 <= float(pair[3]) <= 1.001
    assert data.open_source("tfrecord:records/train-*").num_examples == PHOTOS
    assert Path("runs/records/export/backbone.keras").exists()
    assert keras.models.load_model("own/export/backbone.keras").output_shape == (None, 128)


def test_gray_first_file_becomes_colour_if_asked(tmp_path):
    save_crops(tmp_path / "photos", 2, np.random.default_rng(0))
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "a.png")
    config, _ = parsed(Config, [f"--dataset=folder:{tmp_path / 'photos'}", "--channels=3"])
    assert data.open_source(config.dataset).image_shape == (None, None, 1)
    assert open_split(config, "train").image_shape == (None, None, 3)
