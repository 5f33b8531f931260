"""The training loop on several replicas and workers with TensorFlow, where Keras's own stops or counts wrongly."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from keras_moco import distribution
from keras_moco.checks.graph import plain_failures
from keras_moco.errors import UserError


class ReplicatedTrainer(keras.Model):
    """A `keras.Model` whose `fit` works under every `tf.distribute` strategy.

    Keras 3's own cannot train under `MultiWorkerMirroredStrategy` (it averages scalars over an axis they lack), nor
    with `steps_per_execution` above 1 under `MirroredStrategy` (conditionals inside its loop lose their inputs), and
    takes too many steps where `steps_per_execution` does not divide `steps_per_epoch`. Here the loop holds nothing
    but the step, all replicas' logs are averaged in one transfer, and the last loop of an epoch is shorter.

    `data_wait` counts the seconds of a `fit` in which a step waited for its batch. After `stop_requested` is set to
    True, `stop_agreed` is true at once where there is one process, else after the next execution and on all workers; a
    callback may then stop training.

    A subclass is built when its constructor returns. Its `train_step` does nothing before its batch exists (see
    `ContrastiveModel.train_step`): where the length of the data is unknown, its end is found inside the loop. Its logs
    are identical on all replicas; `steps_done` counts its steps, and `logs_so_far()` returns the logs of the epoch. All
    that a step needs of TensorFlow is in `after`, `differentiate` and `keras_moco.distribution`, so a trainer for
    another backend of Keras would offer the same methods.
    """

    train_function: Callable[..., Any] | None
    data_wait = 0.0
    stop_requested = False
    _agreed = False
    _initial_step = _steps_taken = _steps_before = 0

    def fit(
        self,
        x: Any = None,
        *args: Any,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        initial_step: int = 0,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit`, which can also begin in the middle of an epoch.

        Args:
            x: data that `keras.Model.fit` accepts; its first batch is that of step `initial_step`.
            *args, **kwargs: further arguments of `keras.Model.fit`.
            batch_size: int, not used with a data set.
            steps_per_epoch: int; must be given with `initial_step`.
            initial_step: int, number of steps of the first epoch that are done: it takes the rest of them, and its logs
                are those of the whole epoch if the model was restored there. Defaults to `0`.

        Raises:
            ValueError: if `initial_step` is not a step of the epoch, if optimizer or `jit_compile` would not work on
                the replicas (`check_training`), or if the model cannot train on a batch.
            WorkerLost: if another worker stops.
        """
        if initial_step and not 0 < initial_step < (steps_per_epoch or 0):
            raise UserError(
                "`initial_step` must be at least 0 and less than `steps_per_epoch`, which must be given with it. "
                f"Received: initial_step={initial_step}, steps_per_epoch={steps_per_epoch}. Correct them."
            )
        x, steps_per_epoch = distribution.endless(x, steps_per_epoch, self.distribute_strategy)
        self._epoch_length = steps_per_epoch
        if isinstance(x, tf.data.Dataset):
            if steps_per_epoch is None and int(x.cardinality()) > 0:  # neither endless nor unknown
                self._epoch_length = int(x.cardinality())
        elif batch_size is not None:
            kwargs["batch_size"] = batch_size
        self._initial_step = self._steps_taken = initial_step
        self._steps_before = self.steps_done
        self.data_wait = 0.0
        self.stop_requested = self._agreed = False
        return super().fit(x, *args, steps_per_epoch=steps_per_epoch, **kwargs)

    @property
    def stop_agreed(self) -> bool:
        """Whether all workers are to stop after the last step taken."""
        return self._agreed if distribution.has_workers(self.distribute_strategy) else self.stop_requested

    @property
    def resuming_epoch(self) -> bool:
        """Whether `fit` is about to resume an epoch in the middle."""
        return 0 < self._initial_step == self._steps_taken

    @staticmethod
    def after(tensors: Any) -> AbstractContextManager[None]:
        """A `with` block whose operations run after all of these tensors exist."""
        return tf.control_dependencies(tf.nest.flatten(tensors))

    def differentiate(self, function: Callable[..., Any], *args: Any) -> tuple[Any, list[Any]]:
        """The second value of `function(*args)`, and the gradients of the first one, a scalar."""
        with tf.GradientTape() as tape:
            scalar, rest = function(*args)
        return rest, tape.gradient(scalar, self.trainable_variables)

    # Executions of one step or several.

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            distribution.check_training(self.distribute_strategy, self.optimizer, self.jit_compile)
            if not self.optimizer.built:
                # Not in the step: with XLA, or on several replicas, a function cannot create variables.
                with self.distribute_strategy.scope():
                    self.optimizer.build(self.trainable_variables)
            one_step = distribution.on_all_replicas(self.train_step, self.distribute_strategy)
            if not self.run_eagerly:
                # Without `reduce_retracing`, which would make one graph for all sizes of batch, in which none is known.
                one_step = tf.function(one_step, jit_compile=self.jit_compile)
            several_steps = functools.partial(self._several_steps, one_step, _has_clock())
            several_steps = tf.autograph.experimental.do_not_convert(several_steps)
            if not self.run_eagerly:
                several_steps = tf.function(several_steps)
            self.train_function = functools.partial(self._execute, one_step, several_steps)

    def _several_steps(self, one_step, has_clock, iterator, count, stop):
        """Takes `count` steps, a tensor; returns the logs of the last one, the seconds waited, and the agreed stop."""
        stop = distribution.any_worker(stop, self.distribute_strategy)
        batch, waited = _timed_next(iterator, has_clock)
        logs = one_step(batch)
        if self.steps_per_execution == 1:
            return logs, waited, stop

        def step(number, logs, waited):
            batch, more = _timed_next(iterator, has_clock)
            return number + 1, one_step(batch), waited + more

        first = (tf.ones_like(count), logs, waited)
        return *tf.while_loop(lambda number, *_: number < count, step, first)[1:], stop

    def _execute(self, one_step, several_steps, iterator):
        """What Keras calls in place of its own train function."""
        if not hasattr(iterator, "get_next"):  # of `train_on_batch`
            with plain_failures():
                return one_step(next(iterator))
        count = self._next_steps()
        try:
            with plain_failures(), distribution.plain_worker_errors(self.distribute_strategy):
                stop = tf.constant(self.stop_requested)
                logs, waited, stop = several_steps(iterator, tf.constant(count), stop)
        except tf.errors.OutOfRangeError as end:
            taken = self.steps_done - self._steps_before - (self._steps_taken - self._initial_step)
            if not taken:
                raise StopIteration from end
            # The data ended after some of the steps: they are logged, and the next execution finds no batch.
            self._steps_taken += taken
            return self.logs_so_far()
        self._steps_taken += count
        self.data_wait += float(waited)
        self._agreed = bool(stop)
        return logs

    def _next_steps(self):
        """The number of steps of the next execution, smaller at the end of an epoch."""
        if self._epoch_length is None:
            return self.steps_per_execution
        return min(self.steps_per_execution, self._epoch_length - self._steps_taken % self._epoch_length)

    # Private parts of Keras's `fit`, of which there is no public form. A loop of our own would need more of them: the
    # adapters that turn arrays, generators and `PyDataset` with its workers into data sets. The tests of `initial_step`
    # and of several workers fail where Keras changes these.

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Replaces Keras's, which takes a batch to build the model, and fails with several workers."""
        if iterator is not None and self._initial_step:
            _begin_at(self._initial_step, iterator)


def _begin_at(step, iterator):
    """Makes Keras's iterator over the steps of an epoch skip the first ones, in its first epoch only."""
    whole, length = iterator._enumerate_iterator, iterator.steps_per_epoch

    def rest():
        iterator._enumerate_iterator, iterator.steps_per_epoch = whole, length - step
        for begin, end, batches in whole():
            iterator.steps_per_epoch = length
            yield step + begin, step + end, batches

    iterator._enumerate_iterator = rest


def _has_clock():
    """Whether TensorFlow gives the time, which it refuses to do in deterministic mode."""
    try:
        return bool(tf.timestamp())
    except tf.errors.FailedPreconditionError:
        return False


def _timed_next(iterator, has_clock):
    """The next batch, and the seconds waited for it; 0 without a clock."""
    if not has_clock:
        return iterator.get_next(), tf.zeros((), tf.float64)
    before = tf.timestamp()
    with tf.control_dependencies([before]):
        batch = iterator.get_next()
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.timestamp() - before
