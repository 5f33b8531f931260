"""A guard against a model that changes while it is evaluated."""

import contextlib
import hashlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def frozen(model: keras.layers.Layer) -> Iterator[None]:
    """Fails if anything inside the `with` block changes the model, by as little as one bit.

    Every variable is compared, BatchNormalization statistics included: the accuracy of a "linear" probe that trains
    its backbone, or runs it in training mode, means nothing.

    Args:
        model: a built `keras.Model` or layer.

    Raises:
        RuntimeError: naming the variables that were changed, created or removed.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> with frozen(layer):
    ...     _ = layer(keras.ops.ones((1, 3)))
    """
    variables = list(model.variables)  # held, so that no new variable gets the identity of a deleted one
    before = _digests(variables)
    yield
    after = _digests(model.variables)
    different = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    changed = [(before.get(key) or after[key])[0] for key in different]
    if changed:
        raise RuntimeError(
            "The model must not change while it is evaluated. "
            f"Received: {len(changed)} changed variable(s): {', '.join(sorted(changed))}. "
            "Call it with training=False and take no optimizer step on it."
        )


def _digests(variables):
    """Path and digest of each variable, by its identity: the two encoders of a model share their paths."""
    # Digests instead of copies: the guard costs no memory, however large the model.
    return {id(each): (each.path, hashlib.sha256(each.numpy().tobytes()).digest()) for each in variables}
