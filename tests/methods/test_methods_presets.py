"""A preset has the numbers of the recipe of its name, and its model has them."""

import dataclasses
from pathlib import Path

import pytest

import tests.tiny  # noqa: F401 (the backbone of that name)
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.convert import from_pytorch, to_pytorch
from keras_moco.methods import presets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = {
    "moco_v1_resnet50_imagenet": "imagenet.cfg",
    "moco_v2_resnet50_imagenet": "imagenet_v2.cfg",
    "moco_v1_resnet18_cifar10": "cifar10.cfg",
}
# Fields that are called otherwise in `Config`.
OTHER_NAMES = {"mean": "image_mean", "std": "image_std", "momentum": "key_momentum"}


@pytest.mark.parametrize("name, flagfile", RECIPES.items())
def test_numbers_are_those_of_the_recipe(name, flagfile, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    config = read_flagfile(CONFIGS / flagfile)
    for field, value in dataclasses.asdict(presets.PRESETS[name]).items():
        assert getattr(config, OTHER_NAMES.get(field, field)) == value, field


def test_names_say_what_they_are():
    for name, preset in presets.PRESETS.items():
        version, *_, backbone, data = name.removeprefix("moco_").split("_")
        assert preset.backbone == backbone
        assert preset.head == {"v1": "linear", "v2": "mlp"}[version]
        assert preset.stem == {"imagenet": "imagenet", "cifar10": "cifar"}[data]
        assert preset.symmetric == ("symmetric" in name)


@pytest.mark.parametrize("name", ["moco_v2_resnet18_imagenet", "moco_v1_symmetric_resnet18_cifar10"])
def test_model_is_what_its_preset_says(name, monkeypatch, tmp_path):
    preset = dataclasses.replace(presets.PRESETS[name], backbone="tiny")
    monkeypatch.setitem(presets.PRESETS, name, preset)
    model = presets.moco(name, input_shape=(32, 32, 3), queue_size=64)
    path = to_pytorch(model, tmp_path / "moco.safetensors")
    for made in (model, from_pytorch(path, preset=name, queue_size=64)):
        config = made.get_config()
        for field in ("temperature", "momentum", "symmetric"):
            assert config[field] == getattr(preset, field)
        assert made.encoder.mean == list(preset.mean) and made.encoder.std == list(preset.std)
        assert made.queue.features.shape == (64, preset.embedding_dim)
        names = [layer.name for layer in made.encoder.head.layers]
        assert names == (["fc1", "fc2"] if preset.head == "mlp" else ["fc"])
        first = made.encoder.backbone.get_layer("conv1").kernel
        assert first.shape == ((7, 7, 3, 64) if preset.stem == "imagenet" else (3, 3, 3, 64))
    with pytest.raises(ValueError, match=f"{', '.join(presets.PRESETS)}. Received: 'moco_v4'"):
        presets.moco("moco_v4")
