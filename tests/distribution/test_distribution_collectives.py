"""What replicas tell each other: whole batches in order, changed places and back, means, and overflows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import distribution


def replicas_of(number):
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(number)])


def two_replicas():
    return replicas_of(2)


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


def order(size=64, seed=0, step=0):
    return np.array(distribution.permutation(size, seed, step))


@pytest.mark.parametrize("size", [1, 16, 256])
def test_a_permutation_holds_every_row_once(size):
    np.testing.assert_array_equal(np.sort(order(size)), np.arange(size))


def test_permutations_differ_by_step_and_by_seed_and_by_nothing_else():
    orders = {(seed, step): tuple(order(seed=seed, step=step)) for seed in range(3) for step in range(20)}
    assert len(set(orders.values())) == len(orders)
    for (seed, step), expected in orders.items():
        assert tuple(order(seed=seed, step=tf.constant(step, tf.int64))) == expected


@pytest.mark.parametrize("size", [1, 3, 1000, 2**31 - 1])
def test_random_rows_are_uniform_and_hang_on_seed_and_step(size):
    rows = np.array(distribution.random_rows(20000, size, seed=1, step=2))
    assert rows.min() >= 0 and rows.max() < size
    # Ten bins of equal width: chi-square with 9 degrees of freedom; its 99.9 % quantile is 27.9.
    if size >= 1000:
        counts, _ = np.histogram(rows, bins=10, range=(0, size))
        assert ((counts - 2000) ** 2 / 2000).sum() < 27.9
        assert np.mean(rows == distribution.random_rows(20000, size, seed=1, step=3)) < 0.01
        assert np.mean(rows == distribution.random_rows(20000, size, seed=2, step=2)) < 0.01
    np.testing.assert_array_equal(rows, distribution.random_rows(20000, size, seed=1, step=tf.constant(2, tf.int64)))


def test_on_one_replica_unshuffle_undoes_shuffle():
    images, rows = tf.random.normal((12, 2, 2)), distribution.permutation(12, 0, 0)
    shuffled = distribution.shuffle(images, rows)
    np.testing.assert_array_equal(shuffled, np.array(images)[np.array(rows)])
    np.testing.assert_array_equal(distribution.unshuffle(shuffled, rows), images)


def test_on_two_replicas_rows_change_places_across_replicas_and_come_back():
    strategy, images = two_replicas(), np.arange(24, dtype="float32").reshape(12, 2)
    halves = shared_out(strategy, images)
    rows = order(12)

    @tf.function
    def there_and_back(local):
        shuffled = distribution.shuffle(local, distribution.permutation(12, 0, 0))
        everything = distribution.unshuffle(shuffled, distribution.permutation(12, 0, 0))
        return shuffled, everything, distribution.local_slice(everything)

    outputs = strategy.run(there_and_back, (halves,))
    shuffled, everything, local = (strategy.experimental_local_results(output) for output in outputs)
    assert 0 < sum(rows[:6] >= 6) < 6  # some rows of the first replica come from the second
    np.testing.assert_array_equal(np.concatenate(shuffled), images[rows])
    for replica in range(2):
        np.testing.assert_array_equal(everything[replica], images)
        np.testing.assert_array_equal(local[replica], np.split(images, 2)[replica])


def test_a_permutation_is_the_same_with_xla():
    def both(step):
        return distribution.permutation(512, 3, step), distribution.permutation(512, 2**40, step)

    step = tf.constant(2**33, tf.int64)
    for plain, compiled in zip(tf.function(both)(step), tf.function(both, jit_compile=True)(step), strict=True):
        np.testing.assert_array_equal(plain, compiled)


def test_permutations_are_uniform():
    # 4 rows have 24 orders: chi-square with 23 degrees of freedom over 4,800 draws; its 99.9 % quantile is 49.7.
    draw = tf.function(lambda step: distribution.permutation(4, 0, step))
    _, counts = np.unique([draw(step) for step in tf.range(4800)], axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 49.7


def test_the_gradient_of_rows_taken_from_all_replicas_reaches_each_of_them():
    strategy, rows = two_replicas(), np.arange(8, dtype="float32").reshape(4, 2)
    taken = [3, 0, 0]  # row 3 once, row 0 twice, on each of two replicas

    def gradient(share):
        with tf.GradientTape() as tape:
            tape.watch(share)
            loss = tf.reduce_sum(tf.gather(distribution.all_gather(share), taken))
        return tape.gradient(loss, share)

    gradients = np.concatenate(on_each(strategy, gradient, shared_out(strategy, rows)))
    np.testing.assert_array_equal(gradients, np.repeat([[4.0], [0.0], [0.0], [2.0]], 2, axis=1))


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8", "int32", "int64", "uint32", "bool"])
def test_gathered_rows_are_in_the_order_of_the_global_batch_to_the_bit(dtype, replicas):
    strategy = replicas_of(replicas)
    rows = np.random.default_rng(0).integers(0, 256, (8, 3)) / (1 if "int" in dtype else 64)
    rows = tf.cast(tf.constant(rows) > 2 if dtype == "bool" else rows, dtype).numpy()
    for everything in on_each(strategy, distribution.all_gather, shared_out(strategy, rows)):
        assert everything.dtype == rows.dtype
        np.testing.assert_array_equal(everything, rows)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_gradient_through_gathered_rows_is_that_of_one_device(replicas):
    """In-batch negatives: what each replica gets, summed as an optimizer sums, is the gradient on one device."""
    rng = np.random.default_rng(1)
    rows, weight = rng.normal(size=(8, 5)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")

    def loss_of(features, everything, first):
        labels = first + tf.range(len(features))
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, features @ tf.transpose(everything))
        )

    variable = tf.constant(weight)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        features = tf.math.l2_normalize(rows @ variable, axis=-1)
        loss = loss_of(features, features, 0)
    expected = tape.gradient(loss, variable)

    def share(local):
        variable = tf.constant(weight)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            features = tf.math.l2_normalize(local @ variable, axis=-1)
            everything = distribution.all_gather(features)
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
            loss = loss_of(features, everything, replica * len(local)) / distribution.num_replicas()
        return tape.gradient(loss, variable)

    strategy = replicas_of(replicas) if replicas > 1 else tf.distribute.get_strategy()
    gradients = on_each(strategy, share, shared_out(strategy, rows))
    np.testing.assert_allclose(sum(gradients), expected, rtol=1e-5, atol=1e-6)
    if replicas > 1:
        assert not np.allclose(gradients[0], gradients[1], atol=1e-3)


def test_the_average_is_over_replicas_and_of_each_variable():
    strategy = two_replicas()
    with strategy.scope():
        first, second = (keras.Variable(np.zeros(shape), dtype="float32", trainable=False) for shape in ((2,), (2, 1)))

    def step(local):
        first.assign(local[0])
        second.assign(10 * local[0][:, None])
        distribution.average([first, second])
        return tf.concat([first.value, second.value[:, 0]], axis=0)

    for found in on_each(strategy, step, shared_out(strategy, np.float32([[1, 2], [5, 8]]))):
        np.testing.assert_array_equal(found, [3, 5, 30, 50])


@pytest.mark.parametrize("overflowing", [None, 0, 1])
def test_an_overflow_on_any_replica_skips_the_step_on_all(overflowing):
    strategy = two_replicas()
    with strategy.scope():
        weight = keras.Variable([1.0, 1.0])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
        optimizer.build([weight])
    gradients = np.full((2, 2), 8.0, "float32")
    if overflowing is not None:
        gradients[overflowing, 1] = np.inf

    def step(local):
        [shared] = distribution.share_overflow([local[0]])
        optimizer.apply([shared], [weight])
        return tf.identity(weight.value)

    for found in on_each(strategy, step, shared_out(strategy, gradients)):
        # Without overflow 1 - 0.5 * (8 + 8) / 8.
        np.testing.assert_array_equal(found, [0, 0] if overflowing is None else [1, 1])
    assert np.array(optimizer.dynamic_scale) == (8 if overflowing is None else 4)


def test_no_gradient_is_no_overflow():
    strategy = two_replicas()

    def step(local):
        nothing, shared = distribution.share_overflow([None, local])
        assert nothing is None
        return shared

    for found in on_each(strategy, step, shared_out(strategy, np.ones((2, 3), "float32"))):
        np.testing.assert_array_equal(found, np.ones((1, 3)))


def one_or(replicas):
    return replicas_of(replicas) if replicas > 1 else tf.distribute.get_strategy()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("replicas", "replica"), [(1, 0), (2, 0), (2, 1), (4, 3)])
def test_one_number_of_one_replica_that_is_not_finite_is_seen_on_all(replicas, replica, bad):
    strategy = one_or(replicas)
    clean = np.float32([[3e38, -3e38, 0, 1e-45]] * replicas)
    broken = clean.copy()
    broken[replica, 2] = bad

    def ask(first, second):
        rows = tf.IndexedSlices(second, tf.constant([3], tf.int64), (9, 4))
        sixteen = tf.cast(tf.zeros_like(first), "float16")
        return distribution.all_finite([None, first, sixteen]), distribution.all_finite([first[0, 0], None, rows])

    def answers(first, second):
        found = tf.function(lambda *shares: strategy.run(ask, shares))(
            shared_out(strategy, first), shared_out(strategy, second)
        )
        return [[bool(each) for each in strategy.experimental_local_results(one)] for one in found]

    yes, no = [True] * replicas, [False] * replicas
    assert answers(clean, clean) == [yes, yes]
    assert answers(broken, clean) == [no, yes]
    assert answers(clean, broken) == [yes, no]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_mean_is_over_replicas_and_the_same_to_the_bit_on_all(replicas):
    strategy, rows = one_or(replicas), np.random.default_rng(0).normal(size=(replicas, 50)).astype("float32")
    found = on_each(strategy, lambda local: distribution.mean(local[0]), shared_out(strategy, rows))
    assert len(found) == replicas and len({each.tobytes() for each in found}) == 1
    np.testing.assert_allclose(found[0], rows.astype("float64").mean(axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("holds", [True, False])
def test_a_function_that_gathers_from_all_replicas_runs_if_the_condition_holds_and_else_does_nothing(replicas, holds):
    strategy, rows = one_or(replicas), np.arange(2.0 * replicas, dtype="float32")
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

    # Traced once: whether it holds is known in the step alone.
    run = tf.function(lambda share, condition: strategy.run(step, (share, condition)))
    for condition in (False, holds, False):
        outputs = strategy.experimental_local_results(run(shared_out(strategy, rows), tf.constant(condition)))
    shares = rows.reshape(replicas, 2)
    for replica, found in enumerate(outputs):
        expected = [*10 * rows, *shares[replica] + shares.mean(axis=0)] if holds else [-1] * (2 * replicas + 2)
        np.testing.assert_array_equal(found, expected)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_optimizer_applies_the_sum_of_all_gradients_if_the_condition_holds_and_else_nothing(replicas):
    strategy = one_or(replicas)
    with strategy.scope():
        weight = keras.Variable([0.0, 0.0])
        optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
        optimizer.build([weight])
    gradients = shared_out(strategy, np.arange(2.0 * replicas, dtype="float32").reshape(replicas, 2) + 1)

    def update(gradients):
        optimizer.apply(gradients, [weight])

    def step(local):
        finite = distribution.all_finite([local / scale])
        distribution.run_if(finite, update, [local[0]])
        return tf.identity(weight.value)

    run = tf.function(lambda share: strategy.run(step, (share,)))
    scale = tf.Variable(0.0)
    run(gradients)
    for value in (*optimizer.variables[2:], optimizer.iterations, weight):
        for each in strategy.experimental_local_results(value.value):
            assert not np.any(each)
    scale.assign(1.0)
    run(gradients)
    outputs = strategy.experimental_local_results(run(gradients))
    total = np.float32([1, 2]) if replicas == 1 else np.float32([1 + 3, 2 + 4])
    for found in outputs:
        np.testing.assert_array_equal(found, -0.5 * total * (1 + 1.5))  # momentum: the second step is 1.5 times as long
    assert len(outputs) == replicas and int(np.array(optimizer.iterations)) == 2


def test_one_replica_needs_none_of_it():
    rows = tf.constant([[1.0], [2.0]])
    variable = keras.Variable([3.0])
    assert distribution.all_gather(rows) is rows and distribution.local_slice(rows) is rows
    assert distribution.share_overflow([rows])[0] is rows and distribution.mean(rows) is rows
    distribution.average([variable])
    distribution.broadcast([variable], tf.distribute.get_strategy())
    assert float(variable[0]) == 3
