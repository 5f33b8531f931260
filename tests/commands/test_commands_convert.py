"""python -m keras_moco convert: its files can be used, and a refused conversion leaves no files."""

import keras
import numpy as np
import pytest

from keras_moco.commands import convert as command
from keras_moco.commands import pretrain
from keras_moco.convert import encoder_from_pytorch, to_pytorch
from keras_moco.convert.files import read
from keras_moco.methods import MoCo
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_model
from tests.convert.small_moco import make_encoder, unmatched

FLAGS = """--dataset=digits
--backbone=tiny
--backbone_width=4
--stem=cifar
--embedding_dim=8
--queue_size=300
--image_size=8
--batch_size=128
--augment=moco_cifar
--epochs=3
"""


@pytest.fixture
def call(capsys):
    """Function that runs the command in this process: arguments to (status, stdout, stderr)."""

    def call(*arguments):
        status = command.main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def checkpoint(tmp_path):
    """A model of gray images after two epochs of the digits, with other BatchNorm statistics than the initial ones."""
    encoder = make_encoder(channels=1)
    model = MoCo(encoder, queue_size=300, temperature=0.2)
    for seed, weight in enumerate(encoder.backbone.weights):
        if "moving" in weight.name:
            weight.assign(keras.random.uniform(weight.shape, 0.5, 2, seed=seed))
    model.step.assign(22)
    model.queue.count.assign(22 * 128)
    return to_pytorch(model, tmp_path / "moco.safetensors")


@pytest.fixture
def flagfile(tmp_path):
    (tmp_path / "recipe.cfg").write_text(FLAGS + "--image_mean=0.5\n--image_std=0.25\n")
    return tmp_path / "recipe.cfg"


def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype("float32")


def refusal(outcome, folder=None):
    """The message of a call that was refused and left no folder."""
    status, _, stderr = outcome
    assert status == 2 and stderr.startswith("convert: ") and "Traceback" not in stderr
    assert " Received: " in stderr and stderr.endswith(".\n"), stderr
    assert folder is None or not folder.exists()
    return stderr


@pytest.mark.slow
def test_a_backbone_is_described_and_opens_in_stock_keras(call, checkpoint, tmp_path):
    status, stdout, _ = call("show", checkpoint)
    assert status == 0 and "tiny of width 4, cifar stem, linear head of 8, images of 1 channel(s)" in stdout
    assert "8 x 300, " in stdout and f" pointer [{22 * 128 % 300}]" in stdout and " 22 batches" in stdout
    folder = tmp_path / "export"
    assert call("backbone", checkpoint, folder)[0] == 0
    backbone = keras.models.load_model(folder / "backbone.keras")
    expected = encoder_from_pytorch(checkpoint).features(images())
    np.testing.assert_allclose(backbone(images()), expected, rtol=1e-5, atol=1e-6)
    assert f"{folder}." in refusal(call("backbone", checkpoint, folder))
    assert call("backbone", checkpoint, folder, "--overwrite")[0] == 0


def test_a_run_can_be_loaded_and_converted_back(call, checkpoint, flagfile, tmp_path, monkeypatch):
    workdir = tmp_path / "runs" / "converted"
    status, stdout, _ = call("run", checkpoint, "--flagfile", flagfile, "--workdir", workdir)
    assert status == 0
    assert "a run of 3 epochs, of which 0 are finished (22 steps)" in stdout and "\nnote: no SGD state" in stdout
    plan, model = load_model(workdir)
    assert plan.config.workdir == str(workdir) and int(model.optimizer.iterations) == model.steps_done == 22
    assert RunDirectory(workdir).results.read()["converted_from"] == str(checkpoint)
    expected = encoder_from_pytorch(checkpoint).features(images())
    np.testing.assert_allclose(model.encoder.features(images()), expected, rtol=1e-5, atol=1e-6)
    assert (workdir / "export" / "backbone.keras").exists()
    assert [path.name for path in workdir.parent.iterdir()] == ["converted"]
    back = tmp_path / "back.safetensors"
    assert call("to_pytorch", workdir, back)[:2] == (0, f"Wrote {back}: 22 steps, epoch 2.\n")
    before, after = read(checkpoint).tensors, read(back).tensors
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    monkeypatch.setattr(command, "load_model", lambda *_: (plan, model))  # not a second time
    assert "which exists" in refusal(call("to_pytorch", workdir, back))
    assert call("to_pytorch", workdir, back, "--overwrite")[0] == 0
    assert "tiny with a first kernel (4, 1, 3, 3)" in refusal(call("to_detectron2", workdir, tmp_path / "back.pkl"))


