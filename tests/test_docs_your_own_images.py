"""docs/your_own_images.md from its first block to its last, in their order, on crops of two photographs.

Commands stand in the page as for 30,000 images of 128 pixels. Here flags are appended to those that train (`SMALLER`);
nothing else is changed, and nothing left out.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_moco import data, settings
from keras_moco.augment import preview
from keras_moco.config import Config, read_flagfile
from keras_moco.evaluating import evaluate
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.plan import Plan
from keras_moco.run_directory import RunDirectory
from keras_moco.training import pretrain

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your_own_images.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
# Appended to every command that trains, by its program or mode.
SMALLER = {
    "train.py": "--epochs=2 --image_size=16 --stem=cifar --backbone=resnet10 --backbone_width=4 --queue_size=64 "
    "--batch_size=16 --log_steps=2",
    "finetune": "--epochs=1 --batch_size=8",
}
TRAINING = "python train.py --flagfile=photos.cfg\n"
PHOTOS = 128


def save_crops(folder, count, rng, names=("china", "flower")):
    """Crops of different sizes of scikit-learn's two photographs, a folder for each: half JPEG, half PNG."""
    for name, photograph in zip(names, load_sample_images().images, strict=True):
        for number in range(count):
            height, width = rng.integers(24, 65, 2)
            top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
            place = folder / name if folder.name in ("train", "test") else folder
            place.mkdir(parents=True, exist_ok=True)
            crop = Image.fromarray(photograph[top : top + height, left : left + width])
            crop.save(place / f"{name}{number:03d}.{'jpg' if number % 2 else 'png'}")


def commands_of(block):
    """The commands of a bash block, in order; a file that is written in place is one of them."""
    return re.findall(r"^.+<<'END'\n(?:.*\n)*?END$|^.+$", re.sub(r"\\\n *", "", block), flags=re.MULTILINE)


def parsed(kind, arguments):
    values = flags.FlagValues()
    settings.define_flags(kind, values)
    _, *others = values(["program", *arguments])
    return settings.from_flags(kind, values), " ".join(others)


