import math
import sys

import keras
import numpy as np
from PIL import Image

from keras_moco.callbacks import Curves

LOGS = {"loss": 5.5, "contrast_top1": 0.25, "knn_top1": 71.5, "learning_rate": 0.03}


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_each_epoch_replaces_the_picture_and_leaves_no_other_file(tmp_path):
    curves = Curves(tmp_path / "curves.png", chance_loss=math.log(65537))
    curves.on_epoch_end(0, LOGS)
    first = picture(tmp_path / "curves.png")
    curves.on_epoch_end(1, LOGS | {"loss": 4.5})
    second = picture(tmp_path / "curves.png")
    assert first.shape == second.shape == (700, 1000, 3)
    assert np.any(first != second)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def drawn(tmp_path, monkeypatch, curves):
    """The axes that `draw` makes, by title."""
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k)))
    curves.draw()
    return {axes.get_title(): axes for axes in figures[-1].axes}


def test_panels_show_the_logs_in_epochs_from_1_and_percent(tmp_path, monkeypatch):
    log = {0: LOGS, 1: {"loss": 4.5, "contrast_top1": 0.5, "learning_rate": 0.01}, 2: LOGS}
    curves = Curves(tmp_path / "curves.png", chance_loss=math.log(4097), log=log)
    axes = drawn(tmp_path, monkeypatch, curves)
    loss, chance = axes["Contrastive loss"].lines
    assert loss.get_xydata().tolist() == [[1, 5.5], [2, 4.5], [3, 5.5]]
    assert set(chance.get_ydata()) == {math.log(4097)}
    assert axes["Contrast accuracy (top-1)"].lines[0].get_ydata().tolist() == [25, 50, 25]
    assert axes["kNN accuracy of the features"].lines[0].get_xydata().tolist() == [[1, 71.5], [3, 71.5]]
    assert axes["Learning rate"].lines[0].get_ydata().tolist() == [0.03, 0.01, 0.03]


def test_what_is_not_logged_is_said_to_be_missing(tmp_path, monkeypatch):
    curves = Curves(tmp_path / "curves.png", log={0: {"loss": 5.5}})
    axes = drawn(tmp_path, monkeypatch, curves)
    assert [text.get_text() for text in axes["Learning rate"].texts] == ["not measured"]
    assert len(axes["Contrastive loss"].lines) == 1


def test_points_are_in_the_order_of_epochs_whatever_that_of_the_log(tmp_path, monkeypatch):
    axes = drawn(tmp_path, monkeypatch, Curves(tmp_path / "curves.png", log={2: {"loss": 1.0}, 0: {"loss": 3.0}}))
    assert axes["Contrastive loss"].lines[0].get_xydata().tolist() == [[1, 3.0], [3, 1.0]]


def test_a_run_that_goes_on_keeps_its_earlier_epochs_and_forgets_repeated_ones(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    first = Curves(tmp_path / "curves.png")
    losses = model.fit(x, y, epochs=3, verbose=0, callbacks=[first]).history["loss"]
    assert first.log == {epoch: {"loss": loss} for epoch, loss in enumerate(losses)}

    before = dict(first.log)
    curves = Curves(tmp_path / "curves.png", log=first.log)
    assert curves.log == before
    losses[2:] = model.fit(x, y, initial_epoch=2, epochs=4, verbose=0, callbacks=[curves]).history["loss"]
    assert curves.log == {epoch: {"loss": loss} for epoch, loss in enumerate(losses)}
    assert first.log == before  # what was given is not changed


def test_without_earlier_epochs_the_log_is_empty(tmp_path):
    assert Curves(tmp_path / "curves.png").log == Curves(tmp_path / "curves.png", log={}).log == {}


def test_pyplot_is_left_alone(tmp_path):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    curves = Curves(tmp_path / "curves.png")
    curves.on_epoch_end(0, LOGS)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before
