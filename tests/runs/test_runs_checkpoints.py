"""A checkpoint is whole or absent, and restored to the bit; damage is noticed before it is read."""

import hashlib
import json
import os
import re
import shutil
import threading
from unittest import mock

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_moco.methods import MoCo
from keras_moco.optimizers import SGD
from keras_moco.runs import checkpoint_index, checkpoints, versions
from keras_moco.runs.checkpoint_index import SavedState, is_saved, saved_steps
from keras_moco.runs.checkpoints import NotFiniteError, restore, restore_encoder, save
from keras_moco.storage.locks import locked
from tests.permissions import as_a_user, mode
from tests.small_encoder import small_encoder
from tests.small_training import make_model, scramble, state, variables

FILES = ["manifest.json", "model.weights.h5", "state.json"]


def save_at(model, directory, step):
    model.step.assign(step)
    return save(model, directory)


def names(directory):
    return sorted(os.listdir(directory))


# Everything is restored.


@pytest.mark.parametrize(
    "method, policy, replicas",
    [("moco", "float32", 1), ("moco", "mixed_float16", 1), ("moco", "float32", 2), ("memory_bank", "float32", 1)],
)
def test_every_variable_of_model_and_optimizer_is_restored_to_the_bit(method, policy, replicas, tmp_path):
    keras.config.set_dtype_policy(policy)  # float16: with a loss scale
    model, other = make_model(method), make_model(method, replicas, seed=1)
    rng = np.random.default_rng(0)
    for variable in variables(model):
        variable.assign(rng.uniform(1, 100, variable.shape).astype(variable.dtype))
    save(model, tmp_path)
    restore(other, tmp_path)
    wanted = state(model)
    expected = {name[:-1] + str(replica): value for name, value in wanted.items() for replica in range(replicas)}
    assert state(other) == expected and len(expected) == replicas * len(wanted)


