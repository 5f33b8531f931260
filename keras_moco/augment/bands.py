"""What the operations on single bands share: they have random numbers for as many bands as an image may have."""

from keras_moco.errors import UserError

BANDS = 32  # our choice; Sentinel-2 has 13


def check_bands(bands):
    """Returns `bands` as an int; it must be a number of bands."""
    if int(bands) < 1:
        raise UserError(
            "`bands` must be the most channels that an image may have, at least 1. "
            f"Received: bands={bands}. Choose for example {BANDS}."
        )
    return int(bands)


def for_channels(numbers, channels, layer):
    """The first `channels` columns of random numbers `(n, layer.bands)`."""
    if channels > layer.bands:
        raise UserError(
            f"`images` must have at most {layer.bands} channels for this {type(layer).__name__}. "
            f"Received: {channels} channels. Give bands={channels} when you make it."
        )
    return numbers[:, :channels]
