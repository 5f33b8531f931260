"""Random numbers that depend on seed, epoch and place, and on nothing else."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_moco.data.training_batches import order_seed, random_numbers

WIDTH = 7  # no multiple of the four numbers that Philox makes at a time


def int64(number):
    return tf.constant(number, tf.int64)


def draws(seed=3, epoch=0, place=0, count=1000, width=WIDTH):
    return random_numbers(seed, int64(epoch), int64(place), count, width).numpy()


@pytest.mark.parametrize("width", [1, 2, 7])
def test_any_split_of_the_places_gives_the_same_numbers(width):
    whole = draws(count=60, width=width)
    for cuts in ([20, 40], [1, 2, 59], range(1, 60)):
        ends = [0, *cuts, 60]
        parts = [draws(place=start, count=end - start, width=width) for start, end in zip(ends, ends[1:], strict=False)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_stream_continues_beyond_int32():
    far = 2**40
    np.testing.assert_array_equal(draws(place=far, count=8)[5:], draws(place=far + 5, count=3))
    assert not np.isin(draws(place=far, count=8), draws(count=1000)).any()


@pytest.mark.parametrize("seed, epoch", [(3, 99), (-1, 0), (2**40, 2)])
def test_each_number_is_uniform_in_the_unit_interval(seed, epoch):
    numbers = draws(seed, epoch, count=20_000)
    assert numbers.shape == (20_000, 2, WIDTH) and numbers.dtype == np.float32
    assert 0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    for view in range(2):
        for column in range(WIDTH):
            assert stats.kstest(numbers[:, view, column], "uniform").pvalue > 1e-4


def assert_independent(first, second):
    """Correlations of normal size: one of two million is further out than 5 / sqrt(n)."""
    first, second = first.ravel(), second.ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5
    # Nor does the size of one depend on how far the other is from the middle.
    assert abs(np.corrcoef(first, np.abs(second - 0.5))[0, 1]) < 5 / len(first) ** 0.5


def test_views_columns_and_neighbours_are_independent():
    numbers = draws(count=20_000)
    assert_independent(numbers[:, 0], numbers[:, 1])
    assert_independent(numbers[1:], numbers[:-1])
    table = np.corrcoef(numbers.reshape(len(numbers), -1), rowvar=False) - np.eye(2 * WIDTH)
    assert np.abs(table).max() < 5 / len(numbers) ** 0.5


@pytest.mark.parametrize("seed, epoch", [(3, 1), (4, 0), (0, 3), (3, -1)])
def test_another_seed_or_epoch_gives_independent_numbers(seed, epoch):
    first, second = draws(count=20_000), draws(seed, epoch, count=20_000)
    assert np.mean(first == second) < 1e-3
    assert_independent(first, second)


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    seeds = [int(order_seed(seed, int64(epoch))) for seed in range(10) for epoch in range(20)]
    assert len(set(seeds)) == 200
    assert int(order_seed(3, int64(5))) == int(order_seed(3, int64(5)))