@pytest.mark.parametrize("method", ["moco", "memory_bank"])
def test_the_encoder_alone_is_restored_to_the_bit(method, tmp_path):
    model = make_model(method)
    rng = np.random.default_rng(0)
    for variable in variables(model):
        variable.assign(rng.uniform(1, 100, variable.shape).astype(variable.dtype))
    model.step.assign(7)
    save(model, tmp_path)
    encoder = small_encoder(batch_norm=True)
    assert restore_encoder(encoder, tmp_path).step == 7
    assert len(encoder.weights) == len(model.encoder.weights)
    for ours, theirs in zip(encoder.weights, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    truncate(tmp_path / "step-000000007" / "state.json")
    with pytest.raises(ValueError, match=r"Received: .*step-000000007 \(state.json"):
        restore_encoder(encoder, tmp_path)
    assert restore_encoder(encoder, tmp_path / "nowhere") is None


def test_place_log_and_extra_facts_are_restored(tmp_path, model):
    model.step.assign(1170)
    log = {0: {"loss": 0.1 + 0.2, "knn_top1": 71.5}, 10: {"loss": 1e-30, "infinite": -np.inf}}
    directory = tmp_path / "new" / "folder"
    path = save(model, directory, epoch=11, step_in_epoch=7, log=log, extra={"images": ["é.png", 3]})
    place = {"step": 1170, "epoch": 11, "step_in_epoch": 7, "versions": versions.versions()}
    expected = SavedState(path=path, **place, log=log, extra={"images": ["é.png", 3]})
    assert restore(model, directory) == expected and path == directory / "step-000001170"


def test_the_newest_of_several_is_used(tmp_path, model):
    for step in (9, 10**9, 999_999_999, 20):
        save_at(model, tmp_path, step)
    (tmp_path / "step-2000000000").write_text("a file")
    assert list(saved_steps(tmp_path)) == [9, 20, 999_999_999, 10**9]
    assert restore(model, tmp_path).step == model.steps_done == 10**9
    assert restore(model, tmp_path, step=20).step == model.steps_done == 20


def test_without_a_checkpoint_the_model_is_unchanged(tmp_path, model):
    before = state(model)
    for name in (".unfinished-000000003", "damaged-step-000000003", "step-3.bak"):
        (tmp_path / name).mkdir()
    for directory in (tmp_path / "nowhere", tmp_path):
        assert restore(model, directory) is None and not is_saved(directory) and saved_steps(directory) == {}
    assert state(model) == before


def test_a_checkpoint_is_three_files_and_replaces_that_of_the_same_step(tmp_path, model):
    for number in (1, 2):
        path = save(model, tmp_path, extra={"number": number})
        assert is_saved(tmp_path) and names(tmp_path) == ["step-000000000"] and names(path) == FILES
    assert restore(model, tmp_path).extra == {"number": 2}


def test_files_are_flushed_before_the_renaming_and_the_folder_after_it(tmp_path, model, monkeypatch):
    happened = []
    rename, flush = os.rename, checkpoints.flush
    monkeypatch.setattr(checkpoints, "flush", lambda path: happened.append(path.name) or flush(path))
    monkeypatch.setattr(os, "rename", lambda old, new: happened.append("rename") or rename(old, new))
    save(model, tmp_path / "checkpoints")
    assert sorted(happened[:3]) == FILES and happened[3:] == [".unfinished-000000000", "rename", "checkpoints"]


# Saving that fails.


PLACES = [(checkpoints, "flush"), (os, "rename"), (checkpoints, "measured"), (json, "dumps")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["key", "disk"])
@pytest.mark.parametrize("where, name", PLACES, ids=[name for _, name in PLACES])
def test_an_interrupted_save_leaves_the_earlier_checkpoint(tmp_path, model, monkeypatch, where, name, error):
    save_at(model, tmp_path, 1)
    saved = state(model)
    scramble(model, 5.5)
    with monkeypatch.context() as patch, pytest.raises(type(error)) as raised:
        patch.setattr(where, name, mock.Mock(side_effect=error))
        save(model, tmp_path)
    assert raised.value is error
    if isinstance(error, OSError):
        assert names(tmp_path) == ["step-000000001"]
    assert restore(model, tmp_path).step == 1 and state(model) == saved


def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path, model, monkeypatch):
    steps = [(5, 6, [".unfinished-000000005"]), (7, 7, [".unfinished-000000007", "step-000000006"])]
    for killed, next_one, left in steps:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "rename", mock.Mock(side_effect=KeyboardInterrupt()))
            save_at(model, tmp_path, killed)
        assert names(tmp_path) == left
        save_at(model, tmp_path, next_one)
    assert names(tmp_path) == ["step-000000006", "step-000000007"]


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, model, monkeypatch):
    path = save(model, tmp_path)
    content = {file.name: file.read_bytes() for file in path.iterdir()}
    monkeypatch.setattr(os, "rename", mock.Mock(side_effect=OSError("no")))
    with pytest.raises(OSError, match="no"):
        save(model, tmp_path)
    assert names(tmp_path) == [path.name]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == content


# Damage.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path):
    """With that of the other checkpoint, each whole in itself."""
    path.write_bytes((path.parents[1] / "step-000000001" / path.name).read_bytes())


DAMAGES = [truncate, flip, os.remove, swap]


@pytest.fixture(scope="module")
def two_checkpoints(first_state, tmp_path_factory):
    """Of steps 1 and 2, and the state of the first one."""
    directory, (model, _) = tmp_path_factory.mktemp("two"), first_state
    scramble(model)
    save_at(model, directory, 1)
    saved = state(model)
    save_at(model, directory, 2)
    return directory, saved


@pytest.fixture
def both(two_checkpoints, tmp_path, model):
    """A copy of both, a model that is neither, and the state of the first one."""
    directory, saved = two_checkpoints
    return shutil.copytree(directory, tmp_path / "checkpoints"), model, saved


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(both, damage, name):
    directory, model, saved = both
    damage(directory / "step-000000002" / name)
    with pytest.warns(UserWarning, match="is damaged") as warned:
        assert restore(model, directory).step == 1
    assert state(model) == saved and names(directory) == ["step-000000001", "step-000000002"]
    [warning] = [each for each in warned if each.category is UserWarning]
    assert warning.filename == __file__  # it points to the line that asked for the checkpoint
    found = re.search(r"step-000000002 is damaged \(([^ ]*) (.*)\); ", str(warning.message))
    # These leave a manifest, of other files, or that can no longer be read.
    assert found[1] == name or name == "manifest.json" and damage in (flip, swap)
    assert (found[2] == "is missing") == (damage is os.remove)


