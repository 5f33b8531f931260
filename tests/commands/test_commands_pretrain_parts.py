"""What `pretrain` is made of: the order of its acts, its callbacks, and what it makes of a checkpoint."""

import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.callbacks import Checkpoint, EpochLog
from keras_moco.commands import build_callbacks, pretrain, resume
from keras_moco.data.bad_images import BadImages
from keras_moco.distribution import determinism, make_strategy
from keras_moco.loggers import make_loggers, optional_callbacks
from keras_moco.methods import MemoryBank, MoCo
from keras_moco.optimizers import SGD
from keras_moco.runs import build
from keras_moco.runs.checkpoints import save
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.versions import versions
from tests.small_encoder import small_encoder
from tests.tiny import tiny_config
from tests.whole_runs import contents, events


def tiny_plan(folder="nowhere", **settings):
    return pretrain.Plan(tiny_config(folder, **settings), 1437, 1, 1)


def resume_with(model, checkpoint, train, **settings):
    run = RunDirectory(checkpoint.directory.parent)
    return resume.resume(model, checkpoint, train, tiny_config(run.path, **settings), run)


# Before anything else


def test_a_run_that_has_trained_and_has_no_checkpoint_is_refused(tmp_path):
    """As on a scratch disk that was purged; a run that has not come to its first epoch begins anew."""
    run = RunDirectory(tmp_path / "run")
    resume.check_checkpoints(run)
    run.claim(tiny_config(run.path))
    run.results.record(knn_top1_initial=10.0, train_examples=1437)
    EpochLog(run.log_csv).write()
    resume.check_checkpoints(run)
    before = contents(run.path)
    log = EpochLog(run.log_csv)
    for change, found in [
        (lambda: log.on_epoch_end(0, {"loss": 1.5}), f"{run.log_csv} has 1 epoch"),
        (
            lambda: (run.log_csv.unlink(), run.results.record(has_checkpoints=True)),
            f"{run.results_json} mentions some",
        ),
    ]:
        change()
        before = contents(run.path)
        with pytest.raises(
            ValueError, match=rf"Received: {run.checkpoints} without any, while {found}.*delete {run.path}\."
        ):
            resume.check_checkpoints(run)
        assert contents(run.path) == before
    (run.checkpoints / "step-000000000").mkdir(parents=True)  # whole or not, which `resume` finds out
    resume.check_checkpoints(run)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"dry_run": True}, ["dry run"]),
        ({"dry_run": True, "deterministic": True, "seed": 5}, ["determinism 5", "dry run"]),
        ({"require_gpu": True}, ["GPU", "strategy"]),
        ({}, ["strategy"]),
    ],
)
def test_determinism_and_gpu_come_first(settings, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrain, "make_deterministic", lambda seed: asked.append(f"determinism {seed}"))
    monkeypatch.setattr(pretrain, "dry_run", lambda *_: asked.append("dry run"))
    monkeypatch.setattr(pretrain.distribution, "check_gpu", lambda: asked.append("GPU"))
    monkeypatch.setattr(pretrain, "pretrain_on", lambda *_: asked.append("strategy"))
    pretrain.pretrain(tiny_config("nowhere", **settings))
    assert asked == expected


def test_determinism_is_tensorflows_with_everything_seeded(monkeypatch):
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    determinism.make_deterministic(5)
    first = np.random.random(), float(tf.random.uniform(()))
    determinism.make_deterministic(5)
    assert (np.random.random(), float(tf.random.uniform(()))) == first
    assert asked == [True, True]


def test_time_limit_counts_from_the_start(monkeypatch, tmp_path):
    class Begun(Exception):
        pass

    def begin(*arguments):
        raise Begun(*arguments)

    prepared = []
    config = tiny_config(tmp_path / "run", max_minutes=55.5)
    plan = pretrain.Plan(config, 1437, 1, 1)
    setup = SimpleNamespace(plan=plan, monitor=None, train=None, augmentation=None, loggers=())
    monkeypatch.setattr(pretrain, "prepare", lambda *_: prepared.append(time.monotonic()) or setup)
    monkeypatch.setattr(pretrain, "build", lambda *_: (SimpleNamespace(steps_done=0, required=()), "checkpoint"))
    for name in ("build_representation_monitor", "build_callbacks", "show_start"):
        monkeypatch.setattr(pretrain, name, lambda *_: [])
    monkeypatch.setattr(pretrain.callbacks, "Stopping", begin)
    with pytest.raises(Begun) as begun:
        pretrain.pretrain(config)
    checkpoint, minutes, started = begun.value.args
    assert (checkpoint, minutes) == ("checkpoint", 55.5) and prepared[0] - 60 < started <= prepared[0]


