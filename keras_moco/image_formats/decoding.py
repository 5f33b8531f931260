"""From the values in a file to the pixels of an image, by one rule for all files of a set."""

import dataclasses

import numpy as np

from keras_moco.errors import UserError
from keras_moco.image_formats.registry import Raw, format_of, read

LUMA = np.array([0.2989, 0.587, 0.114], "float32")  # of `tf.image.rgb_to_grayscale`
WINDOW = "window"

Limits = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]


def linear(limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Which number is subtracted, and by which the rest is multiplied, so that limits become 0 and 255.

    Args:
        limits: `(low, high)`, as of `Decoding`.

    Returns:
        `(low, scale)`: float32 scalars, or arrays with one number for each channel.
    """
    low, high = (np.asarray(end, "float64") for end in limits)
    return low.astype("float32"), (255 / (high - low)).astype("float32")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become images with values in 0..255.

    1. Opacity: an image is laid on a background of one gray level, unless as many channels are wanted as it has with
       its opacity.
    2. Range: with `limits` of `(low, high)` a value v becomes `255 (v - low) / (high - low)`, clipped to 0..255, in
       float32; of each channel by its own, if these are tuples. Without, black to white of the file's own type become
       0..255, rounded to whole levels in uint8: values of 8 bits stay as they are, v of 16 bits becomes v / 257.
    3. Channels: gray becomes colour by repetition, colour becomes gray by the luma of `tf.image.rgb_to_grayscale` (of
       a JPEG by its own luma channel).

    Args:
        channels: int, at least 1.
        limits: `(low, high)`, each a float or a tuple of one for each channel; or `"window"` for the window that each
            DICOM file gives, or `None`.
        background: int, 0..255. Defaults to `255`: white.

    Example:

    >>> from keras_moco.image_formats.registry import Raw
    >>> Decoding(channels=1, limits=(0, 4095)).pixels(Raw(np.array([[[0], [4095]]]), None)).ravel().tolist()
    [0.0, 255.0]
    """

    channels: int
    limits: Limits | str | None = None
    background: int = 255

    @property
    def dtype(self) -> str:
        """str: the type of the pixels, `"uint8"` or `"float32"`."""
        return "uint8" if self.limits is None else "float32"

    def decode(self, data: bytes) -> np.ndarray:
        """The pixels of a file, `(h, w, channels)` of type `dtype`.

        Raises:
            Exception: of any kind, if it cannot be read or does not fit.
        """
        if self.limits != WINDOW:
            return self.pixels(read(data, self.channels))
        if format_of(data) != "DICOM":
            raise UserError("--value_range=window needs DICOM files. Received: another file. Give a range.")
        from keras_moco.image_formats import dicom  # pydicom is an extra

        return self.pixels(dicom.windowed(data))

    def pixels(self, raw: Raw) -> np.ndarray:
        """The pixels of a `Raw`, `(h, w, channels)` of type `dtype`.

        Raises:
            ValueError: if it has other channels than can be converted, or values that need `limits`.
        """
        values, opacity = raw.values, None
        if raw.alpha and values.shape[-1] != self.channels:
            values, opacity = values[..., :-1], values[..., -1:] / np.float32(raw.white or 1)
        if self.limits is None and values.dtype == np.uint8 and raw.white == 255 and opacity is None:
            return self._converted(values)
        pixels = self._in_range(values, raw.white)
        if opacity is not None:
            pixels = pixels * opacity + self.background * (1 - opacity)
        if self.limits is None:
            pixels = np.round(pixels).astype("uint8")
        return self._converted(pixels)

    def _in_range(self, values, white):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise UserError(
                "All values of an image must be finite numbers. "
                f"Received: {count} of {values.size} that are not. Fill them, for example with the lowest value."
            )
        if isinstance(self.limits, tuple):
            low, scale = linear(self.limits)
        elif white is None:
            raise UserError(
                "Images of fractions, or of values in a unit of their own, must have a range. Received: none. "
                "Give --value_range=auto or --value_range=LOW,HIGH."
            )
        else:
            low, scale = linear((0.0, white))
        return np.clip((values.astype("float32") - low) * scale, 0, 255)

    def _converted(self, pixels):
        found = pixels.shape[-1]
        if found == self.channels:
            return np.ascontiguousarray(pixels)
        if found == 1 and self.channels == 3:
            return np.repeat(pixels, 3, axis=-1)
        if found == 3 and self.channels == 1:
            gray = pixels.astype("float32") @ LUMA
            # TensorFlow's own rounding, so that a PNG and a WebP of the same pixels are the same.
            return (gray if pixels.dtype != np.uint8 else (gray / 255 * 255.5).astype("uint8"))[..., None]
        raise UserError(
            f"An image must have {self.channels} channel(s), or be gray or colour for 3 or 1. "
            f"Received: {found}. Give --channels={found} for all, or leave it out."
        )
