"""How often the right class comes first, or among the first five."""

import math
import statistics
from typing import NamedTuple

import numpy as np

_ROWS = 1024  # ranked at once, which bounds the memory for many images of many classes


class Accuracy(NamedTuple):
    """Accuracy in percent.

    Attributes:
        top1: float, share of images whose class has the highest score.
        top5: float, share of images whose class has one of the five highest scores; 100 for at most five classes.
    """

    top1: float
    top5: float


def accuracy_of(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Top-1 and top-5 accuracy.

    Args:
        scores: float array `(n, C)`, such as logits or votes. Among equal scores the lower class number ranks first,
            as in `argmax`; scikit-learn's `top_k_accuracy_score` prefers the higher one.
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


def in_words(accuracy):
    """A line for the log.

    >>> in_words(Accuracy(50.0, 100.0))
    'top-1 50.00 %, top-5 100.00 %'
    """
    return f"top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} %"


def rounded(accuracy):
    """`[top1, top5]` for `results.json`."""
    return [round(accuracy.top1, 2), round(accuracy.top5, 2)]


def sample_std(accuracies):
    """The standard deviation of a sample, with divisor `n - 1`; NaN for a single value.

    >>> sample_std([75.0, 100.0]), sample_std([80.0])
    (17.67766952966369, nan)
    """
    return statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan


def mean_and_std(accuracies):
    """Mean and standard deviation over seeds of accuracies in percent, as text.

    >>> mean_and_std([75.0, 100.0]), mean_and_std([80.0])
    ('87.50 +- 17.68 %, 2 seeds', '80.00 %, 1 seed')
    """
    number = len(accuracies)
    deviation, seeds = (f" +- {sample_std(accuracies):.2f}", f"{number} seeds") if number > 1 else ("", "1 seed")
    return f"{statistics.mean(accuracies):.2f}{deviation} %, {seeds}"
