"""What a run shows at its start and at its end; if it cannot be written, the run continues."""

import shlex

import numpy as np

from keras_moco.callbacks.optional_output import warn_if_not_written
from keras_moco.command_line import how_to_call
from keras_moco.evaluation import at_level, draw_neighbours, draw_projection, nearest_neighbours
from keras_moco.evaluation.plot_names import image_names
from keras_moco.evaluation.projection_plot import lacks_for_projection
from keras_moco.export.backbone import KERAS_FILE, SAVED_MODEL
from keras_moco.summaries.hparams import write_settings
from keras_moco.summaries.projector import CopyingExtractor, embed_images, write_projector
from keras_moco.summaries.views import first_views, write_views

SHOWN, REFERENCES = 2000, 5000  # images in the projector, and training images among which neighbours are searched
PROJECTED = 1000  # images in the plot of the projection, which then takes seconds
QUERIES, NEIGHBOURS = 6, 7


def show_start(run, plan, train, augmentation, required):
    """Writes the settings at each start of a run, and the first training views once.

    Args:
        run: `RunDirectory` that is claimed by this run.
        plan: `Plan` of the run.
        train: `Source` of the training images.
        augmentation: `Augmentation` of the training images.
        required: names of the entries that the model's batches have.
    """
    events = events_of(run, plan.config)
    if events:
        with warn_if_not_written(f"{run.tensorboard}"):
            write_settings(events, plan)
    if not run.views.exists():
        config, names = plan.config, [name for name in ("query", "key") if name in required]
        host = config.augment_on == "host"
        # Errors of unreadable images are not caught here: they would end training as well.
        views, index = first_views(train, augmentation, config.batch_size, names, config.seed, host)
        with warn_if_not_written(f"{run.views}"):
            write_views(run.views, events, views, names, image_names(train.files_of(index), index))


def show_end(run, config, encoder, train, test=None):
    """Writes what the encoder says of images: a projection, neighbours, and the points of TensorBoard's projector.

    Features are those of `knn_features`, of limited numbers of images, so that large sets take no longer.

    Args:
        run: `RunDirectory` that is claimed by this run.
        config: `Config` of the run.
        encoder: `Encoder` after training.
        train: `Source` of the training images.
        test: `Source` of test images, which are shown then. Defaults to `None`: training images are shown.
    """
    with warn_if_not_written(f"what {run.path} shows"):
        extractor = CopyingExtractor(at_level(encoder, config.knn_features))
        references = embed_images(train, extractor, config.image_size, REFERENCES, config.seed)
        if test:
            shown = embed_images(test, extractor, config.image_size, SHOWN, config.seed)
        else:
            shown = references.at(slice(SHOWN))
        rows = np.unique(np.linspace(0, len(shown.labels) - 1, QUERIES).astype("int64"))
        others = references if test else references.at(np.setdiff1d(np.arange(len(references.labels)), rows))
        if len(others.labels):  # none if all of a few training images are queries
            with warn_if_not_written(f"{run.neighbours}"):
                draw_neighbours_of(run.neighbours, shown.at(rows), others, train.class_names)
        lacking = lacks_for_projection(shown.features)
        if lacking:
            print(f"note: {run.embedding} is not drawn: {lacking}", flush=True)
        else:
            with warn_if_not_written(f"{run.embedding}"):
                draw_projection(run.embedding, shown.features, shown.labels, train.class_names, PROJECTED, config.seed)
        if events := events_of(run, config):
            with warn_if_not_written(f"{events}"):
                write_projector(events, shown, train.class_names)


def events_of(run, config):
    """The folder for TensorBoard's events, or `None` where nothing is logged for it."""
    return run.events if "tensorboard" in config.log_to else None


def draw_neighbours_of(path, queries, references, class_names):
    """Draws images beside those of the references that are most similar to them; both are `EmbeddedImages`."""
    found = nearest_neighbours(references.features, queries.features, min(NEIGHBOURS, len(references.labels)))
    known = {}
    if class_names and min(queries.labels.min(), references.labels.min()) >= 0:
        labels = {"query_labels": queries.labels, "neighbour_labels": references.labels[found.rows]}
        known = {**labels, "class_names": class_names}
    neighbours = references.at(found.rows.ravel())
    names = image_names([*queries.paths(), *neighbours.paths()], [*queries.index, *neighbours.index])
    known["query_names"] = names[: len(queries.index)]
    known["neighbour_names"] = np.reshape(names[len(queries.index) :], found.rows.shape).tolist()
    draw_neighbours(path, queries.images, references.images[found.rows], found.similarity, **known)


def closing_lines(run, results):
    """The last lines of a run: where its files are, and what can be done next.

    Args:
        run: `RunDirectory` of the run.
        results: dict, the content of `results.json`.

    Returns:
        str of several lines.
    """
    labelled = "knn_top1" in results
    knn = ""
    if labelled:
        # Unknown if the run started elsewhere, as a converted one, or if its results were deleted.
        before = f"{results['knn_top1_initial']:.2f} % before, " if "knn_top1_initial" in results else ""
        knn = f"kNN top-1: {before}{results['knn_top1']:.2f} % after training\n"
    pictures = [path.name for path in (run.curves, run.views, run.neighbours, run.embedding) if path.exists()]
    use = f'keras.models.load_model("{run.export / KERAS_FILE}")'
    if (run.export / SAVED_MODEL).exists() and not (run.export / KERAS_FILE).exists():  # of layers of others
        use = f'tf.saved_model.load("{run.export / SAVED_MODEL}")'
    shown = run.tensorboard.exists()  # unless nothing was logged for it
    watch = f"watch:     tensorboard --logdir {shlex.quote(str(run.tensorboard))}\n" if shown else ""
    return (
        f"{knn}results    {run.results_json}\n"
        f"log        {run.log_csv}\n"
        f"pictures   {', '.join(pictures) or 'none'} in {run.path}\n"
        f"checkpoint {run.checkpoints}\n"
        f"backbone   {run.export}\n"
        f"{watch}"
        f"evaluate:  {how_to_call('evaluate')} {'knn' if labelled else 'retrieve --split=train'} "
        f"--workdir={shlex.quote(str(run.path))}\n"
        f"use:       {use}"
    )
