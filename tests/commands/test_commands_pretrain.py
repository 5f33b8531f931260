"""Short runs: what they write, how they are refused, how they resume, and how they are opened again."""

import contextlib
import dataclasses
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_moco
from keras_moco import callbacks, data
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.evaluation import representation_measures
from keras_moco.methods import MoCo
from keras_moco.runs import build, load
from keras_moco.storage.locks import locked
from keras_moco.summaries import start_and_end
from tests.tiny import tiny_config
from tests.whole_runs import (
    NO_TWO_RUNS_SHARE,
    STEPS,
    arrays,
    begin,
    checkpoints,
    comparable,
    contents,
    events,
    expect_same,
    log,
    pretrain,
    results,
    stop_in_mid_epoch,
)

CHECKPOINT_FILES = ("model.weights.h5", "state.json", "manifest.json")


@contextlib.contextmanager
def with_empty_pictures():
    """Matplotlib and t-SNE take seconds; the runs of tests/test_processes.py draw."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_neighbours_of", "draw_projection"):
            patch.setattr(start_and_end, name, lambda path, *_: path.touch())
        patch.setattr(callbacks.Curves, "draw", lambda curves: curves.path.touch())
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two epochs in one go."""
    return pretrain(tiny_config(tmp_path_factory.mktemp("finished") / "run"), with_empty_pictures)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same, stopped in its second epoch: its path, and the message."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    return path, stop_in_mid_epoch(tiny_config(path))


@pytest.fixture
def early(stopped, tmp_path):
    """The stopped run in a folder that a test may write to."""
    return shutil.copytree(stopped[0], tmp_path / "run")


def digits():
    """The split of the digits in arrays, without the package's pipeline: `(images, labels)` twice."""
    data = load_digits()
    images = np.round(data.images[..., None] * 255 / 16).astype("float32")
    parts = train_test_split(np.arange(1797), test_size=360, stratify=data.target, random_state=0)
    return [(images[part], data.target[part]) for part in parts]


# What a run writes


def test_a_run_writes_all_outputs_and_nothing_else(finished):
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    shown = {name.removeprefix("tensorboard/train/") for name in files if name.startswith("tensorboard/")}
    saved_model = {name for name in files if name.startswith("export/saved_model/")}
    assert "export/saved_model/saved_model.pb" in saved_model
    assert len([name for name in shown if "tfevents.1" in name]) == 1
    assert {name for name in shown if "tfevents.1" not in name} == {
        *("events.out.tfevents.0.settings.whole", "events.out.tfevents.0.views.whole"),
        *("projector_config.pbtxt", "features.tsv", "labels.tsv", "sprite.png"),
    }
    assert {name for name in files - saved_model if not name.startswith("tensorboard/")} == {
        *("flags.cfg", "log.csv", "results.json", "export/backbone.keras", "export/MODEL_CARD.md"),
        *("curves.png", "views.png", "neighbours.png", "embedding.png"),
        *(f"checkpoints/step-0000000{step}/{name}" for step in (11, 22) for name in CHECKPOINT_FILES),
    }
    assert read_flagfile(finished.path / "flags.cfg") == finished.config


def test_log_has_a_row_per_epoch(finished):
    first, second = log(finished.path)
    assert (first["epoch"], second["epoch"]) == ("0", "1")
    columns = "loss contrast_top1 contrast_top5 positive_similarity negative_similarity feature_std queue_fill".split()
    columns += "key_momentum knn_top1 alignment uniformity effective_rank learning_rate".split()
    columns += [name for name in NO_TWO_RUNS_SHARE if name != "seconds"]
    for row in (first, second):
        assert set(row) == {"epoch", *columns}
        assert all(np.isfinite(float(row[name])) for name in columns)
        assert 0 < float(row["loss"]) < 2 * np.log(501)
        assert 1 < float(row["knn_top1"]) <= 100  # percent
    assert float(second["queue_fill"]) == pytest.approx(1)  # full after 4 of 11 steps
    assert float(first["queue_fill"]) == pytest.approx(np.mean([128 / 500, 256 / 500, 384 / 500] + 8 * [1]), rel=1e-5)


