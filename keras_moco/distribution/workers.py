"""Several processes that train in step: which one writes, what data they get, and what happens if one is lost."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_moco.distribution.collectives import all_gather
from keras_moco.errors import UserError, WorkerLost

_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether processes on several machines train in step."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextlib.contextmanager
def plain_worker_errors(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's errors about a broken connection to another worker into a `WorkerLost`."""
    try:
        yield
    except _LOST as error:
        if not has_workers(strategy):
            raise
        raise WorkerLost(
            "All workers must run until the end, since each needs the others' results in every step. Received: a "
            f"broken connection to another one ({type(error).__name__}). Look for the cause in the others' output, "
            "and start the same command on all workers again: the run resumes from its last checkpoint."
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files: it is the only one, or the first of several workers."""
    return strategy.extended.should_checkpoint


def any_worker(flag: bool | tf.Tensor, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """Whether a flag is set on any worker: a bool tensor, identical on all; all must call it at the same step."""
    if not has_workers(strategy):
        return flag

    def count():
        number = tf.cast(flag, tf.float32)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, number)

    return strategy.experimental_local_results(strategy.run(count))[0] > 0


def broadcast(variables: Sequence[Any], strategy: tf.distribute.Strategy) -> None:
    """Copies the chief's values of a list of `keras.Variable` to every worker; all of them must call it."""
    if not has_workers(strategy):
        return

    def copy_first():
        for variable in variables:
            variable.assign(all_gather(tf.convert_to_tensor(variable)[None])[0])

    with plain_worker_errors(strategy):
        tf.function(strategy.run)(copy_first)


def endless(dataset: Any, steps_per_epoch: int | None, strategy: tf.distribute.Strategy) -> tuple[Any, int | None]:
    """Repeats a finite data set where workers would otherwise get batches of unknown size.

    `tf.distribute` prepares several workers for the case that one runs out of data before the others, and loses the
    size of a batch in doing so. Shuffled keys need it.

    Returns:
        `(dataset, steps_per_epoch)` of the same epochs.

    Raises:
        ValueError: if the length of the data set is unknown and `steps_per_epoch` is not given.
    """
    if not has_workers(strategy) or not isinstance(dataset, tf.data.Dataset):
        return dataset, steps_per_epoch
    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        return dataset, steps_per_epoch
    if steps_per_epoch is None and length == tf.data.UNKNOWN_CARDINALITY:
        raise UserError(
            "The length of an epoch must be known to several workers. Received: a data set of unknown length and "
            "steps_per_epoch=None. Give `steps_per_epoch`, or apply `tf.data.experimental.assert_cardinality`."
        )
    return dataset.repeat(), steps_per_epoch or length
