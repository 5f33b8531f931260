"""The queue against a ring of NumPy rows; and it is state, which must outlive the process."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco.layers import FeatureQueue
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD


@pytest.mark.parametrize("size, batches", [(12, [4] * 7), (10, [4] * 9), (7, [3, 5, 1, 7, 6, 2]), (5, [5, 5])])
def test_new_keys_replace_the_oldest(size, batches):
    queue, rng = FeatureQueue(size, dim=3), np.random.default_rng(0)
    ring, position, written = np.array(queue.features), 0, 0
    for n in batches:
        keys = np.float32(rng.normal(size=(n, 3)))
        queue.enqueue(tf.constant(keys))
        for key in keys:
            ring[position] = key
            position = position + 1 if position + 1 < size else 0
        written += n
        np.testing.assert_array_equal(queue.features, ring)
        assert int(queue.pointer) == position
        assert float(queue.fill) == pytest.approx(min(written / size, 1))


def test_as_many_keys_as_rows_replace_everything():
    queue = FeatureQueue(4, dim=2)
    queue.enqueue(tf.ones((3, 2)))
    keys = np.arange(8, dtype="float32").reshape(4, 2)
    queue.enqueue(tf.constant(keys))
    np.testing.assert_array_equal(queue.features, np.roll(keys, 3, axis=0))
    assert int(queue.pointer) == 3


def test_more_keys_than_rows_are_refused():
    with pytest.raises(ValueError) as error:
        FeatureQueue(4, dim=2).enqueue(tf.ones((5, 2)))
    assert str(error.value) == (
        "`queue_size` must be at least the number of keys that one step enqueues, or keys are overwritten before "
        "they are used. Received: queue_size=4, keys per step=5. Raise `queue_size` or lower the batch size."
    )


@pytest.mark.parametrize("name, arguments", [("size", (0, 8)), ("size", (2.5, 8)), ("dim", (8, 0)), ("dim", (8, -1))])
def test_sizes_must_be_positive_integers(name, arguments):
    value = arguments[0] if name == "size" else arguments[1]
    with pytest.raises(ValueError) as error:
        FeatureQueue(*arguments)
    assert str(error.value) == f"`{name}` must be a positive integer. Received: {name}={value}. Give 1 or more."


def test_it_starts_full_of_unit_vectors_in_all_directions():
    rows = np.array(FeatureQueue(4096, dim=16).features)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), np.ones(4096), rtol=1e-5)
    # Uniform on the sphere: mean 0 and covariance I / 16; five standard errors of the estimates.
    np.testing.assert_allclose(rows.mean(axis=0), np.zeros(16), atol=5 * 16**-0.5 * 4096**-0.5)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(16) / 16, atol=5 * 2**0.5 / 16 * 4096**-0.5)


def test_the_first_rows_depend_on_the_seed_alone():
    first, other = FeatureQueue(8, 4, seed=1), FeatureQueue(8, 4, seed=2)
    keras.utils.set_random_seed(99)
    np.testing.assert_array_equal(FeatureQueue(8, 4, seed=1).features, first.features)
    assert np.abs(np.array(first.features) - np.array(other.features)).max() > 0.1
    assert int(first.pointer) == 0 and float(first.fill) == 0


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_it_is_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    queue = FeatureQueue(4, dim=2)
    third = np.full((1, 2), 1 / 3, "float32")
    queue.enqueue(tf.constant(third))
    assert queue.features.dtype == "float32"
    np.testing.assert_array_equal(queue.features[:1], third)


def test_its_state_takes_no_gradient():
    queue = FeatureQueue(4, dim=2)
    assert queue.trainable_variables == []
    assert [w.name for w in queue.non_trainable_variables] == ["features", "count"]


def test_the_configuration_makes_the_same_queue():
    queue = FeatureQueue(6, dim=3, seed=5, name="keys")
    restored = FeatureQueue.from_config(queue.get_config())
    assert restored.get_config() == queue.get_config()
    np.testing.assert_array_equal(restored.features, queue.features)


def trained(seed=0, epochs=1):
    """A tiny MoCo after five steps of four keys: the queue of 7 rows is full and its pointer at 6."""
    keras.utils.set_random_seed(seed)
    backbone = keras.Sequential([keras.Input((2, 2, 3)), layers.Flatten(), layers.Dense(4, activation="relu")])
    model = MoCo(Encoder(backbone, linear_head(4, 3)), queue_size=7, momentum=0.5, seed=seed)
    model.compile(optimizer=SGD(0.1))
    images = np.random.default_rng(seed).uniform(0, 255, (2, 20, 2, 2, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"query": images[0], "key": images[1]}).batch(4, drop_remainder=True)
    model.fit(data, epochs=epochs, verbose=0)
    return model


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_inside_moco_it_survives_saving_with_all_other_state(suffix, tmp_path):
    model, path = trained(), tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
        restored = keras.models.load_model(path)
    else:
        model.save_weights(path)
        restored = trained(seed=1, epochs=2)
        restored.load_weights(path)
    assert int(restored.step) == int(model.step) == 5
    assert int(restored.queue.count) == 20 and int(restored.queue.pointer) == 6
    np.testing.assert_array_equal(restored.queue.features, model.queue.features)
    for side in ("query_encoder", "key_encoder", "optimizer"):
        ours, theirs = getattr(model, side).variables, getattr(restored, side).variables
        assert len(ours) > 2
        for variable, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(variable, other, err_msg=variable.path)


def test_a_step_touches_the_rows_of_its_keys_alone():
    queue, keys = FeatureQueue(1000, dim=4), tf.TensorSpec((8, 4))
    graph = tf.function(queue.enqueue).get_concrete_function(keys).graph
    sizes = [output.shape.num_elements() for operation in graph.get_operations() for output in operation.outputs]
    assert max(sizes) == 8 * 4


def test_what_was_read_before_stays_as_it_was():
    queue = FeatureQueue(6, dim=2)

    @tf.function
    def read_and_enqueue(keys):
        before = tf.convert_to_tensor(queue.features)
        queue.enqueue(keys)
        return before

    for step in range(1, 4):  # the first write to a variable is another than the later ones
        expected = np.array(queue.features)
        before = tf.convert_to_tensor(queue.features)
        inside = read_and_enqueue(step * tf.ones((4, 2)))
        queue.enqueue(-step * tf.ones((2, 2)))
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_array_equal(before, expected)
