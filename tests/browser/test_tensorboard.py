"""What a person finds on the pages of TensorBoard: a real server of a run that was trained, in a real browser."""

import collections
import os
import re
import shutil

import pytest
from PIL import Image

from keras_moco.callbacks.event_log import tag
from keras_moco.commands import pretrain
from tests.browser.board import Board, browse, serve, until
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow
EPOCHS = 2
# Scripts for the pages, by the functions in `board.DEEP`.
CLOSED = "deep('.heading:not([open-button])')"
OPEN = f"{CLOSED}.filter(each => textOf(each).includes(arguments[0])).forEach(each => each.click())"
SIZES = "return deep('img[src*=individualImage]').map(each => [each.naturalWidth, each.naturalHeight])"
OUTLINES = "return deep('vz-histogram-timeseries').map(each => deep('path.outline', each.shadowRoot).length)"
LOADED = "return performance.getEntriesByType('resource').map(each => each.name)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        reason = "needs Debian's packages chromium and chromium-driver"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "export_backbone", lambda *_: None)  # which TensorBoard does not show
        pretrain.pretrain(tiny_config(workdir, epochs=EPOCHS))
    return workdir


@pytest.fixture(scope="module")
def board(run, tmp_path_factory):
    with serve(run.parent) as address, browse(tmp_path_factory.mktemp("profile")) as driver:
        yield Board(driver, address)


def test_scalars_are_grouped_and_loss_shares_a_chart_with_chance_level(board, run):
    board.open("scalars")
    names = [tag(name) for name in ["chance_loss", *(run / "log.csv").read_text().splitlines()[0].split(",")[1:]]]
    groups = collections.Counter(name.partition("/")[0] for name in names)
    assert groups.keys() == {"contrast", "features", "schedule", "speed"} and len(names) == 17
    for group, count in groups.items():
        board.wait_for(".heading", rf"^{group} {count}$")
        board.run(OPEN, group)
    for name in names:
        board.wait_for("tf-scalar-card", rf"tag: {name}\b.* \d")  # with numbers at its axes
    board.open("custom_scalars")
    both = r"^loss, (?=.* contrast/chance_loss )(?=.* contrast/loss )"  # in whatever order
    board.wait_for("tf-custom-scalar-multi-line-chart-card", both)


def test_the_images_are_the_views(board, run):
    board.open("images")
    board.wait_for("tf-image-loader", "tag: views .* query above key")
    with Image.open(run / "views.png") as picture:
        until(lambda: board.run(SIZES) == [list(picture.size)], "the picture of the views")


def test_hyperparameters_list_the_run_with_its_metrics(board, run):
    board.open("hparams")
    table = board.wait_for("tf-hparams-table-view", re.escape(str(run)))
    assert re.search("Trial ID .* moco_cifar false tiny 8", table)
    names = board.wait_for("tf-hparams-query-pane", "features/knn_top1")
    assert all(f" {name} " in names for name in ("temperature", "key_momentum", "contrast/loss"))


def test_the_histograms_are_those_of_similarities(board):
    board.open("histograms")
    for name in ("positive", "negative"):
        board.wait_for("tf-histogram-loader", rf"tag: similarities/{name} .*\d")
    until(lambda: board.run(OUTLINES) == [EPOCHS, EPOCHS], "a histogram for each epoch")


def test_the_projector_has_loaded_all_points_with_images_and_labels(board):
    board.open_projector()
    assert (board.texts(".numDataPoints"), board.texts(".dim")) == (["360"], ["8"])
    assert board.wait_for("vz-projector-data-panel", "class 10 colors index")
    until(lambda: any("sprite_image" in name for name in board.run(LOADED)), "the sprite")
    assert board.elements("canvas")
