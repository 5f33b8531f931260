"""A new run begins with the encoder of another one, in whatever form, and with nothing else of it."""

import shutil

import keras
import numpy as np
import pytest

from keras_moco.convert import to_pytorch
from keras_moco.distribution import make_strategy
from keras_moco.export.backbone import export_backbone
from keras_moco.runs import build
from keras_moco.runs.checkpoints import save
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import initial_weights
from keras_moco.runs.plan import Plan
from tests.small_training import variables
from tests.tiny import tiny_config

SETTINGS = dict(train_examples=1437, channels=1, head="mlp", queue_size=32, batch_size=16, seed=5)
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 1)).astype("float32")


def plan_of(workdir="", **settings):
    config = tiny_config(workdir, **{**SETTINGS, **settings})
    return Plan(config, 1437, 1, config.replicas or 1)


def fresh(**settings):
    """The encoder that a run of another seed would begin with."""
    plan = plan_of(**{"seed": 7, **settings})
    return build.build_encoder(plan.config, plan.channels)


def arrays(model):
    return [np.array(weight) for weight in model.weights]


def assert_equal(ours, theirs):
    assert len(ours.weights) == len(theirs.weights) >= 15
    for our, their in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One trained model in every form, and the model."""
    folder = tmp_path_factory.mktemp("trained")
    plan = plan_of(folder / "run")
    model = build.build_model(plan, make_strategy("one"))
    run = RunDirectory(folder / "run")
    run.claim(plan.config)
    for step in (3, 20, 100):  # the newest one comes last, also where names are sorted
        rng = np.random.default_rng(step)
        for weight in model.weights:  # other values than at the start, statistics included
            if "float" in str(weight.dtype):
                weight.assign(rng.uniform(0.1, 0.9, weight.shape))
        model.step.assign(step)
        save(model, run.checkpoints)
    model.save(folder / "moco.keras")
    model.encoder.save(folder / "encoder.keras")
    export_backbone(model.encoder, folder / "export")
    to_pytorch(model, folder / "moco.safetensors")
    return folder, model


@pytest.mark.parametrize(
    "name",
    [
        *("run", "moco.keras", "encoder.keras", "moco.safetensors"),
        *(pytest.param(name, marks=pytest.mark.torch) for name in ("moco.pth", "moco.pth.tar")),
    ],
)
def test_encoder_is_copied_to_the_bit(name, files):
    folder, model = files
    if ".pth" in name:
        pytest.importorskip("torch")
        to_pytorch(model, folder / name)
    take_over = initial_weights(str(folder / name))
    encoder, second = fresh(), fresh()
    take_over(encoder)
    assert_equal(encoder, model.encoder)
    assert not np.array_equal(model.encoder(IMAGES), model.key_encoder(IMAGES))  # which is not the one that is taken
    for weight in encoder.weights:
        weight.assign(weight * 0)
    take_over(second)  # the weights are not shared
    assert_equal(second, model.encoder)


@pytest.mark.parametrize("form", ["export", "export/backbone.keras", "export/saved_model", "maps.keras"])
def test_exported_backbone_keeps_the_new_head(form, files):
    folder, model = files
    if form == "maps.keras":
        model.encoder.backbone.save(folder / form)  # not pooled
    for settings in ({}, {"head": "linear", "embedding_dim": 8}):
        encoder, untouched = fresh(**settings), fresh(**settings)
        initial_weights(folder / form, trust_saved_model=form == "export/saved_model")(encoder)
        assert_equal(encoder.backbone, model.encoder.backbone)
        assert any("moving" in weight.name for weight in encoder.backbone.weights)
        for ours, theirs in zip(arrays(encoder.head), arrays(untouched.head), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_both_encoders_get_the_weights_on_every_replica_and_nothing_else_does(files):
    folder, source = files
    plan, strategy = plan_of(seed=7, replicas=2), make_strategy("mirrored", 2)
    plain = build.build_model(plan, strategy)
    for name in ("run", "moco.safetensors"):
        model = build.build_model(plan, strategy, prepare=initial_weights(folder / name))
        assert_equal(model.encoder, source.encoder)
        assert_equal(model.key_encoder, source.encoder)
        copied = [*model.encoder.weights, *model.key_encoder.weights]
        for weight in copied:
            first, second = map(np.array, strategy.experimental_local_results(weight.value))
            assert np.array_equal(first, second), weight.path
        # The queue, the counters, the optimizer.
        copied = {id(weight) for weight in copied}
        pairs = zip(variables(model), variables(plain), strict=True)
        others = [(ours, theirs) for ours, theirs in pairs if id(ours) not in copied]
        assert len(others) > 10 and model.steps_done == 0
        for ours, theirs in others:
            np.testing.assert_array_equal(np.array(ours), np.array(theirs), err_msg=ours.path)


def test_paths_without_weights_are_refused(files, tmp_path):
    run = shutil.copytree(files[0] / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    files[1].encoder.export(tmp_path / "other_saved_model", verbose=False)  # Keras's own, which only serves
    for name, content, found in (
        ("absent.keras", None, "must exist. Received: {}."),
        ("weights.h5", b"years of work", ".safetensors checkpoint. Received: {}."),
        ("text.keras", b"years of work", "Received: {}, which is damaged, cut off"),
        ("half.keras", b"PK\x03\x04 and no more of an archive", "Received: {}, which is damaged, cut off"),
        ("run", None, "must hold a checkpoint. Received: {}"),
        (".", None, "Received: {}, without flags.cfg"),
        ("other_saved_model", None, "must have the endpoints `serve` and `train`"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            initial_weights(tmp_path / name, trust_saved_model=True)
        assert found.format(tmp_path / name) in str(caught.value)


def test_another_architecture_is_refused_and_nothing_changes(files, tmp_path):
    whole, backbone, dense = (
        files[0] / "encoder.keras",
        files[0] / "export" / "backbone.keras",
        tmp_path / "dense.keras",
    )
    served = files[0] / "export" / "saved_model"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(dense)
    for settings, paths in (
        ({"backbone_width": 4}, (whole, backbone, served, dense)),
        ({"stem": "imagenet"}, (whole, backbone, served)),
        ({"head": "linear"}, (whole,)),
        ({"embedding_dim": 8}, (whole,)),
    ):
        encoder = fresh(**settings)
        before = arrays(encoder)
        for path in paths:
            with pytest.raises(ValueError) as caught:
                initial_weights(path, trust_saved_model=True)(encoder)
            assert f"{path}, whose weights have other shapes" in str(caught.value)
            assert all(map(np.array_equal, arrays(encoder), before)), path
