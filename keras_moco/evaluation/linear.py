"""Linear classification of frozen features: how well are the classes separated by hyperplanes?"""

import contextlib
import hashlib
import warnings
from typing import NamedTuple

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.features import extract_features

_HELD_OUT = 0.1


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
    sweep: dict
    converged: bool


@contextlib.contextmanager
def frozen(model):
    """Fails if anything inside the `with` block changes the model, by as little as one bit.

    Every variable is compared, BatchNormalization statistics included: a "linear" probe that trains its
    backbone, or runs it in training mode, reports numbers that mean nothing.

    Args:
        model: a built `keras.Model` or layer.

    Raises:
        RuntimeError: naming the variables that were changed, created or removed.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> with frozen(layer):
    ...     _ = layer(np.ones((1, 3)))
    """
    variables = list(model.variables)  # held, so that no new one can have the identity of one that is gone
    before = _digests(variables)
    yield
    after = _digests(model.variables)
    different = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    changed = [(before.get(key) or after[key])[0] for key in different]
    if changed:
        raise RuntimeError(
            "The model must not change while it is evaluated. "
            f"Received: {len(changed)} changed variable(s): {', '.join(sorted(changed))}. "
            "Call it with training=False and take no optimizer step on it."
        )


def linear_probe(encoder, train, test, c_values=(0.001, 0.01, 0.1, 1.0), max_iter=300, seed=0):
    """Logistic regression on the frozen pooled features of an encoder.

    Features are extracted once, without augmentation, and given to `linear_accuracy`. The encoder is guarded
    by `frozen`: the probe fails rather than report the accuracy of a backbone that was trained along.

    This is not the protocol of the papers' tables, which trains the linear layer by SGD on augmented images
    (learning rate 30, MoCo v1 sec. 4.1; official `main_lincls.py`). It is deterministic, has one parameter,
    chosen on training data alone, and takes seconds; that protocol is `linear_sweep_on_images`.

    Args:
        encoder: model with a method `features(images, training=False)` giving `(n, F)`, such as `Encoder`.
        train: finite data set of `{"image", "label", "index"}` batches.
        test: as `train`; never used to choose anything.
        c_values: candidates for the inverse regularisation strength.
        max_iter: int, iterations of the solver for each fit.
        seed: int, chooses the held-out tenth.

    Returns:
        `LinearProbe(accuracy, c, sweep, converged)`; accuracies in percent.

    Raises:
        RuntimeError: if a variable of the encoder changed meanwhile.
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


def linear_accuracy(train, test, c_values=(0.001, 0.01, 0.1, 1.0), max_iter=300, seed=0):
    """Logistic regression on features that are already extracted.

    Features are standardised by the training mean and deviation. The inverse regularisation strength is
    chosen on a held-out tenth of the training features; the classifier is then fitted again on all of them.

    Args:
        train: `Features` to fit on.
        test: `Features` to score.
        c_values: candidates for the inverse regularisation strength, scikit-learn's `C`.
        max_iter: int, iterations of the solver for each fit.
        seed: int, chooses the held-out tenth.

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
    order = np.random.default_rng(seed).permutation(len(train.labels))
    held_out, rest = np.split(order, [int(np.ceil(_HELD_OUT * len(order)))])
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


def _digests(variables):
    """Path and digest of each, by its identity: the two encoders of a model share their paths."""
    # Digests instead of copies: the guard costs no memory, however large the model.
    return {id(each): (each.path, hashlib.sha256(each.numpy().tobytes()).digest()) for each in variables}


def _check(train, test, c_values):
    for name, data in (("train", train), ("test", test)):
        if len(data.labels) == 0 or data.labels.min() < 0:
            raise UserError(
                f"`{name}` must be labelled. Received: {len(data.labels)} labels, the smallest "
                f"{data.labels.min() if len(data.labels) else None}. Label -1 marks unlabelled data."
            )
    if len(train.labels) < 10:
        raise UserError(
            "`train` must hold at least ten features, since a tenth is held out. "
            f"Received: {len(train.labels)} features. Use more training images."
        )
    if len(c_values) == 0 or min(c_values) <= 0:
        raise UserError(f"`c_values` must be positive numbers. Received: c_values={c_values}. Use e.g. (0.01, 0.1).")
