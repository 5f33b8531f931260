"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., 2018)."""

from collections.abc import Iterable, Sequence

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import Accuracy, accuracy_of, in_words, rounded
from keras_moco.evaluation.features import IMAGE_SETTINGS, FeatureExtractor, Features
from keras_moco.evaluation.labelled import check_labels
from keras_moco.evaluation.neighbours import check_k, nearest_neighbours
from keras_moco.evaluation.plots import draw_confusion
from keras_moco.evaluation.projection_plot import draw_projection, lacks_for_projection
from keras_moco.evaluation.voters import nearest_voters, voters_by_level

SETTINGS = (*IMAGE_SETTINGS, "features", "knn_k", "knn_temperature", "seed", "pictures")
USUAL_K = 200  # neighbours in the authors' CIFAR-10 demo, and in Wu et al. 2018
_QUERIES = 1024  # whose votes are counted at once


def run(target):
    """`evaluate.py knn`: for every k, temperature and level, from one pass over the images."""
    config = target.config
    train, test = target.labelled()
    ks = config.knn_k or (usual_k(train.labels()),)
    if max(ks) > train.num_examples:
        raise UserError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={max(ks)}, {train.num_examples} images in {target.dataset}. Lower --knn_k."
        )
    if not config.knn_k and max(ks) < USUAL_K:
        print(note_on_usual_k(*ks))
    extractor = FeatureExtractor(target.features_by_level)
    queries = extractor.extract(target.dataset_of(test))
    # The reference set is streamed: 2,048 features of each of ImageNet's training images would take 10 GB.
    voters = voters_by_level(extractor.blocks(target.dataset_of(train)), queries, train.num_classes, max(ks))
    for level, found in voters.items():
        _vote(target, level, ks, queries[level], found)


def _vote(target, level, ks, queries, voters):
    """Counts the votes at one level, for every k and temperature."""
    config = target.config
    found, predicted = {}, []
    for k, temperature, votes in _votes(voters, target.train.num_classes, ks, config.knn_temperature):
        found[k, temperature] = accuracy = accuracy_of(votes, queries.labels)
        predicted.append(votes.argmax(axis=1))
        print(f"kNN (k={k}, temperature {temperature:g}) on the {level}: {in_words(accuracy)}", flush=True)
    first, *_ = found
    metrics = {f"k={k}, temperature={temperature:g}": rounded(found[k, temperature]) for k, temperature in found}
    target.output.record(**{f"knn_top1_{level}": round(found[first].top1, 2), f"knn_{level}": metrics})
    if config.pictures:
        names = target.train.class_names
        draw_confusion(target.output.path_of(f"confusion_knn_{level}.png"), queries.labels, predicted[0], names)
        path, lacking = target.output.path_of(f"projection_{level}.png"), lacks_for_projection(queries.features)
        if lacking:
            print(f"note: {path} is not drawn: {lacking}")
        else:
            draw_projection(path, queries.features, queries.labels, names, seed=config.seed)


