"""The key encoder follows the query encoder: an exact copy at the start, a moving average afterwards."""

from keras_moco.errors import UserError

__all__ = ["copy_weights", "momentum_update"]


def copy_weights(source, target):
    """Copies every weight of `source`, BatchNorm statistics included, into `target` of the same architecture.

    Args:
        source: a built `keras.Layer` or `keras.Model`.
        target: another one with the same weights in the same order.

    Raises:
        ValueError: if the weights differ in number or shape.
    """
    for theirs, ours in _pairs(source, target):
        ours.assign(theirs)
    for layer in target._flatten_layers():
        if hasattr(layer, "finalize_state"):  # `Normalization` computes with constants that it makes of its weights
            layer.finalize_state()


def momentum_update(target, source, momentum):
    """`target <- momentum * target + (1 - momentum) * source`, parameters only (MoCo, eq. 2).

    BatchNorm's moving statistics are not parameters: the key encoder gathers its own from the keys it encodes, as in
    the official code, where `parameters()` leaves buffers out (`moco/builder.py`).

    Args:
        target: the key encoder.
        source: the query encoder, of the same architecture.
        momentum: float or scalar tensor in `[0, 1]`, `m` in the paper.
    """
    for theirs, ours in _pairs(source, target):
        if theirs.trainable:
            ours.assign(ours * momentum + theirs * (1.0 - momentum))


def _pairs(source, target):
    if [tuple(w.shape) for w in source.weights] != [tuple(w.shape) for w in target.weights]:
        raise UserError(
            "`source` and `target` must have the same weights in the same order. "
            f"Received: {len(source.weights)} weights in {source.name!r} and {len(target.weights)} in "
            f"{target.name!r}, or other shapes. Build both from one configuration."
        )
    return zip(source.weights, target.weights, strict=True)