@pytest.mark.parametrize("begun", [False, True])
def test_faults_of_the_images_are_noted_once_before_a_run_and_not_when_it_resumes(begun, tmp_path, capsys):
    for number in range(20):
        pixels = np.random.default_rng(number % 19).integers(0, 256, (9, 9, 3), dtype="uint8")
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    run = RunDirectory(tmp_path / "run")
    settings = {"dataset": f"folder:{tmp_path}/photos", "batch_size": 4, "queue_size": 4, "knn_k": None}
    settings |= {"image_mean": (0.5,), "image_std": (0.29,)}
    config = tiny_config(run.path, **settings)
    if begun:
        run.claim(config)
        (run.checkpoints / "step-000000000").mkdir(parents=True)
    setup = pretrain.prepare(run, config, make_strategy("one"))
    printed = capsys.readouterr().out
    expected = [
        f"note: 2 of a sample of 20 images are identical to another one, such as {tmp_path}/photos/00.png = "
        f"{tmp_path}/photos/19.png; they are contrasted as if they were different. Keep one of each",
        f"note: keras-moco check folder:{tmp_path}/photos looks at all images",
    ]
    assert printed.splitlines().count(setup.plan.describe().splitlines()[0]) == 1
    assert printed.endswith("\n".join([setup.plan.describe(), *([] if begun else expected), ""]))


# What is built


def initial_weights(**settings):
    plan = tiny_plan(**settings)
    return [np.array(weight) for weight in build.build_encoder(plan.config, plan.channels).weights]


def test_initial_weights_depend_on_the_seed_alone():
    first = initial_weights()
    keras.random.normal((3,))
    keras.layers.Dense(2).build((None, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, initial_weights(temperature=0.5), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, initial_weights(seed=1), strict=True))


@pytest.mark.parametrize("on_nan, skips", [("stop", False), ("skip", True)])
def test_model_skips_steps_that_are_not_finite_where_asked_to(on_nan, skips):
    assert build.build_model(tiny_plan(on_nan=on_nan), make_strategy("one")).skip_not_finite is skips


def test_at_most_2048_images_are_measured_and_half_a_batch_is_not(monkeypatch):
    def pairs(train, augmentation, batch, seed, entries):
        assert seed == 6 and entries == ("query", "key")  # views that are no training batch
        return tf.data.Dataset.from_tensors({name: tf.zeros((batch, 8, 8, 1)) for name in entries}).repeat(100)

    monkeypatch.setattr(build_callbacks.data, "pretrain_dataset", pairs)
    config = tiny_config("nowhere", knn_every_epochs=0, epochs=7, seed=5)
    for images, batches, batch in [(10_000, 16, 128), (1437, 11, 128), (40, 1, 40)]:
        train = SimpleNamespace(num_examples=images, buffer=None)
        monitor = build_callbacks.build_representation_monitor(config, train, None)
        assert (monitor.every_epochs, int(monitor.views.cardinality())) == (7, batches)
        assert monitor.views.element_spec["image"].shape == (2 * batch, 8, 8, 1)


def test_callbacks_that_add_to_the_logs_come_first_and_the_checkpoint_last(tmp_path):
    run = pretrain.RunDirectory(tmp_path)
    monitor, checkpoint = keras.callbacks.Callback(), Checkpoint(run.checkpoints)
    checkpoint.log = {0: {"loss": 4.5}}
    plan = tiny_plan(tmp_path)
    loggers = make_loggers(plan.config.log_to, run, plan)
    callbacks = build_callbacks.build_callbacks(plan, run, [monitor], checkpoint, 1, loggers)
    names = [type(getattr(callback, "callback", callback)).__name__ for callback in callbacks]
    assert names == "Callback Progress NotFiniteGuard Health EpochLog EventLog Curves Checkpoint".split()
    assert callbacks[-1] is checkpoint and callbacks[2].checkpoint is checkpoint
    # Those that draw and write know what was before, and training can do without them.
    writers = callbacks[4:7]
    assert {type(callback).__name__ for callback in writers} == {"OptionalOutput"}
    assert writers[0].callback.log == writers[2].callback.log == checkpoint.log
    assert [callback.what for callback in writers] == [str(run.log_csv), str(run.tensorboard), str(run.curves)]


