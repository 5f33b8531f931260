"""How often the right class comes first, or among the first five."""

from typing import NamedTuple

import numpy as np


class Accuracy(NamedTuple):
    """Accuracy in percent.

    Attributes:
        top1: float, share of images whose class has the highest score.
        top5: float, share whose class is among the five highest; 100 where there are no more than five classes.
    """

    top1: float
    top5: float


def accuracy_of(scores, labels):
    """Top-1 and top-5 accuracy.

    Args:
        scores: float array `(n, C)`, such as logits or votes. Of equal ones the lower class number ranks first.
        labels: int array `(n,)`, the true classes.

    Returns:
        `Accuracy(top1, top5)`, in percent.

    Example:

    >>> accuracy_of([[0.1, 0.9], [0.8, 0.2]], [1, 1])
    Accuracy(top1=50.0, top5=100.0)
    """
    ranked = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :5]
    hits = ranked == np.asarray(labels)[:, None]
    return Accuracy(top1=100.0 * float(hits[:, 0].mean()), top5=100.0 * float(hits.any(axis=1).mean()))
