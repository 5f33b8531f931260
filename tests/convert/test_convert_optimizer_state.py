"""Tensor names and optimizer states of PyTorch's users are read into our MoCo and its SGD."""

import numpy as np
import pytest

from keras_moco import SGD
from keras_moco.convert import files, from_pytorch, load_pytorch
from keras_moco.methods import MoCo
from tests.convert.small_moco import make_encoder, refused, unmatched, variables

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def moco():
    """The authors' model, with seven steps on its counters."""
    return reference.small_moco()


@pytest.fixture(scope="module")
def ours():
    """Ours, whose weights may be overwritten."""
    model = MoCo(make_encoder("resnet10"), queue_size=20)
    model.compile(optimizer=SGD())
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def write(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "moco.pth")
        return tmp_path / "moco.pth"

    return write


def demo(name):
    """The name in the CIFAR-10 demo, whose layers are a sequence."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6, "fc": 9}
    encoder, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    return f"{encoder}.net.{numbers[layer]}.{rest}" if layer else name


NAMINGS = ["module.{}".format, "module.module.{}".format, "_orig_mod.{}".format, demo]


def test_every_naming_gives_the_same_model(moco, ours, write):
    content, plain = reference.checkpoint_of(moco), moco.state_dict()
    load_pytorch(ours, write({**content, "state_dict": plain}))
    np.testing.assert_array_equal(ours.encoder.head.get_layer("fc").kernel, plain["encoder_q.fc.weight"].T)
    np.testing.assert_array_equal(
        ours.key_encoder.backbone.get_layer("layer2_0_downsample_conv").kernel,
        plain["encoder_k.layer2.0.downsample.0.weight"].permute(2, 3, 1, 0),
    )
    assert ours.steps_done == int(ours.optimizer.iterations) == 7 and int(ours.queue.pointer) == 3
    buffer = content["optimizer"]["state"][0]["momentum_buffer"].permute(2, 3, 1, 0)
    np.testing.assert_array_equal(ours.optimizer.velocity_of(ours.encoder.backbone.get_layer("conv1").kernel), buffer)
    expected = [np.array(variable) for variable in variables(ours)]
    for naming in NAMINGS:
        for variable in variables(ours):
            variable.assign(variable * 0)
        tensors = {naming(name): tensor for name, tensor in plain.items()}
        assert len(tensors) == len(plain) and set(tensors).isdisjoint(set(plain) - {"queue", "queue_ptr"})
        load_pytorch(ours, write({**content, "state_dict": tensors}))
        for variable, value in zip(variables(ours), expected, strict=True):
            if variable.path != "SGD/learning_rate":
                np.testing.assert_array_equal(variable, value, err_msg=f"{naming}: {variable.path}")


CONV1 = "momentum_buffer of encoder_q.conv1.weight"


def test_momentum_that_does_not_fit_is_listed(moco, ours, write):
    path = write(reference.checkpoint_of(moco, torch.optim.Adam(moco.parameters())))
    with refused(path) as error:
        from_pytorch(path, optimizer=SGD())
    listed = unmatched(error.value)
    assert len(listed) == 4 * 38 and {"- exp_avg_sq of encoder_q.fc.bias (8)", f"+ {CONV1} (4, 3, 3, 3)"} < {*listed}
    for place, buffer, listed in (
        (0, torch.zeros(4, 3, 3, 5), [f"- {CONV1} (4, 3, 3, 5)", f"+ {CONV1} (4, 3, 3, 3)"]),
        (37, None, ["+ momentum_buffer of encoder_q.fc.bias (8)"]),
        (76, torch.zeros(4), ["- momentum_buffer of parameter 76 (4)"]),
    ):
        content = reference.checkpoint_of(moco)
        state, [group] = content["optimizer"]["state"], content["optimizer"]["param_groups"]
        if state.pop(place, None) is None:
            group["params"].append(place)
        if buffer is not None:
            state[place] = {"momentum_buffer": buffer}
        path = write(content)
        with refused(path, unchanged=[ours]) as error:
            load_pytorch(ours, path)
        assert unmatched(error.value) == listed


def test_a_malformed_optimizer_state_is_ignored(moco, write):
    for optimizer in (
        {"state": {}, "param_groups": [{}]},
        {"state": {}, "param_groups": 3},
        {"state": {0: 3}, "param_groups": [{"params": [0]}]},
        {"state": {}, "param_groups": [{"params": [[0]]}]},
        [1, 2],
        torch.arange(4.0),
    ):
        path = write({**reference.checkpoint_of(moco), "optimizer": optimizer})
        assert files.read(path).buffers == {}, optimizer


def test_steps_and_momentum_that_a_file_lacks(moco, ours, write):
    content = reference.checkpoint_of(moco)
    zeros = {name: torch.zeros_like(t) if name.endswith("tracked") else t for name, t in content["state_dict"].items()}
    path = write({**content, "state_dict": zeros, "epoch": 5})
    with refused("`steps`", f"{path} of epoch 5", unchanged=[ours]):
        load_pytorch(ours, path)
    load_pytorch(ours, path, steps=50)
    assert ours.steps_done == int(ours.optimizer.iterations) == 50

    plain = {"state_dict": content["state_dict"]}
    for without, partial, steps in ((plain, True, 7), ({"state_dict": zeros, "epoch": 0}, False, 0)):
        load_pytorch(ours, write(content), steps=5)
        before = [np.array(variable) for variable in ours.optimizer.variables]
        load_pytorch(ours, write(plain), with_optimizer=False)
        for variable, value in zip(ours.optimizer.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
        assert all(np.any(velocity) for velocity in ours.optimizer.velocities)
        load_pytorch(ours, write(without), allow_partial=partial)
        assert ours.steps_done == int(ours.optimizer.iterations) == steps
        assert not any(np.any(velocity) for velocity in ours.optimizer.velocities)
