"""python -m keras_moco.convert: what it writes can be used, and what it refuses leaves nothing behind."""

import keras
import numpy as np
import pytest

from keras_moco.convert import __main__ as command
from keras_moco.convert import encoder_from_pytorch, to_pytorch
from keras_moco.convert.files import read
from keras_moco.models import MoCo
from keras_moco.run_directory import RunDirectory
from keras_moco.trained_run import load_model
from tests.convert.small_moco import left_over, make_encoder

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
    """Runs the command in this process: function of arguments to (status, stdout, stderr)."""

    def call(*arguments):
        status = command.main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def checkpoint(tmp_path):
    """A model of gray images after two epochs of the digits, with statistics that are not those of the start."""
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
    path = tmp_path / "recipe.cfg"
    path.write_text(FLAGS + "--image_mean=0.5\n--image_std=0.25\n")
    return path


def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1)).astype("float32")


def refusal(outcome, folder=None):
    """What stderr says of a call that was refused and left no folder."""
    status, _, stderr = outcome
    assert status == 2 and stderr.startswith("convert: ") and "Traceback" not in stderr
    assert " Received: " in stderr and stderr.endswith(".\n"), stderr
    assert folder is None or not folder.exists()
    return stderr


def test_show_lists_what_a_file_holds(call, checkpoint):
    status, stdout, _ = call("show", checkpoint)
    assert status == 0
    shown = dict(line.split(maxsplit=1) for line in stdout.splitlines())
    assert shown["network"] == "tiny of width 4, cifar stem, linear head of 8, images of 1 channel(s), float32"
    assert shown["queue"].startswith("8 x 300, ") and shown["queue"].endswith(f" pointer [{22 * 128 % 300}]")
    assert shown["trained"].startswith("0 epochs, 22 batches") and shown["optimizer"] == "none"
    assert shown["numbers"].startswith("momentum 0.999, temperature 0.2, mean [0.5], std [0.25]")


def test_backbone_writes_one_that_stock_keras_opens(call, checkpoint, tmp_path):
    folder = tmp_path / "export"
    status, stdout, _ = call("backbone", checkpoint, folder)
    assert status == 0 and stdout.startswith(f"Wrote {folder}: tiny, 4 features")
    backbone = keras.models.load_model(folder / "backbone.keras")
    expected = encoder_from_pytorch(checkpoint).features(images())
    np.testing.assert_allclose(backbone(images()), expected, rtol=1e-5, atol=1e-6)
    assert f"{folder}." in refusal(call("backbone", checkpoint, folder))
    assert call("backbone", checkpoint, folder, "--overwrite")[0] == 0


def test_run_can_be_loaded_and_converted_back(call, checkpoint, flagfile, tmp_path, monkeypatch):
    workdir = tmp_path / "runs" / "converted"
    status, stdout, _ = call("run", checkpoint, "--flagfile", flagfile, "--workdir", workdir)
    assert status == 0
    assert "a run of 3 epochs, of which 0 are done (22 steps)" in stdout and "\nnote: no state of an SGD" in stdout
    assert f"python train.py --flagfile={workdir / 'flags.cfg'}" in (workdir / "flags.cfg").read_text()
    plan, model = load_model(workdir)
    assert plan.config.workdir == str(workdir) and int(model.optimizer.iterations) == model.steps_done == 22
    assert RunDirectory(workdir).results()["converted_from"] == str(checkpoint)
    expected = encoder_from_pytorch(checkpoint).features(images())
    np.testing.assert_allclose(model.encoder.features(images()), expected, rtol=1e-5, atol=1e-6)
    assert (workdir / "export" / "backbone.keras").exists()
    assert [path.name for path in workdir.parent.iterdir()] == ["converted"]

    back = tmp_path / "back.safetensors"
    status, stdout, _ = call("to_pytorch", workdir, back)
    assert (status, stdout) == (0, f"Wrote {back}: 22 steps, epoch 2.\n")
    before, after = read(checkpoint).tensors, read(back).tensors
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    monkeypatch.setattr(command, "load_model", lambda *_: (plan, model))  # not a second time
    assert "which exists" in refusal(call("to_pytorch", workdir, back))
    assert call("to_pytorch", workdir, back, "--overwrite")[0] == 0

    assert "tiny that begins with (4, 1, 3, 3)" in refusal(call("to_detectron2", workdir, tmp_path / "back.pkl"))
    assert not (tmp_path / "back.pkl").exists()


def test_run_refuses_what_does_not_fit(call, checkpoint, flagfile, tmp_path):
    workdir, flags = tmp_path / "run", flagfile.read_text()

    def refused(flags=flags, file=checkpoint):
        flagfile.write_text(flags)
        return refusal(call("run", file, "--flagfile", flagfile, "--workdir", workdir), workdir)

    assert left_over(refused(flags.replace("300", "512"))) == ["- queue (8, 300)", "+ queue (8, 512)"]
    assert "std [0.25] and not [0.5]." in refused(flags + "--image_std=0.5\n")
    assert f"{flagfile} of simclr." in refused(flags.replace("--queue_size=300\n", "--method=simclr\n"))
    assert "no_such_flag" in refused("--no_such_flag=1\n")
    assert "absent.pth, which does not exist" in refused(file=tmp_path / "absent.pth")
    workdir.mkdir()
    (workdir / "thesis.txt").write_text("years")
    assert f"{workdir}." in refusal(call("run", checkpoint, "--flagfile", flagfile, "--workdir", workdir))
    assert [path.name for path in workdir.iterdir()] == ["thesis.txt"]


def test_failed_run_leaves_nothing(call, checkpoint, flagfile, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "export_backbone", full)
    (tmp_path / "runs").mkdir()
    status, _, stderr = call("run", checkpoint, "--flagfile", flagfile, "--workdir", tmp_path / "runs" / "converted")
    assert (status, stderr) == (2, "convert: [Errno 28] No space left on device\n")
    assert not any((tmp_path / "runs").iterdir())


def test_to_detectron2_writes_the_model_of_a_run(call, monkeypatch):
    monkeypatch.setattr(command, "load_model", lambda workdir, data_dir: (None, f"model of {workdir}"))
    monkeypatch.setattr(command, "to_detectron2", lambda *arguments: arguments)
    for flags, overwrite in ([], False), (["--overwrite"], True):
        written = ("model of run", "backbone.pkl", overwrite)
        assert call("to_detectron2", "run", "backbone.pkl", *flags)[:2] == (0, f"Wrote {written}.\n")


def test_interruption_prints_no_traceback(call, checkpoint, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "summary", interrupted)
    status, stdout, stderr = call("show", checkpoint)
    assert (status, stdout) == (130, "") and stderr.startswith("convert: interrupted") and stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["absent"], ["show"], ["run", "file"], ["backbone", "a", "b", "--stem=x"]])
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m keras_moco.convert")
