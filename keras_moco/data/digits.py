"""The 8x8 digits inside scikit-learn: a data set that is always at hand."""

import numpy as np
import tensorflow as tf

from keras_moco.data.memory import examples_from_arrays
from keras_moco.data.sources import Source

TEST_EXAMPLES = 360  # a fifth of 1,797


def open_digits(split):
    """Opens the digits: 1,437 to train on and 360 to test on, stratified by class, always the same ones.

    Args:
        split: str. `"train"` or `"test"`.

    Returns:
        A `Source` of images `(8, 8, 1)`; scikit-learn's grey values 0..16 are scaled to 0..255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=TEST_EXAMPLES, stratify=digits.target, random_state=0
    )
    chosen = train if split == "train" else test
    with tf.device("CPU"):  # tf.data reads from the host
        images = tf.constant(np.round(digits.images[chosen, :, :, None] * (255 / 16)).astype("uint8"))
        labels = tf.constant(digits.target[chosen].astype("int32"))
    return Source(
        name="digits",
        split=split,
        num_examples=len(chosen),
        image_shape=(8, 8, 1),
        class_names=tuple(str(name) for name in digits.target_names),
        read=lambda seed, keep: examples_from_arrays(images, labels, seed, keep),
    )
