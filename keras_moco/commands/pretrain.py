"""From a configuration to a pre-trained, evaluated and exported encoder."""

import time
from typing import NamedTuple

from keras_moco import augment, callbacks, data, distribution
from keras_moco.commands.chief import worker_of
from keras_moco.commands.dry_run import dry_run
from keras_moco.data.source import check_same_classes
from keras_moco.distribution.determinism import make_deterministic
from keras_moco.errors import UserError
from keras_moco.runs.build import build_augmentation, build_model, open_split
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.plan import Plan
from keras_moco.runs.versions import versions_line

__all__ = ["pretrain"]


@data.plain_read_errors()
def pretrain(config):
    """Pre-trains an encoder with MoCo, evaluates and exports it; what `train.py` does.

    A run that was stopped resumes from its newest whole checkpoint when it is started again, and ends in the same bits
    as one that was not. Of several workers (`strategy="multiworker"`) each calls this; the first one evaluates and
    writes, the others need no access to its files.

    Args:
        config: `Config`.

    Returns:
        dict, what was written to `results.json` (an empty one with `dry_run`, and on other workers than the first):
        `knn_top1` in percent where the data has labels, `knn_top1_initial` where the run also began here, `epochs`,
        `steps`, `seconds` of training and kNN, and versions.

    Raises:
        ValueError: if anything about the configuration, the data or the folder is wrong, before any work starts; or if
            loss or gradients are not finite (`NotFiniteError`).
        WorkerLost: if another worker stops before the end.
        Stopped: when a signal (SIGTERM, SIGHUP, SIGUSR1, SIGINT), `max_minutes` or the loss of the standard output
            stops the training, with everything saved.
    """
    if config.deterministic:
        make_deterministic(config.seed)
    if config.dry_run:
        dry_run(config, distribution.count_replicas(config.strategy, config.replicas))
        return {}

    if config.require_gpu:
        distribution.check_gpu()
    strategy = distribution.make_strategy(config.strategy, config.replicas)
    with distribution.plain_worker_errors(strategy):
        return pretrain_on(strategy, config)


def pretrain_on(strategy, config):
    """`pretrain` on the devices of a strategy."""
    started = time.monotonic()  # `max_minutes` counts from here
    run = RunDirectory(config.workdir)
    run.check(config)
    with worker_of(strategy, run) as worker:
        setup = prepare(config, strategy, run, worker)
        model = build(setup, strategy, worker)
        train(model, setup, strategy, worker, started)
        return worker.finish(model, setup)


class Setup(NamedTuple):
    """What a run trains with."""

    plan: Plan  # with the settings that were not given and follow from the data
    train: data.Source
    test: data.Source | None  # with labels, for the kNN accuracy
    augmentation: augment.Augmentation
    devices: str  # and versions, for people


def prepare(config, strategy, run, worker):
    """Finds whatever is wrong before any work starts, and says what the run will be."""
    worker.check_checkpoints()
    train = open_split(config, "train")
    test = labelled_test_split(config, train)
    plan = Plan.of(worker.with_neighbours(config, train, test), train, strategy.num_replicas_in_sync)
    run.check(plan.config)
    devices = f"{versions_line()}; {distribution.describe(strategy)}"
    setup = Setup(plan, train, test, build_augmentation(plan.config), devices)
    worker.announce(setup)
    return setup


def build(setup, strategy, worker):
    """The model as its newest whole checkpoint has it, else with the weights of --init_from, else fresh."""
    model = build_model(setup.plan, strategy, setup.augmentation, worker.initial_weights(setup.plan.config))
    worker.resume(model, setup)
    distribution.broadcast([*model.weights, *model.optimizer.variables], strategy)
    return model


def train(model, setup, strategy, worker, started):
    """Trains from where the model stands to the end of the last epoch."""
    worker.measure_start(model)
    plan, config = setup.plan, setup.plan.config
    epoch, step = divmod(model.steps_done, plan.steps_per_epoch)
    if epoch >= config.epochs:
        return

    def batches(context):
        host = config.augment_on == "host"
        settings = {"context": context, "entries": model.required if host else (*model.required, "draws")}
        place = {"seed": config.seed, "first_epoch": epoch, "first_step": step}
        images = (setup.train, setup.augmentation, config.batch_size)
        return data.pretrain_dataset(*images, finish=host, **place, **settings)

    watching = worker.build_callbacks(model, setup, epoch)
    stopping = callbacks.Stopping(worker.checkpoint, config.max_minutes, started)
    with stopping, worker.timed():
        model.fit(
            strategy.distribute_datasets_from_function(batches),
            steps_per_epoch=plan.steps_per_epoch,
            initial_epoch=epoch,
            initial_step=step,
            epochs=config.epochs,
            callbacks=[*watching, stopping],
            verbose=0,  # `Progress` prints
            shuffle=False,
        )


def labelled_test_split(config, train):
    """The test split for kNN, or `None`, with a note, where there are no labels or there is no such split."""
    if train.class_names is None:
        print("note: the images have no labels, so there is no kNN accuracy")
        return None
    try:
        test = open_split(config, "test")
    except UserError as error:
        print(f"note: there is no kNN accuracy during training, since there is no test split. {error}")
        return None
    check_same_classes(train, test)
    return test
