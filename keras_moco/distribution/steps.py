"""Training steps that all replicas take together."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_moco.errors import UserError


def check_training(strategy: tf.distribute.Strategy, optimizer: Any, jit_compile: bool) -> None:
    """Refuses settings that would fail on several replicas, or give other numbers than on one.

    Raises:
        ValueError: for XLA over several replicas of a process, and for optimizer options that Keras applies to each
            replica's gradients instead of their sum, or cannot apply there at all.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    if jit_compile is True and not isinstance(strategy, tf.distribute.TPUStrategy):
        raise UserError(
            "`jit_compile` must not be True on several replicas: XLA compiles a step for one device, and what is "
            f"exchanged between replicas is outside of it. Received: {strategy.num_replicas_in_sync} replicas, "
            "jit_compile=True. Compile with jit_compile=False."
        )
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps", "ema_overwrite_frequency"):
        if getattr(optimizer, name, None) is not None:
            raise UserError(
                f"The optimizer's `{name}` must not be set on several replicas: Keras applies it there to each "
                "replica by itself, instead of to the sum of gradients, or fails. "
                f"Received: {name}={getattr(optimizer, name)}. "
                "Omit it, or train on one replica."
            )


def on_all_replicas(step: Callable[[Any], Any], strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    """Turns `step`, from a replica's batch to its logs, into a function from a distributed batch to the first logs."""

    @tf.autograph.experimental.do_not_convert
    def run(batch):
        logs = strategy.run(step, args=(batch,))
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

    return run
