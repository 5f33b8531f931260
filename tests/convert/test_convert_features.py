"""Converted networks compute what PyTorch computes, and what was read is written back bit for bit."""

import functools
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_moco import SGD, convert

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, UNEVEN, LARGE = (32, 32), (97, 131), (224, 224)
INFERENCE_BATCHES = [(1, LARGE), (2, SMALL), (1, UNEVEN)]

SHALLOW, DEEP = ("resnet18", "resnet34"), ("resnet50", "resnet101")
every_network = pytest.mark.parametrize("name", [*SHALLOW, *DEEP])
every_stem = pytest.mark.parametrize("stem", ["imagenet", "cifar"])


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def images(n, size, channels=3):
    return np.random.default_rng(1).integers(0, 256, (n, *size, channels)).astype("float32")


def random_network(name, stem="imagenet", head="linear", seed=0, **kwargs):
    torch.manual_seed(seed)
    return reference.randomise(reference.ResNet(name, stem, head, **kwargs), seed).eval()


def converted(network, folder, **kwargs):
    """The network in Keras, through a file, in its own dtype."""
    path = Path(folder) / "network.pth"
    torch.save(network.state_dict(), path)
    with reference.floats(str(next(network.parameters()).dtype).removeprefix("torch.")):
        return convert.encoder_from_pytorch(path, **{"mean": MEAN, "std": STD, **kwargs})


@torch.no_grad()
def pytorch_computes(network, images):
    """Features, and embeddings of them."""
    images = images.astype(str(next(network.parameters()).dtype).removeprefix("torch."))
    channels = images.shape[-1]
    features = network.features(reference.normalised(images, MEAN[:channels], STD[:channels]))
    return {"features": features, "embeddings": torch.nn.functional.normalize(network.fc(features), dim=1)}


def keras_computes(encoder, images, training=False):
    features = encoder.features(images, training=training)
    return {"features": features, "embeddings": encoder.normalize(encoder.head(features))}


def differences(ours, theirs):
    assert set(ours) == set(theirs)
    return {name: relative(ours[name], theirs[name]) for name in theirs}


# Inference and training mode. Converting takes longer than computing, so that one network serves many tests.


# At least 8 numbers per channel in the smallest feature maps: 4 amplify rounding to 6e-4 in ResNet-34.
TRAINING_BATCHES = {"imagenet": [(8, SMALL), (2, UNEVEN), (2, LARGE)], "cifar": [(4, SMALL), (1, UNEVEN)]}


@functools.cache
def computed(name, stem):
    """What both sides compute from the same weights: inference in float32, training mode in both precisions.

    Returns:
        dict of `(side, bits, training, batch)` to features, embeddings and, in training mode, moving statistics.
    """
    found = {}
    for bits in (32, 64):
        network = random_network(name, stem).to(getattr(torch, f"float{bits}"))
        with tempfile.TemporaryDirectory() as folder:
            encoder = converted(network, folder)
        for batch in INFERENCE_BATCHES if bits == 32 else []:
            found["torch", bits, False, batch] = pytorch_computes(network, images(*batch))
            found["keras", bits, False, batch] = keras_computes(encoder, images(*batch))
        network.train()
        for batch in TRAINING_BATCHES[stem]:
            theirs = pytorch_computes(network, images(*batch))
            found["torch", bits, True, batch] = theirs | statistics_of_pytorch(network)
            with reference.floats(f"float{bits}"):
                ours = keras_computes(encoder, images(*batch), training=True)
            found["keras", bits, True, batch] = ours | statistics_of_keras(encoder)
    return found


def statistics_of_pytorch(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}


def statistics_of_keras(encoder):
    """By PyTorch's names, which are spelt here once more."""
    found = {}
    for layer in encoder.backbone.layers:
        if "bn" in layer.name:
            name = layer.name.replace("downsample_bn", "downsample.1").replace("_", ".")
            found[f"{name}.running_mean"] = np.array(layer.moving_mean)
            found[f"{name}.running_var"] = np.array(layer.moving_variance)
    return found


