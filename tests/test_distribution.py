"""Two logical CPUs train as one: same shuffle, same losses, same weights, same queue."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco import distribution
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD

GLOBAL_BATCH, SHAPE, STEPS = 16, (4, 4, 3), 5


def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.mark.parametrize("name", ["auto", "one"])
def test_without_gpus_one_device_trains(name):
    strategy = distribution.make_strategy(name)
    assert strategy.num_replicas_in_sync == 1
    assert distribution.describe(strategy) == "one CPU"


def test_mirrored_is_the_mirrored_strategy():
    assert isinstance(distribution.make_strategy("mirrored"), tf.distribute.MirroredStrategy)
    assert distribution.describe(two_replicas()) == "2 CPUs, MirroredStrategy"


def test_an_unknown_strategy_lists_the_known():
    with pytest.raises(ValueError) as error:
        distribution.make_strategy("horovod")
    assert str(error.value) == (
        "`strategy` must be one of auto, one, mirrored. Received: 'horovod'. Choose one of them."
    )


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


def test_on_one_replica_unshuffle_undoes_shuffle():
    images, rows = tf.random.normal((12, 2, 2)), distribution.permutation(12, 0, 0)
    shuffled = distribution.shuffle(images, rows)
    np.testing.assert_array_equal(shuffled, np.array(images)[np.array(rows)])
    np.testing.assert_array_equal(distribution.unshuffle(shuffled, rows), images)


def test_on_two_replicas_rows_change_places_across_replicas_and_come_back():
    strategy, images = two_replicas(), np.arange(24, dtype="float32").reshape(12, 2)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
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


def train(strategy, symmetric):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        backbone = keras.Sequential(
            [keras.Input(SHAPE), layers.Conv2D(6, 3), layers.ReLU(), layers.Conv2D(5, 2, activation="relu")]
        )
        encoder = Encoder(backbone, linear_head(5, 8), mean=0.5, std=0.25)
        model = MoCo(encoder, queue_size=40, momentum=0.9, temperature=0.2, symmetric=symmetric, seed=3)
        model.compile(optimizer=SGD(0.1, weight_decay=1e-3))
    images = np.random.default_rng(0).uniform(0, 255, (2, STEPS * GLOBAL_BATCH, *SHAPE)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"query": images[0], "key": images[1]})
    history = model.fit(data.batch(GLOBAL_BATCH, drop_remainder=True), epochs=STEPS, steps_per_epoch=1, verbose=0)
    return model, history.history


@pytest.mark.parametrize("symmetric", [False, True], ids=["one direction", "symmetric"])
def test_two_replicas_without_batch_norm_train_as_one(symmetric):
    strategy = two_replicas()
    one, expected = train(tf.distribute.get_strategy(), symmetric)
    two, history = train(strategy, symmetric)
    for name in ("loss", "contrast_top1", "contrast_top5", "positive_similarity", "queue_fill"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    variables = zip(two.variables, one.variables, strict=True)
    compared = [(a, b) for a, b in variables if not any(a is m for metric in two.metrics for m in metric.variables)]
    for ours, theirs in [*compared, *zip(two.optimizer.variables, one.optimizer.variables, strict=True)]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=ours.path)
    assert np.array(two.step) == STEPS and np.array(two.queue.count) == STEPS * GLOBAL_BATCH * (1 + symmetric)


def test_every_replica_holds_the_same_queue_and_weights():
    strategy = two_replicas()
    model, _ = train(strategy, symmetric=False)
    start = np.array(MoCo(model.query_encoder, queue_size=40, seed=3).queue.features)
    for variable in (model.queue.features, model.queue.count, model.step, *model.key_encoder.weights):
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)
    assert np.abs(np.array(model.queue.features) - start).max() > 0.1
