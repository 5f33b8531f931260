"""What a person finds on the pages of TensorBoard: a real server of a run that was trained, in a real browser."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from keras_moco import training
from keras_moco.config import read_flagfile
from tests.browser.board import Board, browse, missing, serve, until

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 2
SCALARS = {
    "contrast": "chance_loss contrast_top1 contrast_top5 loss negative_similarity positive_similarity",
    "features": "alignment effective_rank feature_std knn_top1 uniformity",
    "schedule": "key_momentum learning_rate queue_fill",
    "speed": "data_wait_seconds images_per_second step_seconds",
}
# Scripts for the pages, by the functions in `board.DEEP`.
CLOSED = "deep('.heading:not([open-button])')"
OPEN = f"{CLOSED}.filter(each => told(each).includes(arguments[0])).forEach(each => each.click())"
SIZES = "return deep('img[src*=individualImage]').map(each => [each.naturalWidth, each.naturalHeight])"
OUTLINES = "return deep('vz-histogram-timeseries').map(each => deep('path.outline', each.shadowRoot).length)"
LOADED = "return performance.getEntriesByType('resource').map(each => each.name)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: the quickstart's, smaller and shorter."""
    if absent := missing():
        reason = f"needs Debian's packages chromium and chromium-driver; without {' and '.join(absent)}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config = read_flagfile(ROOT / "configs" / "quickstart.cfg")
    smaller = {"image_size": 8, "backbone_width": 4, "embedding_dim": 16, "epochs": EPOCHS, "knn_every_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "export_backbone", lambda *_: None)  # which TensorBoard does not show
        training.pretrain(dataclasses.replace(config, workdir=str(workdir), strategy="one", **smaller))
    return workdir


@pytest.fixture(scope="module")
def board(run, tmp_path_factory):
    with serve(run.parent) as address, browse(tmp_path_factory.mktemp("profile")) as driver:
        yield Board(driver, address)


def test_the_scalars_are_there_in_groups(board):
    board.open("scalars")
    for group, names in SCALARS.items():
        board.wait_for(".heading", rf"^{group} {len(names.split())}$")
        board.run(OPEN, group)
        for name in names.split():
            board.wait_for("tf-scalar-card", rf"tag: {group}/{name}\b.* \d")  # with numbers at its axes


def test_a_chart_shows_the_loss_with_that_of_chance(board):
    board.open("custom_scalars")
    both = r"^loss, (?=.* contrast/chance_loss )(?=.* contrast/loss )"  # in whatever order
    board.wait_for("tf-custom-scalar-multi-line-chart-card", both)


def test_the_images_are_the_views(board, run):
    board.open("images")
    board.wait_for("tf-image-loader", "tag: views .* query above key")
    with Image.open(run / "views.png") as picture:
        until(lambda: board.run(SIZES) == [list(picture.size)], "the picture of the views")


def test_the_text_is_the_configuration(board):
    board.open("text")
    board.wait_for("tr", "^backbone_width 4 Channels of the first stage")
    board.wait_for("td > strong", "^resnet10$")  # in bold, being no default
    board.wait_for("tf-text-loader", f"plan .* 22 in {EPOCHS} epochs")


def test_the_hyper_parameters_list_the_run_with_its_figures(board, run):
    board.open("hparams")
    table = board.wait_for("tf-hparams-table-view", re.escape(str(run)))
    assert re.search("Trial ID .* moco_cifar false resnet10 4", table)
    names = board.wait_for("tf-hparams-query-pane", "features/knn_top1")
    assert all(f" {name} " in names for name in ("temperature", "key_momentum", "contrast/loss"))


def test_the_histograms_are_those_of_similarities(board):
    board.open("histograms")
    for name in ("positive", "negative"):
        board.wait_for("tf-histogram-loader", rf"tag: similarities/{name} .*\d")
    until(lambda: board.run(OUTLINES) == [EPOCHS, EPOCHS], "a histogram for each epoch")


def test_the_projector_has_loaded_all_points_with_images_and_labels(board):
    board.open_projector()
    assert (board.texts(".numDataPoints"), board.texts(".dim")) == (["360"], ["16"])
    assert board.wait_for("vz-projector-data-panel", "class 10 colors index")
    until(lambda: any("sprite_image" in name for name in board.run(LOADED)), "the sprite")
    assert board.elements("canvas")
