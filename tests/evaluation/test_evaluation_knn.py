"""The weighted vote of neighbours, against NumPy and scikit-learn."""

import functools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from keras_moco.evaluation import Features, knn, knn_accuracies, knn_accuracy, knn_predict, knn_vote, nearest_neighbours

IMAGES, LABELS = load_digits(return_X_y=True)
DIGITS = IMAGES[:1200], LABELS[:1200], IMAGES[1200:], LABELS[1200:]


def test_votes_and_accuracy_equal_scikit_learn():
    bank, labels, queries, truth = DIGITS
    oracle = KNeighborsClassifier(200, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    expected = oracle.fit(bank, labels).predict_proba(queries)
    np.testing.assert_allclose(knn_predict(bank, labels, queries, 10), expected, atol=2e-5)
    accuracy = knn_accuracy(bank, labels, queries, truth, 10)
    one_image = 100 / len(queries)  # a close vote may be decided by rounding
    assert accuracy.top1 == pytest.approx(100 * np.mean(expected.argmax(axis=1) == truth), abs=one_image)
    best = np.argsort(-expected, axis=1)[:, :5]
    assert accuracy.top5 == pytest.approx(100 * np.mean((best == truth[:, None]).any(axis=1)), abs=one_image)
    assert 80 < accuracy.top1 < accuracy.top5 < 100


def test_chunks_and_lengths_change_nothing(monkeypatch):
    bank, labels, queries, _ = DIGITS
    whole = knn_predict(bank, labels, queries[:20], 10, k=30)
    monkeypatch.setattr(knn, "nearest_neighbours", functools.partial(nearest_neighbours, bank_chunk=150))
    # Products of other shapes are rounded otherwise, by 1e-7, and then divided by the temperature 0.1.
    chunks = knn_predict(1e-30 * bank, labels, 1e30 * queries[:20], 10, k=30, chunk_size=7)
    np.testing.assert_allclose(chunks, whole, atol=1e-5)


def test_votes_follow_the_formula():
    similarity, labels = np.array([[0.9, 0.5, 0.5, -0.2], [1.0, 1.0, 0.0, 0.0]]), np.array([[2, 0, 2, 1], [0, 1, 1, 1]])
    weights = np.exp(similarity / 0.07)
    expected = np.array([[weights[row][labels[row] == label].sum() for label in range(4)] for row in range(2)])
    found = knn_vote(similarity, labels, 4, temperature=0.07)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    assert found.dtype == "float32"
    # A very low temperature leaves the nearest neighbour alone, where nothing overflows.
    assert knn_vote(np.array([[0.9, 0.8, 0.8]]), np.array([[2, 0, 0]]), 3, 1e-6).tolist() == [[0, 0, 1]]


def as_features(features, labels):
    return Features(features, labels, np.arange(len(labels)))


@pytest.mark.parametrize("block", [None, 100])
def test_several_k_and_temperatures_equal_single_calls(block):
    bank, labels, queries, truth = DIGITS
    voters = as_features(bank, labels)
    if block is not None:
        starts = range(0, 1200, block)
        voters = (as_features(bank[start : start + block], labels[start : start + block]) for start in starts)
    ks, temperatures = (200, 1), (0.07, 1.0)
    found = knn_accuracies(voters, as_features(queries, truth), 10, ks, temperatures)
    for (k, temperature), accuracy in found.items():
        single = knn_accuracy(bank, labels, queries, truth, 10, k=k, temperature=temperature)
        assert accuracy == pytest.approx(single, abs=100 / len(queries)), (k, temperature)
    assert list(found) == [(k, temperature) for k in ks for temperature in temperatures]
    assert len(set(found.values())) == 3  # of one neighbour the temperature does not matter


def test_bad_arguments_are_refused():
    sound = as_features(np.eye(4), np.array([0, 1, 2, 0]))
    for change, variable in (
        ({"ks": (1, 5)}, "k=5, reference set of 4"),
        ({"temperatures": (0.1, 0.0)}, "temperature=0.0"),
        ({"bank": as_features(np.eye(4), np.array([0, -1, 0, 0]))}, "4 labels from -1 to 0"),
        ({"bank": as_features(np.eye(4), np.array([0, 1]))}, "bank_labels of shape (2,)"),
        ({"queries": as_features(np.eye(4), np.array([0, 1, 2, 3]))}, "4 labels from 0 to 3"),
        ({"queries": as_features(np.full((1, 4), np.nan), np.array([0]))}, "NaN or infinite"),
        ({"queries": as_features(np.ones((0, 4)), np.array([], int))}, "none"),
    ):
        for streamed in (False, True):
            arguments = {"bank": sound, "queries": sound, "num_classes": 3, "ks": (2,)} | change
            arguments["bank"] = iter([arguments["bank"]]) if streamed else arguments["bank"]
            with pytest.raises(ValueError) as error:
                knn_accuracies(**arguments)
            assert f"Received: {variable}" in str(error.value)
    with pytest.raises(ValueError, match="Received: temperature=0.0"):
        knn_predict(np.eye(4), [0, 1, 2, 0], np.eye(4), 3, k=2, temperature=0.0)
