"""PyTorch's files must store the numbers that they declare, and are never run."""

import json
import struct
import zipfile

import numpy as np
import pytest

from keras_moco.convert import files

torch = pytest.importorskip("torch")


def refusal(path):
    with pytest.raises(ValueError) as caught:
        files.read(path)
    said = str(caught.value)
    assert said.count("Received: ") == 1 and "\n" not in said and str(path) in said
    return said


def test_tensors_that_declare_more_than_is_stored_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    for dtype in (torch.float32, torch.bfloat16):
        torch.save({"weight": torch.zeros(1, dtype=dtype).expand(10**5, 10**6)}, path)
        assert "which declares " in refusal(path)
    shared = torch.zeros(2**20)
    torch.save({str(number): shared for number in range(20)}, path)
    assert "which declares 83,886,080." in refusal(path)
    momentum = {"momentum_buffer": torch.zeros(1).expand(10**11)}
    optimizer = {"param_groups": [{"params": [0]}], "state": {0: momentum}}
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "optimizer": optimizer}, path)
    assert "which declares 400,000,000,004." in refusal(path)
    torch.save(
        {"weight": shared, "tied": shared, "view": shared.reshape(2, -1).T, "row": torch.ones(1).expand(3)}, path
    )
    np.testing.assert_array_equal(files.read(path).tensors["row"], np.ones(3, "float32"))


def test_a_compressed_archive_is_refused(tmp_path):
    plain, path = tmp_path / "plain.pth", tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(10**5)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "is; nothing was unpacked" in refusal(path)
    # Many entries with one content: each holds its own offset.
    content = bytearray(plain.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    while content[place + 46 :].split(b"/", 1)[1][:6] != b"data/0":
        place = content.rindex(b"PK\x01\x02", 0, place)
    content[place + 20 : place + 28] = struct.pack("<II", 10**9, 10**9)
    path.write_bytes(content)
    assert "data/0 is; nothing was unpacked" in refusal(path)


def test_empty_tensors_with_a_large_side_are_refused(tmp_path):
    pytest.importorskip("safetensors.numpy").save_file(
        {"fc.weight": np.zeros((10**10, 0), "float32")}, tmp_path / "model.safetensors"
    )
    torch.save({"fc.weight": torch.zeros(10**10, 0)}, tmp_path / "model.pth")
    for name in ("model.safetensors", "model.pth"):
        assert "which declares 40,000,000,000." in refusal(tmp_path / name)


def test_settings_of_safetensors_nested_too_deeply_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    notes = {
        "__metadata__": {files.SETTINGS: "[" * 200_000},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    header = json.dumps(notes).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "which is damaged" in refusal(path)
