"""`fit` on several replicas and workers, where Keras's own stops or counts wrongly."""

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled  # which has no public name

from keras_moco import distribution
from keras_moco.checks.graph import plain_failures
from keras_moco.errors import UserError


class ReplicatedTrainer(keras.Model):
    """A `keras.Model` whose `fit` works alike under every `tf.distribute` strategy.

    Keras 3's own cannot train under `MultiWorkerMirroredStrategy` (it averages scalars over an axis they lack), nor
    with `steps_per_execution` above 1 under `MirroredStrategy` (conditionals inside its loop lose their inputs), and
    takes too many steps where `steps_per_execution` does not divide `steps_per_epoch`. Here the loop holds nothing
    but the step, all replicas' logs are averaged in one transfer, and the last loop of an epoch is shorter.

    `data_wait` counts the seconds of a `fit` in which a step had no batch yet. Whoever sets `stop_requested` to True
    finds `stop_agreed` true at once where there is one process, else behind the next execution and on all workers, and
    may end the training there.

    A subclass is built when its constructor returns. Its `train_step` does nothing before its batch exists (see
    `ContrastiveModel.train_step`): where the length of the data is unknown, its end is found out inside the loop. What
    it logs is the same on all replicas; `steps_done` counts its steps, and `logs_so_far()` returns what those of the
    epoch have logged.
    """

    data_wait = 0.0
    stop_requested = False
    _agreed = False
    _initial_step = _steps_taken = _steps_before = 0

    def fit(self, x=None, *args, steps_per_epoch=None, initial_step=0, **kwargs):
        """`keras.Model.fit`, which can also begin in the middle of an epoch.

        Args:
            x: as `keras.Model.fit` takes it; its first batch is that of step `initial_step`.
            *args, **kwargs: likewise.
            steps_per_epoch: int; must be given with `initial_step`.
            initial_step: int, steps of the first epoch that are done: it takes the rest of them, and its logs are
                those of the whole epoch if the model was restored there. Defaults to `0`.

        Raises:
            ValueError: if `initial_step` is no step of the epoch, if optimiser or `jit_compile` would not work on the
                replicas (`check_training`), or a batch holds what the model cannot take.
            WorkerLost: if another worker stops.
        """
        if initial_step and not 0 < initial_step < (steps_per_epoch or 0):
            raise UserError(
                "`initial_step` must be at least 0 and less than `steps_per_epoch`, which must be given with it. "
                f"Received: initial_step={initial_step}, steps_per_epoch={steps_per_epoch}. Correct them."
            )
        x, steps_per_epoch = distribution.endless(x, steps_per_epoch, self.distribute_strategy)
        self._epoch_length = steps_per_epoch
        if steps_per_epoch is None and isinstance(x, tf.data.Dataset) and int(x.cardinality()) > 0:
            self._epoch_length = int(x.cardinality())  # neither endless nor unknown, which are negative
        self._initial_step = self._steps_taken = initial_step
        self._steps_before = self.steps_done
        self.data_wait = 0.0
        self.stop_requested = self._agreed = False
        return super().fit(x, *args, steps_per_epoch=steps_per_epoch, **kwargs)

    @property
    def stop_agreed(self):
        """Whether all workers are to stop behind the step that was taken last."""
        return self._agreed if distribution.has_workers(self.distribute_strategy) else self.stop_requested

    @property
    def resuming_epoch(self):
        """Whether `fit` is about to take up an epoch in its middle."""
        return 0 < self._initial_step == self._steps_taken

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing to build, and no batch to be taken for it; Keras's fails with several workers."""
        if iterator is not None and self._initial_step:
            _begin_at(self._initial_step, iterator)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            distribution.check_training(self.distribute_strategy, self.optimizer, self.jit_compile)
            if not self.optimizer.built:
                # Not in the step: with XLA, or on several replicas, a function cannot create variables.
                with self.distribute_strategy.scope():
                    self.optimizer.build(self.trainable_variables)
            self.train_function = self._train_function()

    def _train_function(self):
        one_step = distribution.on_all_replicas(self.train_step, self.distribute_strategy)
        if not self.run_eagerly:
            # For each size of batch anew: a graph for all of them would know none.
            one_step = tf.function(one_step, jit_compile=self.jit_compile)

        @tf.autograph.experimental.do_not_convert
        def several_steps(iterator, count, stop):
            stop = distribution.any_worker(stop, self.distribute_strategy)
            batch, waited = _timed_next(iterator)
            logs = one_step(batch)
            if self.steps_per_execution == 1:
                return logs, waited, stop

            def step(number, logs, waited):
                batch, more = _timed_next(iterator)
                return number + 1, one_step(batch), waited + more

            first = (tf.ones_like(count), logs, waited)
            return *tf.while_loop(lambda number, *_: number < count, step, first)[1:], stop

        if not self.run_eagerly:
            several_steps = tf.function(several_steps)

        def train(iterator):
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
                # The data ended behind some of the steps: they are logged, and the next execution finds no batch.
                self._steps_taken += taken
                return self.logs_so_far()
            self._steps_taken += count
            self.data_wait += float(waited)
            self._agreed = bool(stop)
            return logs

        return train

    def _next_steps(self):
        """How many steps to take at once: fewer at the end of an epoch."""
        if self._epoch_length is None:
            return self.steps_per_execution
        return min(self.steps_per_execution, self._epoch_length - self._steps_taken % self._epoch_length)


def _begin_at(step, iterator):
    """Makes Keras's iterator over steps leave out the first ones, of its first epoch alone."""
    whole, length = iterator._enumerate_iterator, iterator.steps_per_epoch

    def rest():
        iterator._enumerate_iterator, iterator.steps_per_epoch = whole, length - step
        for begin, end, batches in whole():
            iterator.steps_per_epoch = length
            yield step + begin, step + end, batches

    iterator._enumerate_iterator = rest


def _timed_next(iterator):
    """The next batch, and the seconds until it was there; 0 in deterministic mode, which knows no clock."""
    if is_op_determinism_enabled():
        return iterator.get_next(), tf.zeros((), tf.float64)
    before = tf.timestamp()
    with tf.control_dependencies([before]):
        batch = iterator.get_next()
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.timestamp() - before
