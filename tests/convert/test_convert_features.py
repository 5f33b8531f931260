"""Converted networks compute what PyTorch computes, and files are written back bit for bit."""

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
    """The network in Keras, through a file."""
    torch.save(network.state_dict(), folder / "network.pth")
    return convert.encoder_from_pytorch(folder / "network.pth", **{"mean": MEAN, "std": STD, **kwargs})


@torch.no_grad()
def check(encoder, network, channels=3):
    """Features and embeddings of both sides are equal up to float32's rounding."""
    for batch in ((2, SMALL, channels), (1, UNEVEN, channels)):
        ours = encoder.features(images(*batch))
        theirs = network.features(reference.normalised(images(*batch), MEAN[:channels], STD[:channels]))
        assert reference.relative(ours, theirs) < 1e-5, batch
        ours, theirs = encoder.normalize(encoder.head(ours)), torch.nn.functional.normalize(network.fc(theirs), dim=1)
        assert reference.relative(ours, theirs) < 1e-5, batch


@every_stem
@every_network
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_features_and_embeddings_equal_pytorchs(name, stem, head, tmp_path):
    network = random_network(name, stem, head)
    check(converted(network, tmp_path), network)


@pytest.mark.parametrize("stem, kwargs", [("imagenet", {"channels": 1}), ("half", {}), ("cifar", {"width": 64})])
def test_gray_images_the_half_stem_and_full_width_equal_pytorchs(tmp_path, stem, kwargs):
    network = random_network("resnet10", stem, **kwargs)
    channels = kwargs.get("channels", 3)
    check(converted(network, tmp_path, stem=stem, mean=MEAN[:channels], std=STD[:channels]), network, channels)


# Round trips.


def assert_same_tensors(ours, theirs):
    """Names, their order, dtypes, shapes and every bit."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        assert ours[name].numpy().tobytes() == theirs[name].numpy().tobytes(), name


# Round trips.


@pytest.mark.parametrize("kind", [("resnet10", "cifar", "linear"), ("resnet50", "imagenet", "mlp")], ids=str)
def test_a_checkpoint_with_its_optimizer_comes_back_to_the_bit(tmp_path, kind):
    network = reference.MoCo(random_network(*kind), 50, 128, 0.999, 0.2)
    network.encoder_k.load_state_dict(random_network(*kind, seed=1).state_dict())
    network.queue_ptr[:] = 48
    theirs = reference.checkpoint_of(network, epoch=3, arch=kind[0])
    torch.save(theirs, tmp_path / "theirs.pth.tar")
    optimizer = SGD(0.03, momentum=0.9, weight_decay=1e-3)
    model = convert.from_pytorch(tmp_path / "theirs.pth.tar", optimizer=optimizer)
    ours = reference.read(convert.to_pytorch(model, tmp_path / "ours.pth.tar", epoch=3))
    assert (ours["epoch"], ours["arch"]) == (theirs["epoch"], theirs["arch"])
    assert_same_tensors(ours["state_dict"], theirs["state_dict"])
    assert_same_tensors(
        *(
            {place: state["momentum_buffer"] for place, state in content["optimizer"]["state"].items()}
            for content in (ours, theirs)
        )
    )
    (found,), (expected,) = (content["optimizer"]["param_groups"] for content in (ours, theirs))
    assert found.pop("lr") == pytest.approx(expected.pop("lr"), rel=1e-7)  # ours is a float32
    assert found == expected


@pytest.mark.parametrize("kind", [("resnet101", "imagenet", "linear"), ("resnet34", "cifar", "mlp")], ids=str)
def test_an_encoder_comes_back_to_the_bit_and_loads_in_pytorch(tmp_path, kind):
    theirs = random_network(*kind, width=4)  # stages of more than ten blocks, whose names sort unlike their numbers
    encoder = converted(theirs, tmp_path)
    check(encoder, theirs)
    ours = reference.read(convert.to_pytorch(encoder, tmp_path / "ours.pth"))
    state = theirs.state_dict().items()
    assert_same_tensors(ours, {name: torch.zeros_like(t) if "tracked" in name else t for name, t in state})
    random_network(*kind, seed=2, width=4).load_state_dict(ours, strict=True)


@every_network
def test_the_reference_equals_torchvisions_network(name):
    torchvision = pytest.importorskip("torchvision")
    ours = random_network(name, width=64)
    theirs = getattr(torchvision.models, name)(num_classes=128)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    batch = reference.normalised(images(2, UNEVEN), MEAN, STD)
    for training in (False, True):
        expected = torch.nn.functional.normalize(theirs.train(training)(batch), dim=1)
        torch.testing.assert_close(ours.train(training)(batch), expected, rtol=0, atol=1e-6)
