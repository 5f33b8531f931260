"""RandomRightAngle against NumPy's rotations and mirror images."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import RandomRightAngle
from keras_moco.checks.graph import plain_failures
from tests.augment.oracles import PHOTOS

SQUARE = PHOTOS[1, 100:109, 200:209]  # (9, 9, 3)
SYMMETRIES = [np.rot90(image, turns) for image in (SQUARE, SQUARE[:, ::-1]) for turns in range(4)]


def test_equal_parts_of_the_random_numbers_are_the_eight_symmetries_of_a_square():
    draws = np.linspace(0, 1, 80, endpoint=False, dtype="float32")[:, None] + np.float32(1e-4)
    views = RandomRightAngle().augment_images(np.stack([SQUARE] * 80), draws).numpy()
    counts = [sum(np.array_equal(view, symmetry) for view in views) for symmetry in SYMMETRIES]
    assert counts == [10] * 8


def test_a_batch_may_have_any_type_and_any_axes():
    layer, draws = RandomRightAngle(), np.float32([[0.1], [0.4], [0.6], [0.95]])
    expected = layer.augment_images(np.stack([SQUARE] * 4), draws)
    for dtype in ("uint8", "float64"):
        images = np.stack([SQUARE] * 4).astype(dtype)
        found = layer.turn(tf.transpose(images, [0, 2, 3, 1]), tf.constant(draws), rows=3, columns=1)
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.transpose(found, [0, 3, 1, 2]), expected)


def test_other_images_than_squares_are_refused_also_in_a_graph_that_does_not_know_their_size():
    layer, draws = RandomRightAngle(), tf.constant([[0.1]])
    with pytest.raises(ValueError, match=r"`images` must be square.*height 9 and width 8\. Crop"):
        layer.augment_images(SQUARE[None, :, :8], draws)
    run = tf.function(layer.augment_images, input_signature=[tf.TensorSpec([1, None, None, 3]), tf.TensorSpec([1, 1])])
    np.testing.assert_array_equal(run(tf.cast(SQUARE[None], "float32"), draws)[0], SQUARE)
    with pytest.raises(ValueError, match=r"`images` must be square.*height 9 and width 8\. Crop"), plain_failures():
        run(tf.cast(SQUARE[None, :, :8], "float32"), draws)
