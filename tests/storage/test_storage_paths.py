"""`~` is the user's home directory wherever a path can be given: in flags, where no shell expands it, and in Python."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import evaluate
import keras_moco
import keras_moco.commands.convert as convert
import train
from keras_moco import callbacks
from keras_moco.commands import preview
from keras_moco.convert import to_pytorch
from keras_moco.data import open_source
from keras_moco.evaluation import draw_confusion
from keras_moco.export import export_backbone
from keras_moco.networks import Encoder, linear_head, resnet
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import initial_weights, load_encoder
from keras_moco.runs.results import Results
from keras_moco.storage import atomic
from keras_moco.storage.paths import user_path
from keras_moco.summaries.projector import write_projector
from tests.evaluation.finished_run import write_images
from tests.small_encoder import small_encoder
from tests.small_training import make_model
from tests.summaries.test_summaries_projector import embedded
from tests.whole_runs import TINY_FLAGS, call


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert list((tmp_path / "elsewhere").iterdir()) == []  # no folder named ~


def test_a_tilde_without_a_home_directory_is_not_replaced(home):
    assert user_path("~/a") == home / "a" and user_path(Path("~") / "a") == home / "a"
    for path in ("a/~/b", "/a~", "~no_such_user/a"):
        assert user_path(path) == Path(path)


# Flags


def test_flags_expand_the_home_directory(home):
    (home / "run").mkdir()
    (home / "run" / "mine.txt").write_text("mine")
    for command, arguments, received in (
        (train, [*TINY_FLAGS, "--workdir=~/run"], f"{home}/run, which holds other things"),
        (train, [*TINY_FLAGS, "--init_from=~/nowhere"], f"{home}/nowhere. "),
        (train, [*TINY_FLAGS, "--dataset=tfrecord:~/run/*"], f"{home}/run/mine.txt"),
        (evaluate, ["knn", "--workdir=~/run"], f"{home}/run, without flags.cfg"),
        (evaluate, ["knn", "--model=~/nowhere", "--dataset=digits"], f"{home}/nowhere. "),
    ):
        assert received in call(command, *arguments).refusal, arguments
    flagfile = home / "flags.cfg"
    flagfile.write_text("--epochs=x\n")
    assert "--epochs=x" in call(train, "--flagfile=~/flags.cfg").refusal


def test_names_of_data_expand_the_home_directory(home):
    assert open_source(write_images(home / "images", "0.png").replace(str(home), "~"), "train").num_examples == 1


def test_other_commands_expand_the_home_directory(home, capsys):
    assert convert.main(["show", "~/nowhere.pth"]) == 2
    assert f"Received: {home}/nowhere.pth" in capsys.readouterr().err
    assert preview.main(["--source=digits", "--recipe=moco_cifar", "--out=~/views.png", "--images=1"]) in (0, None)
    assert (home / "views.png").exists()


# Python


def test_functions_that_write_expand_the_home_directory(home):
    model = make_model()
    paths = [
        callbacks.save(model, "~/saved"),
        export_backbone(small_encoder(), "~/export"),
        to_pytorch(Encoder(resnet("tiny", 8, "cifar", (8, 8, 1)), linear_head(8), 0.5, 0.25), "~/encoder.safetensors"),
        draw_confusion("~/confusion.png", [0, 1], [0, 1], ["a", "b"]),
        write_projector("~/points", embedded(3)),
        atomic.replace_when_written("~/a.txt", lambda path: path.write_text("a")),
        RunDirectory("~/run").path,
        Results("~/run/results.json").path,
        callbacks.Checkpoint("~/saved").directory,
        callbacks.EpochLog("~/log.csv").path,
        callbacks.Curves("~/curves.png").path,
        callbacks.EventLog("~/events").log_dir,
    ]
    assert all(path.is_relative_to(home) for path in paths), paths
    assert all(path.exists() for path in paths[:6])
    # Functions that read find it there.
    assert callbacks.is_saved("~/saved") and list(callbacks.saved_steps("~/saved")) == [0]
    assert callbacks.restore(model, "~/saved").path == home / "saved" / "step-000000000"
    images = np.zeros((2, 4, 4, 3), "float32")
    np.testing.assert_array_equal(load_encoder("~/export")(images), load_encoder(home / "export")(images))
    initial_weights("~/export")(small_encoder())


def test_every_path_that_a_user_gives_is_expanded():
    """Read from the source: `Path(path)` of an argument does not expand it."""
    raw = {}
    package = Path(keras_moco.__file__).parent
    for file in sorted(set(package.rglob("*.py")) - set(package.glob("data/*.py"))):  # which expand the names of data
        source = file.read_text(encoding="utf-8")
        for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
            names = {argument.arg for argument in function.args.args}
            text = ast.unparse(function)
            if found := {name for name in re.findall(r"\bPath\((\w+)\)(?!\.expanduser)", text) if name in names}:
                raw[f"{file.stem}.{function.name}"] = found
    assert raw == {"atomic.flush": {"path"}}, "whose argument is expanded already"