def run(command, in_a_process):
    """Runs a command: bash's own by bash, ours in this process, which saves it the start of TensorFlow."""
    if not command.startswith("python "):
        subprocess.run(["bash", "-ec", command], check=True)
        return
    _, program, *arguments = shlex.split(command)
    if program == "train.py":
        arguments += SMALLER[program].split()
        if in_a_process and "--dry_run" not in arguments:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, ROOT / program, *arguments], env=environment, capture_output=True, text=True
            )
            print(done.stdout)
            assert done.returncode == 0, done.stderr
        else:
            pretrain(parsed(Config, arguments)[0])
    elif program == "evaluate.py":
        config, mode = parsed(EvaluationConfig, [*arguments, *SMALLER.get(arguments[0], "").split()])
        evaluate(mode, config)
    else:
        assert (program, arguments[0]) == ("-m", "keras_moco.augment.preview")
        assert preview.main(arguments[1:]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that the page speaks of, before its first block."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    save_crops(folder / "photos", PHOTOS // 2 - 1, rng)
    Image.fromarray(rng.integers(0, 256, (40, 30), dtype="uint8")).save(folder / "photos" / "gray.png")
    whole = (folder / "photos" / "china001.jpg").read_bytes()
    (folder / "photos" / "damaged.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "photos" / "notes.txt").write_text("no image")
    save_crops(folder / "labelled" / "train", 12, rng)
    save_crops(folder / "labelled" / "test", 8, rng)
    save_crops(folder / "new", 1, rng, names=("one", "two"))
    (folder / "new" / "one000.png").rename(folder / "new" / "one.jpg")  # told apart by content
    (folder / "new" / "two000.png").rename(folder / "new" / "two.png")
    return folder


def run_blocks(place, numbers):
    """Runs some of the page's blocks in their order: what each of them printed, by its number."""
    texts, before = {}, Path.cwd()
    os.chdir(place)
    try:
        for number in numbers:
            language, block = BLOCKS[number]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                if language == "python":
                    exec(compile(block, f"block {number}", "exec"), {"__name__": "__main__"})
                else:
                    for command in commands_of(block):
                        run(command, in_a_process=block == TRAINING)
            texts[number] = printed.getvalue()
    finally:
        os.chdir(before)
    return texts


def block_with(text):
    [number] = [number for number, (_, block) in enumerate(BLOCKS) if text in block]
    return number


TRAINED = block_with(TRAINING) + 1


@pytest.fixture(scope="module")
def until_trained(place):
    """The page as far as its training, which the default tier runs: what each block printed, by its number."""
    return run_blocks(place, range(TRAINED))


@pytest.fixture(scope="module")
def said(place, until_trained):
    """All of the page."""
    return until_trained | run_blocks(place, range(TRAINED, len(BLOCKS)))


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_the_commands_of_a_block_are_told_apart():
    block = "cat > a <<'END'\n--x=1\n--y=2\nEND\npython train.py \\\n  --z\n"
    assert commands_of(block) == ["cat > a <<'END'\n--x=1\n--y=2\nEND", "python train.py --z"]


def test_the_views_are_drawn(there, until_trained):
    with Image.open("views.png") as picture:
        assert picture.size == (8 * 132 - 4, 6 * 132 - 4)


def test_the_settings_of_the_page_are_a_run_as_they_stand(there, until_trained):
    plan = Plan(read_flagfile("photos.cfg"), train_examples=30000, channels=3, replicas=1)
    assert (plan.config.queue_size, plan.config.image_size, plan.steps_per_epoch) == (4096, 128, 117)
    assert "note" not in plan.describe()


def test_a_dry_run_says_what_would_be_done(until_trained):
    text = until_trained[block_with("--dry_run")]
    assert "folder:photos, 30,000 training images" in text and "loss: chance is" in text


def test_the_mean_and_deviation_are_flags(until_trained):
    flags_shown = [line for line in until_trained[block_with("image_mean")].splitlines() if line.startswith("--")]
    config, _ = parsed(Config, flags_shown)
    assert len(config.image_mean) == len(config.image_std) == 3
    assert all(0 < number < 1 for number in config.image_mean + config.image_std)


def test_training_leaves_a_run_and_names_what_it_left_out(there, until_trained):
    text = until_trained[block_with(TRAINING)]
    assert "no labels" in text and "damaged, incomplete or too large JPEG" in text
    for name in ("curves.png", "log.csv", "tensorboard", "checkpoints", "export/backbone.keras", "results.json"):
        assert (there / "runs" / "photos" / name).exists()
    source = data.open_source("folder:photos")
    assert (source.num_examples, source.class_names, source.image_shape) == (PHOTOS, None, (None, None, 3))


@pytest.mark.slow
def test_it_is_evaluated_without_labels_and_with_others(there, said):
    results = RunDirectory("runs/photos").results()
    assert {"measures_embedding", "measures_backbone"} <= results.keys()
    assert (there / "runs" / "photos" / "evaluation" / "neighbours.png").exists()
    others = results["other_data"]["folder:labelled"]
    for name in ("knn_top1_embedding", "logistic_top1", "finetune_top1"):
        assert 0 <= others[name] <= 100
    classifier = keras.models.load_model("runs/photos/evaluation/classifier.keras")
    assert classifier.output_shape == (None, 2)


@pytest.mark.slow
def test_features_come_with_the_names_of_their_files_and_are_compared(there, said):
    with np.load("runs/photos/evaluation/features_train.npz") as saved:
        assert len(saved["features"]) == PHOTOS - 1  # without the damaged one
        assert set(saved["files"]) == {str(path) for path in Path("photos").glob("*.[jp][pn]g")} - {
            "photos/damaged.jpg"
        }
    pair = re.fullmatch(r"(photos/\S+) and (photos/\S+): cosine (\S+)\n", said[block_with("similarity.argmax")])
    assert pair and pair[1] != pair[2] and -1 <= float(pair[3]) <= 1.001


@pytest.mark.slow
def test_the_records_hold_the_photographs_and_are_trained_on(there, said):
    source = data.open_source("tfrecord:records/train-*")
    assert source.num_examples == PHOTOS
    assert (there / "runs" / "records" / "export" / "backbone.keras").exists()


@pytest.mark.slow
def test_a_pipeline_of_ones_own_trains_and_exports(there, said):
    rows = Path("own", "log.csv").read_text().splitlines()
    assert len(rows) == 3 and "effective_rank" in rows[0]
    assert keras.models.load_model("own/export/backbone.keras").output_shape == (None, 128)


def test_the_steps_of_published_and_own_runs_are_those_of_their_recipes(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, epochs, steps in [("fashion_mnist", 26, "6,084"), ("cifar10", 200, "19,400"), ("cifar10", 800, "77,600")]:
        config = dataclasses.replace(read_flagfile(f"configs/{name}.cfg"), epochs=epochs)
        plan = Plan(config, config.train_examples, config.channels, replicas=1)
        assert f"{plan.total_steps:,}" == steps and steps in PAGE


# What the first table says of folders.


def test_a_gray_file_that_comes_first_is_found_out_by_channels(tmp_path):
    save_crops(tmp_path / "photos", 2, np.random.default_rng(0))
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "a.png")
    config = parsed(Config, [f"--dataset=folder:{tmp_path / 'photos'}", "--channels=3"])[0]
    source = data.open_source(config.dataset)
    assert source.image_shape == (None, None, 1)
    with pytest.raises(ValueError, match="Received: channels=3, folder:.* with 1. Correct or omit --channels"):
        Plan.of(config, source, replicas=1)


def test_images_beside_classes_and_empty_classes_are_refused(tmp_path):
    save_crops(tmp_path / "train", 1, np.random.default_rng(0))
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="Every class sub-folder must hold images"):
        data.open_source(f"folder:{tmp_path}")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "a.png")
    with pytest.raises(ValueError, match="either class sub-folders or images, not both"):
        data.open_source(f"folder:{tmp_path}")
