import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco.callbacks import Checkpoint, checkpoint, restore, save
from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD

STEPS_PER_EPOCH = 3


def small_moco(width=4):
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(width, 3), SplitBatchNormalization(2), layers.ReLU()]
    )
    model = MoCo(Encoder(backbone, linear_head(width, 4)), queue_size=20, momentum=0.9)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 4 * STEPS_PER_EPOCH)
    model.compile(optimizer=SGD(schedule, momentum=0.9, weight_decay=1e-4))
    model.optimizer.build(model.trainable_variables)
    return model


def batches():
    views = np.random.default_rng(0).uniform(0, 255, (2, 8 * STEPS_PER_EPOCH, 8, 8, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices({"query": views[0], "key": views[1]}).batch(8, drop_remainder=True)


def train(model, directory, first, last):
    return model.fit(batches(), initial_epoch=first, epochs=last, verbose=0, callbacks=[Checkpoint(directory)])


def state(model):
    return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]


def test_four_epochs_are_two_and_a_restored_model_s_two_to_the_bit(tmp_path):
    whole = small_moco()
    train(whole, tmp_path / "whole", 0, 4)

    keras.utils.set_random_seed(0)  # the same initial weights again
    train(small_moco(), tmp_path / "part", 0, 2)
    keras.utils.set_random_seed(1)  # a new process would not know the old one's random state either
    resumed = small_moco()
    assert restore(resumed, tmp_path / "part") == 2 * STEPS_PER_EPOCH
    train(resumed, tmp_path / "part", 2, 4)

    assert state(resumed) == state(whole)
    assert int(resumed.step) == int(resumed.optimizer.iterations) == 4 * STEPS_PER_EPOCH


def test_every_part_of_the_state_comes_back(tmp_path):
    model = small_moco()
    train(model, tmp_path, 0, 1)
    keras.utils.set_random_seed(1)
    fresh = small_moco()
    differing = sum(a != b for a, b in zip(state(model), state(fresh), strict=True))
    restore(fresh, tmp_path)
    assert differing > 20
    assert state(fresh) == state(model)


def test_without_a_checkpoint_training_starts_at_step_0(tmp_path):
    model = small_moco()
    before = state(model)
    assert restore(model, tmp_path / "nowhere") == 0
    assert state(model) == before


def test_only_the_finished_file_is_left(tmp_path):
    train(small_moco(), tmp_path / "new" / "folder", 0, 2)
    assert os.listdir(tmp_path / "new" / "folder") == ["latest.weights.h5"]


def test_an_interrupted_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = small_moco()
    save(model, tmp_path)
    saved = state(model)
    model.step.assign(77)

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(model, tmp_path)
    monkeypatch.undo()
    assert restore(model, tmp_path) == 0
    assert state(model) == saved
    save(model, tmp_path)
    assert os.listdir(tmp_path) == ["latest.weights.h5"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "no hdf5", "one bit"])
def test_a_damaged_file_is_refused_and_touches_nothing(tmp_path, damage):
    model = small_moco()
    path = save(model, tmp_path)
    content = bytearray(path.read_bytes())
    kernel = content.index(model.query_encoder.backbone.layers[0].kernel.numpy().tobytes())
    content[kernel] ^= 1
    path.write_bytes(
        {"empty": b"", "truncated": content[:-100], "no hdf5": b"x" * len(content), "one bit": content}[damage]
    )
    model.step.assign(5)
    before = state(model)
    with pytest.raises(ValueError, match=rf"Received: {path}, which is damaged\. Delete it"):
        restore(model, tmp_path)
    assert state(model) == before


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    save(small_moco(width=4), tmp_path)
    with pytest.raises(ValueError, match="must have been saved from a model and optimizer of the same configuration"):
        restore(small_moco(width=6), tmp_path)


def test_the_checkpoint_of_another_optimizer_is_refused(tmp_path):
    save(small_moco(), tmp_path)
    model = small_moco()
    model.compile(optimizer=keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="Skipping variable loading for optimizer"):
        restore(model, tmp_path)


def test_an_optimizer_that_would_be_skipped_is_refused(tmp_path):
    model = small_moco()
    model.compile(optimizer=SGD(0.1))
    for act in (save, restore):
        with pytest.raises(ValueError, match=r"model.built=True, optimizer built=False. Call `model.compile"):
            act(model, tmp_path)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="optimizer missing"):
        restore(model, tmp_path)
