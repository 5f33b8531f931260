"""PyTorch's files: all layouts are read, nothing in them is run, and damaged ones are refused."""

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


# Layouts


def test_the_usual_layouts_of_a_state_dict_are_read(tmp_path):
    for content in (
        GOOD,
        {"epoch": 3, "state_dict": GOOD},
        {"epoch": 3, "model": GOOD},
        {**GOOD, "bn1.bias": torch.nn.Parameter(GOOD["bn1.bias"])},
        {**GOOD, "bn1.bias": GOOD["bn1.bias"].bfloat16()},
    ):
        for protocol, zipped in (2, True), (3, True), (2, False):
            path = tmp_path / "moco.pth"
            torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            tensors = files.read(path).tensors
            assert list(tensors) == list(GOOD) and tensors["bn1.num_batches_tracked"].dtype == "int64"
            for name in GOOD:
                np.testing.assert_array_equal(tensors[name], GOOD[name])


# Code


class Payload:
    """Its pickle is a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(marker):
    """Harmful calls by the names that their pickles ask for."""
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Payload(os.system, f"touch {marker}"),
        "eval": Payload(eval, write),
        "exec": Payload(exec, write),
        "commands.Popen": Payload(subprocess.Popen, ["touch", str(marker)]),  # as protocol 2 calls `subprocess`
    }


def test_the_payloads_run_when_unpickled(tmp_path):
    marker = tmp_path / "marker"
    for name, hostile in payloads(marker).items():
        result = pickle.loads(pickle.dumps(hostile, protocol=2))
        if name == "commands.Popen":
            result.wait()
        marker.unlink()


@pytest.mark.parametrize("layout", ["zip", "legacy", "raw 2", "raw 4"])
def test_nothing_in_a_file_is_run(layout, tmp_path, model, capfd):
    marker, path = tmp_path / "marker", tmp_path / "moco.pth.tar"
    for name, hostile in payloads(marker).items():
        contents = [{"state_dict": hostile}, hostile, {"state_dict": GOOD, "optimizer": {"state": {0: hostile}}}]
        # PyTorch reads no raw pickle of a tensor, and does not find the names in protocol 4.
        for content in contents[:2] if layout.startswith("raw") else contents:
            save(content, path, layout)
            for convert in (functools.partial(load_pytorch, model), from_pytorch, encoder_from_pytorch):
                with refused(damaged(path) if layout == "raw 4" else asks(path, name), unchanged=[model]):
                    convert(path)
    time.sleep(0.1)  # for a process that might have been started
    assert not marker.exists() and capfd.readouterr() == ("", "")


OBJECTS = {
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
    "multiarray._reconstruct": {"state_dict": {"bn1.bias": np.ones(4)}},  # whose package NumPy has renamed
    "argparse.Namespace": {"state_dict": GOOD, "args": argparse.Namespace(lr=0.03)},
    "tests.convert.torch_reference.Block": reference.Block(2, (3,), (2,), 1),
}


def test_objects_are_refused_by_name(tmp_path):
    for name, content in OBJECTS.items():
        for layout in ("zip", "legacy"):
            path = save(content, tmp_path / "moco.pth", layout)
            with refused(f"{path}, which asks for ", f"{name}; nothing of it was run."):
                files.read(path)


# Damage


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_truncated_files_and_other_formats_are_refused(layout, model, tmp_path, capfd):
    path = save(reference.checkpoint_of(reference.small_moco()), tmp_path / "moco.pth", layout)
    whole, noise = path.read_bytes(), np.random.default_rng(0).bytes(1000)
    parts = [whole[:length] for length in (0, 1, 100, *(len(whole) * i // 8 for i in range(1, 8)), len(whole) - 1)]
    # The last is a pickle of endless lists.
    for content in (*parts, noise, b"<!DOCTYPE html><title>404</title>\n" * 30, b"\x80\x02" + b"]" * 10_000):
        path.write_bytes(content)
        with refused(damaged(path), unchanged=[model]):
            load_pytorch(model, path)
    for entries in ({"readme": "hello"}, {"moco/data.pkl": noise, "moco/version": "3\n"}):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in entries.items():
                file.writestr(name, content)
        with refused(damaged(path), unchanged=[model]):
            load_pytorch(model, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_flipped_byte_is_noticed_or_does_not_matter(layout, tmp_path, capfd):
    path = save(GOOD, tmp_path / "moco.pth", layout)
    whole = path.read_bytes()
    places = range(len(whole))
    refusals = [damaged(path), f"{path}, which asks for "]
    if layout == "zip":
        with zipfile.ZipFile(path) as file:
            for entry in file.namelist():
                refusals += [f"{path}, where {entry} has changed", f"{path}, where {entry} is; nothing was unpacked"]
    else:
        places = range(whole.index(b"bn1.bias"), whole.index(b"num_batches_tracked") + 100)  # numbers have no sum
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


def test_files_without_tensors_for_numpy_are_refused(tmp_path, model):
    for found, content in (
        ("list", [GOOD]),
        ("Tensor", GOOD["bn1.bias"]),
        ("bn1.bias, lr", {"bn1.bias": GOOD["bn1.bias"], "lr": 0.03}),
        ("nothing", {}),
        ("0, 1", {0: GOOD["bn1.bias"], 1: GOOD["bn1.bias"]}),
        ("epoch, state_dict", {"epoch": 3, "state_dict": {}}),
        ("model", {"model": {"model": GOOD}}),
    ):
        path = save(content, tmp_path / "moco.pth")
        with refused("`state_dict`", f"{path} with {found}.", unchanged=[model]):
            load_pytorch(model, path)
    bias = GOOD["bn1.bias"]
    for tensor in (bias.to_sparse(), bias.to(torch.float8_e4m3fn), torch.empty(4, device="meta")):
        path = save({"bn1.bias": tensor}, tmp_path / "moco.pth")
        with refused(f"{path} with bn1.bias, which cannot be converted: ", unchanged=[model]) as error:
            load_pytorch(model, path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121"])
def test_an_unsafe_version_of_torch_is_refused(version, model, tmp_path, monkeypatch):
    path = save({"state_dict": GOOD}, tmp_path / "moco.pth")
    before = path.read_bytes()
    monkeypatch.setattr(torch, "__version__", version)
    write = functools.partial(to_pytorch, model, overwrite=True)
    for convert in (from_pytorch, encoder_from_pytorch, functools.partial(load_pytorch, model), write):
        with refused("2.6", f"Received: {version}.", unchanged=[model], error=ImportError):
            convert(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    for version in ("2.6.0", "2.10.0a0+git1234", "10.0.0"):
        monkeypatch.setattr(torch, "__version__", version)
        assert list(files.read(path).tensors) == list(GOOD)
