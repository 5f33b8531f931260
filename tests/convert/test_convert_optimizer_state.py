"""Names of tensors and state of optimizers as PyTorch's users have them, in our MoCo and its SGD."""

import numpy as np
import pytest

from keras_moco import SGD
from keras_moco.convert import encoder_from_pytorch, files, from_pytorch, load_pytorch
from keras_moco.models import MoCo
from tests.convert.small_moco import left_over, make_encoder, refused, variables

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
    """As the CIFAR-10 demo calls it, whose layers are a sequence."""
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


def test_architecture_is_read_from_the_demos_names(moco, write):
    state = {demo(name): tensor for name, tensor in moco.state_dict().items()}
    encoder = encoder_from_pytorch(write({"epoch": 200, "state_dict": state}))
    assert encoder.backbone.name == "resnet10" and encoder.embedding_dim == 8
    np.testing.assert_array_equal(encoder.head.get_layer("fc").bias, state["encoder_q.net.9.bias"])


def listed(moco, kind):
    return [
        f"{kind} of encoder_q.{name} ({', '.join(map(str, p.shape))})" for name, p in moco.encoder_q.named_parameters()
    ]


def test_state_of_another_optimizer_is_listed(moco, write):
    path = write(reference.checkpoint_of(moco, torch.optim.Adam(moco.parameters())))
    kinds = zip(*(listed(moco, kind) for kind in ("step", "exp_avg", "exp_avg_sq")), strict=True)
    left = [f"- {line}" for lines in kinds for line in (lines[0].partition(" (")[0] + " ()", *lines[1:])]
    with refused(path) as error:
        from_pytorch(path, optimizer=SGD())
    assert left_over(error.value) == [*left, *(f"+ {line}" for line in listed(moco, "momentum_buffer"))]


def another_shape(optimizer):
    optimizer["state"][0]["momentum_buffer"] = torch.zeros(4, 3, 3, 5)


def one_less(optimizer):
    del optimizer["state"][37]


def one_more(optimizer):
    optimizer["param_groups"][0]["params"].append(76)
    optimizer["state"][76] = {"momentum_buffer": torch.zeros(4)}


CONV1 = "momentum_buffer of encoder_q.conv1.weight"
CHANGES = {
    another_shape: [f"- {CONV1} (4, 3, 3, 5)", f"+ {CONV1} (4, 3, 3, 3)"],
    one_less: ["+ momentum_buffer of encoder_q.fc.bias (8)"],
    one_more: ["- momentum_buffer of parameter 76 (4)"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_momentum_of_other_parameters_is_listed(change, moco, ours, write):
    content = reference.checkpoint_of(moco)
    change(content["optimizer"])
    path = write(content)
    with refused(path, unchanged=[ours]) as error:
        load_pytorch(ours, path)
    assert left_over(error.value) == CHANGES[change]


STATES = {
    "no params": {"state": {}, "param_groups": [{}]},
    "no state": {"param_groups": [{"params": [0]}]},
    "no groups": {"state": {}, "param_groups": 3},
    "numbers": {"state": {0: 3}, "param_groups": [{"params": [0]}]},
    "lists": {"state": {}, "param_groups": [{"params": [[0]]}]},
    "a list": [1, 2],
    "a tensor": torch.arange(4.0),
    "nothing": {},
}


def test_state_of_no_optimizer_counts_as_none(moco, ours, write):
    for name, optimizer in STATES.items():
        path = write({**reference.checkpoint_of(moco), "optimizer": optimizer})
        assert files.read(path).buffers == {}, name
    with refused(f"{path} without one", unchanged=[ours]):
        load_pytorch(ours, path)
    for weight in ours.encoder.weights:
        weight.assign(weight * 0)
    load_pytorch(ours.encoder, path)
    np.testing.assert_array_equal(ours.encoder.head.get_layer("fc").bias, moco.encoder_q.fc.bias.detach())


def uncounted(content):
    state = content["state_dict"]
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")}
    return {**content, "state_dict": {**state, **zeros}}


def test_steps_must_be_given_where_nothing_counts_them(moco, ours, write):
    path = write({**uncounted(reference.checkpoint_of(moco)), "epoch": 5})
    with refused("`steps`", f"{path} of epoch 5", unchanged=[ours]):
        load_pytorch(ours, path)
    load_pytorch(ours, path, steps=50)
    assert ours.steps_done == int(ours.optimizer.iterations) == 50


def test_training_begins_without_momentum_where_the_file_has_none(moco, ours, write):
    content = reference.checkpoint_of(moco)
    state = {name: entry for name, entry in content.items() if name != "optimizer"}
    for without, partial, steps in ((state, True, 7), ({**uncounted(state), "epoch": 0}, False, 0)):
        load_pytorch(ours, write(content))
        assert all(np.any(velocity) for velocity in ours.optimizer.velocities)
        load_pytorch(ours, write(without), allow_partial=partial)
        assert ours.steps_done == int(ours.optimizer.iterations) == steps
        assert not any(np.any(velocity) for velocity in ours.optimizer.velocities)


def test_optimizer_stays_where_that_is_asked_for(moco, ours, write):
    content = reference.checkpoint_of(moco)
    load_pytorch(ours, write(content), steps=5)
    before = [np.array(variable) for variable in ours.optimizer.variables]
    for entries in (reference.checkpoint_of(moco), {"state_dict": content["state_dict"]}):
        load_pytorch(ours, write(entries), with_optimizer=False)
        for variable, value in zip(ours.optimizer.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert ours.steps_done == 7 and int(ours.optimizer.iterations) == 5
