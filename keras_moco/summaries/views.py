"""The augmented views that a training is fed with, to be looked at before days have gone by."""

import numpy as np
import tensorflow as tf

from keras_moco.callbacks.event_log import write_events
from keras_moco.data import pretrain_dataset
from keras_moco.data.subset import in_file_order
from keras_moco.summaries import image_grid

PAIRS = 8
SIDE = 96  # pixels; smaller views are enlarged, so that they can be made out


def fed_views(source, augmentation, batch_size, names, seed=0, on_host=True):
    """The first views of the first batch of a training, made again.

    By a pipeline of its own, so nothing is taken from the training, whose views depend on seed, epoch and place alone.
    It makes a whole batch, since the training has a use for what is compiled for its size. Of a stream of large files
    the images are the first ones of the files: for eight of them no shuffle buffer is filled.

    Args:
        source, augmentation, batch_size, seed: of the training, as in `keras_moco.data.pretrain_dataset`.
        names: of the views that are fed, `"query"` and `"key"`.
        on_host: bool, whether the pipeline finishes the views, or the training step does. Defaults to `True`.

    Returns:
        A list with an array `(n, s, s, C)` of values in 0..255 for each name, `n` being 8, or the batch if it is less.
    """
    entries = names if on_host else (*names, "draws")
    batches = pretrain_dataset(in_file_order(source), augmentation, batch_size, seed, entries=entries, finish=on_host)
    batch = {name: entry[:PAIRS] for name, entry in next(iter(batches.take(1))).items()}
    if not on_host:
        for number, name in enumerate(names):
            batch[name] = augmentation.finish(batch[name], batch["draws"][:, number], on_host=False)
    return [batch[name].numpy() for name in names]


def write_views(path, log_dir, views, names):
    """Draws views into a PNG file, and into TensorBoard's images: a row of queries, and their keys below.

    Args:
        path: path of the PNG file; its folder exists.
        log_dir: path of the folder in which the run's events are.
        views: of `fed_views`.
        names: likewise.
    """
    factor = -(-SIDE // views[0].shape[1])
    rows = [[_enlarged(image_grid.levels(view), factor) for view in row] for row in views]
    picture = image_grid.grid(rows)
    told = f"{len(rows[0])} images as they are fed: {' above '.join(names)}."
    write_events(log_dir, "views", lambda: tf.summary.image("views", picture[None], description=told))
    image_grid.save(path, picture)


def _enlarged(image, factor):
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
