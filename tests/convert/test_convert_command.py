"""python -m keras_moco.convert: what it writes can be used, and what it refuses leaves nothing behind."""

import pickle

import keras
import numpy as np
import pytest

from keras_moco.backbones import resnet
from keras_moco.convert import __main__ as command
from keras_moco.convert import encoder_from_pytorch, to_pytorch
from keras_moco.convert.files import read
from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.run_directory import RunDirectory
from keras_moco.trained_run import load_model

FLAGS = """--dataset=digits
--backbone=resnet10
--backbone_width=4
--stem=cifar
--embedding_dim=8
--queue_size=300
--image_size=16
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


def make_model(width=4, stem="cifar", channels=1):
    """A model with statistics that are not those of the start."""
    name = "resnet18" if width == 64 else "resnet10"
    backbone = resnet(name, width, stem, input_shape=(None, None, channels))
    encoder = Encoder(backbone, linear_head(8 * width, 8))
    model = MoCo(encoder, queue_size=300, temperature=0.2)
    for seed, layer in enumerate(encoder.backbone.layers):
        if isinstance(layer, SplitBatchNormalization):
            layer.moving_mean.assign(keras.random.normal(layer.moving_mean.shape, seed=seed))
            layer.moving_variance.assign(keras.random.uniform(layer.moving_mean.shape, 0.5, 2, seed=seed))
    model.step.assign(22)
    model.queue.count.assign(22 * 128)
    return model


@pytest.fixture
def checkpoint(tmp_path):
    return to_pytorch(make_model(), tmp_path / "moco.safetensors")


@pytest.fixture
def flagfile(tmp_path):
    path = tmp_path / "recipe.cfg"
    path.write_text(FLAGS)
    return path


def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 1)).astype("float32")


def refusal(outcome, folder=None):
    """The sentence on stderr of a call that was refused and left no folder."""
    status, _, stderr = outcome
    assert status == 2
    assert stderr.startswith("convert: ") and "Traceback" not in stderr
    assert " Received: " in stderr and stderr.endswith(".\n"), stderr
    assert folder is None or not folder.exists()
    return stderr.strip().removeprefix("convert: ")


def test_show_says_what_a_file_holds(call, checkpoint):
    status, stdout, _ = call("show", checkpoint)
    assert status == 0
    assert stdout.splitlines() == [
        "network    resnet10 of width 4, cifar stem, linear head of 8, images of 1 channel(s), float32",
        f"queue      8 x 300, a key in each column; pointer [{22 * 128 % 300}]",
        "trained    0 epochs, 22 batches by BatchNorm's counters",
        "optimizer  none",
        "numbers    momentum 0.999, temperature 0.2, mean [0.449], std [0.226] (noted in the file)",
    ]


def test_backbone_writes_one_that_stock_keras_opens(call, checkpoint, tmp_path):
    status, stdout, _ = call("backbone", checkpoint, tmp_path / "export")
    assert status == 0
    assert stdout == (
        f"Wrote {tmp_path / 'export'}: resnet10, 32 features of images in 0..255, scaled inside by mean 0.449 and "
        "standard deviation 0.226.\n"
    )
    backbone = keras.models.load_model(tmp_path / "export" / "backbone.keras")
    expected = encoder_from_pytorch(checkpoint).features(images())
    np.testing.assert_allclose(backbone(images()), expected, rtol=1e-5, atol=1e-6)


def test_backbone_replaces_an_export_only_if_told_to(call, checkpoint, tmp_path):
    assert call("backbone", checkpoint, tmp_path / "export")[0] == 0
    assert "new or empty" in refusal(call("backbone", checkpoint, tmp_path / "export"))
    assert call("backbone", checkpoint, tmp_path / "export", "--overwrite")[0] == 0


def test_run_is_one_that_is_evaluated_and_goes_back(call, checkpoint, flagfile, tmp_path):
    workdir = tmp_path / "runs" / "converted"
    status, stdout, _ = call("run", checkpoint, "--flagfile", flagfile, "--workdir", workdir)
    assert status == 0
    assert "a run of 3 epochs, of which 0 are done (22 steps)" in stdout
    assert "note: no state of an SGD was taken over" in stdout
    assert f"python train.py --flagfile={workdir / 'flags.cfg'}" in (workdir / "flags.cfg").read_text()
    plan, model = load_model(workdir)
    assert plan.config.workdir == str(workdir)
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
    assert "which exists" in refusal(call("to_pytorch", workdir, back))
    assert call("to_pytorch", workdir, back, "--overwrite")[0] == 0

    assert "Detectron2's ResNet must be one of" in refusal(call("to_detectron2", workdir, tmp_path / "back.pkl"))
    assert not (tmp_path / "back.pkl").exists()


def test_run_refuses_what_does_not_fit(call, checkpoint, flagfile, tmp_path):
    workdir = tmp_path / "run"

    def refused(flags=FLAGS, file=checkpoint):
        flagfile.write_text(flags)
        return refusal(call("run", file, "--flagfile", flagfile, "--workdir", workdir), workdir)

    assert "\n  - queue (8, 300)\n  + queue (8, 512)\n" in refused(FLAGS.replace("300", "512"))
    assert "+ encoder_q.fc.2.weight (8, 32)" in refused(FLAGS + "--head=mlp\n")
    assert "std [0.226] and not [0.5]. Build the model with these." in refused(FLAGS + "--image_std=0.5\n")
    assert "must be of --method=moco" in refused(FLAGS.replace("--queue_size=300\n", "--method=simclr\n"))
    assert "must hold flags of train.py" in refused("--no_such_flag=1\n")
    assert "must be an existing file" in refused(file=tmp_path / "absent.pth")


def test_run_keeps_what_lies_in_the_folder(call, checkpoint, flagfile, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    assert "so that no run is lost" in refusal(
        call("run", checkpoint, "--flagfile", flagfile, "--workdir", tmp_path / "mine")
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_cannot_be_written_leaves_no_half_of_it(call, checkpoint, flagfile, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "export_backbone", full)
    (tmp_path / "runs").mkdir()
    status, _, stderr = call("run", checkpoint, "--flagfile", flagfile, "--workdir", tmp_path / "runs" / "converted")
    assert (status, stderr) == (2, "convert: [Errno 28] No space left on device\n")
    assert not any((tmp_path / "runs").iterdir())


def test_to_detectron2_writes_the_backbone_of_a_run(call, tmp_path, monkeypatch):
    model = make_model(64, "imagenet", channels=3)
    monkeypatch.setattr(command, "load_model", lambda *_: (None, model))
    path = tmp_path / "backbone.pkl"
    assert call("to_detectron2", "run", path)[:2] == (0, f"Wrote {path}.\n")
    assert "stem.conv1.weight" in pickle.loads(path.read_bytes())["model"]


def test_an_interruption_is_no_traceback(call, checkpoint, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "summary", interrupted)
    assert call("show", checkpoint) == (130, "", "convert: interrupted. What was being written is not there.\n")


@pytest.mark.parametrize("arguments", [[], ["absent"], ["show"], ["run", "file"], ["backbone", "a", "b", "--stem=x"]])
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m keras_moco.convert")