def test_no_bit_of_a_manifest_can_flip_unnoticed(both):
    directory, *_ = both
    path = directory / "step-000000002" / "manifest.json"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert checkpoint_index._damage(path.parent), (bit, bytes(flipped))
    path.write_bytes(content)
    assert checkpoint_index._damage(path.parent) is None
    for other in (b"[]", b"null", b"{}", b'{"model.weights.h5": 3}', b"\xff"):
        path.write_bytes(other)
        assert checkpoint_index._damage(path.parent), other


def test_each_damaged_checkpoint_of_a_step_gets_a_name_of_its_own(both):
    directory, model, _ = both
    for name in ("damaged-step-000000002", "damaged-step-000000002.2", "damaged-step-000000002.3"):
        if not (directory / "step-000000002").exists():
            save_at(model, directory, 2)
        truncate(directory / "step-000000002" / "state.json")
        with pytest.warns(UserWarning, match=rf"step-000000002 is damaged .*{directory}/{name};"):
            assert restore(model, directory, set_aside=True).step == 1
        assert names(directory / name) == FILES and list(saved_steps(directory)) == [1]
    restore(model, directory)  # those set aside are not reported again


def test_the_checkpoint_of_another_model_or_optimizer_is_refused_and_leaves_the_model_as_it_was(both):
    directory, *_ = both
    longer = MoCo(small_encoder(batch_norm=True), queue_size=22, bn_splits=2)  # whose encoders would fit
    longer.compile(optimizer=SGD(0.1))
    longer.optimizer.build(longer.trainable_variables)
    others = [make_model(optimizer=each) for each in (keras.optimizers.Adam, keras.optimizers.SGD)]
    scaled = make_model(optimizer=lambda: keras.optimizers.LossScaleOptimizer(SGD()))
    for other, named in ((longer, "FeatureQueue name=queue"), *((each, "optimizer") for each in (*others, scaled))):
        before = state(other)
        with pytest.raises(ValueError, match=f"{directory}/step-000000002/model.weights.h5, .*{named}"):
            restore(other, directory)
        assert state(other) == before


def rewrite(path, change):
    """Changes the `state.json` of a checkpoint, and has the manifest agree with it."""
    content = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(change(content))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = checkpoint_index.measured(path / "state.json")
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: json.dumps(content | {"format": 2, "versions": {"keras_moco": "9.0"}}),
        lambda content: json.dumps({"versions": {"keras_moco": "9.0"}, "where": content}),
        lambda content: json.dumps(content | {"versions": {"keras_moco": "9.0"}, "log": []}),
        lambda content: json.dumps(content | {"versions": {"keras_moco": "9.0"}, "step": "two"}),
        lambda content: "[" * 100_000 + "]" * 100_000,
    ],
    ids=["later format", "fields missing", "other log", "no step", "nested"],
)
def test_a_state_of_another_format_is_refused_with_the_version_that_saved_it(both, change):
    directory, model, _ = both
    path, before = directory / "step-000000002", state(model)
    rewrite(path, change)
    version = "unknown" if path.joinpath("state.json").read_text().startswith("[") else "9.0"
    for act in (restore, lambda model, directory: restore(model, directory, set_aside=True)):
        with pytest.raises(ValueError, match=f"Received: {path}/state.json of version {version}, here is "):
            act(model, directory)
    assert state(model) == before and names(directory) == ["step-000000001", "step-000000002"]


def test_fields_that_a_later_version_adds_to_a_state_are_ignored(both):
    directory, model, _ = both
    rewrite(directory / "step-000000002", lambda content: json.dumps(content | {"more": 3}))
    assert restore(model, directory).step == 2


# Checkpoints that cannot be read


def test_a_checkpoint_that_cannot_be_read_is_not_skipped(both, tmp_path):
    directory, model, _ = both
    path, before = directory / "step-000000002", state(model)

    def refused(received):
        for act in (restore, lambda model, directory: restore(model, directory, set_aside=True)):
            with pytest.raises(OSError, match=f"Received: {received}. ") as caught:
                act(model, directory)
            assert isinstance(caught.value, ValueError)
        assert state(model) == before

    with as_a_user(tmp_path):
        for closed, bits in [(directory, 0), (path, 0), *((path / name, 0) for name in FILES)]:
            with mode(closed, bits):
                refused(rf"{closed}\S* \(Permission denied\)")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert restore(model, directory).step == 2
    before = state(model)
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    refused(rf"{path}\S* \(a link to what is not there\)")
    directory.rename(tmp_path / "all")
    directory.symlink_to(tmp_path / "not mounted")
    refused(rf"{directory} \(a link to what is not there\)")
    with pytest.raises(OSError, match="a link to what is not there"):
        is_saved(directory)


