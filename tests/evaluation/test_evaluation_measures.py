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


# Alignment


@pytest.mark.parametrize("alpha", [1, 2, 3.5])
def test_alignment_is_the_mean_power_of_the_distances(alpha):
    expected = np.mean([sum((x - y) ** 2) ** (alpha / 2) for x, y in zip(unit(FIRST), unit(SECOND), strict=True)])
    assert alignment(FIRST, SECOND, alpha) == pytest.approx(expected)


def test_alignment_is_a_matter_of_the_angle():
    angles = np.linspace(0, np.pi, 5)  # between the views; 0 to 180 degrees
    first = np.tile([2.0, 0.0], (5, 1))
    second = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert alignment(first, second) == pytest.approx(np.mean(2 - 2 * np.cos(angles)))
    assert alignment(first, first) == 0 and alignment(first, -first) == 4


# Uniformity


def log_mean_of_pairs(rows, t):
    return math.log(np.mean(np.exp(-t * pdist(unit(rows), "sqeuclidean"))))


@pytest.mark.parametrize("t", [0.5, 2, 7])
def test_uniformity_is_the_log_of_a_mean_over_pairs(t):
    assert uniformity(FIRST, t) == pytest.approx(log_mean_of_pairs(FIRST, t))


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 9])
def test_uniformity_in_chunks_counts_every_pair_once(n, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 4)
    assert uniformity(FIRST[:n]) == pytest.approx(log_mean_of_pairs(FIRST[:n], 2))


def test_uniformity_of_many_random_directions_is_that_of_the_sphere():
    # The mean of exp(k x.y) over the sphere in D dimensions is 0F1(; D / 2; k^2 / 4), and |x - y|^2 = 2 - 2 x.y.
    for dimensions in (3, 128):
        expected = -4 + math.log(hyp0f1(dimensions / 2, 2**2))
        assert uniformity(on_the_sphere(3000, dimensions)) == pytest.approx(expected, abs=0.01)


def test_uniformity_is_0_where_all_directions_are_one_and_least_for_opposite_ones():
    collapsed = RNG.uniform(1, 5, (300, 1)) * FIRST[:1]
    assert uniformity(collapsed) == pytest.approx(0, abs=1e-12)
    assert uniformity([[3.0, 0.0], [-1.0, 0.0]], t=5) == -20


def test_uniformity_does_not_vanish_where_every_term_does():
    # Equal distances of orthogonal vectors, |x - y|^2 = 2: exp(-2000) is 0 in float64.
    assert uniformity(np.eye(9), t=1000) == pytest.approx(-2000)


# Standard deviation


def test_feature_std_is_the_definition_of_the_training_figure():
    rows = unit(FIRST)
    spread = [math.sqrt(sum((x - sum(column) / 37) ** 2 for x in column) / 37) for column in rows.T]
    assert feature_std(FIRST) == pytest.approx(sum(spread) / 6 * math.sqrt(6))


def test_feature_std_is_1_on_a_whole_sphere_and_0_at_one_point():
    assert feature_std(on_the_sphere(20_000, 64)) == pytest.approx(1, abs=0.01)
    assert feature_std(np.tile(FIRST[0], (50, 1))) == pytest.approx(0, abs=1e-12)


# Rank


@pytest.mark.parametrize("n, width", [(5, 5), (5, 40), (40, 5)])
def test_the_rank_of_orthonormal_directions_is_their_number(n, width):
    directions = np.linalg.svd(np.random.default_rng(2).normal(size=(n, width)), full_matrices=False)
    assert effective_rank(3 * directions.U @ directions.Vh) == pytest.approx(5, rel=1e-5)


def test_the_rank_of_one_direction_is_1():
    assert effective_rank(RNG.uniform(1, 5, (300, 1)) * FIRST[:1]) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.zeros((300, 6))) == pytest.approx(1, abs=1e-4)


def test_the_rank_is_the_exponential_of_the_entropy_of_singular_values():
    # Eigenvalues of the Gram matrix are the squares of the singular values; nothing is centred or normalised.
    values = np.sqrt(np.linalg.eigvalsh(FIRST.T @ FIRST))
    entropy = -sum((value / sum(values) + 1e-7) * math.log(value / sum(values) + 1e-7) for value in values)
    assert effective_rank(FIRST) == pytest.approx(math.exp(entropy))
    assert abs(effective_rank(FIRST) - effective_rank(FIRST - FIRST.mean(axis=0))) > 0.01
    assert abs(effective_rank(FIRST) - effective_rank(unit(FIRST))) > 0.01


