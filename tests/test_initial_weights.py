"""A new run begins with the encoder of another training, whatever it comes from, and with nothing else of it."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import building
from keras_moco.callbacks import save
from keras_moco.config import Config
from keras_moco.distribution import make_strategy
from keras_moco.export import export_backbone
from keras_moco.initial_weights import initial_weights
from keras_moco.plan import Plan
from keras_moco.run_directory import RunDirectory

CONFIG = Config(
    **dict(dataset="digits", train_examples=1437, channels=1, image_size=8, image_mean=(0.3,), image_std=(0.38,)),
    **dict(backbone="resnet10", backbone_width=4, stem="cifar", head="mlp", embedding_dim=16, bn_splits=4),
    **dict(queue_size=32, batch_size=16, strategy="one", seed=5),
)
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 1)).astype("float32")


def plan_of(**settings):
    config = dataclasses.replace(CONFIG, **settings)
    return Plan(config, 1437, 1, config.replicas or 1)


def fresh(**settings):
    """The encoder that a run of another seed would begin with."""
    return building.build_encoder(plan_of(**{"seed": 7, **settings}))


def trained(model, seed=0):
    """The same, every weight another one than at the start, statistics included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(rng.uniform(0.1, 0.9, weight.shape))
    return model


def arrays(model):
    return [np.array(weight) for weight in model.weights]


