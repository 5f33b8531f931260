"""`fit` on several replicas and workers, where Keras's own stops or counts wrongly."""

import keras
import tensorflow as tf

from keras_moco import distribution
from keras_moco.step_checks import plain_failures


class ReplicatedTrainer(keras.Model):
    """A `keras.Model` whose `fit` works alike under every `tf.distribute` strategy.

    Keras 3's own cannot train under `MultiWorkerMirroredStrategy` (it averages scalars over an axis they lack), nor
    with `steps_per_execution` above 1 under `MirroredStrategy` (conditionals inside its loop lose their inputs), and
    takes too many steps where `steps_per_execution` does not divide `steps_per_epoch`. Here the loop holds nothing
    but the step, all replicas' logs are averaged in one transfer, and the last loop of an epoch is shorter.

    `data_wait` counts the seconds of a `fit` in which a step had no batch yet.

    A subclass is built when its constructor returns. Its `train_step` does nothing before its batch exists (see
    `ContrastiveModel.train_step`): where the length of the data is unknown, its end is found out inside the loop.
    """

    data_wait = 0.0

    def fit(self, x=None, *args, steps_per_epoch=None, **kwargs):
        """`keras.Model.fit`.

        Raises:
            ValueError: if optimiser or `jit_compile` would not work on the replicas (`check_training`), or a batch
                holds what the model cannot take.
            WorkerLost: if another worker stops.
        """
        x, steps_per_epoch = distribution.endless(x, steps_per_epoch, self.distribute_strategy)
        self._epoch_length = steps_per_epoch
        if steps_per_epoch is None and isinstance(x, tf.data.Dataset) and int(x.cardinality()) > 0:
            self._epoch_length = int(x.cardinality())  # neither endless nor unknown, which are negative
        self._steps_taken = 0
        self.data_wait = 0.0
        return super().fit(x, *args, steps_per_epoch=steps_per_epoch, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing to build, and no batch to be taken for it; Keras's fails with several workers."""

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
            one_step = tf.function(one_step, reduce_retracing=True, jit_compile=self.jit_compile)

        @tf.autograph.experimental.do_not_convert
        def several_steps(iterator, count):
            batch, waited = _timed_next(iterator)
            logs = one_step(batch)
            if self.steps_per_execution == 1:
                return logs, waited

            def step(number, logs, waited):
                batch, more = _timed_next(iterator)
                return number + 1, one_step(batch), waited + more

            first = (tf.ones_like(count), logs, waited)
            return tf.while_loop(lambda number, *_: number < count, step, first)[1:]

        if not self.run_eagerly:
            several_steps = tf.function(several_steps, reduce_retracing=True)

        def train(iterator):
            if not hasattr(iterator, "get_next"):  # of `train_on_batch`
                with plain_failures():
                    return one_step(next(iterator))
            count = self._next_steps()
            try:
                with plain_failures(), distribution.plain_worker_errors(self.distribute_strategy):
                    logs, waited = several_steps(iterator, tf.constant(count))
            except tf.errors.OutOfRangeError as end:
                raise StopIteration from end
            self._steps_taken += count
            self.data_wait += float(waited)
            return logs

        return train

    def _next_steps(self):
        """How many steps to take at once: fewer at the end of an epoch."""
        if self._epoch_length is None:
            return self.steps_per_execution
        return min(self.steps_per_execution, self._epoch_length - self._steps_taken % self._epoch_length)


def _timed_next(iterator):
    """The next batch, and the seconds until it was there."""
    before = tf.timestamp()
    with tf.control_dependencies([before]):
        batch = iterator.get_next()
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.timestamp() - before
