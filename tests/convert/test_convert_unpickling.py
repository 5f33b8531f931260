"""Files of PyTorch: all their layouts are read, nothing in them is run, and damaged ones are refused."""

import argparse
import functools
import os
import pickle
import subprocess
import time
import zipfile

import numpy as np
import pytest

from keras_moco.convert import encoder_from_pytorch, files, from_pytorch, load_pytorch, to_pytorch
from tests.convert.small_moco import refused

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

GOOD = {"bn1.bias": torch.arange(4.0), "bn1.num_batches_tracked": torch.tensor(7)}


def save(content, path, layout="zip"):
    if layout.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=int(layout[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def damaged(path):
    return f"{path}, which is damaged"


def asks(path, name):
    return f"{path}, which asks for {name}; nothing of it was run."


# What is read.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_tensors_and_momentum_are_read_as_they_are(layout, tmp_path):
    content = reference.checkpoint_of(reference.small_moco())
    file = files.read(save(content, tmp_path / "moco.pth", layout))
    assert list(file.tensors) == list(content["state_dict"]) and file.epoch == 1
    for name, tensor in content["state_dict"].items():
        assert str(file.tensors[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(file.tensors[name], tensor, err_msg=name)
    state = content["optimizer"]["state"]
    assert list(file.buffers) == [(position, "momentum_buffer") for position in state] and len(state) == 38
    for (position, name), array in file.buffers.items():
        np.testing.assert_array_equal(array, state[position][name])


READABLE = {
    "a dict of tensors": GOOD,
    "state_dict": {"epoch": 3, "state_dict": GOOD},
    "model": {"epoch": 3, "model": GOOD},
    "parameters": {**GOOD, "bn1.bias": torch.nn.Parameter(GOOD["bn1.bias"])},
    "bfloat16": {**GOOD, "bn1.bias": GOOD["bn1.bias"].bfloat16()},
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
def test_tensors_are_found_where_people_put_them(content, tmp_path):
    for protocol in (2, 3):  # the other one without a warning, too
        torch.save(content, tmp_path / "moco.pth", pickle_protocol=protocol)
        tensors = files.read(tmp_path / "moco.pth").tensors
        assert list(tensors) == list(GOOD) and tensors["bn1.bias"].dtype == "float32"
        np.testing.assert_array_equal(tensors["bn1.bias"], GOOD["bn1.bias"])


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


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_are_live(name, tmp_path):
    marker = tmp_path / "marker"
    result = pickle.loads(pickle.dumps(payload(name, marker), protocol=2))
    if name == "commands.Popen":
        result.wait()
    assert marker.exists()


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("layout", ["zip", "legacy", "raw 2", "raw 4"])
def test_nothing_in_a_file_is_run(name, layout, tmp_path, model, capfd):
    marker, path = tmp_path / "marker", tmp_path / "moco.pth.tar"
    hostile = payload(name, marker)
    contents = [{"state_dict": hostile}, hostile, {"state_dict": GOOD, "optimizer": {"state": {0: hostile}}}]
    # A raw pickle of a tensor is nothing that PyTorch reads; nor is protocol 4, whose names it does not see.
    for content in contents[:2] if layout.startswith("raw") else contents:
        save(content, path, layout)
        for convert in (functools.partial(load_pytorch, model), from_pytorch, encoder_from_pytorch):
            with refused(damaged(path) if layout == "raw 4" else asks(path, name), unchanged=[model]):
                convert(path)
    if name == "commands.Popen":
        time.sleep(0.1)
    assert not marker.exists() and capfd.readouterr() == ("", "")


OBJECTS = {
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
    "multiarray._reconstruct": {"state_dict": {"bn1.bias": np.ones(4)}},  # whose package NumPy has renamed
    "argparse.Namespace": {"state_dict": GOOD, "args": argparse.Namespace(lr=0.03)},
    "tests.convert.torch_reference.Block": reference.Block(2, (3,), (2,), 1),
}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_refused_by_name(name, layout, tmp_path):
    path = save(OBJECTS[name], tmp_path / "moco.pth", layout)
    with refused(f"{path}, which asks for ", f"{name}; nothing of it was run."):
        files.read(path)


# Damage.


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_file_cut_off(layout, model, tmp_path, capfd):
    path = save(reference.checkpoint_of(reference.small_moco()), tmp_path / "moco.pth", layout)
    whole = path.read_bytes()
    for length in (1, 100, *(len(whole) * i // 8 for i in range(1, 8)), len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused(damaged(path), unchanged=[model]):
            load_pytorch(model, path)
    assert capfd.readouterr() == ("", "")


def archive(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


NOISE = np.random.default_rng(0).bytes(1000)

OTHERS = {
    "an empty file": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<!DOCTYPE html><title>404</title>\n" * 30),
    "noise": lambda path: path.write_bytes(NOISE),
    "pickles without end": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 10_000),
    "an archive of other files": lambda path: archive(path, {"readme": "hello"}),
    "an archive of a folder": lambda path: archive(path, {"moco/readme": "hello"}),
    "a pickle of noise": lambda path: archive(path, {"moco/data.pkl": NOISE, "moco/version": "3\n"}),
    "a pickle of nothing": lambda path: archive(path, {"moco/data.pkl": b"", "moco/version": "3\n"}),
}


def test_other_files(tmp_path, model, capfd):
    for name, write in OTHERS.items():
        path = tmp_path / f"{name}.pth"
        write(path)
        with refused(damaged(path), unchanged=[model]):
            load_pytorch(model, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_byte_turned_over_is_noticed_or_does_not_matter(layout, tmp_path, capfd):
    path = save(GOOD, tmp_path / "moco.pth", layout)
    whole = path.read_bytes()
    places = range(len(whole))
    refusals = [damaged(path), f"{path}, which asks for "]
    if layout == "zip":
        with zipfile.ZipFile(path) as file:
            refusals += [f"{path}, where {entry} has changed" for entry in file.namelist()]
    else:
        places = range(whole.index(b"bn1.bias"), whole.index(b"num_batches_tracked") + 100)  # its numbers have no sum
    numbers = whole.index(GOOD["bn1.bias"].numpy().tobytes())
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = files.read(path).tensors
        except ValueError as error:
            assert any(refusal in str(error) for refusal in refusals), (place, error)
            assert "data/0 has changed" in str(error) or not 0 <= place - numbers < 16
        else:
            assert list(found) == list(GOOD), place
            assert all(np.array_equal(found[name], GOOD[name]) for name in GOOD), place
    assert capfd.readouterr() == ("", "")


# Whole files of something else.

CONTENTS = {
    "list": [GOOD],
    "Tensor": GOOD["bn1.bias"],
    "NoneType": None,
    "str": "hello",
    "bn1.bias, lr": {"bn1.bias": GOOD["bn1.bias"], "lr": 0.03},
    "nothing": {},
    "0, 1": {0: GOOD["bn1.bias"], 1: GOOD["bn1.bias"]},
    "epoch, state_dict": {"epoch": 3, "state_dict": {}},
    "state_dict": {"state_dict": [1, 2]},
    "model": {"model": {"model": GOOD}},
}


def test_file_without_a_state_dict(tmp_path, model, capfd):
    for found, content in CONTENTS.items():
        path = save(content, tmp_path / "moco.pth")
        with refused("`state_dict`", f"{path} with {found}.", unchanged=[model]):
            load_pytorch(model, path)
    assert capfd.readouterr() == ("", "")


ODD = {
    "sparse": GOOD["bn1.bias"].to_sparse(),
    "float8": GOOD["bn1.bias"].to(torch.float8_e4m3fn),
    "meta": torch.empty(4, device="meta"),
}


@pytest.mark.parametrize("tensor", ODD.values(), ids=ODD)
def test_tensors_that_numpy_lacks(tensor, tmp_path, model):
    path = save({"bn1.bias": tensor}, tmp_path / "moco.pth")
    with refused(f"{path} with bn1.bias, of which is said: ", unchanged=[model]) as error:
        load_pytorch(model, path)
    assert "\n" not in str(error.value)


# PyTorch itself.


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121"])
def test_a_pytorch_that_can_be_made_to_run_a_file_is_refused(version, model, tmp_path, monkeypatch):
    path = save({"state_dict": GOOD}, tmp_path / "moco.pth")
    before = path.read_bytes()
    monkeypatch.setattr(torch, "__version__", version)
    write = functools.partial(to_pytorch, model, overwrite=True)
    for convert in (from_pytorch, encoder_from_pytorch, functools.partial(load_pytorch, model), write):
        with refused("2.6", f"Received: {version}.", unchanged=[model], error=ImportError):
            convert(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("version", ["2.6.0", "2.10.0a0+git1234", "10.0.0"])
def test_newer_pytorch_is_accepted(version, tmp_path, monkeypatch):
    path = save({"state_dict": GOOD}, tmp_path / "moco.pth")
    monkeypatch.setattr(torch, "__version__", version)
    assert list(files.read(path).tensors) == list(GOOD)