@pytest.mark.slow
def test_log_measures_fixed_views_of_training_images(finished):
    train = data.array_source(digits()[0][0].astype("uint8"))
    augmentation = build.build_augmentation(finished.config)
    views = data.pretrain_dataset(train, augmentation, 128, seed=1, entries=("query", "key")).take(STEPS)
    encoder = load.load_model(finished.path)[1].encoder
    pairs = [np.concatenate([encoder(batch[name]) for batch in views]) for name in ("query", "key")]
    last, measures = log(finished.path)[-1], representation_measures(*pairs)
    assert len(pairs[0]) == STEPS * 128
    # Rounding differs from the compiled step: the same sums in another order.
    for name, rel in {"alignment": 1e-4, "uniformity": 1e-4, "effective_rank": 1e-3}.items():
        assert float(last[name]) == pytest.approx(getattr(measures, name), rel=rel), name


def test_last_learning_rate_is_that_of_the_last_step(finished):
    rate = 0.1 * 128 / 256 * (1 + np.cos(np.pi * np.array([STEPS, 2 * STEPS]) / (2 * STEPS))) / 2
    logged = [float(row["learning_rate"]) for row in log(finished.path)]
    # The rate of the step just done, or of the next one.
    assert logged == pytest.approx(rate, abs=0.1 * 128 / 256 * np.pi / 2 / (2 * STEPS))


def test_results_are_in_percent_and_in_the_file(finished):
    found = finished.results
    assert results(finished.path) == found
    assert set(found) == {
        *("replicas", "train_examples", "train_licence", "knn_top1_initial", "knn_top1"),
        *("epochs", "steps", "seconds", "versions", "has_checkpoints", "checkpoints"),
    }
    last = found["checkpoints"]["export"]
    assert found["checkpoints"] == {"knn_top1_initial": {"step": 0}, "knn_top1": last, "export": last}
    card = (finished.path / "export" / "MODEL_CARD.md").read_text()
    assert last["step"] == 2 * STEPS and f"| checkpoint | step 22, `{last['weights']}` |" in card
    assert found["train_examples"] == 1437 and "CC BY 4.0" in found["train_licence"]  # as UCI says
    assert 20 < found["knn_top1_initial"] < 100
    assert found["knn_top1"] == pytest.approx(float(log(finished.path)[-1]["knn_top1"]), abs=0.005)
    assert (found["epochs"], found["steps"]) == (2, 2 * STEPS) and found["seconds"] > 0
    versions = {module.__name__: module.__version__ for module in (keras_moco, keras, tf)}
    assert found["versions"] == versions


def test_printed_text_says_what_was_done_and_names_the_files(finished):
    text, before, after = finished.printed, finished.results["knn_top1_initial"], finished.results["knn_top1"]
    assert "epoch 1/2 step 5/11 " in text and "epoch 2/2 done " in text
    assert f"kNN top-1: {before:.2f} % before, {after:.2f} % after" in text
    for name in ("results.json", "log.csv", "checkpoints", "export", "tensorboard"):
        assert text.count(f"{finished.path / name}\n") == 1
    assert f"keras-moco evaluate knn --workdir={finished.path}\n" in text
    assert not [
        words for words in ("resumed", "note: the configuration", "note: this run", "warning: ") if words in text
    ]


def test_tensorboard_has_every_column_of_the_log(finished):
    found = events(finished.path)
    names = [tag.rpartition("/")[2] for tag, epoch, _ in found if epoch == 1]
    assert sorted(names) == sorted([*set(log(finished.path)[0]) - {"epoch"}, "chance_loss", "positive", "negative"])
    losses = [value for tag, _, value in found if tag == "contrast/loss"]
    assert losses == pytest.approx([float(row["loss"]) for row in log(finished.path)], rel=1e-6)
    once = {tag for tag, _, _ in found} - {tag for tag, epoch, _ in found if epoch == 1}
    assert once == {"configuration", "plan", "views", "_hparams_/session_start_info", "custom_scalars__config__"}


def test_checkpoint_holds_place_log_and_configuration(finished):
    state = json.loads((checkpoints(finished.path)[-1] / "state.json").read_text())
    assert (state["step"], state["epoch"], state["step_in_epoch"]) == (2 * STEPS, 2, 0)
    for row, logged in zip(log(finished.path), state["log"].values(), strict=True):
        assert {name: float(value) for name, value in row.items() if name != "epoch"} == pytest.approx(logged)
    assert state["versions"] == finished.results["versions"]
    assert state["extra"]["train_examples"] == 1437 and state["extra"]["bad_images"] == {}
    assert state["extra"]["config"] == json.loads(json.dumps(dataclasses.asdict(finished.config)))