@every_stem
@every_network
def test_features_and_embeddings_are_pytorchs(name, stem):
    numbers = computed(name, stem)
    for batch in INFERENCE_BATCHES:
        found = differences(numbers["keras", 32, False, batch], numbers["torch", 32, False, batch])
        assert max(found.values()) < 1e-5, (batch, found)


@every_stem
@every_network
def test_in_float64_the_statistics_of_a_batch_give_pytorchs_numbers(name, stem):
    numbers = computed(name, stem)
    for batch in TRAINING_BATCHES[stem]:
        found = differences(numbers["keras", 64, True, batch], numbers["torch", 64, True, batch])
        assert max(found.values()) < 1e-9, (batch, found)


@every_stem
@pytest.mark.parametrize("name", SHALLOW)
def test_in_float32_they_do_within_its_precision(name, stem):
    numbers = computed(name, stem)
    for batch in TRAINING_BATCHES[stem]:
        found = differences(numbers["keras", 32, True, batch], numbers["torch", 32, True, batch])
        assert max(found.values()) < 1e-4, (batch, found)


@every_stem
@pytest.mark.parametrize("name", DEEP)
def test_where_depth_amplifies_rounding_ours_is_no_worse_than_pytorchs(name, stem):
    numbers = computed(name, stem)
    for batch in TRAINING_BATCHES[stem]:
        exact = numbers["torch", 64, True, batch]
        ours, theirs = (differences(numbers[side, 32, True, batch], exact) for side in ("keras", "torch"))
        for part in exact:
            assert ours[part] < max(4 * theirs[part], 1e-4), (batch, part, ours[part], theirs[part])


@every_stem
@every_network
def test_embeddings_of_the_mlp_head_are_pytorchs(tmp_path, name, stem):
    network = random_network(name, stem, "mlp")
    encoder = converted(network, tmp_path)
    expected = pytorch_computes(network, images(2, SMALL))
    assert relative(encoder.features(images(2, SMALL)), expected["features"]) < 1e-5
    assert relative(encoder(images(2, SMALL)), expected["embeddings"]) < 1e-5


@pytest.mark.parametrize("stem, kwargs", [("imagenet", {"channels": 1}), ("cifar", {"width": 32}), ("half", {})])
def test_gray_images_other_widths_and_the_half_stem_too(tmp_path, stem, kwargs):
    network = random_network("resnet18", stem, "mlp", **kwargs)
    channels = kwargs.get("channels", 3)
    encoder = converted(network, tmp_path, stem=stem, mean=MEAN[:channels], std=STD[:channels])
    for batch in ((2, SMALL, channels), (2, UNEVEN, channels)):
        found = differences(keras_computes(encoder, images(*batch)), pytorch_computes(network, images(*batch)))
        assert max(found.values()) < 1e-5, (batch, found)


# Round trips.


