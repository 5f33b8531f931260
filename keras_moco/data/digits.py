"""The 8x8 digits that come with scikit-learn: a data set that needs no download."""

import dataclasses

import numpy as np

from keras_moco.data.arrays import array_source
from keras_moco.data.source import check_split

LICENCE = "CC BY 4.0 (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI)"
TEST_EXAMPLES = 360  # a fifth of 1,797


def open_digits(_, options):
    """Opens the digits: 1,437 to train on and 360 to test on, stratified by class, always the same split.

    Args:
        options: `Options`.

    Returns:
        A `Source` of images `(8, 8, 1)`; scikit-learn's grey values 0..16 are scaled to 0..255.
    """
    check_split("digits", options.split)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=TEST_EXAMPLES, stratify=digits.target, random_state=0
    )
    chosen = train if options.split == "train" else test
    source = array_source(
        digits.images[chosen] * (255 / 16),
        digits.target[chosen],
        class_names=[str(name) for name in digits.target_names],
        name="digits",
        split=options.split,
    )
    return dataclasses.replace(source, licence=LICENCE)
