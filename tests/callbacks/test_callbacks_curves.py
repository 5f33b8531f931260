import math
import sys

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_moco.callbacks import Curves

LOGS = {"loss": 5.5, "contrast_top1": 0.25, "knn_top1": 71.5, "learning_rate": 0.03}


def test_each_epoch_replaces_the_image_and_leaves_no_other_file(tmp_path, monkeypatch):
    # pyplot would choose a window system, and keep its figures: importing it is an error.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    curves, pictures = Curves(tmp_path / "curves.png", chance_loss=math.log(65537)), []
    for epoch in range(2):
        curves.on_epoch_end(epoch, LOGS | {"loss": 5.5 - epoch})
        with Image.open(tmp_path / "curves.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    assert pictures[0].shape == pictures[1].shape == (700, 1000, 3)
    assert np.any(pictures[0] != pictures[1])
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_panels_show_the_log_in_epochs_from_1_and_percent(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    log = {2: LOGS, 0: LOGS, 1: {"loss": 4.5, "contrast_top1": 0.5, "learning_rate": 0.01}}
    Curves(tmp_path / "curves.png", log=log, chance_loss=math.log(4097)).draw()
    Curves(tmp_path / "curves.png", log={0: {"loss": 5.5}}).draw()
    axes, short = ({each.get_title(): each for each in figure.axes} for figure in figures)
    loss, chance = axes["Contrastive loss"].lines
    assert loss.get_xydata().tolist() == [[1, 5.5], [2, 4.5], [3, 5.5]]
    assert set(chance.get_ydata()) == {math.log(4097)}
    assert axes["Contrast accuracy (top-1)"].lines[0].get_ydata().tolist() == [25, 50, 25]
    assert axes["kNN accuracy of the features"].lines[0].get_xydata().tolist() == [[1, 71.5], [3, 71.5]]
    assert axes["Learning rate"].lines[0].get_ydata().tolist() == [0.03, 0.01, 0.03]
    assert not short["Learning rate"].lines