def test_reported_accuracy_is_that_of_the_exported_backbone(finished):
    backbone = keras.models.load_model(finished.path / "export" / "backbone.keras")
    (bank, bank_labels), (queries, labels) = digits()
    bank, queries = (backbone.predict(images, verbose=0).astype("float64") for images in (bank, queries))
    bank, queries = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in (bank, queries))
    similarities = queries @ bank.T
    votes = np.zeros((360, 10))
    for row, neighbours in enumerate(np.argsort(-similarities, axis=1)[:, :20]):
        np.add.at(votes[row], bank_labels[neighbours], np.exp(similarities[row, neighbours] / 0.1))
    accuracy = 100 * np.mean(votes.argmax(axis=1) == labels)
    assert finished.results["knn_top1"] == pytest.approx(accuracy, abs=0.6)  # two near ties of 360


def test_loaded_run_is_the_last_checkpoint(finished):
    plan, model = load.load_model(finished.path)
    assert plan.config == finished.config
    saved = {array.tobytes() for name, array in arrays(checkpoints(finished.path)[-1]).items() if "encoder/" in name}
    assert all(np.array(weight).tobytes() in saved for weight in model.encoder.weights)


# Resuming


def test_stopped_run_has_saved_everything(stopped):
    path, message = stopped
    saved = path / "checkpoints" / "step-000000019"
    for words in ("SIGTERM", "step 19 (epoch 2, 8 of 11 steps)", str(saved)):
        assert words in message
    assert [saved.name for saved in checkpoints(path)] == ["step-000000011", "step-000000019"]
    recorded = {"replicas", "train_examples", "train_licence", "knn_top1_initial", "seconds"}
    recorded |= {"has_checkpoints", "checkpoints"}
    assert set(results(path)) == recorded and results(path)["seconds"] > 0
    assert len(log(path)) == 1 and not (path / "export").exists()


def test_resumed_run_ends_in_the_same_bits(early, finished):
    then = arrays(checkpoints(early)[-1])
    resumed = pretrain(tiny_config(early))
    saved = early / "checkpoints" / "step-000000019"
    assert f"resumed from {saved} after 1 of 2 epochs and 8 of 11 steps\n" in resumed.printed
    assert "epoch 1/2" not in resumed.printed and "epoch 2/2 done" in resumed.printed
    expect_same(early, finished.path)
    # Both encoders, queue, optimizer: nothing is missing from what is compared, and training changes most of it.
    now = arrays(checkpoints(early)[-1])
    for part in ("encoder/backbone", "encoder/head", "key_encoder", "layers/feature_queue", "optimizer", "vars"):
        assert any(name.startswith(part) for name in now), part
    assert sum(np.array_equal(then[name], now[name]) for name in now) < len(now) / 5


def test_finished_run_trains_nothing_more(finished, tmp_path, monkeypatch):
    copy = shutil.copytree(finished.path, tmp_path / "run")
    monkeypatch.setattr(MoCo, "fit", lambda *_, **__: pytest.fail("trained again"))
    before = arrays(checkpoints(copy)[-1])
    again = pretrain(tiny_config(copy, on_nan="skip"))
    assert again.results.pop("steps_skipped") == 0  # reported where steps may be skipped
    assert comparable(again.results) == comparable(finished.results)
    assert again.results["seconds"] >= finished.results["seconds"]
    assert log(copy) == log(finished.path)
    after = arrays(checkpoints(copy)[-1])
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_trained_model_has_no_accuracy_before_training(finished, tmp_path):
    """As of a converted run, or where the results have been deleted."""
    copy = shutil.copytree(finished.path, tmp_path / "run")
    (copy / "results.json").unlink()
    again = pretrain(tiny_config(copy))
    assert "knn_top1_initial" not in again.results and "before" not in again.printed
    assert f"kNN top-1: {finished.results['knn_top1']:.2f} % after training\n" in again.printed


@pytest.mark.slow
def test_run_begins_with_the_weights_of_another(finished, tmp_path):
    printed = begin(tiny_config(tmp_path / "run", init_from=str(finished.path), queue_size=300, seed=3))
    assert f"begins with the weights of {finished.path}\n" in printed and "resumed" not in printed
    assert results(tmp_path / "run")["knn_top1_initial"] == finished.results["knn_top1"]
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-000000000"]


# Damaged checkpoints


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {"model.weights.h5": zero, "state.json": truncate, "manifest.json": os.unlink}


@pytest.mark.parametrize("name", ["model.weights.h5", pytest.param("manifest.json", marks=pytest.mark.slow)])
def test_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(name, early):
    before, newest = checkpoints(early)
    DAMAGES[name](newest / name)
    printed = begin(tiny_config(early))
    aside = newest.with_name(f"damaged-{newest.name}")
    assert re.search(rf"^note: {newest} is damaged \({name} .+\), now {aside};", printed, re.M)
    assert f"resumed from {before} after 1 of 2 epochs\n" in printed
    assert aside.is_dir() and checkpoints(early) == [before]


