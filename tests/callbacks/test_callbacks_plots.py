import math
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from keras_moco.callbacks import Curves

LOGS = {"loss": 5.5, "contrast_top1": 0.25, "knn_top1": 71.5, "learning_rate": 0.03}


def test_each_epoch_replaces_the_picture_and_leaves_no_other_file(tmp_path):
    curves, pictures = Curves(tmp_path / "curves.png", chance_loss=math.log(65537)), []
    for epoch in range(2):
        curves.on_epoch_end(epoch, LOGS | {"loss": 5.5 - epoch})
        with Image.open(tmp_path / "curves.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    assert pictures[0].shape == pictures[1].shape == (700, 1000, 3)
    assert np.any(pictures[0] != pictures[1])
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function that draws a log: the axes by title."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))

    def draw(log, **settings):
        Curves(tmp_path / "curves.png", log=log, **settings).draw()
        return {axes.get_title(): axes for axes in figures[-1].axes}

    return draw


def test_panels_show_the_log_in_epochs_from_1_and_percent(drawn):
    log = {2: LOGS, 0: LOGS, 1: {"loss": 4.5, "contrast_top1": 0.5, "learning_rate": 0.01}}
    axes = drawn(log, chance_loss=math.log(4097))
    loss, chance = axes["Contrastive loss"].lines
    assert loss.get_xydata().tolist() == [[1, 5.5], [2, 4.5], [3, 5.5]]
    assert set(chance.get_ydata()) == {math.log(4097)}
    assert axes["Contrast accuracy (top-1)"].lines[0].get_ydata().tolist() == [25, 50, 25]
    assert axes["kNN accuracy of the features"].lines[0].get_xydata().tolist() == [[1, 71.5], [3, 71.5]]
    assert axes["Learning rate"].lines[0].get_ydata().tolist() == [0.03, 0.01, 0.03]
    assert not drawn({0: {"loss": 5.5}})["Learning rate"].lines


def test_a_resumed_run_keeps_its_epochs_and_replaces_repeated_ones(tmp_path):
    before = {0: {"loss": 3.0}, 1: {"loss": 9.0}}
    curves = Curves(tmp_path / "curves.png", log=before)
    curves.draw = lambda: None
    for epoch in (1, 2):
        curves.on_epoch_end(epoch, {"loss": np.float32(3 - epoch)})
    assert curves.log == {0: {"loss": 3.0}, 1: {"loss": 2.0}, 2: {"loss": 1.0}}


def test_pyplot_is_not_needed(tmp_path, monkeypatch):
    """It would choose a window system, and keep its figures."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error
    Curves(tmp_path / "curves.png").on_epoch_end(0, LOGS)
    assert (tmp_path / "curves.png").exists()