def assert_same_tensors(ours, theirs):
    """Names, their order, dtypes, shapes and every bit."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        assert ours[name].numpy().tobytes() == theirs[name].numpy().tobytes(), name


def checkpoint(path, name="resnet18", stem="cifar", head="linear", width=8, queue_size=50):
    """Writes what `main_moco.py` writes in the midst of training, and returns it."""
    model = reference.MoCo(random_network(name, stem, head, width=width), queue_size, 128, 0.999, 0.2)
    model.encoder_k.load_state_dict(random_network(name, stem, head, seed=1, width=width).state_dict())
    model.encoder_k.requires_grad_(False)
    model.queue_ptr[:] = 48
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    for parameter in model.encoder_q.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)
    content = {
        "epoch": 3,
        "arch": name,
        "state_dict": {f"module.{key}": tensor for key, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)
    return content


def read(path):
    return torch.load(path, weights_only=True)


KINDS = {
    "resnet18": {},
    "resnet50": {"name": "resnet50", "stem": "imagenet", "head": "mlp"},
    "full-size": {"name": "resnet50", "stem": "imagenet", "head": "mlp", "width": 64, "queue_size": 65536},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_comes_back_bit_for_bit_with_its_optimizer(tmp_path, kind):
    theirs = checkpoint(tmp_path / "theirs.pth.tar", **KINDS[kind])
    optimizer = SGD(0.03, momentum=0.9, weight_decay=1e-4)
    model = convert.from_pytorch(tmp_path / "theirs.pth.tar", optimizer=optimizer)
    ours = read(convert.to_pytorch(model, tmp_path / "ours.pth.tar", epoch=3))
    assert (ours["epoch"], ours["arch"]) == (theirs["epoch"], theirs["arch"])
    assert_same_tensors(ours["state_dict"], theirs["state_dict"])

    found, expected = (
        {place: state["momentum_buffer"] for place, state in content["optimizer"]["state"].items()}
        for content in (ours, theirs)
    )
    assert_same_tensors(found, expected)
    (found,), (expected,) = (content["optimizer"]["param_groups"] for content in (ours, theirs))
    assert found.pop("lr") == pytest.approx(expected.pop("lr"), rel=1e-7)  # ours is a float32
    assert found == expected


def test_pytorch_goes_on_from_what_was_written(tmp_path):
    theirs = checkpoint(tmp_path / "theirs.pth.tar")
    model = convert.from_pytorch(tmp_path / "theirs.pth.tar", optimizer=SGD(0.03, momentum=0.9, weight_decay=1e-4))
    ours = read(convert.to_pytorch(model, tmp_path / "ours.pth.tar"))

    network = reference.MoCo(random_network("resnet18", "cifar", seed=2, width=8), 50, 128, 0.999, 0.2)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in ours["state_dict"].items()})
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    optimizer.load_state_dict(ours["optimizer"])
    first = optimizer.state[next(network.encoder_q.parameters())]["momentum_buffer"]
    assert torch.equal(first, theirs["optimizer"]["state"][0]["momentum_buffer"])


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_a_checkpoint_survives_a_keras_file(tmp_path, kind):
    theirs = checkpoint(tmp_path / "theirs.pth.tar", **KINDS[kind])
    convert.from_pytorch(tmp_path / "theirs.pth.tar").save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    ours = read(convert.to_pytorch(model, tmp_path / "ours.pth.tar"))
    assert_same_tensors(ours["state_dict"], theirs["state_dict"])
    assert "optimizer" not in ours


def test_a_checkpoint_survives_safetensors(tmp_path):
    numpy_file = pytest.importorskip("safetensors.numpy")
    theirs = checkpoint(tmp_path / "theirs.pth.tar")["state_dict"]
    numpy_file.save_file({name: tensor.numpy() for name, tensor in theirs.items()}, tmp_path / "theirs.safetensors")
    model = convert.from_pytorch(tmp_path / "theirs.safetensors")
    ours = numpy_file.load_file(convert.to_pytorch(model, tmp_path / "ours.safetensors"))
    assert set(ours) == set(theirs)  # sorted in the file
    assert_same_tensors({name: torch.from_numpy(ours[name]) for name in theirs}, theirs)


@pytest.mark.parametrize("kind", [("resnet34", "imagenet", "linear"), ("resnet50", "cifar", "mlp")], ids=str)
def test_an_encoder_comes_back_bit_for_bit_and_pytorch_takes_it(tmp_path, kind):
    theirs = random_network(*kind, width=8)
    ours = read(convert.to_pytorch(converted(theirs, tmp_path), tmp_path / "ours.pth"))
    without_counts = {
        key: torch.zeros_like(tensor) if "tracked" in key else tensor for key, tensor in theirs.state_dict().items()
    }
    assert_same_tensors(ours, without_counts)

    network = random_network(*kind, seed=2, width=8)
    network.load_state_dict(ours, strict=True)
    for part, computed in pytorch_computes(theirs, images(2, SMALL)).items():
        assert torch.equal(pytorch_computes(network, images(2, SMALL))[part], computed)


# The other side of all comparisons.


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_reference_is_torchvisions_network(name):
    torchvision = pytest.importorskip("torchvision")
    ours = random_network(name)
    theirs = getattr(torchvision.models, name)(num_classes=128)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    batch = reference.normalised(images(2, UNEVEN), MEAN, STD)
    for training in (False, True):
        expected = torch.nn.functional.normalize(theirs.train(training)(batch), dim=1)
        torch.testing.assert_close(ours.train(training)(batch), expected, rtol=0, atol=1e-6)