@pytest.mark.parametrize("moment", ["find_whole", "_load_weights"])
def test_a_checkpoint_that_is_deleted_while_it_is_read_is_skipped(both, moment, monkeypatch):
    """As by a training run that keeps the newest ones: here the newest is deleted, and an older one stays."""
    directory, model, saved = both
    original = checkpoint_index._damage if moment == "find_whole" else checkpoints._load_weights

    def delete_and_act(*arguments):
        shutil.rmtree(directory / "step-000000002", ignore_errors=True)
        return original(*arguments)

    module, name = (checkpoint_index, "_damage") if moment == "find_whole" else (checkpoints, "_load_weights")
    monkeypatch.setattr(module, name, delete_and_act)
    assert restore(model, directory).step == 1 and state(model) == saved
    with pytest.raises(ValueError, match="Received: 2, which is not in"):
        restore(model, directory, step=2)


def test_saving_waits_for_another_process_that_saves(tmp_path, model, monkeypatch):
    directory = tmp_path / "checkpoints"
    save_at(model, directory, 1)
    (directory / ".unfinished-000000007").mkdir()  # its own
    done = []
    with locked(directory / "save"):
        thread = threading.Thread(target=lambda: done.append(save_at(model, directory, 2)))
        thread.start()
        thread.join(0.3)
        assert not done and ".unfinished-000000007" in names(directory)
    thread.join()
    assert names(directory) == ["step-000000001", "step-000000002"]


def test_an_optimizer_whose_state_would_be_skipped_is_refused(tmp_path):
    model = make_model()
    model.compile(optimizer=SGD(0.1))
    bare = keras.Sequential([layers.Dense(1)])
    for each, received in ((model, "built=True, optimizer built=False"), (bare, "built=False, optimizer missing")):
        for act in (save, restore):
            with pytest.raises(ValueError, match=f"model.{received}"):
                act(each, tmp_path)
    assert names(tmp_path) == []


def test_what_is_not_finite_is_not_saved(tmp_path, model):
    statistic = next(weight for weight in model.encoder.weights if weight.name == "moving_variance")
    chosen = [model.encoder.trainable_variables[0], model.key_encoder.weights[-1], statistic]
    chosen += [model.queue.features, model.optimizer.velocities[-1], model.optimizer.variables[1]]
    model.step.assign(12)
    for variable, bad in zip(chosen, 2 * [np.nan, np.inf, -np.inf], strict=True):
        before = np.array(variable)
        values = before.copy()
        values.flat[-1] = bad
        variable.assign(values)
        with pytest.raises(NotFiniteError, match=f"Received: {variable.path} .* 12 steps"):
            save(model, tmp_path / "checkpoints")
        variable.assign(before)
        assert not (tmp_path / "checkpoints").exists(), variable.path


def test_metrics_may_be_nan_and_counters_large(tmp_path):
    model = make_model("memory_bank")
    model.means.sums.assign(np.full(model.means.sums.shape, np.nan, "float32"))
    counter = model.add_weight((), "zeros", dtype="int64", trainable=False)
    counter.assign(2**62)
    save(model, tmp_path, log={3: {"a": np.nan}})
    counter.assign(0)
    assert np.isnan(restore(model, tmp_path).log[3]["a"]) and int(counter) == 2**62


def test_links_to_other_files_are_not_read(tmp_path, model):
    """As a checkpoint of a stranger may have them, with a manifest that fits."""
    checkpoint = save_at(model, tmp_path, 1)
    with h5py.File(checkpoint / FILES[1], "r+") as file:
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "weights")
    size = {"bytes": (checkpoint / FILES[1]).stat().st_size}
    size["sha256"] = hashlib.sha256((checkpoint / FILES[1]).read_bytes()).hexdigest()
    manifest = json.loads((checkpoint / FILES[0]).read_text())
    (checkpoint / FILES[0]).write_text(json.dumps(manifest | {FILES[1]: size}))
    with pytest.raises(ValueError, match=r"/elsewhere is a link elsewhere, to .*secret.h5; it was not read"):
        restore(model, tmp_path)