def test_a_file_that_does_not_fit_the_flagfile_is_refused(call, checkpoint, flagfile, tmp_path):
    workdir, flags = tmp_path / "run", flagfile.read_text()

    def refused(flags=flags, file=checkpoint):
        flagfile.write_text(flags)
        return refusal(call("run", file, "--flagfile", flagfile, "--workdir", workdir), workdir)

    assert unmatched(refused(flags.replace("300", "512"))) == ["- queue (8, 300)", "+ queue (8, 512)"]
    assert "std [0.25] and not [0.5]." in refused(flags + "--image_std=0.5\n")
    assert f"{flagfile} with simclr." in refused(flags.replace("--queue_size=300\n", "--method=simclr\n"))
    assert "no_such_flag" in refused("--no_such_flag=1\n")
    assert "absent.pth, which does not exist" in refused(file=tmp_path / "absent.pth")
    workdir.mkdir()
    (workdir / "thesis.txt").write_text("years")
    assert f"{workdir}." in refusal(call("run", checkpoint, "--flagfile", flagfile, "--workdir", workdir))
    assert [path.name for path in workdir.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_a_failed_conversion_leaves_nothing(call, checkpoint, flagfile, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    for error, status, printed in (
        (OSError(28, "full"), 2, "The operating system must let files be read and written. Received: full. "),
        (KeyboardInterrupt, 130, "interrupted"),
    ):
        monkeypatch.setattr(command, "export_backbone", lambda *_, error=error: (_ for _ in ()).throw(error))
        outcome = call("run", checkpoint, "--flagfile", flagfile, "--workdir", tmp_path / "runs" / "converted")
        assert outcome[0] == status and outcome[2].startswith(f"convert: {printed}") and outcome[2].count("\n") == 1
        assert not any((tmp_path / "runs").iterdir())


@pytest.mark.torch
def test_an_official_checkpoint_is_resumed_and_written_back(call, flagfile, tmp_path):
    pytest.importorskip("torch")
    from tests.convert import torch_reference as reference

    network = reference.randomise(reference.ResNet("tiny", "cifar", "linear", 4, 8, channels=1))
    network, steps = reference.MoCo(network, 300, 8, 0.999, 0.07), 2 * (1437 // 128)  # of the digits
    network.queue_ptr[:] = steps * 128 % 300
    before, file = reference.checkpoint_of(network, epoch=2, arch="tiny"), tmp_path / "checkpoint_0002.pth.tar"
    reference.torch.save(before, file)
    workdir, back = tmp_path / "run", tmp_path / "back.pth.tar"
    assert call("run", file, "--flagfile", flagfile, "--workdir", workdir)[0] == 0
    _, model = load_model(workdir)
    assert model.steps_done == int(model.optimizer.iterations) == steps
    assert call("to_pytorch", workdir, back)[0] == 0
    after = reference.read(back)
    assert after["epoch"] == 2
    for name, tensor in before["state_dict"].items():
        assert "num_batches" in name or reference.torch.equal(tensor, after["state_dict"][name]), name
    for place, state in before["optimizer"]["state"].items():
        found = after["optimizer"]["state"][place]["momentum_buffer"]
        assert reference.torch.equal(found, state["momentum_buffer"]) and found.any()
    results = pretrain.pretrain(RunDirectory(workdir).config())
    assert results["epochs"] == 3 and results["steps"] == 3 * steps // 2
    [_, row] = (workdir / "log.csv").read_text().splitlines()  # after the names: of the third epoch alone
    assert row.split(",")[0] == "2"