def test_run_whose_checkpoints_are_all_damaged_is_refused_and_stays_as_it_is(early):
    for path, name in zip(checkpoints(early), DAMAGES, strict=False):
        DAMAGES[name](path / name)
    before = contents(early)
    with pytest.raises(ValueError) as caught:
        pretrain(tiny_config(early))
    assert all(f"{path} (" in str(caught.value) for path in checkpoints(early))
    assert contents(early) == before


def test_run_in_use_or_without_its_checkpoints_is_refused_and_stays_as_it_is(early, tmp_path):
    def refused(received):
        before = contents(early)
        with pytest.raises(ValueError, match=f"Received: {received}"):
            pretrain(tiny_config(early))
        assert contents(early) == before

    with locked(early / "training"):
        refused(f"{early}, where process {os.getpid()} on ")
    (early / "checkpoints").rename(tmp_path / "purged")
    refused(f"{early / 'checkpoints'} without any, while {early / 'log.csv'} has 1 epoch")


# Another configuration


def test_changed_setting_is_refused_until_it_is_allowed(early):
    before, longer = contents(early), tiny_config(early, epochs=3)
    with pytest.raises(ValueError, match="with epochs: 2 -> 3.* --allow_config_change=epochs"):
        pretrain(longer)
    with pytest.raises(ValueError, match=r"embedding_dim: 16 -> 8, epochs: 2 -> 3\.(?!.*allow_config_change)"):
        pretrain(dataclasses.replace(longer, embedding_dim=8))
    assert contents(early) == before
    printed = begin(dataclasses.replace(longer, allow_config_change=("epochs",)))
    assert re.search("^note: the configuration changes from step 19 on: epochs: 2 -> 3$", printed, re.M)
    assert results(early)["config_changes"] == [{"step": 19, "epochs": "2 -> 3"}]
    # It is the run's own from now on, and the old value would be the change.
    assert "resumed from" in begin(longer)
    with pytest.raises(ValueError, match="epochs: 3 -> 2"):
        pretrain(tiny_config(early))


def test_settings_derived_from_the_data_stay_with_the_run(tmp_path):
    config = tiny_config(tmp_path / "run", queue_size=None, knn_k=None, image_mean="auto")
    printed = begin(config)
    smallest = np.bincount(digits()[0][1]).min()
    assert (1437 // 5, 1437 // 10, smallest) == (287, 143, 139)
    assert re.search("^note: --queue_size was not given; it is 256, ", printed, re.M)  # two steps of 128
    assert re.search("^note: --knn_k was not given; 138 ", printed, re.M)
    flagfile = tmp_path / "run" / "flags.cfg"
    # Of a sample of 1,024 of the 1,437 images.
    (mean,) = read_flagfile(flagfile).image_mean
    assert mean == pytest.approx(digits()[0][0].mean() / 255, abs=0.005) and mean == round(mean, 4)
    assert f"scaling: mean {mean}, std 0.38 " in printed
    assert read_flagfile(flagfile) == dataclasses.replace(config, queue_size=256, knn_k=138, image_mean=(mean,))
    for same in (config, read_flagfile(flagfile)):
        begin(same)
        assert read_flagfile(flagfile).queue_size == 256
    before = contents(tmp_path)
    others = ({"queue_size": 512}, "256 -> 512"), ({"batch_size": 256}, "batch_size: 128 -> 256")
    for other, change in (*others, ({"image_mean": (0.5,)}, rf"image_mean: \({mean},\) -> \(0.5,\)")):
        with pytest.raises(ValueError, match=change):
            pretrain(dataclasses.replace(config, **other))
    assert contents(tmp_path) == before


# Beyond the finite numbers


@pytest.mark.slow
def test_run_beyond_the_finite_numbers_ends_with_its_last_good_checkpoint(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(callbacks.NotFiniteError) as caught:
        pretrain(tiny_config(run, base_learning_rate=1e30, checkpoint_minutes=1e-9))
    message = str(caught.value)
    found = re.search(r"in step (\d+) of epoch 1, at learning rate [45]\.?\d*e\+29", message)
    assert found and 1 <= int(found[1]) <= STEPS and "--on_nan=skip" in message, message
    saved = checkpoints(run)
    assert str(saved[-1]) in message if saved else "None is saved" in message
    floats = (array for path in saved for array in arrays(path).values() if array.dtype.kind == "f")
    assert all(np.isfinite(array).all() for array in floats)
