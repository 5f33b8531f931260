"""How often the right class comes first, or among the first five."""

from typing import NamedTuple

import numpy as np

_ROWS = 1024  # ranked at once, so that many images of many classes take no more memory


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
    scores, labels = np.asarray(scores), np.asarray(labels)
    hits = np.empty((len(scores), min(scores.shape[1], 5)), "bool")
    for start in range(0, len(scores), _ROWS):
        part = slice(start, start + _ROWS)
        hits[part] = np.argsort(-scores[part], axis=1, kind="stable")[:, :5] == labels[part, None]
    return Accuracy(top1=100.0 * float(hits[:, 0].mean()), top5=100.0 * float(hits.any(axis=1).mean()))
