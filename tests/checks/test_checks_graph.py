"""The failure of a check within a step reaches the user with its message unchanged."""

import pytest
import tensorflow as tf

from keras_moco.checks.graph import plain_failures, require

BRACKETS = 'it\'s in [a] [b], "[[{{node x}}]]" or ]C:\\data[\nand ünïcode'


@pytest.mark.parametrize("jit_compile", [None, False])
@pytest.mark.parametrize("received", [-3, 0.5, "x", BRACKETS, "[", ""])
def test_message_arrives_unchanged(jit_compile, received):
    def step(received):
        require(tf.constant(False), f"`x` must hold: {BRACKETS}.", received, f"Choose {BRACKETS}.")
        return tf.constant(1)

    for function in (step, tf.function(step, jit_compile=jit_compile)):
        with pytest.raises(ValueError) as caught, plain_failures():
            function(tf.constant(received))
        sentence = f"`x` must hold: {BRACKETS}. Received: {received}. Choose {BRACKETS}."
        assert str(caught.value) == sentence.replace("\n", "\\n")  # as in all messages


def test_check_passes_if_it_holds_and_under_xla():
    @tf.function
    def step(x):
        require(x > 0, "`x` must be positive.", x, "Give 1.")
        return x + 1

    with plain_failures():
        assert int(step(tf.constant(1))) == 2
        assert int(tf.function(step, jit_compile=True)(tf.constant(-1))) == 0


def test_other_failures_are_not_changed():
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), plain_failures():
        tf.debugging.Assert(False, ["mine [a] [b]"])
