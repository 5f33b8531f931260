"""Milliseconds for one view by each recipe, of images of several channels and types.

    python benchmarks/recipes.py [--exact] [--views N]

Each view is made by itself, as in the pipelines of large images. The recipes take turns, so that changes of the
machine's speed affect all of them alike. Results are medians; only the ratios are comparable between machines.
"""

import argparse
import os
import statistics
import time

import numpy as np
from sklearn.datasets import load_sample_image

RECIPES = ("moco_v1", "moco_v2", "moco_medical", "moco_multispectral", "simclr")
KINDS = [(channels, dtype) for dtype in ("uint8", "float32") for channels in (1, 3, 13)]
SIZE = 224


def maker(recipe, photo, exact):
    """A function of random numbers `(1, num_draws)` that makes a view of a photograph `(h, w, C)`, and their number."""
    import tensorflow as tf

    from keras_moco.augment import get_augmentation

    view = get_augmentation(recipe)(SIZE, exact=exact)
    image = tf.TensorSpec([1, None, None, photo.shape[-1]], photo.dtype)  # of any size, as files have
    run = tf.function(view.augment_pixels, input_signature=[image, tf.TensorSpec([1, view.num_draws])])
    pixels = tf.constant(photo[None])
    return lambda draws: run(pixels, draws).numpy(), view.num_draws


def measure(makers, views):
    """The median seconds of each."""
    seconds = {key: [] for key in makers}
    rng = np.random.default_rng(0)
    for turn in range(-1, views):  # the first one compiles
        for key, (make, width) in makers.items():
            draws = rng.random((1, width), "float32")
            start = time.perf_counter()
            make(draws)
            seconds[key] += [time.perf_counter() - start] * (turn >= 0)
    return {key: statistics.median(times) for key, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exact", action="store_true", help="one operation after the other instead of fused")
    parser.add_argument("--views", type=int, default=64, help="views by each recipe (default 64)")
    args = parser.parse_args()
    photo = load_sample_image("china.jpg")[:375, :500]
    makers = {
        (recipe, *kind): maker(recipe, photo[..., np.arange(kind[0]) % 3].astype(kind[1]), args.exact)
        for recipe in RECIPES
        for kind in KINDS
    }
    medians = measure(makers, args.views)
    print("| recipe |", " | ".join(f"{channels}, {dtype}" for channels, dtype in KINDS), "|")
    for recipe in RECIPES:
        print(f"| `{recipe}` |", " | ".join(f"{1000 * medians[(recipe, *kind)]:.1f}" for kind in KINDS), "|")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
