"""A checkpoint is whole or not there, and comes back to the bit; anything else is noticed before it is read."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_moco import versions
from keras_moco.callbacks import NotFiniteError, is_saved, restore, save, saved_state, saved_steps
from keras_moco.models import MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import small_encoder
from tests.small_training import BATCH, METHODS, batches, differing, make_model, scramble, state

ROOT = Path(__file__).resolve().parents[2]
FILES = ("model.weights.h5", "state.json", "manifest.json")


def train(model, steps=1):
    model.fit(batches(model.steps_done), epochs=1, steps_per_epoch=steps, verbose=0)
    return model


def save_at(model, directory, step):
    """A checkpoint as of a step, of which nothing but the number of the step is true."""
    model.step.assign(step)
    return save(model, directory)


def names(directory):
    return sorted(os.listdir(directory))


def told(warned):
    """Texts of the warnings, all of which point to the line that asked for the checkpoint."""
    ours = [warning for warning in warned if issubclass(warning.category, UserWarning)]
    assert {warning.filename for warning in ours} <= {__file__}
    return [str(warning.message) for warning in ours]


# Everything comes back.


@pytest.mark.parametrize("method", METHODS)
def test_every_variable_of_model_and_optimizer_comes_back_to_the_bit(method, tmp_path):
    model, other = train(make_model(method), steps=3), make_model(method, seed=1)
    wanted = state(model)
    # All but what is a constant: counters of what did not happen, and a schedule's rate.
    assert len(differing(wanted, state(other))) >= len(wanted) - 3
    save(model, tmp_path)
    restore(other, tmp_path)
    assert state(other) == wanted


def test_a_checkpoint_comes_back_on_every_replica(tmp_path):
    model, other = make_model(), make_model(replicas=2, seed=1)
    for number, variable in enumerate((*model.variables, *model.optimizer.variables)):
        variable.assign(np.full(variable.shape, number + 1))
    save(model, tmp_path)
    restore(other, tmp_path)
    wanted, found = state(model), state(other)
    assert len(found) == 2 * len(wanted)
    assert found == {name[:-1] + replica: value for name, value in wanted.items() for replica in "01"}


def test_the_loss_scale_of_float16_comes_back(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model, other = make_model(), make_model(seed=1)
    model.optimizer.dynamic_scale.assign(64.0)
    model.optimizer.step_counter.assign(5)
    save(model, tmp_path)
    restore(other, tmp_path)
    assert float(other.optimizer.dynamic_scale) == 64 and int(other.optimizer.step_counter) == 5
    assert state(other) == state(model)


def test_where_training_stood_its_log_and_what_else_was_handed_over_come_back(tmp_path, model):
    model.step.assign(1170)
    log = {0: {"loss": 0.1 + 0.2, "knn_top1": 71.5}, 10: {"loss": 1e-30}}
    path = save(model, tmp_path / "new" / "folder", epoch=11, step_in_epoch=7, log=log, extra={"images": ["é.png", 3]})
    found = restore(model, tmp_path / "new" / "folder")
    assert found == saved_state.SavedState(
        path=tmp_path / "new" / "folder" / "step-000001170",
        step=1170,
        epoch=11,
        step_in_epoch=7,
        log=log,
        versions=versions.versions(),
        extra={"images": ["é.png", 3]},
    )
    assert found.path == path and found.versions["tensorflow"]
    assert saved_state.read_state(path) == found


def test_by_default_it_is_the_begin_of_a_run_without_log(tmp_path, model):
    found = saved_state.read_state(save(model, tmp_path))
    assert (found.step, found.epoch, found.step_in_epoch, found.log, found.extra) == (0, 0, 0, {}, {})


def test_a_log_with_nan_and_infinity_comes_back(tmp_path, model):
    log = saved_state.read_state(save(model, tmp_path, log={3: {"a": np.nan, "b": -np.inf}})).log
    assert np.isnan(log[3]["a"]) and log[3]["b"] == -np.inf


def test_the_newest_of_several_is_used(tmp_path, model):
    for step in (9, 100, 20):
        save_at(model, tmp_path, step)
    assert list(saved_steps(tmp_path)) == [9, 20, 100]
    assert restore(model, tmp_path).step == model.steps_done == 100


def test_steps_of_more_digits_than_usual_are_in_order(tmp_path, model):
    paths = [save_at(model, tmp_path, step) for step in (10**9, 999_999_999)]
    assert [path.name for path in paths] == ["step-1000000000", "step-999999999"]
    assert restore(model, tmp_path).step == 10**9


@pytest.mark.parametrize("content", [None, [], [".unfinished-000000003", "damaged-step-000000003", "step-3.bak"]])
def test_without_a_checkpoint_there_is_none_and_the_model_stays(tmp_path, model, content):
    directory = tmp_path / "checkpoints"
    for name in content or []:
        (directory / name).mkdir(parents=True)
    before = state(model)
    assert restore(model, directory) is None and not is_saved(directory) and saved_steps(directory) == {}
    assert state(model) == before


def test_that_of_step_0_is_one(tmp_path, model):
    save(model, tmp_path)
    assert is_saved(tmp_path) and list(saved_steps(tmp_path)) == [0]


def test_a_checkpoint_is_three_files_and_nothing_else_is_left(tmp_path, model):
    path = save(model, tmp_path)
    assert names(tmp_path) == ["step-000000000"] and names(path) == sorted(FILES)
    manifest = json.loads((path / "manifest.json").read_text())
    assert {name: entry["bytes"] for name, entry in manifest.items()} == {
        name: (path / name).stat().st_size for name in ("model.weights.h5", "state.json")
    }


def test_saving_again_at_the_same_step_replaces_it(tmp_path, model):
    save(model, tmp_path, extra={"number": 1})
    save(model, tmp_path, extra={"number": 2})
    assert names(tmp_path) == ["step-000000000"] and restore(model, tmp_path).extra == {"number": 2}


def test_everything_is_on_the_disk_before_it_has_its_name_and_the_name_behind_it(tmp_path, model, monkeypatch):
    happened = []
    rename, flush = os.rename, saved_state.flush
    monkeypatch.setattr(saved_state, "flush", lambda path: happened.append(path.name) or flush(path))
    monkeypatch.setattr(os, "rename", lambda old, new: happened.append("rename") or rename(old, new))
    save(model, tmp_path / "checkpoints")
    *before, unfinished, renamed, after = happened
    assert sorted(before) == sorted(FILES)
    assert (unfinished, renamed, after) == (".unfinished-000000000", "rename", "checkpoints")


# Saving that fails.


def fail(error):
    def failing(*_, **__):
        raise error

    return failing


@pytest.fixture
def earlier(tmp_path, model):
    """A model of step 5 that was saved at step 1, and what was saved."""
    save_at(model, tmp_path, 1)
    saved = state(model)
    scramble(model, 5.5)
    return model, saved


PLACES = [(saved_state, "flush"), (os, "rename"), (saved_state, "_measured"), (json, "dumps")]


@pytest.mark.parametrize("where, name", PLACES, ids=[name for _, name in PLACES])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["key", "disk"])
def test_an_interrupted_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, earlier, where, name, error):
    model, saved = earlier
    with monkeypatch.context() as patch, pytest.raises(type(error)) as raised:
        patch.setattr(where, name, fail(error))
        save(model, tmp_path)
    assert raised.value is error
    if isinstance(error, OSError):
        assert names(tmp_path) == ["step-000000001"]
    assert restore(model, tmp_path).step == 1
    assert state(model) == saved


def test_what_a_killed_process_left_is_cleaned_up_by_the_next_save(tmp_path, monkeypatch, earlier):
    model, _ = earlier
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", fail(KeyboardInterrupt()))
        save(model, tmp_path)
    assert names(tmp_path) == [".unfinished-000000005", "step-000000001"]
    save_at(model, tmp_path, 6)
    assert names(tmp_path) == ["step-000000001", "step-000000006"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", fail(KeyboardInterrupt()))
        save_at(model, tmp_path, 7)
    save(model, tmp_path)  # at the very step that was interrupted
    assert restore(model, tmp_path).step == 7 and names(tmp_path)[-1] == "step-000000007"


def test_a_file_in_the_place_of_the_folder_is_an_oserror(tmp_path, model):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError):
        save(model, tmp_path / "checkpoints")


# Damage.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path):
    """With that of the other checkpoint, each whole in itself."""
    other = path.parents[1] / "step-000000001" / path.name
    path.write_bytes(other.read_bytes())


DAMAGES = [truncate, empty, zero, flip, os.remove, swap]


def reason_of(damage, name):
    if damage is os.remove:
        return f"{name} is missing"
    if name == "manifest.json" and damage not in (flip, swap):  # what these leave is a manifest
        return "manifest.json cannot be read"
    if name == "manifest.json":
        return r"(model\.weights\.h5|state\.json) is not what was saved|manifest\.json cannot be read"
    return f"{re.escape(name)} is not what was saved"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Of steps 1 and 2, which differ in nothing else, and the state of the first one."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    model = make_model(optimizer=lambda: SGD(0.1))
    save_at(model, directory, 1)
    saved = state(model)
    save_at(model, directory, 2)
    return directory, saved


@pytest.fixture
def both(two_checkpoints, tmp_path, model):
    """A copy of both, a model that is neither, and the state of the first one."""
    directory, saved = two_checkpoints
    shutil.copytree(directory, tmp_path / "checkpoints")
    return tmp_path / "checkpoints", model, saved


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_of_a_damaged_checkpoint_is_told_and_the_one_before_is_used(both, damage, name):
    directory, model, saved = both
    damage(directory / "step-000000002" / name)
    with pytest.warns(UserWarning) as warned:
        found = restore(model, directory)
    [text] = told(warned)
    path = re.escape(f"{directory}/step-000000002")
    assert re.fullmatch(rf"{path} is damaged \(({reason_of(damage, name)})\); the one before it is used\.", text)
    assert found.step == 1 and state(model) == saved
    assert names(directory) == ["step-000000001", "step-000000002"]


def test_no_bit_of_a_manifest_can_flip_unnoticed(both):
    directory, *_ = both
    path = directory / "step-000000002" / "manifest.json"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert saved_state._damage(path.parent), (bit, bytes(flipped))
    path.write_bytes(content)
    assert saved_state._damage(path.parent) is None


def test_an_empty_folder_is_a_damaged_checkpoint(both):
    directory, model, saved = both
    (directory / "step-000000007").mkdir()
    with pytest.warns(UserWarning, match=r"step-000000007 is damaged \(manifest.json is missing\); the one before"):
        assert restore(model, directory).step == 2


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"model.weights.h5": 3}', "\udcff"])
def test_a_manifest_of_another_form_is_damage(both, content):
    directory, model, _ = both
    path = directory / "step-000000002" / "manifest.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match=r"step-000000002 is damaged \((manifest.json cannot|model.weights.h5 is not)"):
        assert restore(model, directory).step == 1


def test_set_aside_it_is_renamed_and_so_is_the_next_one_of_that_step(both):
    directory, model, saved = both
    for name in ("damaged-step-000000002", "damaged-step-000000002.2", "damaged-step-000000002.3"):
        if not (directory / "step-000000002").exists():
            save_at(model, directory, 2)
        empty(directory / "step-000000002" / "state.json")
        with pytest.warns(UserWarning) as warned:
            assert restore(model, directory, set_aside=True).step == 1
        assert told(warned) == [
            f"{directory}/step-000000002 is damaged (state.json is not what was saved), now {directory}/{name}; "
            "the one before it is used."
        ]
        assert names(directory / name) == sorted(FILES)
        assert list(saved_steps(directory)) == [1]
    restore(model, directory)  # of those set aside nothing is told again


def test_of_several_damaged_ones_each_is_told(both):
    directory, model, saved = both
    save_at(model, directory, 3)
    os.remove(directory / "step-000000002" / "state.json")
    truncate(directory / "step-000000003" / "model.weights.h5")
    with pytest.warns(UserWarning) as warned:
        assert restore(model, directory, set_aside=True).step == 1
    assert [re.findall(r"step-\d+ is damaged \([^)]*\)", text) for text in told(warned)] == [
        ["step-000000003 is damaged (model.weights.h5 is not what was saved)"],
        ["step-000000002 is damaged (state.json is missing)"],
    ]
    assert state(model) == saved


def test_an_older_damaged_one_is_neither_read_nor_told(both):
    directory, model, _ = both
    zero(directory / "step-000000001" / "model.weights.h5")
    assert restore(model, directory, set_aside=True).step == 2
    assert names(directory) == ["step-000000001", "step-000000002"]


@pytest.mark.parametrize("set_aside", [False, True])
def test_where_all_are_damaged_nothing_is_touched(both, set_aside):
    directory, model, _ = both
    flip(directory / "step-000000001" / "model.weights.h5")
    os.remove(directory / "step-000000002" / "manifest.json")
    before = state(model)
    with pytest.raises(ValueError) as error:
        restore(model, directory, set_aside)
    assert str(error.value) == (
        "A checkpoint must have all its files as they were saved. Received: "
        f"{directory}/step-000000002 (manifest.json is missing); "
        f"{directory}/step-000000001 (model.weights.h5 is not what was saved), and no other. "
        f"Restore one from a backup, or delete {directory} to train from the start."
    )
    assert state(model) == before and names(directory) == ["step-000000001", "step-000000002"]


# What does not belong together, and what is worth nothing.


def refusal(model, directory):
    with pytest.raises(ValueError) as error:
        restore(model, directory)
    return str(error.value)


def test_the_checkpoint_of_another_model_is_refused(both):
    directory, *_ = both
    model = MoCo(small_encoder(batch_norm=True), queue_size=22, bn_splits=2)
    model.compile(optimizer=SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    text = refusal(model, directory)
    assert text.startswith(
        "The checkpoint must have been saved from a model and optimizer of the same configuration. "
        f"Received: {directory}/step-000000002/model.weights.h5, and Keras says: "
    )
    assert text.endswith(" Use the saved configuration or another directory.") and "FeatureQueue name=queue" in text


@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.Adam, keras.optimizers.SGD, lambda: keras.optimizers.LossScaleOptimizer(SGD())]
)
def test_the_checkpoint_of_another_optimizer_is_refused(both, optimizer):
    directory, *_ = both
    text = refusal(make_model(optimizer=optimizer), directory)
    assert "model and optimizer of the same configuration. Received: " in text and "optimizer" in text


def test_an_optimizer_that_would_be_skipped_is_refused(tmp_path):
    model = make_model()
    model.compile(optimizer=SGD(0.1))
    for act in (save, restore):
        with pytest.raises(ValueError) as error:
            act(model, tmp_path)
        assert str(error.value) == (
            "`model` and its optimizer must be built, or the optimizer's state would be skipped. "
            "Received: model.built=True, optimizer built=False. "
            "Call `model.compile(...)` and `model.optimizer.build(model.trainable_variables)` first."
        )
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"Received: model\.built=True, optimizer missing\. Call"):
        restore(model, tmp_path)
    with pytest.raises(ValueError, match=r"Received: model\.built=False, optimizer missing\. Call"):
        save(keras.Sequential([layers.Dense(1)]), tmp_path)
    assert names(tmp_path) == []


def variables_of(model):
    return {
        "weight": model.encoder.trainable_variables[0],
        "key encoder": model.key_encoder.weights[-1],
        "statistic": next(w for w in model.encoder.weights if w.name == "moving_variance"),
        "queue": model.queue.features,
        "velocity": model.optimizer.velocities[-1],
        "learning rate": model.optimizer.variables[1],
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["weight", "key encoder", "statistic", "queue", "velocity", "learning rate"])
def test_what_is_not_finite_is_not_saved(tmp_path, model, name, bad):
    model.step.assign(12)
    variable = variables_of(model)[name]
    values = np.array(variable)
    values.flat[-1] = bad
    variable.assign(values.reshape(variable.shape))
    with pytest.raises(NotFiniteError) as error:
        save(model, tmp_path / "checkpoints")
    assert str(error.value) == (
        f"All variables must be finite to be saved. Received: {variable.path} with NaN or infinity after 12 steps. "
        "Go on from the checkpoint before, with a lower learning rate."
    )
    assert not (tmp_path / "checkpoints").exists()


def test_numbers_without_nan_are_not_asked_for_it(tmp_path):
    model = make_model("memory_bank")
    counter = model.add_weight((), "zeros", dtype="int64", trainable=False)
    counter.assign(2**62)
    assert not np.issubdtype(np.array(counter).dtype, np.floating)
    save(model, tmp_path)
    counter.assign(0)
    restore(model, tmp_path)
    assert int(counter) == 2**62


def test_a_restored_model_trains_on_and_may_be_saved_again(both):
    directory, *_ = both
    model = make_model(seed=1, optimizer=lambda: SGD(0.1))
    restore(model, directory)
    train(model, steps=2)
    assert save(model, directory).name == "step-000000004"
    assert int(model.queue.count) == 2 * BATCH


LIMITED = """
import resource, sys
from keras_moco.callbacks import save
from tests.small_training import make_model

model = make_model()
for limit in 20_000, 3_000:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save(model, sys.argv[1])
    except OSError as error:
        print(limit, error.strerror)
"""


def test_a_file_that_may_not_grow_does_not_bring_the_process_down(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["20000 File too large", "3000 File too large"]
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    model = make_model()
    path = save(model, tmp_path)
    content = {file.name: file.read_bytes() for file in path.iterdir()}

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        save(model, tmp_path)
    assert os.listdir(tmp_path) == [path.name]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == content


def test_a_figure_that_is_no_number_can_be_saved(tmp_path):
    model = make_model()
    model.means.sums.assign(np.full(model.means.sums.shape, np.nan, "float32"))
    assert saved_steps(tmp_path) == {} and save(model, tmp_path).exists()


def test_a_file_among_the_checkpoints_is_not_one(tmp_path):
    path = save(make_model(), tmp_path)
    (tmp_path / "step-000000099").write_text("a note")
    assert saved_steps(tmp_path) == {0: path}
    assert restore(make_model(seed=1), tmp_path).step == 0


def test_what_json_cannot_hold_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        save(make_model(), tmp_path, extra={"a": np.float32(1)})
    assert os.listdir(tmp_path) == []