def test_events_of_epochs_that_are_trained_again_are_dropped(tmp_path):
    run = pretrain.RunDirectory(tmp_path)
    with tf.summary.create_file_writer(str(run.tensorboard / "train")).as_default():
        for epoch in range(3):
            tf.summary.scalar("contrast/loss", epoch + 0.5, step=epoch)
    plan = tiny_plan(tmp_path)
    optional_callbacks(make_loggers(["tensorboard"], run, plan), [], {}, 1)
    assert events(tmp_path) == [("contrast/loss", 0, 0.5)]


def test_checkpoint_has_the_settings_of_the_configuration(tmp_path):
    settings = dict(checkpoint_epochs=3, checkpoint_minutes=0.5, checkpoint_share=0.2)
    plan = tiny_plan(tmp_path, keep_checkpoints=4, keep_every_epochs=5, **settings)
    checkpoint = resume.build_checkpoint(plan, pretrain.RunDirectory(tmp_path), images(), lambda: None)
    assert (checkpoint.every_epochs, checkpoint.every_minutes, checkpoint.max_share) == (3, 0.5, 0.2)
    assert (checkpoint.keep, checkpoint.keep_every_epochs, checkpoint.keep_best) == (4, 5, "knn_top1")


def test_labels_without_a_test_split_give_no_accuracy(capsys, tmp_path):
    (tmp_path / "one_class").mkdir()
    Image.fromarray(np.zeros((8, 8), "uint8")).save(tmp_path / "one_class" / "0.png")
    config = tiny_config(tmp_path / "run", dataset=f"folder:{tmp_path}")
    train = pretrain.data.open_source(config.dataset)
    assert train.class_names == ("one_class",)
    assert pretrain.labelled_test_split(config, train) is None
    assert "note: there is no kNN accuracy" in capsys.readouterr().out


def test_test_split_may_lack_classes_but_have_no_others(tmp_path):
    """A number of a class must stand for the same one in both; a note instead of the error would hide it."""
    for name in ("train/ant", "train/bee", "test/bee"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), "uint8")).save(tmp_path / name / "0.png")
    config = tiny_config(tmp_path / "run", dataset=f"folder:{tmp_path}")
    train = pretrain.open_split(config, "train")
    test = pretrain.labelled_test_split(config, train)
    assert test.class_names == ("ant", "bee") and test.labels().tolist() == [1]
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "cat")
    with pytest.raises(ValueError, match=r"has 1 classes \(cat\) that training, of 2 classes \(ant, bee\), does not"):
        pretrain.labelled_test_split(config, train)


# What has changed since a checkpoint was saved


