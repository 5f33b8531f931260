"""Draws what a recipe does to the images of a source: a grid of originals, each beside random views of it.

keras-moco preview --source folder:photos --recipe moco_v2 --out views.png
"""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_moco.augment.recipes import AUGMENTATIONS
from keras_moco.command_line.parsers import check_grid
from keras_moco.commands.registry import COMMANDS
from keras_moco.data import open_source, plain_read_errors
from keras_moco.data.channel_statistics import thinned
from keras_moco.data.shown_bands import describe_bands, describe_stretch, shown_bands, stretch_of
from keras_moco.data.subset import in_file_order
from keras_moco.errors import one_line
from keras_moco.storage.paths import user_path
from keras_moco.summaries.image_grid import WHITE, captioned, enlarged, save, to_rgb


def preview(source, augmentation, images=6, views=7, seed=0, bands=None):
    """Draws one row per image, below its name: the whole image, then random views of it.

    A view depends only on the seed, its image and its position in the row, so that more images or more views do not
    change the others. Everything is computed on the CPU, since a GPU would round differently. Views of less than 96
    pixels are enlarged by a whole factor. Of more than three channels, and if `bands` are given, each shown band is
    stretched: percentiles 1 and 99 of its values in the images that are shown become black and white.

    Args:
        source: `Source` of the images.
        augmentation: `Augmentation` whose views have one fixed size.
        images: int, at least 1. The number of rows; fewer if the source has fewer readable images. Defaults to `6`.
        views: int, at least 1. The number of views in a row. Defaults to `7`.
        seed: int, at least 0. Random seed of the choice of images and of their views; from TFRecords and other large
            files the first images are taken. Defaults to `0`.
        bands: sequence of ints, the bands to show, as in `keras_moco.data.shown_bands`. Defaults to `None`: the first
            three, or the first of fewer.

    Returns:
        `(picture, names, seconds)`: uint8 `(height, width, 3)`; the path of each row's image, or its number if that is
        unknown; and the mean time of making one view by itself.

    Raises:
        ValueError: if a number is out of its range, the images have no such bands, or an image file is damaged.

    Example:

    >>> from keras_moco.augment import moco_cifar
    >>> from keras_moco.summaries.image_grid import GAP, LINE
    >>> picture, names, seconds = preview(open_source("digits"), moco_cifar(32), images=2, views=3)
    >>> names, picture.shape == (2 * (LINE + 96) + GAP, 4 * 96 + 3 * GAP, 3)
    (['image 209', 'image 862'], True)
    """
    check_grid(images, views, seed)
    shown_bands(source.image_shape[-1], bands)  # which may refuse them
    made, seconds = _made(source, augmentation, images, views, seed)
    stretch = stretch_of([each.pixels for each in made], bands)
    rows = []
    for each in made:
        height, width = each.views[0].shape[:2]
        cells = [_centred(to_rgb(each.image, bands, stretch), height, width)]
        cells += [to_rgb(view, bands, stretch) for view in each.views]
        rows.append([enlarged(cell, width) for cell in cells])
    numbers = [each.number for each in made]
    names = [file or f"image {number}" for file, number in zip(source.files_of(numbers), numbers, strict=True)]
    return captioned(rows, names), names, seconds / (len(rows) * views)


class _Made(NamedTuple):
    """An image and its views.

    Attributes:
        number: int, its index in the source.
        image: array `(h, w, C)`, scaled to fit into a view.
        pixels: array `(m, k, C)`, some pixels of the image, at equal distances (`thinned`).
        views: list of arrays `(s, s, C)`.
    """

    number: int
    image: np.ndarray
    pixels: np.ndarray
    views: list


def _made(source, augmentation, images, views, seed):
    """A list of `_Made`, and the seconds that all views took."""
    made, seconds, augment = [], 0.0, None
    with tf.device("CPU"), plain_read_errors():
        for example in in_file_order(source).examples(seed).take(images):
            image, number = example["image"], int(example["index"])
            random = np.random.default_rng([seed, number])
            draws = random.random((views, augmentation.num_draws), "float32")
            if not augment:
                # Shapes are as specific as in training: `Fused` chooses its way of cropping by them.
                image_spec = tf.TensorSpec([1, *source.image_shape], image.dtype)
                draws_spec = tf.TensorSpec([1, augmentation.num_draws], tf.float32)
                augment = tf.function(augmentation.augment_pixels, input_signature=[image_spec, draws_spec])
                augment(image[None], draws[:1])  # traces and compiles, which does not count
            start = time.perf_counter()
            of_image = [augment(image[None], draw[None])[0].numpy() for draw in draws]
            seconds += time.perf_counter() - start
            pixels = thinned(image.numpy())
            made.append(_Made(number, _shrunk(image, *of_image[0].shape[:2]), pixels, of_image))
    return made, seconds


def _shrunk(image, height, width):
    """The whole image, scaled to fit into `(height, width)`."""
    factor = min(height / image.shape[0], width / image.shape[1])
    size = [max(1, round(side * factor)) for side in image.shape[:2]]
    return tf.image.resize(image, size, antialias=True).numpy()


def _centred(image, height, width):
    """An image `(h, w, 3)` in the middle of a cell of `(height, width)`, on white."""
    cell = np.full((height, width, 3), WHITE, "uint8")
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    return cell


def work(args):
    """Writes the picture and says what it shows."""
    out, area = user_path(args.out), args.crop_min_area
    crop = {} if area is None else {"crop_scale": (area, 1.0)}
    augmentation = AUGMENTATIONS[args.recipe](args.image_size, exact=args.exact, **crop)
    source = open_source(
        args.source,
        args.split,
        args.data_dir,
        channels=args.channels,
        value_range=args.value_range,
        background=args.background,
        tfrecord_image_feature=args.tfrecord_image_feature,
    )
    picture, names, seconds = preview(source, augmentation, args.images, args.views, args.seed, args.bands)
    channels = source.image_shape[-1]
    bands = [text for text in (describe_bands(channels, args.bands), describe_stretch(channels, args.bands)) if text]
    save(out, picture)
    print(
        f"Wrote {out}: {len(names)} image{'s' if len(names) > 1 else ''} of {args.source}, each with {args.views} "
        f"view{'s' if args.views > 1 else ''} by {args.recipe}{' (exact)' if args.exact else ''} at {args.image_size} "
        f"pixels, {1000 * seconds:.1f} ms per view{bands and '; it shows ' + ', '.join(bands) or ''}."
    )
    for row, name in enumerate(names, 1):
        print(f"row {row}  {one_line(name)}")


def main(argv=None):
    """Runs the command; returns its exit status."""
    return COMMANDS["preview"].main(argv)
