"""The augmented views that a run trains on, so that a mistake in them is seen at its start."""

import numpy as np
import tensorflow as tf

from keras_moco.callbacks.event_log import write_events
from keras_moco.data import pretrain_dataset
from keras_moco.data.shown_bands import describe_bands, describe_stretch, stretch_of
from keras_moco.data.subset import in_file_order
from keras_moco.summaries import image_grid

PAIRS = 8


def first_views(source, augmentation, batch_size, names, seed=0, on_host=True):
    """The first views of the first training batch, made a second time.

    They come from another pipeline, so that none is taken from training, whose views depend on seed, epoch and place
    alone. It makes a whole batch, since training reuses what is compiled for that size. Of large files these are the
    first images of the files: no shuffle buffer is filled for eight of them.

    Args:
        source, augmentation, batch_size, seed: arguments of the training's `keras_moco.data.pretrain_dataset`.
        names: names of the views that the model takes, `"query"` and `"key"`.
        on_host: bool, whether the pipeline finishes the views, or the training step does. Defaults to `True`.

    Returns:
        `(views, index)`: a list with an array `(n, s, s, C)` of values in 0..255 for each name, where `n` is 8, or a
        smaller batch; and the numbers of the images in the source, int64 `(n,)`.
    """
    entries = (*names, "index") if on_host else (*names, "index", "draws")
    batches = pretrain_dataset(in_file_order(source), augmentation, batch_size, seed, entries=entries, finish=on_host)
    batch = {name: entry[:PAIRS] for name, entry in next(iter(batches.take(1))).items()}
    if not on_host:
        for number, name in enumerate(names):
            batch[name] = augmentation.finish(batch[name], batch["draws"][:, number], on_host=False)
    return [batch[name].numpy() for name in names], batch["index"].numpy()


def write_views(path, log_dir, views, names, images):
    """Draws views into a PNG file, and into TensorBoard's images: a row of queries, their keys, and the images' names.

    Args:
        path: path of the PNG file, in a folder that exists.
        log_dir: path of the folder in which the run's events are, or `None` for the PNG file alone.
        views: list of arrays, as from `first_views`.
        names: names of the views, as for `first_views`.
        images: list of str, the names of the images.
    """
    side, channels, stretch = views[0].shape[1], views[0].shape[-1], stretch_of(views)
    rows = [[image_grid.enlarged(image_grid.to_rgb(view, stretch=stretch), side) for view in row] for row in views]
    captions = [image_grid.lines(images, rows[0][0].shape[1])]
    image = np.concatenate([image_grid.grid(rows), image_grid.grid(captions)])
    more = "".join(f"; {text}" for text in (describe_bands(channels), describe_stretch(channels)) if text)
    description = f"{len(rows[0])} images as the model gets them: {' above '.join(names)}{more}."
    if log_dir is not None:
        write_events(log_dir, "views", lambda: tf.summary.image("views", image[None], description=description))
    image_grid.save(path, image)
