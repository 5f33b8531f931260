"""The flagfiles in `configs/` parse, are consistent, and are the recipes that they are named after."""

import dataclasses
import re
from pathlib import Path

import pytest

from keras_moco.commands import pretrain
from keras_moco.config import Config
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.networks import BACKBONES, resnet
from keras_moco.runs.plan import Plan
from tests.tiny import TINY_RUN

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
    assert pretrain.pretrain(dataclasses.replace(config, dry_run=True, strategy="one")) == {}
    return capsys.readouterr().out


def rates(text):
    """The learning rates in the description of a plan, and their steps."""
    found = re.findall(r"([\d.e+-]+) \(step (\d+)\)", re.search(r"^learning rate: (.*)$", text, re.M)[1])
    return [float(rate) for rate, _ in found], [int(step) for _, step in found]


def convolution(kernel, channels_in, channels_out):
    return kernel**2 * channels_in * channels_out + 2 * channels_out  # and two numbers of BatchNorm per channel


def backbone_parameters(blocks, bottleneck, stem_kernel):
    """Parameters of a ResNet v1.5 without classifier, counted by hand."""
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
    return total


RESNET18_CIFAR = backbone_parameters((2, 2, 2, 2), bottleneck=False, stem_kernel=3)
RESNET50 = backbone_parameters((3, 4, 6, 3), bottleneck=True, stem_kernel=7)


def test_hand_count_agrees_with_torchvision():
    # torchvision's documented counts, less the classifier (with bias).
    assert RESNET50 == 25557032 - (2048 * 1000 + 1000)
    stem = 64 * 3 * (7**2 - 3**2)
    assert RESNET18_CIFAR == 11689512 - (512 * 1000 + 1000) - stem


# Recipes as published: the papers and the authors' code (see each flagfile). `crop_min_area=None` is the recipe's own.
IMAGENET = dict(
    **dict(dataset="tfds:imagenet2012", train_examples=1281167, channels=3),
    **dict(image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225), image_size=224, crop_min_area=None),
    **dict(backbone="resnet50", backbone_width=64, stem="imagenet", embedding_dim=128, bn_splits=8),
    **dict(queue_size=65536, key_momentum=0.999, symmetric=False, batch_size=256, precision="float32"),
    **dict(learning_rate=0.03, optimizer_momentum=0.9, weight_decay=1e-4, warmup_epochs=0, schedule_per_step=False),
)
V1 = {**IMAGENET, **dict(head="linear", temperature=0.07, augment="moco_v1", schedule="step", epochs=200)}
V2 = {**IMAGENET, **dict(head="mlp", temperature=0.2, augment="moco_v2", schedule="cosine", epochs=200)}
CIFAR10 = dict(
    **dict(dataset="tfds:cifar10", train_examples=50000, channels=3, image_size=32, crop_min_area=None),
    **dict(backbone="resnet18", backbone_width=64, stem="cifar", embedding_dim=128, batch_size=512),
    **dict(optimizer_momentum=0.9, schedule="cosine"),
)
RECIPES = {
    "imagenet.cfg": V1,
    "imagenet_v2.cfg": V2,
    "imagenet_v2_800ep.cfg": {**V2, "epochs": 800},
    "cifar10.cfg": dict(
        **CIFAR10,
        **dict(image_mean=(0.4914, 0.4822, 0.4465), image_std=(0.2023, 0.1994, 0.2010), augment="moco_cifar"),
        **dict(head="linear", queue_size=4096, key_momentum=0.99, temperature=0.1, symmetric=False, bn_splits=8),
        **dict(epochs=200, learning_rate=0.06, weight_decay=5e-4, schedule_per_step=False, warmup_epochs=0),
        **dict(precision="float32", knn_k=200, knn_temperature=0.1),
    ),
    "cifar10_simclr.cfg": dict(
        **CIFAR10,
        **dict(image_mean=(0.0,), image_std=(1.0,), head="simclr", augment="simclr_cifar", method="simclr"),
        **dict(temperature=0.5, epochs=1000, optimizer="lars", learning_rate=2.0, weight_decay=1e-4),
        **dict(schedule_per_step=True, warmup_epochs=10),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_equals_the_published_one(name):
    config = read(name)
    assert {setting: getattr(config, setting) for setting in RECIPES[name]} == RECIPES[name]


@pytest.mark.parametrize(
    "name, backbone, head",
    [
        ("cifar10.cfg", RESNET18_CIFAR, 512 * 128 + 128),
        pytest.param(*("imagenet_v2.cfg", RESNET50, 2048 * 2048 + 2048 + 2048 * 128 + 128), marks=pytest.mark.slow),
    ],
)
def test_a_recipe_has_the_published_network(name, backbone, head, capsys):
    text = dry_run(read(name), capsys)
    assert f"parameters: {backbone + head:,} in each encoder ({backbone:,} in the backbone)" in text


def test_defaults_are_moco_v1():
    names = V1.keys() - {"dataset", "train_examples", "channels"}
    config = Plan(Config(), V1["train_examples"], V1["channels"], replicas=1).config
    assert {name: getattr(config, name) for name in names} == {name: V1[name] for name in names}


# All flagfiles


@pytest.mark.parametrize("name", CONFIGS)
def test_flagfile_dry_runs_without_data(name, capsys, monkeypatch, tmp_path):
    def small_backbone(width, **settings):
        assert width > 1
        return resnet(TINY_RUN["backbone"], width=4, **settings)

    monkeypatch.setitem(BACKBONES, read(name).backbone, small_backbone)  # the recipes' own are counted above
    config = dataclasses.replace(read(name), workdir=str(tmp_path / "run"), data_dir=str(tmp_path / "none"))
    if config.train_examples is None:  # a recipe for any images
        config = dataclasses.replace(
            config, dataset="folder:photos", train_examples=10_000, queue_size=2048, channels=3
        )
    text = dry_run(config, capsys)
    per_epoch = config.train_examples // config.batch_size
    total = per_epoch * config.epochs
    assert f"steps: {per_epoch:,} per epoch" in text and f", {total:,} in {config.epochs} epochs" in text
    found, steps = rates(text)
    assert steps == [*(round(total * quarter / 4) for quarter in range(4)), total - 1]
    highest = config.base_learning_rate * config.batch_size / 256
    assert found[0] == pytest.approx(0 if config.warmup_epochs else highest, rel=1e-3)
    assert found[-1] < 0.02 * highest  # all schedules end far below
    vectors = {"moco": config.queue_size, "memory_bank": config.train_examples}.get(config.method)
    memory = re.search(r"^(?:queue|bank): .*, ([\d.]+) MiB", text, re.M)
    assert (memory is None) == (vectors is None)
    if memory:
        assert float(memory[1]) == pytest.approx(vectors * config.embedding_dim * 4 / 2**20, abs=0.005)
    assert list(tmp_path.iterdir()) == []


def test_flagfiles_are_listed_and_have_their_own_workdirs():
    assert {*RECIPES, "quickstart.cfg"} <= set(CONFIGS)
    readme = Path("README.md").read_text(encoding="utf-8")
    for name in CONFIGS:
        assert read(name).workdir == f"runs/{name.removesuffix('.cfg')}"
        assert f"`configs/{name}`" in readme, name


def test_a_flagfile_sets_no_flag_twice():
    for name in CONFIGS:
        lines = Path("configs", name).read_text(encoding="utf-8").splitlines()
        names = [line.partition("=")[0] for line in lines if line.startswith("--") and "flagfile=" not in line]
        assert len(names) == len(set(names)), name
