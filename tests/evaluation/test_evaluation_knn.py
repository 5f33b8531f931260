import functools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from keras_moco.evaluation import (
    Features,
    knn,
    knn_accuracies,
    knn_accuracy,
    knn_predict,
    knn_vote,
    nearest_neighbours,
)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


def reference(bank, labels, queries, num_classes, k, temperature):
    """The vote in float64, one query at a time."""
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    votes = np.zeros((len(queries), num_classes))
    for row, query in enumerate(queries):
        similarity = unit @ (query / np.linalg.norm(query))
        for neighbour in np.argsort(-similarity, kind="stable")[:k]:
            votes[row, labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
    return votes / votes.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (200, 0.1), (50, 0.07)])
def test_votes_equal_a_plain_reference(digits, k, temperature):
    bank, labels, queries, _ = digits
    votes = knn_predict(bank, labels, queries[:100], 10, k=k, temperature=temperature)
    np.testing.assert_allclose(votes, reference(bank, labels, queries[:100], 10, k, temperature), atol=2e-5)


def test_votes_and_accuracy_equal_scikit_learn(digits):
    bank, labels, queries, truth = digits
    oracle = KNeighborsClassifier(200, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    oracle.fit(bank, labels)
    np.testing.assert_allclose(knn_predict(bank, labels, queries, 10), oracle.predict_proba(queries), atol=2e-5)
    accuracy = knn_accuracy(bank, labels, queries, truth, 10)
    assert accuracy.top1 == pytest.approx(100 * oracle.score(queries, truth))
    best = np.argsort(-oracle.predict_proba(queries), axis=1)[:, :5]
    assert accuracy.top5 == pytest.approx(100 * np.mean([t in row for t, row in zip(truth, best, strict=True)]))
    assert 80 < accuracy.top1 < accuracy.top5 < 100


@pytest.mark.parametrize("bank_chunk", [1, 7, 150, 1199])
def test_chunks_change_nothing(digits, monkeypatch, bank_chunk):
    bank, labels, queries, _ = digits
    whole = knn_predict(bank, labels, queries[:20], 10, k=30)
    monkeypatch.setattr(knn, "nearest_neighbours", functools.partial(nearest_neighbours, bank_chunk=bank_chunk))
    np.testing.assert_allclose(knn_predict(bank, labels, queries[:20], 10, k=30, chunk_size=7), whole, atol=1e-6)


@pytest.mark.parametrize("bank_chunk", [2, 8192])
def test_among_equals_the_first_in_the_bank_vote(monkeypatch, bank_chunk):
    monkeypatch.setattr(knn, "nearest_neighbours", functools.partial(nearest_neighbours, bank_chunk=bank_chunk))
    votes = knn_predict(np.ones((6, 3)), [2, 1, 0, 0, 0, 0], np.ones((1, 3)), 3, k=2)
    np.testing.assert_array_equal(votes, [[0, 0.5, 0.5]])


def test_the_length_of_a_vector_does_not_matter(digits):
    bank, labels, queries, _ = digits
    votes = knn_predict(bank, labels, queries[:50], 10)
    np.testing.assert_allclose(knn_predict(1e-30 * bank, labels, 1e30 * queries[:50], 10), votes, atol=1e-5)


def test_vectors_of_zeros_are_similar_to_nothing():
    bank = [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
    votes = knn_predict(bank, [0, 1, 2], [[3.0, 0.0]], 3, k=3, temperature=1.0)
    weights = np.exp([0.0, 1.0, -1.0])
    np.testing.assert_allclose(votes, [weights / weights.sum()], rtol=1e-6)
    np.testing.assert_allclose(knn_predict(bank, [0, 1, 2], [[0.0, 0.0]], 3, k=3), np.full((1, 3), 1 / 3), rtol=1e-6)


def test_a_very_low_temperature_is_the_nearest_neighbour(digits):
    bank, labels, queries, _ = digits
    votes = knn_predict(bank, labels, queries, 10, k=200, temperature=1e-6)
    np.testing.assert_array_equal(votes.argmax(1), knn_predict(bank, labels, queries, 10, k=1).argmax(1))


def test_top5_is_certain_with_five_classes():
    accuracy = knn_accuracy(np.eye(5), np.arange(5), np.eye(5), np.roll(np.arange(5), 1), 5, k=1)
    assert accuracy == (0.0, 100.0)


def test_shares_of_the_vote_are_those_of_the_formula():
    similarity, labels = np.array([[0.9, 0.5, 0.5, -0.2], [1.0, 1.0, 0.0, 0.0]]), np.array([[2, 0, 2, 1], [0, 1, 1, 1]])
    weights = np.exp(similarity / 0.07)
    expected = np.array([[weights[row][labels[row] == label].sum() for label in range(4)] for row in range(2)])
    found = knn_vote(similarity, labels, 4, temperature=0.07)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    assert found.dtype == "float32"


def as_features(features, labels):
    return Features(features, labels, np.arange(len(labels)))


@pytest.mark.parametrize("block", [None, 100, 1199])
def test_several_k_and_temperatures_equal_single_calls_held_and_streamed(digits, block):
    bank, labels, queries, truth = digits
    voters = as_features(bank, labels)
    if block is not None:
        starts = range(0, 1200, block)
        voters = (as_features(bank[start : start + block], labels[start : start + block]) for start in starts)
    ks, temperatures = (200, 1, 20), (0.07, 1.0)
    found = knn_accuracies(voters, as_features(queries, truth), 10, ks, temperatures)
    single = {
        (k, t): knn_accuracy(bank, labels, queries, truth, 10, k=k, temperature=t) for k in ks for t in temperatures
    }
    assert found == single and len(set(single.values())) > 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ks": (1, 5)}, "`k` must be between 1 and the number of bank features. Received: k=5, bank of 4."),
        ({"ks": (2, 0)}, "`k` must be between 1 and the number of bank features. Received: k=0, bank of"),
        ({"temperatures": (0.1, 0.0)}, "`temperature` must be positive. Received: temperature=0.0."),
        ({"bank": as_features(np.eye(4), np.array([0, -1, 0, 0]))}, "`bank_labels` must lie in [0, num_classes)."),
        ({"bank": as_features(np.eye(4), np.array([0, 1]))}, "`bank_labels` must hold one label per feature."),
        ({"bank": as_features(np.ones((4, 3)), np.zeros(4, int))}, "must be matrices of the same width"),
        ({"queries": as_features(np.eye(4), np.array([0, 1, 2, 3]))}, "`query_labels` must lie in [0, num_classes)."),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_right_of_several_is_refused(change, sentence, streamed):
    sound = as_features(np.eye(4), np.array([0, 1, 2, 0]))
    arguments = {"bank": sound, "queries": sound, "num_classes": 3, "ks": (2,)} | change
    if streamed:
        arguments["bank"] = iter([arguments["bank"]])
    with pytest.raises(ValueError) as error:
        knn_accuracies(**arguments)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"k": 5},
            "`k` must be between 1 and the number of bank features. Received: k=5, bank of 4. Lower `k` or",
        ),
        ({"k": 0}, "`k` must be between 1 and the number of bank features. Received: k=0, bank of 4."),
        ({"temperature": 0.0}, "`temperature` must be positive. Received: temperature=0.0."),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1. Received: chunk_size=0."),
        ({"query_features": np.ones((2, 3))}, "must be matrices of the same width"),
        (
            {"bank_labels": [0, 1, 2, -1]},
            "`bank_labels` must lie in [0, num_classes). Received: labels from -1 to 2",
        ),
        ({"bank_labels": [0, 1, 2]}, "`bank_labels` must hold one label per feature."),
        (
            {"query_labels": [0, 3]},
            "`query_labels` must lie in [0, num_classes). Received: labels from 0 to 3",
        ),
        ({"query_features": [[1, 1, np.nan, 1], [0, 0, 0, 1]]}, "Features must be finite."),
        (
            {"query_features": np.ones((0, 4)), "query_labels": []},
            "`query_features` must hold at least one row.",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(change, sentence):
    arguments = {
        "bank_features": np.eye(4),
        "bank_labels": [0, 1, 2, 0],
        "query_features": np.ones((2, 4)),
        "query_labels": [0, 1],
        "num_classes": 3,
        "k": 2,
    }
    with pytest.raises(ValueError) as error:
        knn_accuracy(**(arguments | change))
    assert sentence in str(error.value)
