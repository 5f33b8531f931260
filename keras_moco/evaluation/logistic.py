"""Logistic regression on frozen features: how well do hyperplanes separate the classes?"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.features import IMAGE_SETTINGS, Features, extract_features
from keras_moco.evaluation.guard import frozen
from keras_moco.evaluation.labelled import check_labels, held_out_tenth

SETTINGS = (*IMAGE_SETTINGS, "features")
C_VALUES = (0.001, 0.01, 0.1, 1.0)


def run(target):
    """`evaluate.py logistic`: deterministic, and fast on small data sets."""
    train, test = target.labelled()
    with frozen(target.encoder):
        features = (extract_features(target.features, target.dataset_of(split)) for split in (train, test))
        probe = linear_accuracy(*features)
    print(f"logistic regression: top-1 {probe.accuracy:.2f} % (C={probe.c:g}); no bit of the encoder changed")
    target.output.record(logistic_top1=round(probe.accuracy, 2), logistic_c=probe.c)


class LinearProbe(NamedTuple):
    """Result of a linear probe.

    Attributes:
        accuracy: float, top-1 accuracy on the test features, in percent.
        c: float, the chosen inverse regularisation strength.
        sweep: dict, each tried `c` to its accuracy in percent on the held-out tenth of the training features.
        converged: bool, whether the final fit met the solver's tolerance within `max_iter` iterations.
    """

    accuracy: float
    c: float
    sweep: dict[float, float]
    converged: bool


def linear_probe(
    encoder: Any, train: Any, test: Any, c_values: Sequence[float] = C_VALUES, max_iter: int = 300, seed: int = 0
) -> LinearProbe:
    """Logistic regression on the frozen pooled features of an encoder.

    Features are extracted once, without augmentation, and given to `linear_accuracy`. The encoder is guarded by
    `frozen`: the probe fails rather than report the accuracy of a backbone that was trained too.

    This is not the protocol of the papers' tables, `linear_sweep_on_images`, which trains the linear layer by SGD on
    augmented images (learning rate 30, MoCo v1 sec. 4.1; official `main_lincls.py`). It is deterministic, has one
    parameter, which is chosen on training data alone, and takes seconds.

    Args:
        encoder: model with a method `features(images, training=False)` giving `(n, F)`, such as `Encoder`.
        train: finite data set of `{"image", "label", "index"}` batches.
        test: as `train`; not used to choose anything.
        c_values: candidates for the inverse regularisation strength.
        max_iter: int, maximum number of iterations of the solver for each fit.
        seed: int, the random seed of the held-out tenth.

    Returns:
        `LinearProbe(accuracy, c, sweep, converged)`; accuracies in percent.

    Raises:
        RuntimeError: if a variable of the encoder changes.
        ValueError: as `linear_accuracy`.

    Example:

    ```python
    probe = linear_probe(model.encoder, evaluation_dataset(train, 32), evaluation_dataset(test, 32))
    print(f"linear {probe.accuracy:.1f} %")
    ```
    """
    with frozen(encoder):

        def embed(images):
            return encoder.features(images, training=False)

        train_features, test_features = extract_features(embed, train), extract_features(embed, test)
        return linear_accuracy(train_features, test_features, c_values, max_iter, seed)


def linear_accuracy(
    train: Features, test: Features, c_values: Sequence[float] = C_VALUES, max_iter: int = 300, seed: int = 0
) -> LinearProbe:
    """Logistic regression on features that are already extracted.

    Features are standardised by the mean and standard deviation of the training features. The inverse regularisation
    strength is chosen on a held-out tenth of the training features; the classifier is then fitted again on all.

    Args:
        train: `Features` to fit on.
        test: `Features` to score.
        c_values: candidates for the inverse regularisation strength, scikit-learn's `C`.
        max_iter: int, maximum number of iterations of the solver for each fit.
        seed: int, the random seed of the held-out tenth.

    Returns:
        `LinearProbe(accuracy, c, sweep, converged)`; accuracies in percent.

    Raises:
        ValueError: if labels are missing, there is only one class, or fewer than ten training features.

    Example:

    >>> from keras_moco.evaluation.features import Features
    >>> x = np.repeat(np.eye(2, dtype="float32"), 20, axis=0)
    >>> data = Features(x, np.repeat([0, 1], 20), np.arange(40))
    >>> linear_accuracy(data, data).accuracy
    100.0
    """
    _check(train, test, c_values)
    held_out, rest = held_out_tenth(len(train.labels), seed)
    sweep = {}
    if len(c_values) > 1:
        part, labels = train.features[rest], train.labels[rest]
        for c, predict, _ in _fits(part, labels, c_values, max_iter):
            sweep[c] = _percent(predict(train.features[held_out]), train.labels[held_out])
    c = max(sweep, key=lambda c: sweep[c]) if sweep else float(c_values[0])  # the strongest regularisation among equals
    ((_, predict, converged),) = _fits(train.features, train.labels, [c], max_iter)
    return LinearProbe(_percent(predict(test.features), test.labels), c, sweep, converged)


def _fits(features, labels, c_values, max_iter):
    """Yields `(c, predict, converged)` from strong to weak regularisation, each fit starting at the last."""
    from sklearn.exceptions import ConvergenceWarning  # a second of import time, for this function only
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        raise UserError(
            "`train` must hold at least two classes, also without its held-out tenth. "
            f"Received: labels {np.unique(labels).tolist()}. Use more training images."
        )
    scaler = StandardScaler()
    features = scaler.fit_transform(features.astype("float32"))
    classifier = LogisticRegression(max_iter=max_iter, warm_start=True)
    for c in sorted(map(float, c_values)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
            classifier.set_params(C=c).fit(features, labels)

        def predict(rows):
            return classifier.predict(scaler.transform(rows.astype("float32")))

        yield c, predict, bool(np.max(classifier.n_iter_) < max_iter)


def _percent(predicted, labels):
    return 100.0 * float(np.mean(predicted == labels))


def _check(train, test, c_values):
    check_labels("train.labels", train.labels)
    check_labels("test.labels", test.labels)
    if len(train.labels) < 10:
        raise UserError(
            "`train` must hold at least ten features, since a tenth is held out. "
            f"Received: {len(train.labels)} features. Use more training images."
        )
    if len(c_values) == 0 or min(c_values) <= 0:
        raise UserError(f"`c_values` must be positive numbers. Received: c_values={c_values}. Use e.g. (0.01, 0.1).")