def test_epsilon_is_added_to_each_share():
    # Two equal values and epsilon 0.1: shares of 0.6, which are not normalised again.
    assert effective_rank(np.eye(2), epsilon=0.1) == pytest.approx(math.exp(-2 * 0.6 * math.log(0.6)))


# Together


def test_all_measures_are_those_of_the_first_view_but_for_alignment():
    assert representation_measures(FIRST, SECOND) == RepresentationMeasures(
        alignment(FIRST, SECOND), uniformity(FIRST), feature_std(FIRST), effective_rank(FIRST)
    )


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_lengths_beyond_what_can_be_squared_change_no_direction(factor):
    assert alignment(factor * FIRST, SECOND) == pytest.approx(alignment(FIRST, SECOND))
    assert uniformity(factor * FIRST) == pytest.approx(uniformity(FIRST))
    assert feature_std(factor * FIRST) == pytest.approx(feature_std(FIRST))
    assert effective_rank(factor * FIRST) == pytest.approx(effective_rank(FIRST))


def test_zeros_are_one_point():
    zeros = np.zeros((5, 3))
    assert representation_measures(zeros, zeros) == pytest.approx((0, 0, 0, 1), abs=1e-4)


def test_half_precision_is_measured_in_double():
    half = FIRST.astype("float16")
    assert representation_measures(half, half) == representation_measures(half.astype("float64"), half)


# What is refused

ALONE = {"uniformity": uniformity, "feature_std": feature_std, "effective_rank": effective_rank}


@pytest.mark.parametrize("measure", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("shape", [(6,), (4, 2, 2), (1, 6), (0, 6), (6, 0)])
def test_anything_but_a_matrix_of_two_rows_is_refused(measure, shape):
    with pytest.raises(ValueError) as error:
        measure(np.ones(shape))
    assert str(error.value) == (
        f"`features` must be a matrix (n, D) of at least two rows. Received: shape {shape}. "
        "Give one row of features per image."
    )


@pytest.mark.parametrize("measure", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(measure, value):
    features = FIRST.copy()
    features[3, 2] = value
    with pytest.raises(ValueError) as error:
        measure(features)
    assert str(error.value) == (
        "`features` must be finite. Received: NaN or infinite features. "
        "The training has probably diverged; lower the learning rate."
    )


def test_views_must_have_one_shape_and_be_finite():
    with pytest.raises(ValueError) as error:
        alignment(FIRST, SECOND[:, :5])
    assert str(error.value) == (
        "`first` and `second` must have one shape, (n, D). Received: shapes (37, 6) and (37, 5). "
        "Take both views of the same images from one encoder."
    )
    with pytest.raises(ValueError, match=r"^`second` must be finite\. "):
        representation_measures(FIRST, np.nan * SECOND)
    with pytest.raises(ValueError, match=r"^`first` must be a matrix \(n, D\) of at least two rows\. "):
        representation_measures(FIRST[0], SECOND[0])


@pytest.mark.parametrize(
    "name, measure",
    {
        "alpha": lambda value: alignment(FIRST, SECOND, value),
        "t": lambda value: uniformity(FIRST, value),
        "epsilon": lambda value: effective_rank(FIRST, value),
    }.items(),
)
def test_parameters_must_be_positive(name, measure):
    with pytest.raises(ValueError) as error:
        measure(0)
    assert str(error.value) == f"`{name}` must be positive. Received: {name}=0. Omit it for the paper's value."


# Similarities


def test_similarities_are_cosines_of_each_first_view_with_its_own_and_with_all_other_second_ones():
    positive, negative = similarities(3 * FIRST, SECOND / 7)
    cosines = {(i, j): x @ y for i, x in enumerate(unit(FIRST)) for j, y in enumerate(unit(SECOND))}
    np.testing.assert_allclose(positive, [cosines[i, i] for i in range(37)])
    np.testing.assert_allclose(negative, [cosine for (i, j), cosine in cosines.items() if i != j])
