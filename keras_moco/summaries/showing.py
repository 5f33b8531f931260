"""What is shown at the beginning of a run, and at its end; where it cannot be written, the run goes on."""

import numpy as np

from keras_moco.callbacks.optional_output import warn_if_not_written
from keras_moco.evaluation import FeatureExtractor, at_level, draw_neighbours, draw_projection, nearest_neighbours
from keras_moco.evaluation.projection_plot import lacks_for_projection
from keras_moco.summaries.hparams import write_settings
from keras_moco.summaries.looking import look
from keras_moco.summaries.projector import write_projector
from keras_moco.summaries.views import fed_views, write_views

SHOWN, BANK = 2000, 5000  # images in the projector, and training images among which neighbours are looked for
MAPPED = 1000  # images on the map, which is drawn in seconds
QUERIES, NEIGHBOURS = 6, 7


def show_start(run, plan, train, augmentation, required):
    """Shows the settings, and once in the life of a run the views that it is fed with.

    Args:
        run: `RunDirectory`, claimed.
        plan: `Plan`.
        train: `Source` of the training images.
        augmentation: their `Augmentation`.
        required: names of what the model's batches hold.
    """
    with warn_if_not_written(f"{run.tensorboard}"):
        write_settings(run.events, plan)
    if not run.views.exists():
        config, names = plan.config, [name for name in ("query", "key") if name in required]
        host = config.augment_on == "host"
        # Not to be left out: images that cannot be read would end the training as well, which then knows of them.
        views = fed_views(train, augmentation, config.batch_size, names, config.seed, host)
        with warn_if_not_written(f"{run.views}"):
            write_views(run.views, run.events, views, names)


def show_end(run, config, encoder, train, test=None):
    """Shows what the encoder makes of images: a map, neighbours, and the points of TensorBoard's projector.

    All of features as in `knn_features`, and of bounded numbers of images, so that large sets take no longer.

    Args:
        run: `RunDirectory`, claimed.
        config: `Config`.
        encoder: `Encoder`.
        train: `Source` of the training images.
        test: `Source` of test images, which are then shown. Defaults to `None`: training images.
    """
    with warn_if_not_written(f"what {run.path} shows"):
        extractor = FeatureExtractor(at_level(encoder, config.knn_features))
        bank = look(train, extractor, config.image_size, BANK, config.seed)
        shown = look(test, extractor, config.image_size, SHOWN, config.seed) if test else bank.at(slice(SHOWN))
        rows = np.unique(np.linspace(0, len(shown.labels) - 1, QUERIES).astype("int64"))
        others = bank if test else bank.at(np.setdiff1d(np.arange(len(bank.labels)), rows))
        if len(others.labels):  # of a handful of training images all are shown
            with warn_if_not_written(f"{run.neighbours}"):
                draw(run.neighbours, shown.at(rows), others, train.class_names)
        lacking = lacks_for_projection(shown.features)
        if lacking:
            print(f"note: {run.embedding} is not drawn, of {lacking}", flush=True)
        else:
            with warn_if_not_written(f"{run.embedding}"):
                draw_projection(run.embedding, shown.features, shown.labels, train.class_names, MAPPED, config.seed)
        with warn_if_not_written(f"{run.events}"):
            write_projector(run.events, shown, train.class_names)


def draw(path, queries, bank, class_names):
    """Draws images, `Looked`, beside the most similar ones of a bank, likewise."""
    found = nearest_neighbours(bank.features, queries.features, min(NEIGHBOURS, len(bank.labels)))
    known = {}
    if class_names and min(queries.labels.min(), bank.labels.min()) >= 0:
        labels = {"query_labels": queries.labels, "neighbour_labels": bank.labels[found.rows]}
        known = {**labels, "class_names": class_names}
    draw_neighbours(path, queries.images, bank.images[found.rows], found.similarity, **known)