@pytest.fixture
def model():
    """A small one, compiled and built."""
    model = MoCo(small_encoder(batch_norm=False), queue_size=8)
    model.compile(optimizer=SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


def images(number=100, met=(), **digests):
    """What `resume` looks at of a source, and the unreadable images that it has met."""
    bad = BadImages(number, "number {}".format, max_fraction=0.5)
    for index in met:
        bad.report(index)
    return SimpleNamespace(name="folder:images", num_examples=number, bad=bad, digests=digests)


def checkpoint_of(train, folder):
    return resume.build_checkpoint(tiny_plan(folder), pretrain.RunDirectory(folder), train, lambda: None)


def saved_with(model, train, folder, step=3):
    checkpoint = checkpoint_of(train, folder)
    checkpoint.set_model(model)
    model.step.assign(step)
    assert checkpoint.save(epoch=0, step_in_epoch=step)
    model.step.assign(0)
    return checkpoint.saved


def test_changes_count_from_the_checkpoint_whatever_flags_cfg_says(model, tmp_path):
    """Which may have been edited; and a process may have been killed before its first own checkpoint."""
    run, train = RunDirectory(tmp_path), images()
    run.claim(tiny_config(tmp_path, temperature=0.5, seed=7))
    checkpoint = checkpoint_of(train, tmp_path)
    checkpoint.set_model(model)
    checkpoint.save(0, 0)
    assert resume_with(model, checkpoint, train) == {}
    with pytest.raises(ValueError, match=r"temperature: 0.1 -> 0.5, seed: 0 -> 7\. "):
        resume_with(model, checkpoint, train, temperature=0.5, seed=7)
    with pytest.raises(ValueError, match="temperature: 0.1 -> 0.5. .*--allow_config_change=temperature"):
        resume_with(model, checkpoint, train, temperature=0.5)
    allowed = {"temperature": 0.5, "allow_config_change": ("temperature",)}
    changed = resume_with(model, checkpoint, train, **allowed)
    assert changed == {"temperature": "0.1 -> 0.5"}
    resume.note_changes(changed, model, run)
    assert (
        resume_with(model, checkpoint, train, **allowed) == resume_with(model, checkpoint, train, temperature=0.5) == {}
    )
    assert run.results.read()["config_changes"] == [{"step": 0, **changed}]


def test_resuming_reports_nothing_where_nothing_has_changed(model, tmp_path, capsys):
    resume_with(model, checkpoint_of(images(), tmp_path), images(number=7))
    assert model.steps_done == 0  # there was no checkpoint
    saved = saved_with(model, images(), tmp_path)
    checkpoint = checkpoint_of(images(), tmp_path)
    resume_with(model, checkpoint, images())
    assert (model.steps_done, checkpoint.saved) == (3, saved)
    assert capsys.readouterr().out == ""


def test_another_number_of_images_is_refused(model, tmp_path):
    saved_with(model, images(), tmp_path)
    for number in (99, 101):
        expected = rf"{number} images in folder:images, 100 before.*--init_from={tmp_path}\."
        with pytest.raises(ValueError, match=expected):
            resume_with(model, checkpoint_of(images(number), tmp_path), images(number))


def test_checkpoint_without_a_number_of_images_fits_any(model, tmp_path):
    model.step.assign(3)
    save(model, tmp_path / "checkpoints")  # as of a converted run
    model.step.assign(0)
    resume_with(model, checkpoint_of(images(), tmp_path), images(99))
    assert model.steps_done == 3


def test_unreadable_images_are_known_after_resuming(model, tmp_path, caplog):
    saved_with(model, images(met=(17, 4)), tmp_path)
    caplog.clear()
    train = images()
    resume_with(model, checkpoint_of(train, tmp_path), train)
    assert train.bad.met == {17: "number 17", 4: "number 4"}
    train.bad.report(17)
    assert train.bad.count == 2 and caplog.records == []


def test_changed_images_are_reported_and_checked_again(model, tmp_path, capsys):
    saved_with(model, images(met=(17,), names="a", sizes="b", classes="c"), tmp_path)
    train = images(names="a", sizes="d", classes="e")
    resume_with(model, checkpoint_of(train, tmp_path), train)
    (note,) = capsys.readouterr().out.splitlines()
    assert "note: the sizes and classes of the training images changed since; " in note
    assert model.steps_done == 3 and train.bad.met == {}
    # The same ones in another place, whose name has changed, are the same.
    train = images(names="a", sizes="b", classes="c")
    train.name = "folder:elsewhere"
    resume_with(model, checkpoint_of(train, tmp_path), train)
    assert capsys.readouterr().out == "" and list(train.bad.met) == [17]


def test_checkpoint_of_an_older_version_compares_the_name_of_the_images(model, tmp_path, capsys):
    saved_with(model, images(met=(17,)), tmp_path)
    train = images(names="a")
    resume_with(model, checkpoint_of(train, tmp_path), train)
    assert capsys.readouterr().out == "" and list(train.bad.met) == [17]


def test_memory_bank_resumes_only_with_its_own_images(tmp_path):
    bank = MemoryBank(small_encoder(batch_norm=False), bank_size=100, num_negatives=8)
    bank.compile(optimizer=SGD(0.1))
    bank.optimizer.build(bank.trainable_variables)
    saved_with(bank, images(names="a"), tmp_path)
    resume_with(bank, checkpoint_of(images(names="a"), tmp_path), images(names="a"))
    assert bank.steps_done == 3
    with pytest.raises(ValueError, match=rf"of which the names changed since\. .*--init_from={tmp_path}\."):
        resume_with(bank, checkpoint_of(images(names="b"), tmp_path), images(names="b"))


def test_another_number_of_replicas_is_reported(tmp_path, capsys):
    run = pretrain.RunDirectory(tmp_path)
    for replicas in (1, 1, 2):
        config = tiny_config(tmp_path)
        resume.note_replicas(pretrain.Plan(config, 1437, 1, replicas), run)
    (note,) = capsys.readouterr().out.splitlines()
    assert note.startswith("note: this run had 1 replica(s) before, now 2; ")
    assert run.results.read() == {"replicas": 2}


def test_other_versions_are_reported(model, tmp_path, capsys, monkeypatch):
    saved_with(model, images(), tmp_path)
    monkeypatch.setattr(resume, "versions", lambda: {**versions(), "keras": "99"})
    resume_with(model, checkpoint_of(images(), tmp_path), images())
    (note,) = capsys.readouterr().out.splitlines()
    assert note.startswith("note: ") and f"keras {keras.__version__}, tensorflow {tf.__version__};" in note
