"""The queue against a ring of NumPy rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.layers import FeatureBank, FeatureQueue


@pytest.mark.parametrize("size, batches", [(12, [4] * 4), (7, [3, 5, 1, 7, 6, 2]), (5, [5, 5])])
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


def test_queue_and_bank_start_as_unit_vectors_in_all_directions():
    for layer in (FeatureQueue(4096, dim=16), FeatureBank(4096, dim=16)):
        rows = np.array(layer.features)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), np.ones(4096), rtol=1e-5)
        # Uniform on the sphere: mean 0 and covariance I / 16; five standard errors of the estimates.
        np.testing.assert_allclose(rows.mean(axis=0), np.zeros(16), atol=5 * 16**-0.5 * 4096**-0.5)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(16) / 16, atol=5 * 2**0.5 / 16 * 4096**-0.5)


def test_first_rows_depend_on_the_seed_alone():
    first, other = FeatureQueue(8, 4, seed=1), FeatureQueue(8, 4, seed=2)
    keras.utils.set_random_seed(99)
    np.testing.assert_array_equal(FeatureQueue(8, 4, seed=1).features, first.features)
    assert np.abs(np.array(first.features) - np.array(other.features)).max() > 0.1
    assert int(first.pointer) == 0 and float(first.fill) == 0


def test_step_touches_the_rows_of_its_keys_alone():
    queue, keys = FeatureQueue(1000, dim=4), tf.TensorSpec((8, 4))
    graph = tf.function(queue.enqueue).get_concrete_function(keys).graph
    sizes = [output.shape.num_elements() for operation in graph.get_operations() for output in operation.outputs]
    assert max(sizes) == 8 * 4


def test_rows_read_before_an_update_stay_as_they_were():
    queue = FeatureQueue(6, dim=2)

    @tf.function
    def read_and_enqueue(keys):
        before = tf.convert_to_tensor(queue.features)
        queue.enqueue(keys)
        return before

    for step in range(1, 4):  # TensorFlow treats the first write to a variable differently from the later ones
        expected = np.array(queue.features)
        before = tf.convert_to_tensor(queue.features)
        inside = read_and_enqueue(step * tf.ones((4, 2)))
        queue.enqueue(-step * tf.ones((2, 2)))
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_array_equal(before, expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="queue_size=4, keys per step=5"):
        FeatureQueue(4, dim=2).enqueue(tf.ones((5, 2)))
    for name, value in (("size", 0), ("size", 2.5), ("dim", -1)):
        with pytest.raises(ValueError, match=f"Received: {name}={value}"):
            FeatureQueue(**{"size": 8, "dim": 8, name: value})
