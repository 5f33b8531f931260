"""How often the right class comes first, or among the first five."""

import math
import statistics
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


def spread(accuracies):
    """The standard deviation of a sample, divided by one less than their number; NaN of a single one.

    >>> spread([75.0, 100.0]), spread([80.0])
    (17.67766952966369, nan)
    """
    return statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan


def told_together(accuracies):
    """Mean and spread of accuracies in percent, in words.

    >>> told_together([75.0, 100.0]), told_together([80.0])
    ('87.50 +- 17.68 %, 2 draws', '80.00 %, 1 draw')
    """
    number = len(accuracies)
    deviation, draws = (f" +- {spread(accuracies):.2f}", f"{number} draws") if number > 1 else ("", "1 draw")
    return f"{statistics.mean(accuracies):.2f}{deviation} %, {draws}"
