"""What features and labels must be like to be evaluated."""

import numpy as np

from keras_moco.errors import UserError


def check_labelled(name, labels, num_classes, every_class=False):
    """Raises `ValueError` unless all labels are classes, and, if wanted, every class occurs.

    Args:
        name: str, of the data, for the message.
        labels: int array `(n,)`; -1 marks an image without a label.
        num_classes: int.
        every_class: bool. A classifier cannot learn a class that it never sees.
    """
    labels = np.asarray(labels)
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        span = f"from {labels.min()} to {labels.max()}" if len(labels) else "none"
        raise UserError(
            f"Labels of `{name}` must lie in [0, num_classes). Received: {len(labels)} labels, {span}, "
            f"num_classes={num_classes}. Label -1 marks unlabelled data, which this cannot use."
        )
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if every_class and missing:
        raise UserError(
            f"Every class must occur in the labels of `{name}`, or the classifier never learns it. "
            f"Received: {num_classes} classes, and no image of {len(missing)} of them "
            f"({', '.join(map(str, missing[:10]))}{', ...' if len(missing) > 10 else ''}). "
            "Add images, or leave those classes out."
        )


def check_same_width(train, test):
    """Raises `ValueError` unless both are `Features` of one width."""
    if train.features.ndim != 2 or test.features.ndim != 2 or train.features.shape[1] != test.features.shape[1]:
        raise UserError(
            "Training and test features must be matrices of the same width, (m, F) and (n, F). "
            f"Received: shapes {train.features.shape} and {test.features.shape}. Take both from the same encoder."
        )
