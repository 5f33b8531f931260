"""The flagfiles in `configs/` parse, fit together, and are the recipes whose names they bear."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from keras_moco import training
from keras_moco.config import Config, read_flagfile

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.cfg"))


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    # One flagfile includes another by its path from here.
    monkeypatch.chdir(ROOT)


def read(name):
    return read_flagfile(Path("configs", name))


def dry_run(config, capsys):
    """What a dry run of a configuration prints."""
    assert training.pretrain(dataclasses.replace(config, dry_run=True, strategy="one")) == {}
    return capsys.readouterr().out


def number(text):
    return int(text.replace(",", ""))


def backbone_parameters(blocks, width_out, bottleneck, stem_kernel):
    """Parameters of a ResNet v1.5 without classifier, counted by hand; a BatchNorm has two per channel."""

    def convolution(kernel, channels_in, channels_out):
        return kernel**2 * channels_in * channels_out + 2 * channels_out

    total, channels = convolution(stem_kernel, 3, 64), 64
    for stage, depth in enumerate(blocks):
        width = 64 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            if bottleneck:
                total += convolution(1, channels, width) + convolution(3, width, width) + convolution(1, width, out)
            else:
                total += convolution(3, channels, width) + convolution(3, width, out)
            if block == 0 and channels != out:
                total += convolution(1, channels, out)
            channels = out
    assert channels == width_out
    return total


RESNET18_CIFAR = backbone_parameters((2, 2, 2, 2), 512, bottleneck=False, stem_kernel=3)
RESNET50 = backbone_parameters((3, 4, 6, 3), 2048, bottleneck=True, stem_kernel=7)


def test_the_hand_count_agrees_with_torchvision():
    # torchvision's documented counts, less the classifier (with bias).
    assert RESNET50 == 25557032 - (2048 * 1000 + 1000)
    stem = 64 * 3 * (7**2 - 3**2)
    assert RESNET18_CIFAR == 11689512 - (512 * 1000 + 1000) - stem


# Recipes as published: the papers and the authors' code (see each flagfile).
IMAGENET = {
    "dataset": "tfds:imagenet2012",
    "train_examples": 1281167,
    "channels": 3,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
    "backbone": "resnet50",
    "backbone_width": 64,
    "stem": "imagenet",
    "image_size": 224,
    "crop_min_area": None,  # the recipe's own
    "embedding_dim": 128,
    "queue_size": 65536,
    "key_momentum": 0.999,
    "symmetric": False,
    "batch_size": 256,
    "learning_rate": 0.03,
    "optimizer_momentum": 0.9,
    "weight_decay": 1e-4,
    "warmup_epochs": 0,
    "schedule_per_step": False,
    "precision": "float32",
    "bn_splits": 8,
}
V1 = {
    **IMAGENET,
    **{"head": "linear", "temperature": 0.07, "augment": "moco_v1", "schedule": "step", "epochs": 200},
}
V2 = {
    **IMAGENET,
    **{"head": "mlp", "temperature": 0.2, "augment": "moco_v2", "schedule": "cosine", "epochs": 200},
}
RECIPES = {
    "imagenet.cfg": V1,
    "imagenet_v2.cfg": V2,
    "imagenet_v2_800ep.cfg": {**V2, "epochs": 800},
    "cifar10.cfg": {
        "dataset": "tfds:cifar10",
        "train_examples": 50000,
        "channels": 3,
        "image_mean": (0.4914, 0.4822, 0.4465),
        "image_std": (0.2023, 0.1994, 0.2010),
        "backbone": "resnet18",
        "backbone_width": 64,
        "stem": "cifar",
        "head": "linear",
        "image_size": 32,
        "augment": "moco_cifar",
        "crop_min_area": None,
        "embedding_dim": 128,
        "queue_size": 4096,
        "key_momentum": 0.99,
        "temperature": 0.1,
        "symmetric": False,
        "batch_size": 512,
        "epochs": 200,
        "learning_rate": 0.06,
        "optimizer_momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "schedule_per_step": False,
        "warmup_epochs": 0,
        "precision": "float32",
        "bn_splits": 8,
        "knn_k": 200,
        "knn_temperature": 0.1,
    },
    "cifar10_simclr.cfg": {
        "dataset": "tfds:cifar10",
        "train_examples": 50000,
        "channels": 3,
        "image_mean": (0.0,),
        "image_std": (1.0,),
        "backbone": "resnet18",
        "backbone_width": 64,
        "stem": "cifar",
        "head": "simclr",
        "image_size": 32,
        "augment": "simclr_cifar",
        "crop_min_area": None,
        "embedding_dim": 128,
        "method": "simclr",
        "temperature": 0.5,
        "batch_size": 512,
        "epochs": 1000,
        "optimizer": "lars",
        "learning_rate": 2.0,
        "optimizer_momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "schedule_per_step": True,
        "warmup_epochs": 10,
    },
}
# What follows from them: steps per epoch, rates at each quarter and at the last step, dictionary, parameters.
MLP_HEAD = 2048 * 2048 + 2048 + 2048 * 128 + 128
COSINE = [(1 + math.cos(math.pi * epoch / 200)) / 2 for epoch in (0, 50, 100, 150)]
SIMCLR_HEAD = 2 * (512 * 512 + 2 * 512) + 512 * 128 + 128
SIMCLR_STEPS = [(quarter * 24250 - 970) / (97000 - 970) for quarter in (1, 2, 3)]  # of the cosine after 970 of warm-up
COSINE_200, COSINE_800 = ([*COSINE, (1 + math.cos(math.pi * (n - 1) / n)) / 2] for n in (200, 800))
FOLLOWS = {
    "imagenet.cfg": (5004, [0.03, 0.03, 0.03, 0.003, 0.0003], "128, 32.00 MiB", RESNET50, 2048 * 128 + 128),
    "imagenet_v2.cfg": (5004, [0.03 * share for share in COSINE_200], "128, 32.00 MiB", RESNET50, MLP_HEAD),
    "imagenet_v2_800ep.cfg": (5004, [0.03 * share for share in COSINE_800], "128, 32.00 MiB", RESNET50, MLP_HEAD),
    "cifar10.cfg": (97, [0.06 * share for share in COSINE_200], "128, 2.00 MiB", RESNET18_CIFAR, 512 * 128 + 128),
    "cifar10_simclr.cfg": (
        97,
        [0, *(1 + math.cos(math.pi * done) for done in SIMCLR_STEPS), 1 + math.cos(math.pi * 96029 / 96030)],
        "negatives: 1,022",
        RESNET18_CIFAR,
        SIMCLR_HEAD,
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_published_one(name):
    config = read(name)
    assert {setting: getattr(config, setting) for setting in RECIPES[name]} == RECIPES[name]


@pytest.mark.parametrize("name", FOLLOWS)
def test_a_recipe_gives_the_published_numbers(name, capsys):
    steps, rates, dictionary, backbone, head = FOLLOWS[name]
    text = dry_run(read(name), capsys)
    assert f"steps: {steps:,} per epoch" in text
    assert f"{steps * RECIPES[name]['epochs']:,} in {RECIPES[name]['epochs']} epochs" in text
    found = re.findall(r"([\d.e+-]+) \(step \d+\)", text)
    assert [float(rate) for rate in found] == pytest.approx(rates, rel=1e-3, abs=1e-9)
    assert f"{dictionary}, " in text
    assert f"parameters: {backbone + head:,} in each encoder ({backbone:,} in the backbone)" in text


# Every flagfile, whatever its recipe


def test_there_are_flagfiles():
    assert {*RECIPES, "quickstart.cfg"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flagfile_dry_runs_without_data(name, capsys, tmp_path):
    # A narrow network, since the recipes' own are counted above.
    config = dataclasses.replace(
        read(name), backbone_width=4, workdir=str(tmp_path / "run"), data_dir=str(tmp_path / "none")
    )
    text = dry_run(config, capsys)
    per_epoch, total = re.search(r"^steps: ([\d,]+) per epoch .*, ([\d,]+) in \d+ epochs$", text, re.M).groups()
    assert number(per_epoch) == config.train_examples // config.batch_size
    assert number(total) == number(per_epoch) * config.epochs
    rates = re.findall(r"([\d.e+-]+) \(step (\d+)\)", re.search(r"^learning rate: (.*)$", text, re.M)[1])
    assert [int(step) for _, step in rates] == [
        *(round(number(total) * quarter / 4) for quarter in range(4)),
        number(total) - 1,
    ]
    highest = config.base_learning_rate * config.batch_size / 256
    assert float(rates[0][0]) == pytest.approx(0 if config.warmup_epochs else highest, rel=1e-3)
    assert float(rates[-1][0]) < 0.02 * highest  # all schedules end far below
    vectors = {"moco": config.queue_size, "memory_bank": config.train_examples}.get(config.method)
    memory = re.search(r"^(?:queue|bank): .*, ([\d.]+) MiB", text, re.M)
    assert (memory is None) == (vectors is None)
    if memory:
        assert float(memory[1]) == pytest.approx(vectors * config.embedding_dim * 4 / 2**20, abs=0.005)
    encoder, backbone = map(number, re.search(r"^parameters: ([\d,]+) .*\(([\d,]+) in", text, re.M).groups())
    assert encoder > backbone > 1000
    assert list(tmp_path.iterdir()) == []
    # The settings are printed as a flagfile.
    printed = tmp_path / "printed.cfg"
    printed.write_text("\n".join(line for line in text.splitlines() if line.startswith("--")))
    assert read_flagfile(printed) == dataclasses.replace(config, strategy="one")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flagfile_runs_into_a_folder_of_its_own(name):
    assert read(name).workdir == f"runs/{name.removesuffix('.cfg')}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flagfile_sets_nothing_twice(name):
    lines = [line for line in Path("configs", name).read_text().splitlines() if line.startswith("--")]
    names = [line.partition("=")[0] for line in lines]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flagfile_is_listed_in_the_readme(name):
    assert f"`configs/{name}`" in Path("README.md").read_text()


def test_the_defaults_are_moco_v1():
    defaults = {name: getattr(Config(), name) for name in V1 if name not in ("dataset", "train_examples", "channels")}
    assert defaults == {name: V1[name] for name in defaults}
