"""Which channels of an image a picture shows, where it has others than gray or RGB, and how bright."""

from collections.abc import Iterable, Sequence

import numpy as np

from keras_moco.errors import UserError

STRETCH = (1, 99)  # percentiles of the values of a band that become black and white


def shown_bands(channels: int, bands: Sequence[int] | None = None) -> tuple[int, ...]:
    """The bands that a picture shows: three as red, green and blue, or one as gray.

    Args:
        channels: int, the channels of the images.
        bands: sequence of 1 or 3 ints from 1 to `channels`, the bands to show. Defaults to `None`: the first three, or
            the first of fewer.

    Returns:
        tuple of 1 or 3 ints, counted from 1 as bands usually are (Sentinel-2 is shown by its bands 4, 3 and 2).

    Raises:
        ValueError: if there are no such bands.

    Example:

    >>> shown_bands(1), shown_bands(2), shown_bands(3), shown_bands(13), shown_bands(13, (4, 3, 2))
    ((1,), (1,), (1, 2, 3), (1, 2, 3), (4, 3, 2))
    """
    if bands is None:
        return (1,) if channels < 3 else (1, 2, 3)
    if len(bands) not in (1, 3) or not all(1 <= band <= channels for band in bands):
        raise UserError(
            "`bands` must be three bands, shown as red, green and blue, or one, shown as gray, counted from 1. "
            f"Received: bands={','.join(map(str, bands))}, images of {channels} channel(s). "
            f"Give numbers from 1 to {channels}, separated by commas."
        )
    return tuple(bands)


def describe_bands(channels: int, bands: Sequence[int] | None = None) -> str:
    """What `shown_bands` shows of other images than gray and RGB, in words; of these, an empty string.

    Example:

    >>> describe_bands(13, (4, 3, 2))
    'bands 4, 3 and 2 of 13 as red, green and blue'
    """
    shown = shown_bands(channels, bands)
    if shown == tuple(range(1, channels + 1)):
        return ""
    if len(shown) == 1:
        return f"band {shown[0]} of {channels} as gray"
    return f"bands {shown[0]}, {shown[1]} and {shown[2]} of {channels} as red, green and blue"


def take_bands(images: np.ndarray, bands: Sequence[int] | None = None) -> np.ndarray:
    """The bands to show of images `(..., C)`, as `(..., 1)` or `(..., 3)`."""
    shown = shown_bands(images.shape[-1], bands)
    return images[..., [band - 1 for band in shown]]


def is_stretched(channels: int, bands: Sequence[int] | None = None) -> bool:
    """Whether a picture shows each band with a brightness of its own: of many bands, and of bands that were chosen.

    With one range of values for all bands (`--value_range=0,10000`), most are dark. Pictures of gray and RGB images
    keep their colours.
    """
    return channels > 3 or bands is not None


def describe_stretch(channels: int, bands: Sequence[int] | None = None) -> str:
    """What `stretch_of` does, in words; an empty string where a picture shows the values as they are.

    Example:

    >>> describe_stretch(13)
    'each band stretched from its percentiles 1 to 99, for display only'
    """
    if not is_stretched(channels, bands):
        return ""
    return f"each band stretched from its percentiles {STRETCH[0]} to {STRETCH[1]}, for display only"


def stretch_of(
    images: Iterable[np.ndarray], bands: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """The values that are shown as black and as white of each shown band.

    Args:
        images: iterable of arrays `(..., C)`, all images of a picture, at least one.
        bands: as for `shown_bands`.

    Returns:
        `(black, white)`, arrays `(1,)` or `(3,)`; `None` where values are shown as they are.

    Example:

    >>> black, white = stretch_of([np.arange(101.0)[:, None]], bands=(1,))
    >>> black.tolist(), white.tolist()
    ([1.0], [99.0])
    """
    arrays = [np.asarray(image) for image in images]
    if not is_stretched(arrays[0].shape[-1], bands):
        return None
    shown = [take_bands(array, bands) for array in arrays]
    values = np.concatenate([array.reshape(-1, array.shape[-1]) for array in shown])
    black, white = np.percentile(values, STRETCH, axis=0)
    # Of a band with one value in nearly all pixels nothing could be seen: it stays as it is.
    flat = white <= black
    return np.where(flat, 0, black), np.where(flat, 255, white)
