"""A checkpoint of the authors' code, stopped in mid-training, becomes a run that train.py resumes."""

import csv

import numpy as np
import pytest

from keras_moco import training
from keras_moco.convert import __main__ as command
from keras_moco.run_directory import RunDirectory
from keras_moco.trained_run import load_model
from tests.convert.test_convert_command import FLAGS

torch = pytest.importorskip("torch")
reference = pytest.importorskip("tests.convert.torch_reference")

pytestmark = pytest.mark.torch

STEPS_PER_EPOCH = 1437 // 128  # of the digits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file as `main_moco.py` leaves it after two epochs; its `queue_ptr` is where these have led."""
    encoder = reference.randomise(reference.ResNet("tiny", "cifar", "linear", 4, 8, channels=1))
    network = reference.MoCo(encoder, 300, 8, 0.999, 0.07)
    network.queue_ptr[:] = 2 * STEPS_PER_EPOCH * 128 % 300
    path = tmp_path_factory.mktemp("authors") / "checkpoint_0002.pth.tar"
    torch.save(reference.checkpoint_of(network, epoch=2, arch="tiny"), path)
    return path


def test_the_authors_run_is_resumed_and_written_back(checkpoint, tmp_path, capsys):
    (tmp_path / "recipe.cfg").write_text(FLAGS)
    workdir, back, steps = tmp_path / "run", tmp_path / "back.pth.tar", 2 * STEPS_PER_EPOCH
    arguments = ["run", checkpoint, "--flagfile", tmp_path / "recipe.cfg", "--workdir", workdir]
    assert command.main([*map(str, arguments)]) == 0
    _, model = load_model(workdir)
    assert model.steps_done == int(model.optimizer.iterations) == steps
    before = reference.read(checkpoint)
    momentum = before["optimizer"]["state"][0]["momentum_buffer"].numpy()
    velocity = np.array(model.optimizer.velocity_of(model.encoder.backbone.get_layer("conv1").kernel))
    assert np.array_equal(velocity.transpose(3, 2, 0, 1), momentum) and np.abs(momentum).max() > 0

    capsys.readouterr()
    assert command.main(["show", str(checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert "\ntrained    2 epochs, 7 batches" in shown and "\noptimizer  state of 11 parameters\n" in shown

    assert command.main(["to_pytorch", str(workdir), str(back)]) == 0
    assert capsys.readouterr().out.endswith(f"Wrote {back}: {steps} steps, epoch 2.\n")
    after = reference.read(back)
    assert after["epoch"] == 2
    weights = [name for name in before["state_dict"] if "num_batches" not in name]
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in weights)
    for place, state in before["optimizer"]["state"].items():
        assert torch.equal(after["optimizer"]["state"][place]["momentum_buffer"], state["momentum_buffer"])

    results = training.pretrain(RunDirectory(workdir).config())
    assert (
        f"resumed from {workdir / 'checkpoints' / f'step-{steps:09d}'} after 2 of 3 epochs" in capsys.readouterr().out
    )
    assert results["epochs"] == 3 and results["steps"] == 3 * STEPS_PER_EPOCH
    with open(workdir / "log.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["epoch"] == "2" and 0 < float(row["loss"]) < 10