def assert_alike(ours, theirs):
    assert len(ours.weights) == len(theirs.weights) > 40
    for our, their in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One trained model in every form."""
    folder = tmp_path_factory.mktemp("trained")
    model = trained(building.build_model(plan_of(), make_strategy("one")))
    run = RunDirectory(folder / "run")
    run.claim(CONFIG)
    for step in (3, 20, 100):  # the newest one comes last, also where names are sorted
        trained(model, seed=step)
        model.step.assign(step)
        save(model, run.checkpoints)
    model.save(folder / "moco.keras")
    model.encoder.save(folder / "encoder.keras")
    export_backbone(model.encoder, folder / "export")
    return folder, model


def refusal(action, *arguments):
    """The whole sentence with which something is refused."""
    with pytest.raises(ValueError) as caught:
        action(*arguments)
    return str(caught.value)


# Where they come from


@pytest.mark.parametrize("name", ["run", "moco.keras", "encoder.keras"])
def test_a_whole_encoder_is_taken_over_to_the_bit(name, files):
    folder, model = files
    encoder = fresh()
    initial_weights(folder / name)(encoder)
    assert_alike(encoder, model.encoder)
    np.testing.assert_array_equal(encoder(IMAGES), model.encoder(IMAGES))


def test_the_queries_encoder_is_taken_and_not_the_keys(files):
    _, model = files
    assert not np.array_equal(model.encoder(IMAGES), model.key_encoder(IMAGES))


def test_a_path_may_be_a_text(files):
    folder, model = files
    encoder = fresh()
    initial_weights(str(folder / "encoder.keras"))(encoder)
    assert_alike(encoder, model.encoder)


def test_an_exported_backbone_gives_its_features_and_leaves_the_head_fresh(files):
    folder, model = files
    encoder, untouched = fresh(), fresh()
    initial_weights(folder / "export" / "backbone.keras")(encoder)
    assert_alike(encoder.backbone, model.encoder.backbone)
    statistics = [weight for weight in encoder.backbone.weights if "moving" in weight.name]
    assert len(statistics) > 10
    expected = model.encoder.features(IMAGES)
    np.testing.assert_allclose(encoder.features(IMAGES), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    for ours, theirs in zip(arrays(encoder.head), arrays(untouched.head), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_exported_backbone_goes_with_any_head(files):
    folder, model = files
    encoder = fresh(head="linear", embedding_dim=8)
    initial_weights(folder / "export" / "backbone.keras")(encoder)
    assert_alike(encoder.backbone, model.encoder.backbone)


def test_the_source_shares_no_weights_with_the_encoder(files):
    folder, _ = files
    take_over = initial_weights(folder / "encoder.keras")
    first, second = fresh(), fresh()
    take_over(first)
    for weight in first.weights:
        weight.assign(weight * 0)
    take_over(second)
    assert not any(np.array_equal(*pair) for pair in zip(arrays(first), arrays(second), strict=True))


# What a model makes of them


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", ["run", "moco.keras"])
def test_queries_and_keys_begin_with_them_and_nothing_else_does(name, replicas, files):
    folder, source = files
    plan = plan_of(seed=7, replicas=replicas)
    strategy = make_strategy("mirrored" if replicas > 1 else "one", replicas)
    model = building.build_model(plan, strategy, prepare=initial_weights(folder / name))
    plain = building.build_model(plan, strategy)
    assert_alike(model.encoder, source.encoder)
    assert_alike(model.key_encoder, source.encoder)
    for variable in (*model.encoder.weights, *model.key_encoder.weights):
        first, *others = map(np.array, strategy.experimental_local_results(variable.value))
        assert len(others) == replicas - 1
        assert all(np.array_equal(first, other) for other in others)
    # The queue, the counters, the optimiser.
    copied = {id(weight) for weight in (*model.encoder.weights, *model.key_encoder.weights)}
    pairs = zip((*model.weights, *model.optimizer.variables), (*plain.weights, *plain.optimizer.variables), strict=True)
    others = [(ours, theirs) for ours, theirs in pairs if id(ours) not in copied]
    assert len(others) > 20 and model.steps_done == 0
    for ours, theirs in others:
        np.testing.assert_array_equal(np.array(ours), np.array(theirs), err_msg=ours.path)


def test_a_model_that_began_with_them_trains_both_its_encoders(files):
    folder, source = files
    model = building.build_model(plan_of(), make_strategy("one"), prepare=initial_weights(folder / "encoder.keras"))
    views = np.random.default_rng(1).uniform(0, 255, (2, 16, 8, 8, 1)).astype("float32")
    data = tf.data.Dataset.from_tensors({"query": views[0], "key": views[1]})
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()
    for encoder in (model.encoder, model.key_encoder):
        pairs = zip(arrays(encoder), arrays(source.encoder), strict=True)
        assert sum(not np.array_equal(*pair) for pair in pairs) > 40


# What is no source of weights


def test_a_path_that_does_not_exist_is_told(tmp_path):
    path = tmp_path / "nowhere.keras"
    assert refusal(initial_weights, path) == f"`init_from` must exist. Received: {path}. Correct --init_from."


@pytest.mark.parametrize("name", ["weights.h5", "notes.txt", "keras"])
def test_another_kind_of_file_is_told(name, tmp_path):
    (tmp_path / name).write_text("years of work")
    assert refusal(initial_weights, tmp_path / name) == (
        "`init_from` must be the folder of a run, a .keras file, or a .pth, .pth.tar or .safetensors checkpoint. "
        f"Received: {tmp_path / name}. Correct --init_from."
    )


def test_a_folder_that_is_no_run_is_told(tmp_path):
    assert refusal(initial_weights, tmp_path) == (
        f"`workdir` must be the folder of a run. Received: {tmp_path}, without flags.cfg. "
        "Give the --workdir of a run of train.py."
    )


def test_a_run_without_a_checkpoint_is_told(files, tmp_path):
    run = shutil.copytree(files[0] / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert refusal(initial_weights, run) == (
        f"`workdir` must hold a checkpoint. Received: {run} without one. Train with train.py first."
    )


@pytest.mark.parametrize("content", [b"", b"years of work", b"PK\x03\x04 and no more of an archive"])
def test_a_file_that_is_none_of_keras_is_told(content, tmp_path):
    path = tmp_path / "x.keras"
    path.write_bytes(content)
    told = refusal(initial_weights, path)
    assert told.startswith(f"A .keras file must be one of Keras's. Received: {path}, and Keras says: ")


OTHERS = {
    "width": {"backbone_width": 8},
    "depth": {"backbone": "resnet18"},
    "stem": {"stem": "imagenet"},
    "head": {"head": "linear"},
    "embedding": {"embedding_dim": 8},
}


@pytest.mark.parametrize("name", ["run", "moco.keras", "encoder.keras"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_architecture_is_told_and_nothing_is_changed(other, name, files):
    folder, _ = files
    encoder = fresh(**OTHERS[other])
    before = arrays(encoder)
    assert refusal(initial_weights(folder / name), encoder) == (
        "`init_from` must be of the same architecture: backbone, width, stem, channels and head. "
        f"Received: {folder / name}, whose weights have other shapes. Correct --init_from, or those settings."
    )
    assert all(map(np.array_equal, arrays(encoder), before))


@pytest.mark.parametrize("other", ["width", "depth", "stem"])
def test_an_exported_backbone_of_another_architecture_is_told(other, files):
    path = files[0] / "export" / "backbone.keras"
    encoder = fresh(**OTHERS[other])
    assert refusal(initial_weights(path), encoder).endswith(
        f" Received: {path}, whose weights have other shapes. Correct --init_from, or those settings."
    )


def test_another_model_of_keras_is_told(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    assert "whose weights have other shapes" in refusal(initial_weights(tmp_path / "dense.keras"), fresh())


# Files of PyTorch


@pytest.mark.torch
@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.tar"])
def test_a_file_of_pytorch_is_taken_over(name, files, tmp_path):
    pytest.importorskip("torch")
    from keras_moco.convert import to_pytorch

    _, model = files
    path = to_pytorch(model, tmp_path / name)
    encoder = fresh()
    initial_weights(path)(encoder)
    assert_alike(encoder, model.encoder)


@pytest.mark.torch
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_model_begins_with_a_file_of_pytorch_in_both_its_encoders(replicas, files, tmp_path):
    pytest.importorskip("torch")
    from keras_moco.convert import to_pytorch

    _, source = files
    path = to_pytorch(source, tmp_path / "weights.pth.tar")
    strategy = make_strategy("mirrored" if replicas > 1 else "one", replicas)
    model = building.build_model(plan_of(seed=7, replicas=replicas), strategy, prepare=initial_weights(path))
    assert_alike(model.encoder, source.encoder)
    assert_alike(model.key_encoder, source.encoder)
    assert model.steps_done == 0 and np.array(model.queue.count) == 0
