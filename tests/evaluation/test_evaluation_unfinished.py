"""Training runs with labels that are interrupted and resume."""

import errno
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_moco.data import open_source, subset
from keras_moco.evaluation import fine_tune, linear_sweep_on_images, unfinished
from keras_moco.evaluation.unfinished import Unfinished

SIZE = 8


def make_backbone(units=8):
    """A network with all kinds of state: weights, moving statistics, and random seeds."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Flatten(), keras.layers.Dense(units), keras.layers.BatchNormalization()]
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 1)), keras.layers.Rescaling(1 / 255), *layers, keras.layers.Dropout(0.5)]
    )


def make_classifier(units=8):
    backbone = make_backbone(units)
    model = keras.Model(backbone.inputs, keras.layers.Dense(10)(backbone.outputs[0]))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def arrays(model):
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


def equal(ours, theirs):
    return all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))


# Stands for a source of files with unreadable images.
def source_with(met):
    bad = SimpleNamespace(met=met)
    bad.remember = lambda met: bad.met.update({int(index): name for index, name in met.items()})
    return SimpleNamespace(bad=bad)


@pytest.fixture
def kept(tmp_path):
    """The file after two epochs of training, and the variables: `(path, arrays)`."""
    trained, path = make_classifier(), tmp_path / "kept.npz"
    callback = Unfinished(path)
    assert callback.restore(trained, source_with({7: "x.png, cut off"})) == 0
    callback.set_model(trained)
    trained.train_on_batch(np.ones((4, SIZE, SIZE, 1)), np.ones((4, 10)))
    callback.on_epoch_end(1)
    assert [each.name for each in tmp_path.iterdir()] == ["kept.npz"]
    return path, arrays(trained)


def test_complete_state_is_saved(kept):
    path, expected = kept
    model, source = make_classifier(), source_with({})
    assert not equal(arrays(model), expected)
    assert Unfinished(path).restore(model, source) == 2
    assert equal(arrays(model), expected)
    assert source.bad.met == {7: "x.png, cut off"}  # which keeps the order of the other images


def test_damaged_or_foreign_file_is_not_used(kept, capsys):
    path, _ = kept
    whole = path.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    for content, units in ((whole[:-1000], 8), (flipped, 8), (b"", 8), (b"x" * 99, 8), (whole, 9)):
        path.write_bytes(content)
        model = make_classifier(units)
        before = arrays(model)
        assert Unfinished(path).restore(model, source_with({})) == 0
        assert equal(arrays(model), before)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"note: {path} cannot be used (") and line.endswith("training starts from the beginning")


def test_full_disk_does_not_stop_training(kept, capsys, monkeypatch):
    path, _ = kept
    before = path.read_bytes()
    callback = Unfinished(path)
    callback.restore(model := make_classifier(), source_with({}))
    callback.set_model(model)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(unfinished.np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        callback.on_epoch_end(2)
    assert capsys.readouterr().out.startswith(f"warning: {path} was not written (")
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["kept.npz"]


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the middle of the third epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fine-tuned", "linear"])
def test_resumed_run_ends_with_identical_bits(way, tmp_path, capsys):
    train, path = subset(open_source("digits"), range(160)), tmp_path / "kept.npz"
    settings = {"image_size": SIZE, "epochs": 3, "batch_size": 64, "seed": 5}

    def result(*callbacks, **more):
        if way == "fine-tuned":
            return arrays(fine_tune(make_backbone(), train, callbacks=callbacks, **settings, **more))
        test = open_source("digits", "test")
        backbone = make_backbone()
        sweep = linear_sweep_on_images(backbone, train, test, rates=[1.0], callbacks=callbacks, **settings, **more)
        return [sweep.predicted, np.array(sweep.accuracy)]

    undisturbed = result()
    with pytest.raises(KeyboardInterrupt):
        result(Interrupt(), unfinished=Unfinished(path))
    assert equal(result(unfinished=Unfinished(path)), undisturbed)
    assert f"resumed from {path} after 2 epochs" in capsys.readouterr().out
    # All epochs are done, but nothing was recorded: a kill at that moment.
    assert equal(result(unfinished=Unfinished(path)), undisturbed)
