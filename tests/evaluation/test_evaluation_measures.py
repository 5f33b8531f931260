"""Measures without labels, against their definitions."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.special import hyp0f1

from keras_moco.evaluation import (
    RepresentationMeasures,
    alignment,
    effective_rank,
    feature_std,
    representation_measures,
    uniformity,
)
from keras_moco.evaluation import measures as module
from keras_moco.evaluation.measures import similarities

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(0.3, 1, (2, 37, 6))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def on_the_sphere(n, dimensions):
    return unit(np.random.default_rng(1).normal(size=(n, dimensions)))


def test_alignment_is_the_mean_power_of_the_distances():
    for alpha in (2, 3.5):
        expected = np.mean([sum((x - y) ** 2) ** (alpha / 2) for x, y in zip(unit(FIRST), unit(SECOND), strict=True)])
        assert alignment(FIRST, SECOND, alpha) == pytest.approx(expected)
    angles = np.linspace(0, np.pi, 5)  # between the views; 0 to 180 degrees
    second = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert alignment(np.tile([2.0, 0.0], (5, 1)), second) == pytest.approx(np.mean(2 - 2 * np.cos(angles)))


def log_mean_of_pairs(rows, t):
    return math.log(np.mean(np.exp(-t * pdist(unit(rows), "sqeuclidean"))))


def test_uniformity_is_the_log_of_a_mean_over_pairs(monkeypatch):
    for t in (0.5, 7):
        assert uniformity(FIRST, t) == pytest.approx(log_mean_of_pairs(FIRST, t))
    monkeypatch.setattr(module, "_CHUNK", 4)
    for n in (2, 3, 4, 7, 8, 9):
        assert uniformity(FIRST[:n]) == pytest.approx(log_mean_of_pairs(FIRST[:n], 2)), n


def test_uniformity_of_many_random_directions_is_that_of_the_sphere():
    # The mean of exp(k x.y) over the sphere in D dimensions is 0F1(; D / 2; k^2 / 4), and |x - y|^2 = 2 - 2 x.y.
    for dimensions in (3, 128):
        expected = -4 + math.log(hyp0f1(dimensions / 2, 2**2))
        assert uniformity(on_the_sphere(1000, dimensions)) == pytest.approx(expected, abs=0.02)


def test_uniformity_of_extremes():
    collapsed = RNG.uniform(1, 5, (300, 1)) * FIRST[:1]
    assert uniformity(collapsed) == pytest.approx(0, abs=1e-12)
    assert uniformity([[3.0, 0.0], [-1.0, 0.0]], t=5) == pytest.approx(-20)
    # Equal distances of orthogonal vectors, |x - y|^2 = 2: exp(-2000) is 0 in float64.
    assert uniformity(np.eye(9), t=1000) == pytest.approx(-2000)


def test_feature_std_is_the_definition_of_the_training_metric():
    rows = unit(FIRST)
    spread = [math.sqrt(sum((x - sum(column) / 37) ** 2 for x in column) / 37) for column in rows.T]
    assert feature_std(FIRST) == pytest.approx(sum(spread) / 6 * math.sqrt(6))
    assert feature_std(on_the_sphere(5_000, 64)) == pytest.approx(1, abs=0.01)
    assert feature_std(np.tile(FIRST[0], (50, 1))) == pytest.approx(0, abs=1e-12)


def test_the_rank_is_the_number_of_orthonormal_directions():
    for n, width in ((5, 40), (40, 5)):
        directions = np.linalg.svd(np.random.default_rng(2).normal(size=(n, width)), full_matrices=False)
        assert effective_rank(3 * directions.U @ directions.Vh) == pytest.approx(5, rel=1e-5)


def test_the_rank_is_the_exponential_of_the_entropy_of_singular_values():
    # Eigenvalues of the Gram matrix are the squares of the singular values; nothing is centred or normalised.
    values = np.sqrt(np.linalg.eigvalsh(FIRST.T @ FIRST))
    entropy = -sum((value / sum(values) + 1e-7) * math.log(value / sum(values) + 1e-7) for value in values)
    assert effective_rank(FIRST) == pytest.approx(math.exp(entropy))
    assert abs(effective_rank(FIRST) - effective_rank(FIRST - FIRST.mean(axis=0))) > 0.01
    assert abs(effective_rank(FIRST) - effective_rank(unit(FIRST))) > 0.01
    # Two equal values and epsilon 0.1: shares of 0.6, which are not normalised again.
    assert effective_rank(np.eye(2), epsilon=0.1) == pytest.approx(math.exp(-2 * 0.6 * math.log(0.6)))


def test_all_measures_are_those_of_the_first_view_except_alignment():
    expected = alignment(FIRST, SECOND), uniformity(FIRST), feature_std(FIRST), effective_rank(FIRST)
    assert representation_measures(FIRST, SECOND) == RepresentationMeasures(*expected)


def test_lengths_beyond_what_can_be_squared_change_nothing():
    for factor in (1e-200, 1e200):
        assert representation_measures(factor * FIRST, SECOND) == pytest.approx(representation_measures(FIRST, SECOND))


def test_zero_vectors_are_identical_and_half_precision_is_measured_in_double():
    zeros = np.zeros((5, 3))
    assert representation_measures(zeros, zeros) == pytest.approx((0, 0, 0, 1), abs=1e-4)
    half = FIRST.astype("float16")
    assert representation_measures(half, half) == representation_measures(half.astype("float64"), half)


@pytest.mark.parametrize("measure", [uniformity, feature_std, effective_rank])
def test_bad_features_are_refused(measure):
    for shape in [(6,), (1, 6), (6, 0)]:
        with pytest.raises(ValueError) as error:
            measure(np.ones(shape))
        assert f"Received: shape {shape}" in str(error.value)
    with pytest.raises(ValueError, match="`features` .*NaN or infinite"):
        measure(np.where(np.arange(6) == 2, np.nan, FIRST))


def test_bad_pairs_and_parameters_are_refused():
    for call, variable in (
        (lambda: alignment(FIRST, SECOND[:, :5]), r"shapes \(37, 6\) and \(37, 5\)"),
        (lambda: representation_measures(FIRST, np.nan * SECOND), "`second` .*NaN or infinite"),
        (lambda: representation_measures(FIRST[0], SECOND[0]), r"`first` .*shape \(6,\)"),
        (lambda: alignment(FIRST, SECOND, 0), "Received: alpha=0"),
        (lambda: uniformity(FIRST, 0), "Received: t=0"),
        (lambda: effective_rank(FIRST, 0), "Received: epsilon=0"),
    ):
        with pytest.raises(ValueError, match=variable):
            call()


def test_similarities_are_cosines_with_its_own_and_with_all_other_second_views():
    positive, negative = similarities(3 * FIRST, SECOND / 7)
    cosines = {(i, j): x @ y for i, x in enumerate(unit(FIRST)) for j, y in enumerate(unit(SECOND))}
    # A cosine near 0 is what products near 1 leave: the last bits of those.
    np.testing.assert_allclose(positive, [cosines[i, i] for i in range(37)], atol=1e-14)
    np.testing.assert_allclose(negative, [cosine for (i, j), cosine in cosines.items() if i != j], atol=1e-14)
