"""Files of PyTorch: all its layouts are read, nothing in them is run, and damage ends in one sentence."""

import argparse
import contextlib
import os
import pickle
import subprocess
import time
import zipfile

import numpy as np
import pytest

from keras_moco import SGD
from keras_moco.backbones import resnet
from keras_moco.convert import encoder_from_pytorch, files, from_pytorch, load_pytorch, to_pytorch
from keras_moco.models import Encoder, MoCo, linear_head

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

GOOD = {"bn1.bias": torch.arange(4.0), "bn1.num_batches_tracked": torch.tensor(7)}


@pytest.fixture(scope="module")
def moco():
    """The authors' model, with seven steps on its counters."""
    torch.manual_seed(1)
    model = reference.MoCo(reference.randomise(reference.ResNet("resnet10", "cifar", width=4, dim=8)), 20, 8, 0.99, 0.2)
    model.queue_ptr[:] = 3
    return model


def compiled():
    model = MoCo(Encoder(resnet("resnet10", 4, "cifar"), linear_head(32, 8)), queue_size=20)
    model.compile(optimizer=SGD())
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def model():
    """Ours, with weights that no file here has."""
    return compiled()


@pytest.fixture(scope="module")
def spare():
    """Ours, whose weights nobody counts on."""
    return compiled()


def trained(moco, optimizer=torch.optim.SGD, **settings):
    """A checkpoint after one step on gradients of chance."""
    optimizer = optimizer(moco.parameters(), lr=0.0, **settings)
    for parameter in moco.encoder_q.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    state = {f"module.{name}": tensor.clone() for name, tensor in moco.state_dict().items()}
    return {"epoch": 1, "arch": "resnet10", "state_dict": state, "optimizer": optimizer.state_dict()}


def variables(model):
    return [*model.weights, *model.optimizer.variables]


