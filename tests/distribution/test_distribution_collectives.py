"""What replicas exchange: whole batches in order, shuffled rows, and overflows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import distribution
from tests.small_training import strategy_of


def shared_out(strategy, rows):
    """The rows of an array, a share for each replica of `strategy`."""
    shares = np.split(np.asarray(rows), strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(shares[context.replica_id_in_sync_group])
    )


def on_each(strategy, function, *arguments):
    """What each replica gets from `function` of its shares, as arrays."""
    outputs = tf.function(lambda *shares: strategy.run(function, shares))(*arguments)
    return [np.array(output) for output in strategy.experimental_local_results(outputs)]


# Random orders and rows


def test_permutations_depend_on_seed_and_step_alone():
    def order(seed, step):
        return tuple(np.array(distribution.permutation(64, seed, step)))

    orders = {(seed, step): order(seed, step) for seed in range(3) for step in range(5)}
    assert len(set(orders.values())) == len(orders)
    assert order(2, tf.constant(4, tf.int64)) == orders[2, 4]


def test_permutation_is_the_same_with_xla():
    def both(step):
        return distribution.permutation(512, 3, step), distribution.permutation(512, 2**40, step)

    step = tf.constant(2**33, tf.int64)
    for plain, compiled in zip(tf.function(both)(step), tf.function(both, jit_compile=True)(step), strict=True):
        np.testing.assert_array_equal(plain, compiled)


def test_permutations_are_uniform():
    # 4 rows have 24 orders: chi-square with 23 degrees of freedom over 4,800 draws; its 99.9 % quantile is 49.7.
    draw = tf.function(lambda steps: tf.map_fn(lambda step: distribution.permutation(4, 0, step), steps))
    _, counts = np.unique(draw(tf.range(4800)), axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 49.7


@pytest.mark.parametrize("size", [1000, 2**31 - 1])
def test_random_rows_are_uniform_and_depend_on_seed_and_step(size):
    rows = np.array(distribution.random_rows(20000, size, seed=1, step=2))
    assert rows.min() >= 0 and rows.max() < size
    np.testing.assert_array_equal(rows, distribution.random_rows(20000, size, seed=1, step=tf.constant(2, tf.int64)))
    # Ten bins of equal width: chi-square with 9 degrees of freedom; its 99.9 % quantile is 27.9.
    counts, _ = np.histogram(rows, bins=10, range=(0, size))
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9
    for seed, step in ((1, 3), (2, 2)):
        assert np.mean(rows == distribution.random_rows(20000, size, seed, step)) < 0.01


# Gathered and shuffled rows


def test_rows_change_places_across_replicas_and_come_back():
    strategy, images = strategy_of(2), np.arange(24, dtype="float32").reshape(12, 2)
    order = np.array(distribution.permutation(12, 0, 0))

    @tf.function
    def there_and_back(local):
        shuffled = distribution.shuffle(local, distribution.permutation(12, 0, 0))
        everything = distribution.unshuffle(shuffled, distribution.permutation(12, 0, 0))
        return shuffled, everything, distribution.local_slice(everything)

    outputs = strategy.run(there_and_back, (shared_out(strategy, images),))
    shuffled, everything, local = (strategy.experimental_local_results(output) for output in outputs)
    assert 0 < sum(order[:6] >= 6) < 6  # some rows of the first replica come from the second
    np.testing.assert_array_equal(np.concatenate(shuffled), images[order])
    for replica in range(2):
        np.testing.assert_array_equal(everything[replica], images)
        np.testing.assert_array_equal(local[replica], np.split(images, 2)[replica])


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gathered_rows_are_in_the_order_of_the_global_batch(replicas):
    strategy = strategy_of(replicas)
    for dtype in ("float32", "float16", "bfloat16", "uint8", "int32", "int64", "uint32", "bool"):
        rows = np.random.default_rng(0).integers(0, 256, (8, 3)) / (1 if "int" in dtype else 64)
        rows = tf.cast(tf.constant(rows) > 2 if dtype == "bool" else rows, dtype).numpy()
        for everything in on_each(strategy, distribution.all_gather, shared_out(strategy, rows)):
            assert everything.dtype == rows.dtype
            np.testing.assert_array_equal(everything, rows, err_msg=dtype)


def test_gradient_of_rows_taken_from_all_replicas_reaches_each_of_them():
    strategy, rows = strategy_of(2), np.arange(8, dtype="float32").reshape(4, 2)
    taken = [3, 0, 0]  # row 3 once, row 0 twice, on each of two replicas

    def gradient(share):
        with tf.GradientTape() as tape:
            tape.watch(share)
            loss = tf.reduce_sum(tf.gather(distribution.all_gather(share), taken))
        return tape.gradient(loss, share)

    gradients = np.concatenate(on_each(strategy, gradient, shared_out(strategy, rows)))
    np.testing.assert_array_equal(gradients, np.repeat([[4.0], [0.0], [0.0], [2.0]], 2, axis=1))


def test_average_is_over_replicas_and_of_each_variable():
    strategy = strategy_of(2)
    with strategy.scope():
        both = [keras.Variable(np.zeros(shape), dtype="float32", trainable=False) for shape in ((2,), (1, 1))]

    def step(local):
        both[0].assign(local[0])
        both[1].assign(10 * local[:, :1])
        distribution.average(both)
        return tf.concat([both[0].value, both[1].value[0]], axis=0)

    for found in on_each(strategy, step, shared_out(strategy, np.float32([[1, 2], [5, 8]]))):
        np.testing.assert_array_equal(found, [3, 5, 30])


def test_overflow_on_any_replica_skips_the_step_on_all():
    strategy = strategy_of(2)
    with strategy.scope():
        weight = keras.Variable([1.0, 1.0])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
        optimizer.build([weight])

    def step(local):
        nothing, shared = distribution.share_overflow([None, local[0]])
        assert nothing is None
        optimizer.apply([shared], [weight])
        return tf.identity(weight.value)

    run = tf.function(lambda share: strategy.run(step, (share,)))
    # An overflow leaves the weights and halves the scale of 8; then 1 - 0.5 * (8 + 8) / 2.
    for overflowing, expected, scale in ((0, 1, 4), (1, 1, 2), (None, -3, 2)):
        gradients = np.full((2, 2), 8.0, "float32")
        if overflowing is not None:
            gradients[overflowing, 1] = np.inf
        for found in strategy.experimental_local_results(run(shared_out(strategy, gradients))):
            np.testing.assert_array_equal(found, [expected] * 2)
        assert np.array(optimizer.dynamic_scale) == scale


@pytest.mark.parametrize(("replicas", "replica"), [(1, 0), (2, 0), (2, 1), pytest.param(4, 3, marks=pytest.mark.slow)])
def test_number_that_is_not_finite_is_seen_on_all_replicas(replicas, replica):
    strategy = strategy_of(replicas)
    clean = np.float32([[3e38, -3e38, 0, 1e-38]] * replicas)

    def ask(first, second):
        rows = tf.IndexedSlices(second, tf.constant([3], tf.int64), (9, 4))
        sixteen = tf.cast(tf.zeros_like(first), "float16")
        return distribution.all_finite([None, first, sixteen]), distribution.all_finite([first[0, 0], None, rows])

    run = tf.function(lambda *shares: strategy.run(ask, shares))

    def answers(first, second):
        found = run(shared_out(strategy, first), shared_out(strategy, second))
        return [[bool(each) for each in strategy.experimental_local_results(one)] for one in found]

    yes, no = [True] * replicas, [False] * replicas
    assert answers(clean, clean) == [yes, yes]
    for bad in (np.nan, np.inf, -np.inf):
        broken = clean.copy()
        broken[replica, 2] = bad
        assert answers(broken, clean) == [no, yes], bad
        assert answers(clean, broken) == [yes, no], bad


@pytest.mark.parametrize("replicas", [1, 2])
def test_run_if_runs_on_all_replicas_or_on_none(replicas):
    strategy, rows = strategy_of(replicas), np.arange(2.0 * replicas, dtype="float32")
    with strategy.scope():
        gathered = keras.Variable(np.full(2 * replicas, -1.0), trainable=False, aggregation="none")
        own = keras.Variable(np.full(2, -1.0), trainable=False, aggregation="none")

    def keep(arguments, scale):
        everything = distribution.all_gather(arguments["local"])
        gathered.assign(scale * everything)
        own.assign(distribution.local_slice(everything) + distribution.mean(arguments["local"]))

    def step(local, condition):
        distribution.run_if(condition, keep, {"local": local}, tf.constant(10.0))
        return tf.concat([gathered.value, own.value], axis=0)

    # Traced once: whether the condition holds is known only in the step.
    run = tf.function(lambda share, condition: strategy.run(step, (share, condition)))
    shares = rows.reshape(replicas, 2)
    for holds in (False, True):
        outputs = strategy.experimental_local_results(run(shared_out(strategy, rows), tf.constant(holds)))
        for replica, found in enumerate(outputs):
            expected = [*10 * rows, *shares[replica] + shares.mean(axis=0)] if holds else [-1] * (2 * replicas + 2)
            np.testing.assert_array_equal(found, expected)
    assert run.experimental_get_tracing_count() == 1
