"""The callbacks of a run, from its plan."""

from keras_moco import callbacks, data
from keras_moco.data.subset import in_file_order
from keras_moco.errors import UserError
from keras_moco.loggers import optional_callbacks

PAIRS, PAIR_BATCH = 2048, 128  # images whose two views are compared during training, and how many of them at once


def build_monitor(config, train, test):
    """The kNN monitor, or `None` without a labelled test split.

    Raises:
        ValueError: if fewer images than `knn_k` can vote.
    """
    if test is None:
        return None
    if config.knn_k > train.num_examples:
        raise UserError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={config.knn_k}, {train.num_examples} images in {config.dataset}. Lower --knn_k."
        )
    return callbacks.KnnMonitor(
        data.evaluation_dataset(train, config.image_size),
        data.evaluation_dataset(test, config.image_size),
        num_classes=train.num_classes,
        k=config.knn_k,
        temperature=config.knn_temperature,
        features=config.knn_features,
        every_epochs=config.knn_every_epochs or config.epochs,
    )


def build_representation_monitor(config, train, augmentation):
    """The monitor that needs no labels, over fixed views of some training images."""
    batch = min(PAIR_BATCH, train.num_examples)
    # As in training, but from another seed: views that are no training batch, and the same in every epoch.
    seed, entries = config.seed + 1, ("query", "key")
    pairs = data.pretrain_dataset(in_file_order(train), augmentation, batch, seed, entries=entries)
    return callbacks.RepresentationMonitor(
        pairs.take(min(PAIRS, train.num_examples) // batch).cache(),
        every_epochs=config.knn_every_epochs or config.epochs,
    )


def build_callbacks(plan, run, monitors, checkpoint, first_epoch, loggers):
    """Callbacks of a run in order: those that add to the logs, those that read them, and the checkpoint last."""
    config, log = plan.config, checkpoint.log
    logging = [
        callbacks.Progress(plan.steps_per_epoch, config.epochs, config.batch_size, log_steps=config.log_steps),
        callbacks.NotFiniteGuard(checkpoint),
        callbacks.Health(plan.chance_loss),
        *optional_callbacks(loggers, monitors, log, first_epoch),
        callbacks.OptionalOutput(callbacks.Curves(run.curves, plan.chance_loss, log), f"{run.curves}"),
        checkpoint,
    ]
    return [*monitors, *logging]
