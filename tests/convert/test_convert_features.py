"""Converted networks compute what PyTorch computes, and what was read is written back bit for bit."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_moco import SGD, convert

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, UNEVEN = (32, 32), (49, 67)
WIDTH = 8

every_stem = pytest.mark.parametrize("stem", ["imagenet", "cifar"])
every_network = pytest.mark.parametrize("name", ["resnet18", "resnet50"])


def images(n, size, channels=3):
    return np.random.default_rng(1).integers(0, 256, (n, *size, channels)).astype("float32")


def random_network(name, stem="imagenet", head="linear", seed=0, width=WIDTH, **kwargs):
    torch.manual_seed(seed)
    return reference.randomise(reference.ResNet(name, stem, head, width, **kwargs), seed).eval()


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
    return {name: reference.relative(ours[name], theirs[name]) for name in theirs}


# At least 8 numbers per channel in the smallest feature maps: 4 amplify rounding to 6e-4 in ResNet-34.
TRAINING_BATCHES = {"imagenet": (8, SMALL), "cifar": (2, UNEVEN)}


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
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_features_and_embeddings_are_pytorchs(name, stem, head, tmp_path):
    network = random_network(name, stem, head)
    encoder = converted(network, tmp_path)
    for batch in ((2, SMALL), (1, UNEVEN)):
        found = differences(keras_computes(encoder, images(*batch)), pytorch_computes(network, images(*batch)))
        assert max(found.values()) < 1e-5, (batch, found)


@every_stem
@every_network
def test_training_mode_gives_pytorchs_numbers(name, stem, tmp_path):
    batch, computed = TRAINING_BATCHES[stem], {}
    for bits in (32, 64):
        network = random_network(name, stem).to(getattr(torch, f"float{bits}"))
        encoder = converted(network, tmp_path)
        network.train()
        theirs = pytorch_computes(network, images(*batch))
        computed["torch", bits] = theirs | statistics_of_pytorch(network)
        with reference.floats(f"float{bits}"):
            ours = keras_computes(encoder, images(*batch), training=True)
        computed["keras", bits] = ours | statistics_of_keras(encoder)
    found = differences(computed["keras", 64], computed["torch", 64])
    assert max(found.values()) < 1e-9, found
    # Depth amplifies float32's rounding, in PyTorch as much as in ours.
    ours, theirs = (differences(computed[side, 32], computed["torch", 64]) for side in ("keras", "torch"))
    for part in ours:
        assert ours[part] < max(4 * theirs[part], 1e-4), (part, ours[part], theirs[part])


@pytest.mark.parametrize("stem, kwargs", [("imagenet", {"channels": 1}), ("half", {}), ("cifar", {"width": 64})])
def test_gray_images_half_stem_and_full_width(tmp_path, stem, kwargs):
    network = random_network("resnet10", stem, **kwargs)
    channels = kwargs.get("channels", 3)
    encoder = converted(network, tmp_path, stem=stem, mean=MEAN[:channels], std=STD[:channels])
    for batch in ((2, SMALL, channels), (1, UNEVEN, channels)):
        found = differences(keras_computes(encoder, images(*batch)), pytorch_computes(network, images(*batch)))
        assert max(found.values()) < 1e-5, (batch, found)


# Round trips.


def assert_same_tensors(ours, theirs):
    """Names, their order, dtypes, shapes and every bit."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        assert ours[name].numpy().tobytes() == theirs[name].numpy().tobytes(), name


def checkpoint(path, *kind):
    """Writes what `main_moco.py` writes in the midst of training, and returns it."""
    model = reference.MoCo(random_network(*kind), 50, 128, 0.999, 0.2)
    model.encoder_k.load_state_dict(random_network(*kind, seed=1).state_dict())
    model.queue_ptr[:] = 48
    content = reference.checkpoint_of(model, epoch=3, arch=kind[0])
    torch.save(content, path)
    return content


@pytest.mark.parametrize("kind", [("resnet10", "cifar", "linear"), ("resnet50", "imagenet", "mlp")], ids=str)
def test_checkpoint_comes_back_to_the_bit_with_its_optimizer(tmp_path, kind):
    theirs = checkpoint(tmp_path / "theirs.pth.tar", *kind)
    optimizer = SGD(0.03, momentum=0.9, weight_decay=1e-3)
    model = convert.from_pytorch(tmp_path / "theirs.pth.tar", optimizer=optimizer)
    ours = reference.read(convert.to_pytorch(model, tmp_path / "ours.pth.tar", epoch=3))
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

    # PyTorch resumes from it.
    network = reference.MoCo(random_network(*kind, seed=2), 50, 128, 0.999, 0.2)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in ours["state_dict"].items()})
    optimizer = reference.sgd_of(network, 1.0)
    optimizer.load_state_dict(ours["optimizer"])
    first = optimizer.state[next(network.encoder_q.parameters())]["momentum_buffer"]
    assert torch.equal(first, theirs["optimizer"]["state"][0]["momentum_buffer"])


def test_checkpoint_survives_keras_and_safetensors_files(tmp_path):
    theirs = checkpoint(tmp_path / "theirs.pth.tar", "resnet10", "cifar", "linear")["state_dict"]
    model = convert.from_pytorch(tmp_path / "theirs.pth.tar")
    model.save(tmp_path / "model.keras")
    saved = reference.read(
        convert.to_pytorch(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "ours.pth.tar")
    )
    assert_same_tensors(saved["state_dict"], theirs)
    assert "optimizer" not in saved

    numpy_file = pytest.importorskip("safetensors.numpy")
    numpy_file.save_file({name: tensor.numpy() for name, tensor in theirs.items()}, tmp_path / "theirs.safetensors")
    model = convert.from_pytorch(tmp_path / "theirs.safetensors")
    ours = numpy_file.load_file(convert.to_pytorch(model, tmp_path / "ours.safetensors"))
    assert set(ours) == set(theirs)  # sorted in the file
    assert_same_tensors({name: torch.from_numpy(ours[name]) for name in theirs}, theirs)


@pytest.mark.parametrize("kind", [("resnet101", "imagenet", "linear"), ("resnet34", "cifar", "mlp")], ids=str)
def test_encoder_comes_back_to_the_bit_and_pytorch_takes_it(tmp_path, kind):
    theirs = random_network(*kind, width=4)  # stages of more than ten blocks, whose names sort unlike their numbers
    encoder = converted(theirs, tmp_path)
    expected = pytorch_computes(theirs, images(2, SMALL))
    found = differences(keras_computes(encoder, images(2, SMALL)), expected)
    assert max(found.values()) < 1e-5, found
    ours = reference.read(convert.to_pytorch(encoder, tmp_path / "ours.pth"))
    state = theirs.state_dict().items()
    assert_same_tensors(ours, {name: torch.zeros_like(t) if "tracked" in name else t for name, t in state})
    random_network(*kind, seed=2, width=4).load_state_dict(ours, strict=True)


# The other side of all comparisons.


@every_network
def test_reference_is_torchvisions_network(name):
    torchvision = pytest.importorskip("torchvision")
    ours = random_network(name, width=64)
    theirs = getattr(torchvision.models, name)(num_classes=128)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    batch = reference.normalised(images(2, UNEVEN), MEAN, STD)
    for training in (False, True):
        expected = torch.nn.functional.normalize(theirs.train(training)(batch), dim=1)
        torch.testing.assert_close(ours.train(training)(batch), expected, rtol=0, atol=1e-6)