def usual_k(labels):
    """The default number of neighbours that vote: 200, or fewer for small reference sets.

    At most a tenth of the images, and fewer than the smallest class has: with more, other classes outvote it even where
    all of its images are the nearest.

    Args:
        labels: int array `(n,)` of the reference set; -1 for an image without a label.

    Returns:
        int, at least 1.

    Example:

    >>> usual_k(np.arange(60_000) % 10), usual_k(np.arange(1437) % 10), usual_k([0] * 90 + [1] * 4)
    (200, 142, 3)
    """
    labels = np.asarray(labels)
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return int(max(1, min(USUAL_K, len(labels) // 10, counts.min(initial=USUAL_K + 1) - 1)))


def note_on_usual_k(k):
    """A line for the log on a number of neighbours below the usual one."""
    return (
        f"note: --knn_k was not given; {k} neighbours vote, at most a tenth of the training images and fewer than the "
        f"smallest class has, in place of the authors' {USUAL_K}"
    )


def knn_vote(similarity: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float = 0.1) -> np.ndarray:
    """The weighted vote of neighbours.

    A neighbour votes for its class with weight `exp(similarity / temperature)` (Wu et al. 2018, sec. 3.4; the official
    MoCo CIFAR demo). The votes of a query are divided by their sum, which changes no ranking and keeps them finite at
    any temperature.

    Args:
        similarity: `(n, k)` cosine similarities, best first.
        labels: `(n, k)` integers in `[0, num_classes)`, the classes of the neighbours.
        num_classes: int.
        temperature: float > 0. Defaults to `0.1` (Wu et al. use 0.07, the official CIFAR demo 0.1).

    Returns:
        float32 array `(n, num_classes)`: the share of the vote for each class; rows sum to 1.

    Raises:
        ValueError: for a temperature that is not positive.

    Example:

    >>> knn_vote(np.array([[0.9, 0.9, 0.9, 0.9]]), np.array([[2, 0, 2, 2]]), num_classes=3).tolist()
    [[0.25, 0.0, 0.75]]
    """
    _check_temperature(temperature)
    votes = np.empty((len(similarity), num_classes), "float32")
    for start in range(0, len(votes), _QUERIES):
        part = slice(start, start + _QUERIES)
        # Subtracting the best similarity of a row divides its weights by a constant, and `exp` cannot overflow.
        weights = np.exp((similarity[part] - similarity[part, :1]) / temperature)
        ballots = labels[part] + num_classes * np.arange(len(weights))[:, None]
        counted = np.bincount(ballots.ravel(), weights.ravel(), minlength=len(weights) * num_classes)
        counted = counted.reshape(-1, num_classes)
        votes[part] = counted / counted.sum(axis=1, keepdims=True)
    return votes


def knn_accuracies(
    bank: Features | Iterable[Features],
    queries: Features,
    num_classes: int,
    ks: Sequence[int] = (200,),
    temperatures: Sequence[float] = (0.1,),
    chunk_size: int = 256,
) -> dict[tuple[int, float], Accuracy]:
    """Top-1 and top-5 accuracy of the weighted vote for several `k` and temperatures, from one search.

    Args:
        bank, queries, num_classes: as for `nearest_voters`.
        ks: ints, numbers of neighbours. Defaults to `(200,)` (Wu et al. 2018; official CIFAR demo).
        temperatures: floats > 0. Defaults to `(0.1,)` (official CIFAR demo).
        chunk_size: int, number of queries compared at once. Defaults to `256`, as for `nearest_neighbours`.

    Returns:
        dict `{(k, temperature): Accuracy(top1, top5)}`, in percent. Classes with equal votes rank by class number;
        with five classes or fewer, top-5 is 100.

    Raises:
        ValueError: as `nearest_voters`, and for a temperature that is not positive.

    Example:

    >>> bank = Features(np.eye(3), np.array([0, 1, 1]), np.arange(3))
    >>> queries = Features(np.array([[1.0, 0.0, 0.9]]), np.array([1]), np.arange(1))
    >>> knn_accuracies(bank, queries, num_classes=2, ks=(1, 3))[3, 0.1]
    Accuracy(top1=0.0, top5=100.0)
    """
    check_k(min(ks), None)
    for temperature in temperatures:
        _check_temperature(temperature)
    voters = nearest_voters(bank, queries, num_classes, max(ks), chunk_size)
    return {
        (k, temperature): accuracy_of(votes, queries.labels)
        for k, temperature, votes in _votes(voters, num_classes, ks, temperatures)
    }


def _votes(voters, num_classes, ks, temperatures):
    """Yields `(k, temperature, votes)`."""
    for k in ks:
        for temperature in temperatures:
            yield k, temperature, knn_vote(voters.similarity[:, :k], voters.labels[:, :k], num_classes, temperature)


def knn_predict(
    bank_features: np.ndarray,
    bank_labels: np.ndarray,
    query_features: np.ndarray,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    chunk_size: int = 256,
) -> np.ndarray:
    """Weighted k-nearest-neighbour vote by cosine similarity, of arrays: `knn_vote` of the `nearest_voters`.

    Args:
        bank_features: `(m, F)` features of the reference set, which vote. They need not be normalised.
        bank_labels: `(m,)` integers in `[0, num_classes)`.
        query_features: `(n, F)` features to classify.
        num_classes: int.
        k: int, number of neighbours, at most `m`. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float > 0. Defaults to `0.1` (Wu et al. use 0.07, the official CIFAR demo 0.1).
        chunk_size: int, number of queries compared at once. Defaults to `256`, as for `nearest_neighbours`.

    Returns:
        float32 array `(n, num_classes)`: the share of the vote for each class; rows sum to 1.

    Raises:
        ValueError: as `nearest_voters`, and for a temperature that is not positive.

    Example:

    >>> bank = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0]])
    >>> knn_predict(bank, [0, 0, 1], [[5.0, 0.2]], num_classes=2, k=2).tolist()
    [[1.0, 0.0]]
    """
    bank, queries = np.asarray(bank_features), np.asarray(query_features)
    labels = check_labels("bank_labels", bank_labels, num_classes, (len(bank),))
    _check_temperature(temperature)
    found = nearest_neighbours(bank, queries, k, chunk_size)
    return knn_vote(found.similarity, labels[found.rows], num_classes, temperature)


def knn_accuracy(
    bank_features: np.ndarray,
    bank_labels: np.ndarray,
    query_features: np.ndarray,
    query_labels: np.ndarray,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    chunk_size: int = 256,
) -> Accuracy:
    """Top-1 and top-5 accuracy of `knn_predict`, in percent: `knn_accuracies` of arrays, for one `k` and temperature.

    Args:
        bank_features, bank_labels, query_features, num_classes, k, temperature, chunk_size: as for `knn_predict`.
        query_labels: `(n,)` integers in `[0, num_classes)`, the true classes.

    Returns:
        `Accuracy(top1, top5)` in percent. Classes with equal votes rank by class number; with five classes or fewer,
        top-5 is 100.

    Raises:
        ValueError: as `knn_accuracies`.

    Example:

    >>> bank = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(bank, [0, 1], [[2.0, 0.1], [3.0, 0.1]], [0, 1], num_classes=2, k=1)
    Accuracy(top1=50.0, top5=100.0)
    """
    bank = Features(np.asarray(bank_features), bank_labels, index=None)
    queries = Features(np.asarray(query_features), query_labels, index=None)
    return knn_accuracies(bank, queries, num_classes, (k,), (temperature,), chunk_size)[k, temperature]


def _check_temperature(temperature):
    if not temperature > 0:
        raise UserError(f"`temperature` must be positive. Received: temperature={temperature}. The usual value is 0.1.")