def save(content, path, layout="zip"):
    if layout.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=int(layout[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def bits(model):
    return [np.array(variable).tobytes() for variable in variables(model)]


@contextlib.contextmanager
def refused(*models):
    """A `ValueError`, after which the models and their optimizers have all their bits."""
    before = [bits(model) for model in models]
    with pytest.raises(ValueError) as error:
        yield error
    assert [bits(model) for model in models] == before


def damaged(path):
    return (
        f"A checkpoint must be a whole file as PyTorch wrote it. Received: {path}, which is damaged, cut off, or "
        "something else. Fetch it again."
    )


def changed(path, entry):
    return f"A checkpoint must be as it was written. Received: {path}, where {entry} has changed since. Fetch it again."


def asks(path, name):
    return (
        "A checkpoint must hold tensors and plain values only, since anything else would be run. Received: "
        f"{path}, which asks for {name}; nothing of it was run. Save model.state_dict() instead."
    )


# What is read.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_both_kinds_of_file_give_the_tensors_as_they_are(layout, moco, tmp_path):
    content = trained(moco, momentum=0.9)
    file = files.read(save(content, tmp_path / "moco.pth", layout))
    assert list(file.tensors) == list(content["state_dict"]) and file.epoch == 1
    for name, tensor in content["state_dict"].items():
        assert str(file.tensors[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(file.tensors[name], tensor, err_msg=name)
    state = content["optimizer"]["state"]
    assert list(file.buffers) == [(position, "momentum_buffer") for position in state] and len(state) == 38
    for (position, name), array in file.buffers.items():
        np.testing.assert_array_equal(array, state[position][name])


def wrapped(prefix):
    return lambda name: prefix + name


def demo(name):
    """As the CIFAR-10 demo calls it, whose layers are a sequence."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6, "fc": 9}
    encoder, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    return f"{encoder}.net.{numbers[layer]}.{rest}" if layer else name


NAMINGS = {
    "module.": wrapped("module."),
    "module.module.": wrapped("module.module."),
    "_orig_mod.": wrapped("_orig_mod."),
    "the CIFAR-10 demo": demo,
}


def test_every_naming_gives_the_same_model(moco, spare, tmp_path):
    content, plain = trained(moco, momentum=0.9), moco.state_dict()
    load_pytorch(spare, save({**content, "state_dict": plain}, tmp_path / "plain.pth"))
    np.testing.assert_array_equal(spare.encoder.head.get_layer("fc").kernel, plain["encoder_q.fc.weight"].T)
    np.testing.assert_array_equal(
        spare.key_encoder.backbone.get_layer("layer2_0_downsample_conv").kernel,
        plain["encoder_k.layer2.0.downsample.0.weight"].permute(2, 3, 1, 0),
    )
    assert spare.steps_done == 7 and int(spare.queue.pointer) == 3
    expected = [np.array(variable) for variable in variables(spare)]
    for label, naming in NAMINGS.items():
        for variable in variables(spare):
            variable.assign(variable * 0)
        tensors = {naming(name): tensor for name, tensor in plain.items()}
        assert len(tensors) == len(plain) and set(tensors).isdisjoint(set(plain) - {"queue", "queue_ptr"})
        load_pytorch(spare, save({**content, "state_dict": tensors}, tmp_path / "renamed.pth"))
        for variable, value in zip(variables(spare), expected, strict=True):
            if variable.path != "SGD/learning_rate":
                np.testing.assert_array_equal(variable, value, err_msg=f"{label}: {variable.path}")


def test_the_demos_names_tell_the_architecture(moco, tmp_path):
    state = {demo(name): tensor for name, tensor in moco.state_dict().items()}
    encoder = encoder_from_pytorch(save({"epoch": 200, "state_dict": state}, tmp_path / "demo.pth"))
    assert encoder.backbone.name == "resnet10" and encoder.embedding_dim == 8
    np.testing.assert_array_equal(encoder.head.get_layer("fc").bias, state["encoder_q.net.9.bias"])


@pytest.mark.parametrize("place", ["state_dict", "model", None])
def test_the_tensors_are_found_where_people_put_them(place, tmp_path):
    content = {"epoch": 3, place: GOOD} if place else GOOD
    tensors = files.read(save(content, tmp_path / "moco.pth")).tensors
    assert list(tensors) == list(GOOD)
    np.testing.assert_array_equal(tensors["bn1.bias"], GOOD["bn1.bias"])


def test_bfloat16_is_read_as_float32(tmp_path):
    values = torch.linspace(-3, 3, 7).bfloat16()
    array = files.read(save({"bn1.bias": values}, tmp_path / "moco.pth")).tensors["bn1.bias"]
    assert array.dtype == "float32"
    np.testing.assert_array_equal(array, values.double())


def test_pickles_of_another_protocol_are_read_without_a_warning(tmp_path):
    torch.save(GOOD, tmp_path / "moco.pth", pickle_protocol=3)
    np.testing.assert_array_equal(files.read(tmp_path / "moco.pth").tensors["bn1.bias"], GOOD["bn1.bias"])


def test_parameters_are_read_as_tensors(tmp_path):
    content = {"bn1.bias": torch.nn.Parameter(GOOD["bn1.bias"])}
    array = files.read(save(content, tmp_path / "moco.pth")).tensors["bn1.bias"]
    np.testing.assert_array_equal(array, GOOD["bn1.bias"])


# What would be run.


class Payload:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payload(name, marker):
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Payload(os.system, f"touch {marker}"),
        "eval": Payload(eval, write),
        "exec": Payload(exec, write),
        "commands.Popen": Payload(subprocess.Popen, ["touch", str(marker)]),  # as protocol 2 calls `subprocess`
    }[name]


PAYLOADS = ["posix.system", "eval", "exec", "commands.Popen"]


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_below_are_live(name, tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(payload(name, marker), protocol=2))
    deadline = time.monotonic() + 10
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("layout", ["zip", "legacy", "raw 2", "raw 4"])
def test_nothing_of_a_file_is_run(name, layout, tmp_path, model, capfd):
    marker, path = tmp_path / "marker", tmp_path / "moco.pth.tar"
    hostile = payload(name, marker)
    contents = [{"state_dict": hostile}, hostile, {"state_dict": GOOD, "optimizer": {"state": {0: hostile}}}]
    # A raw pickle of a tensor is nothing that PyTorch reads.
    for content in contents[:2] if layout.startswith("raw") else contents:
        save(content, path, layout)
        with refused(model) as error:
            load_pytorch(model, path)
        # Nor is protocol 4, in which the name is out of its sight.
        assert str(error.value) == (damaged(path) if layout == "raw 4" else asks(path, name))
    if name == "commands.Popen":
        time.sleep(0.1)
    assert not marker.exists()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_run_for_an_encoder_or_a_new_model(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "moco.pth"
    save({"state_dict": GOOD, "optimizer": payload("posix.system", marker)}, path)
    for convert in (from_pytorch, encoder_from_pytorch):
        with refused() as error:
            convert(path)
        assert str(error.value) == asks(path, "posix.system")
    assert not marker.exists()


OBJECTS = {
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
    "numpy._core.multiarray._reconstruct": {"state_dict": {"bn1.bias": np.ones(4)}},
    "argparse.Namespace": {"state_dict": GOOD, "args": argparse.Namespace(lr=0.03)},
}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_refused_by_name(name, layout, tmp_path):
    path = save(OBJECTS[name], tmp_path / "moco.pth", layout)
    with refused() as error:
        files.read(path)
    assert str(error.value) == asks(path, name)


def test_a_whole_model_is_refused(moco, tmp_path):
    path = save(moco, tmp_path / "moco.pth")
    with refused() as error:
        from_pytorch(path)
    assert str(error.value) == asks(path, "tests.convert.torch_reference.MoCo")


def test_pickled_arrays_are_refused(tmp_path):
    path = save(np.ones(4), tmp_path / "moco.pth", "raw 2")
    with refused() as error:
        files.read(path)
    assert str(error.value) == asks(path, "numpy._core.multiarray._reconstruct")
    save(np.ones(4), path, "raw 4")
    with refused() as error:
        files.read(path)
    assert str(error.value) == damaged(path)


# Damage.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_file_that_is_cut_off_is_refused(layout, moco, model, tmp_path, capfd):
    path = save(trained(moco, momentum=0.9), tmp_path / "moco.pth", layout)
    whole = path.read_bytes()
    for length in (1, 100, *(len(whole) * i // 8 for i in range(1, 8)), len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused(model) as error:
            load_pytorch(model, path)
        assert str(error.value) == damaged(path), length
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_cut_off_in_a_name_is_refused(moco, tmp_path):
    path = save(moco.state_dict(), tmp_path / "moco.pth", "legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"OrderedDict") + len("Ordered")])
    with refused() as error:
        files.read(path)
    # The rest of the name is one that PyTorch does not know.
    assert str(error.value) in (damaged(path), asks(path, "collections.Ordere"))


def archive(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


NOISE = np.random.default_rng(0).bytes(1000)

OTHERS = {
    "an empty file": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<!DOCTYPE html><title>404</title>\n" * 30),
    "a word": lambda path: path.write_text("hello"),
    "noise": lambda path: path.write_bytes(NOISE),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "pickles without end": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 10_000),
    "an archive of other files": lambda path: archive(path, {"readme": "hello"}),
    "an archive of a folder": lambda path: archive(path, {"moco/readme": "hello"}),
    "a pickle of noise": lambda path: archive(path, {"moco/data.pkl": NOISE, "moco/version": "3\n"}),
    "a pickle of nothing": lambda path: archive(path, {"moco/data.pkl": b"", "moco/version": "3\n"}),
}


@pytest.mark.parametrize("write", OTHERS.values(), ids=OTHERS)
def test_other_files_are_refused(write, tmp_path, model, capfd):
    path = tmp_path / "moco.pth"
    write(path)
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == damaged(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_damaged_pickle_is_refused_or_gives_the_same(layout, moco, tmp_path, capfd):
    tensors = moco.encoder_q.layer1.state_dict()
    path = save(tensors, tmp_path / "moco.pth", layout)
    whole = path.read_bytes()
    first, last = whole.index(b"0.conv1.weight"), whole.index(b"0.bn2.num_batches_tracked") + 100
    places, refusals = range(first, last, (last - first) // 50), 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = files.read(path).tensors
        except ValueError as error:
            assert str(error) in (damaged(path), changed(path, "moco/data.pkl")), place
            refusals += 1
        else:
            assert list(found) == list(tensors), place
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(found[name], tensor, err_msg=f"{place}: {name}")
    assert refusals > len(places) / 2
    assert capfd.readouterr() == ("", "")


def test_damaged_numbers_of_an_archive_are_noticed(tmp_path):
    path = save(GOOD, tmp_path / "moco.pth")
    whole = path.read_bytes()
    place = whole.index(GOOD["bn1.bias"].numpy().tobytes())
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with refused() as error:
        files.read(path)
    assert str(error.value) == changed(path, "moco/data/0")


def test_a_damaged_archive_is_refused_or_gives_the_same(tmp_path, capfd):
    path = save(GOOD, tmp_path / "moco.pth")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        refusals = [damaged(path), *(changed(path, entry) for entry in file.namelist())]
        content = file.read("moco/data.pkl")
    first = whole.index(content)
    wrong = {}
    for place in (*range(first), *range(first + len(content), len(whole))):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = files.read(path).tensors
        except Exception as error:
            if str(error) not in refusals:
                wrong[type(error).__name__] = place
        else:
            if list(found) != list(GOOD) or any(np.any(found[name] != GOOD[name].numpy()) for name in GOOD):
                wrong["another tensor"] = place
    assert not wrong
    assert capfd.readouterr() == ("", "")


# Whole files of something else.

CONTENTS = {
    "list": [GOOD],
    "Tensor": GOOD["bn1.bias"],
    "NoneType": None,
    "str": "hello",
    "lr, momentum": {"lr": 0.03, "momentum": 0.9},
    "bn1.bias, lr": {"bn1.bias": GOOD["bn1.bias"], "lr": 0.03},
    "nothing": {},
    "0, 1": {0: GOOD["bn1.bias"], 1: GOOD["bn1.bias"]},
    "epoch, state_dict": {"epoch": 3, "state_dict": {}},
    "state_dict": {"state_dict": [1, 2]},
    "model": {"model": {"model": GOOD}},
}


@pytest.mark.parametrize("found", CONTENTS)
def test_a_file_without_a_state_dict_is_refused(found, tmp_path, model, capfd):
    path = save(CONTENTS[found], tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == (
        "A checkpoint must hold a `state_dict`, names with a tensor each. "
        f"Received: {path} with {found}. Save model.state_dict()."
    )
    assert capfd.readouterr() == ("", "")


ODD = {
    "sparse": GOOD["bn1.bias"].to_sparse(),
    "float8": GOOD["bn1.bias"].to(torch.float8_e4m3fn),
    "meta": torch.empty(4, device="meta"),
}


@pytest.mark.parametrize("tensor", ODD.values(), ids=ODD)
def test_tensors_that_numpy_does_not_know_are_refused(tensor, tmp_path, model):
    path = save({"bn1.bias": tensor}, tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    message = str(error.value)
    # In between is what PyTorch says, which depends on its version.
    assert message.startswith(
        f"Tensors must be dense, of a dtype that NumPy has. Received: {path} with bn1.bias, of which is said: "
    )
    assert message.endswith(" Save them as float32.") and "\n" not in message


# State of an optimizer.


def listed(moco, kind):
    return [
        f"{kind} of encoder_q.{name} ({', '.join(map(str, p.shape))})" for name, p in moco.encoder_q.named_parameters()
    ]


def mismatch(path, *lines):
    listed = "\n  ".join([f"Received: {path}, with these left (- in the file, + in the model):", *lines])
    return (
        f"Every tensor of the file must have its weight in the model, and every weight its tensor. {listed}\n"
        "Choose the model that fits, or leave them by allow_partial=True (--allow_partial)."
    )


def test_a_checkpoint_that_fits_sets_the_optimizer_too(moco, spare, tmp_path):
    content = trained(moco, momentum=0.9)
    load_pytorch(spare, save(content, tmp_path / "moco.pth"))
    assert spare.steps_done == int(spare.optimizer.iterations) == 7
    kernel = spare.encoder.backbone.get_layer("conv1").kernel
    buffer = content["optimizer"]["state"][0]["momentum_buffer"].permute(2, 3, 1, 0)
    np.testing.assert_array_equal(spare.optimizer.velocity_of(kernel), buffer)


def test_the_state_of_another_optimizer_is_listed(moco, tmp_path):
    path = save(trained(moco, torch.optim.Adam), tmp_path / "moco.pth")
    kinds = zip(*(listed(moco, kind) for kind in ("step", "exp_avg", "exp_avg_sq")), strict=True)
    left = [f"- {line}" for lines in kinds for line in (lines[0].partition(" (")[0] + " ()", *lines[1:])]
    unset = [f"+ {line}" for line in listed(moco, "momentum_buffer")]
    with refused() as error:
        from_pytorch(path, optimizer=SGD())
    assert str(error.value) == mismatch(path, *left, *unset)


def test_momentum_of_another_shape_is_refused(moco, model, tmp_path):
    content = trained(moco, momentum=0.9)
    content["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(4, 3, 3, 5)
    path = save(content, tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    name = "momentum_buffer of encoder_q.conv1.weight"
    assert str(error.value) == mismatch(path, f"- {name} (4, 3, 3, 5)", f"+ {name} (4, 3, 3, 3)")


def test_momentum_of_some_parameters_only_is_refused(moco, model, tmp_path):
    content = trained(moco, momentum=0.9)
    del content["optimizer"]["state"][37]
    path = save(content, tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "+ momentum_buffer of encoder_q.fc.bias (8)")


def test_momentum_of_more_parameters_is_refused(moco, model, tmp_path):
    content = trained(moco, momentum=0.9)
    content["optimizer"]["param_groups"][0]["params"].append(76)
    content["optimizer"]["state"][76] = {"momentum_buffer": torch.zeros(4)}
    path = save(content, tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "- momentum_buffer of parameter 76 (4)")


STATES = {
    "no params": {"state": {}, "param_groups": [{}]},
    "no state": {"param_groups": [{"params": [0]}]},
    "no groups": {"state": {}, "param_groups": 3},
    "numbers": {"state": {0: 3}, "param_groups": [{"params": [0]}]},
    "lists": {"state": {}, "param_groups": [{"params": [[0]]}]},
    "a list": [1, 2],
    "a tensor": GOOD["bn1.bias"],
    "nothing": {},
}


def without_optimizer(path):
    return (
        "A checkpoint to go on training from must hold the state of its optimizer. "
        f"Received: {path} without one. Leave the optimizer out, or start it anew by allow_partial=True."
    )


@pytest.mark.parametrize("optimizer", STATES.values(), ids=STATES)
def test_the_state_of_no_optimizer_counts_as_none(optimizer, moco, model, spare, tmp_path):
    path = save({**trained(moco, momentum=0.9), "optimizer": optimizer}, tmp_path / "moco.pth")
    assert files.read(path).buffers == {}
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == without_optimizer(path)
    load_pytorch(spare.encoder, path)
    np.testing.assert_array_equal(spare.encoder.head.get_layer("fc").bias, moco.encoder_q.fc.bias.detach())


def test_steps_are_asked_for_where_nothing_counts_them(moco, model, spare, tmp_path):
    content = trained(moco, momentum=0.9)
    for name, tensor in content["state_dict"].items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    path = save({**content, "epoch": 5}, tmp_path / "moco.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == (
        "`steps` must be given where BatchNorm does not count them, or the schedule would begin anew. "
        f"Received: {path} of epoch 5, whose counters say 0. Give epochs times steps per epoch."
    )
    load_pytorch(spare, path, steps=50)
    assert spare.steps_done == int(spare.optimizer.iterations) == 50


def test_training_goes_on_with_the_state_of_the_optimizer_or_is_begun_anew(moco, model, spare, tmp_path):
    content = trained(moco, momentum=0.9)
    load_pytorch(spare, save(content, tmp_path / "moco.pth"))
    assert all(np.any(velocity) for velocity in spare.optimizer.velocities)
    del content["optimizer"]
    path = save(content, tmp_path / "without.pth")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == without_optimizer(path)
    load_pytorch(spare, path, allow_partial=True)
    assert spare.steps_done == int(spare.optimizer.iterations) == 7
    assert not any(np.any(velocity) for velocity in spare.optimizer.velocities)


def test_training_begins_anew_from_a_file_of_no_steps(moco, spare, tmp_path):
    content = trained(moco, momentum=0.9)
    load_pytorch(spare, save(content, tmp_path / "moco.pth"))
    state = {
        name: t.zero_() if name.endswith("num_batches_tracked") else t for name, t in content["state_dict"].items()
    }
    load_pytorch(spare, save({"epoch": 0, "state_dict": state}, tmp_path / "without.pth"))
    assert spare.steps_done == int(spare.optimizer.iterations) == 0
    assert not any(np.any(velocity) for velocity in spare.optimizer.velocities)


def test_the_optimizer_stays_where_that_is_asked_for(moco, spare, tmp_path):
    content = trained(moco, momentum=0.9)
    load_pytorch(spare, save(content, tmp_path / "moco.pth"), steps=5)
    before = [np.array(variable) for variable in spare.optimizer.variables]
    for entries in (trained(moco, momentum=0.9), {"state_dict": content["state_dict"]}):
        load_pytorch(spare, save(entries, tmp_path / "other.pth"), with_optimizer=False)
        for variable, value in zip(spare.optimizer.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert spare.steps_done == 7 and int(spare.optimizer.iterations) == 5


# PyTorch itself.


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121"])
def test_a_pytorch_that_can_be_made_to_run_a_file_is_refused(version, model, tmp_path, monkeypatch):
    path = save({"state_dict": GOOD}, tmp_path / "moco.pth")
    before = path.read_bytes()
    monkeypatch.setattr(torch, "__version__", version)
    for convert in (
        from_pytorch,
        encoder_from_pytorch,
        lambda path: load_pytorch(model, path),
        lambda path: to_pytorch(model, path, overwrite=True),
    ):
        with pytest.raises(ImportError) as error:
            convert(path)
        assert str(error.value) == (
            f"torch must be 2.6 or newer to read files safely. Received: {version}. "
            'Run pip install --upgrade "keras_moco[torch]".'
        )
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("version", ["2.6.0", "2.10.0a0+git1234", "10.0.0"])
def test_a_newer_pytorch_is_taken(version, tmp_path, monkeypatch):
    path = save({"state_dict": GOOD}, tmp_path / "moco.pth")
    monkeypatch.setattr(torch, "__version__", version)
    assert list(files.read(path).tensors) == list(GOOD)
