"""Settings that follow from the images, for those who give none."""

import numpy as np
import pytest
from PIL import Image

from keras_moco.config import Config
from keras_moco.data import array_source, open_source
from keras_moco.runs.fitted_settings import Images, fitted_settings, images_of
from keras_moco.runs.plan import Plan
from tests.image_formats.written import tiff


def fitted(number=30_000, size=(375, 500), channels=3, deep=False, accelerator=False):
    return fitted_settings(Images(number, np.array([size]), channels, deep), accelerator)


@pytest.mark.parametrize(
    ("images", "augment", "head"),
    [
        (dict(), "moco_v2", "mlp"),
        (dict(size=(32, 32)), "moco_cifar", "linear"),
        (dict(channels=1), "moco_v2", "mlp"),
        (dict(channels=1, deep=True), "moco_medical", "mlp"),
        (dict(channels=1, deep=True, size=(28, 28)), "moco_medical", "linear"),
        (dict(channels=13), "moco_multispectral", "mlp"),
    ],
)
def test_recipe_follows_from_channels_depth_and_size(images, augment, head):
    found = fitted(**images)
    assert (found["augment"], found["head"]) == (augment, head)
    assert found["temperature"] == (0.1 if head == "linear" else 0.2)


@pytest.mark.parametrize(
    ("images", "accelerator", "backbone", "width", "momentum"),
    [
        (dict(), False, "resnet10", 64, 0.99),
        (dict(size=(32, 32)), False, "resnet10", 32, 0.99),
        (dict(), True, "resnet18", 64, 0.99),
        (dict(number=1_281_167), True, "resnet50", 64, 0.999),
    ],
)
def test_network_and_momentum_follow_from_device_and_number(images, accelerator, backbone, width, momentum):
    found = Config(**fitted(**images, accelerator=accelerator))
    assert (found.backbone, found.backbone_width, found.key_momentum) == (backbone, width, momentum)


@pytest.mark.parametrize("number", [8, 9, 60, 1000, 1_281_167])
@pytest.mark.parametrize("size", [(8, 8), (70, 64), (3000, 2000)])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_a_run_is_possible_with_them(number, size, channels):
    Plan(Config(**fitted(number, size, channels)), number, channels, replicas=1)


def test_what_they_follow_from_is_found_in_files_and_in_arrays(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    Image.new("L", (30, 60)).save(tmp_path / "b.jpg")
    found = images_of(open_source(f"folder:{tmp_path}"))
    assert (found.number, found.sizes.tolist(), found.channels, found.deep) == (2, [[40, 50], [60, 30]], 3, False)
    found = images_of(array_source(np.zeros((5, 24, 20, 1), "uint8")))
    assert (found.number, found.sizes.tolist(), found.channels, found.deep) == (5, [[24, 20]], 1, False)
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "a.tif").write_bytes(tiff(np.arange(600, dtype="uint16").reshape(20, 30)))
    assert images_of(open_source(f"folder:{deep}"))[2:] == (1, True)
