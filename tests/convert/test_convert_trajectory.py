"""Training steps equal PyTorch's, without interruption and from a checkpoint of either framework."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_images

from keras_moco import SGD, convert
from tests.convert.small_moco import without

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

STEPS, BATCH, SIZE = 20, 32, 16
HALF, DROP = 10, 14  # steps
WIDTH, DIM, QUEUE = 8, 16, 200  # 32 keys do not divide the queue
MOMENTUM = 0.99
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# Training amplifies rounding, whenever an activation changes its sign. At the rate and temperature of the first row
# PyTorch's own float32 is far from its float64 after these steps; at those of the second we are close to it.
SETTINGS = [  # precision, rate, temperature, and the largest relative difference of losses
    pytest.param("float64", 0.01, 0.2, 1e-9, id="float64"),
    pytest.param("float32", 1e-4, 1.0, 1e-3, id="float32"),
]


class Listed(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of each step as it is, without a formula between the two sides, and in full precision."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        rates = tf.constant(np.array(self.rates), keras.config.floatx())
        return tf.gather(rates, tf.minimum(tf.cast(step, tf.int32), STEPS - 1))


def make_views(seed=3):
    """Two views of real images: crops of photographs, a few pixels apart and of another colour."""
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images

    def crop(photograph, top, left):
        top, left = top + rng.integers(0, 16), left + rng.integers(0, 16)
        return photograph[top : top + 4 * SIZE : 4, left : left + 4 * SIZE : 4] * rng.uniform(0.6, 1, 3)

    views = np.empty((2, STEPS, BATCH, SIZE, SIZE, 3), "uint8")
    for step, image in np.ndindex(STEPS, BATCH):
        corner = rng.integers(0, 340, 2)
        for view in (0, 1):
            views[view, step, image] = crop(photographs[image % 2], *corner)
    return dict(zip(("query", "key"), views, strict=True))


class PyTorch:
    """Training as the authors' `main_moco.py` does it, on one device."""

    def __init__(self, rate, temperature, head="mlp", stem="cifar"):
        torch.manual_seed(5)
        self.model = reference.MoCo(
            reference.ResNet("resnet10", stem, head, WIDTH, DIM), QUEUE, DIM, MOMENTUM, temperature
        )
        self.optimizer, self.rates = reference.sgd_of(self.model), [rate] * DROP + [rate / 10] * (STEPS - DROP)

    def train(self, views, steps):
        losses = []
        for step in steps:
            self.optimizer.param_groups[0]["lr"] = self.rates[step]
            images = (views[name][step].astype(keras.config.floatx()) for name in ("query", "key"))
            loss = self.model(*(reference.normalised(view, MEAN, STD) for view in images))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def state_dict(self):
        return {f"module.{name}": tensor for name, tensor in self.model.state_dict().items()}

    def save(self, path, epoch=0):
        content = {"epoch": epoch, "state_dict": self.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(content, path)


def from_checkpoint(path, rates, temperature):
    optimizer = SGD(Listed(rates), momentum=0.9, weight_decay=1e-3)
    settings = {"momentum": MOMENTUM, "temperature": temperature, "bn_mode": "plain", "mean": MEAN, "std": STD}
    return convert.from_pytorch(path, optimizer=optimizer, **settings)


def train_keras(model, views, steps):
    steps = list(steps)
    chosen = {name: images[steps] for name, images in views.items()}
    # One step per epoch: the history then holds every step's own loss.
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices(chosen).with_options(options)
    return model.fit(data, epochs=len(steps), steps_per_epoch=1, verbose=0).history["loss"]


def check_weights(model, pytorch, path):
    """The tensors that we write are those that PyTorch has, statistics included."""
    ours, theirs = reference.read(convert.to_pytorch(model, path))["state_dict"], pytorch.state_dict()
    assert list(ours) == list(theirs)
    for name in without(theirs, "tracked"):
        assert reference.relative(ours[name], theirs[name]) < 1e-9, name


@pytest.mark.parametrize("head, stem", [("mlp", "cifar"), ("linear", "imagenet")])
@pytest.mark.parametrize("dtype, rate, temperature, within", SETTINGS)
def test_training_equals_pytorchs_and_resumes_in_either(tmp_path, head, stem, dtype, rate, temperature, within):
    views, rest = make_views(), range(HALF, STEPS)
    with reference.floats(dtype):
        pytorch, other = (PyTorch(rate, temperature, head, stem) for _ in range(2))
        pytorch.save(tmp_path / "start.pth")
        model = from_checkpoint(tmp_path / "start.pth", pytorch.rates, temperature)
        expected = pytorch.train(views, range(HALF))
        pytorch.save(tmp_path / "theirs.pth", epoch=1)
        expected += pytorch.train(views, rest)
        assert np.ptp(expected) > 0.2  # there is something to compare
        losses = train_keras(model, views, range(HALF))
        convert.to_pytorch(model, tmp_path / "half.pth", epoch=1)
        losses += train_keras(model, views, rest)
        assert reference.relative(losses, expected) < within

        content = reference.read(tmp_path / "half.pth")
        state = {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}
        other.model.load_state_dict(state)
        other.optimizer.load_state_dict(content["optimizer"])
        assert content["epoch"] == 1 and content["arch"] == "resnet10"
        assert reference.relative(other.train(views, rest), expected[HALF:]) < within

        if dtype == "float64":
            check_weights(model, pytorch, tmp_path / "ours.pth")
            resumed = from_checkpoint(tmp_path / "theirs.pth", pytorch.rates, temperature)
            assert int(resumed.optimizer.iterations) == resumed.steps_done == HALF
            assert int(resumed.queue.pointer) == HALF * BATCH % QUEUE
            assert reference.relative(train_keras(resumed, views, rest), expected[HALF:]) < within
            check_weights(resumed, pytorch, tmp_path / "resumed.pth")
