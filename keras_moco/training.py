"""From a configuration to a trained, evaluated and exported encoder."""

import contextlib
import sys
import time

import keras

from keras_moco import data, distribution
from keras_moco.building import build_augmentation, build_model, open_split
from keras_moco.callbacks import Checkpoint, Curves, EpochLog, KnnMonitor, Progress, restore
from keras_moco.dry_run import dry_run
from keras_moco.export import export_backbone
from keras_moco.plan import Plan
from keras_moco.run_directory import RunDirectory
from keras_moco.versions import versions, versions_line


@data.plain_read_errors()
def pretrain(config):
    """Pre-trains an encoder with MoCo, evaluates and exports it; what `train.py` does.

    A run that was stopped goes on from its last epoch when it is started again. Of several workers
    (`strategy="multiworker"`) each calls this; the first one evaluates and writes, the others need no access to its
    files.

    Args:
        config: `Config`.

    Returns:
        dict, what was written to `results.json` (an empty one with `dry_run`, and on other workers than the first):
        `knn_top1_initial` and `knn_top1` in percent where the data has labels, `epochs`, `steps`, `seconds` of training
        and kNN, and versions.

    Raises:
        ValueError: if anything about the configuration, the data or the folder is wrong, before any work starts.
        WorkerLost: if another worker stops before the end.
    """
    if config.dry_run:
        dry_run(config, distribution.count_replicas(config.strategy, config.replicas))
        return {}

    strategy = distribution.make_strategy(config.strategy, config.replicas)
    with distribution.plain_worker_errors(strategy):
        return pretrain_on(strategy, config)


def pretrain_on(strategy, config):
    """`pretrain` on the devices of a strategy. Of several workers the first, the chief, speaks and writes."""
    chief = distribution.is_chief(strategy)

    # 1. Everything that can be wrong is found out first.
    run = RunDirectory(config.workdir)
    run.check(config)
    train = open_split(config, "train")
    test = labelled_test_split(config, train)
    plan = Plan.of(config, train, strategy.num_replicas_in_sync)
    augmentation = build_augmentation(config)
    monitor = build_monitor(config, train, test) if chief else None
    print(f"{versions_line()}; {distribution.describe(strategy)}")
    print(plan.describe() if chief else "training along; the first worker writes", flush=True)

    # 2. The model, fresh or as it was.
    model = build_model(plan, strategy, augmentation)
    if chief:
        run.claim(config)
        restore(model, run.checkpoints)
    distribution.broadcast([*model.weights, *model.optimizer.variables], strategy)
    steps_done = model.steps_done
    first_epoch = steps_done // plan.steps_per_epoch
    if chief and steps_done:
        print(f"resumed from {run.checkpoints} after {first_epoch} of {config.epochs} epochs", flush=True)
    if chief:
        note_replicas(plan, run)

    # 3. Training.
    if monitor:
        measure_start(monitor, model, run)

    def batches(context):
        host = config.augment_on == "host"
        entries = model.required if host else (*model.required, "draws")
        settings = {"first_epoch": first_epoch, "context": context, "entries": entries, "finish": host}
        return data.pretrain_dataset(train, augmentation, config.batch_size, config.seed, **settings)

    if first_epoch < config.epochs:
        with _timed(run) if chief else contextlib.nullcontext():
            model.fit(
                strategy.distribute_datasets_from_function(batches),
                steps_per_epoch=plan.steps_per_epoch,
                initial_epoch=first_epoch,
                epochs=config.epochs,
                callbacks=build_callbacks(plan, run, monitor, resumed=steps_done > 0) if chief else [],
                verbose="auto" if chief and sys.stdout.isatty() else 0,
                shuffle=False,
            )

    # 4. What came out.
    if not chief:
        return {}
    if monitor:
        run.record(knn_top1=round(monitor.history[-1][1] if monitor.history else monitor.evaluate(), 2))
    export_backbone(model.encoder, run.export)
    for source in filter(None, (train, test)):
        if source.bad and source.bad.count:
            print(f"note: {source.bad.summary()}", flush=True)
    bad_images = {"bad_images": train.bad.count} if train.bad else {}
    results = run.record(epochs=config.epochs, steps=model.steps_done, versions=versions(), **bad_images)
    print(closing_lines(run, results), flush=True)
    return results


def measure_start(monitor, model, run):
    """The accuracy that training has to beat, measured once in the life of a run."""
    monitor.set_model(model)
    if "knn_top1_initial" not in run.results():
        run.record(knn_top1_initial=round(monitor.evaluate(), 2))
    monitor.initial_top1 = run.results()["knn_top1_initial"]
    print(f"kNN top-1 before training: {monitor.initial_top1:.2f} %", flush=True)


def note_replicas(plan, run):
    """Records the number of replicas, and says what it means that it was another one before."""
    before = run.results().get("replicas", plan.replicas)
    if before != plan.replicas:
        print(
            f"note: this run was on {before} replica(s) before, now on {plan.replicas}; the groups of its BatchNorm "
            f"are now: {plan.batch_norm.describe()}",
            flush=True,
        )
    run.record(replicas=plan.replicas)


def build_monitor(config, train, test):
    """The kNN monitor, or `None` without a labelled test split.

    Raises:
        ValueError: if fewer images than `knn_k` can vote.
    """
    if test is None:
        return None
    if config.knn_k > train.num_examples:
        raise ValueError(
            "`knn_k` must not exceed the number of training images, which vote. "
            f"Received: knn_k={config.knn_k}, {train.num_examples} images in {config.dataset}. Lower --knn_k."
        )
    return KnnMonitor(
        data.evaluation_dataset(train, config.image_size),
        data.evaluation_dataset(test, config.image_size),
        num_classes=train.num_classes,
        k=config.knn_k,
        temperature=config.knn_temperature,
        features=config.knn_features,
        every_epochs=config.knn_every_epochs or config.epochs,
    )


def build_callbacks(plan, run, monitor, resumed):
    """Callbacks of a run in order: those that add to the logs, those that read them, and the checkpoint last."""
    config = plan.config
    logging = [
        Progress(plan.steps_per_epoch, config.epochs, config.batch_size, log_steps=config.log_steps),
        EpochLog(run.log_csv, append=resumed),
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        Curves(run.curves, chance_loss=plan.chance_loss, log_csv=run.log_csv if resumed else None),
        Checkpoint(run.checkpoints),
    ]
    return [monitor, *logging] if monitor else logging


def labelled_test_split(config, train):
    """The test split for kNN, or `None`, with a note, where there are no labels or there is no such split."""
    if train.class_names is None:
        print("note: the images have no labels, so there is no kNN accuracy")
        return None
    try:
        return open_split(config, "test")
    except ValueError as error:
        print(f"note: no kNN accuracy without a test split. {error}")
        return None


def closing_lines(run, results):
    """Where everything is, and what can be done next: a text of a few lines."""
    knn = ""
    if "knn_top1" in results:
        knn = f"kNN top-1: {results['knn_top1_initial']:.2f} % before, {results['knn_top1']:.2f} % after training\n"
    return (
        f"{knn}results    {run.results_json}\n"
        f"log        {run.log_csv}\n"
        f"curves     {run.curves}\n"
        f"checkpoint {run.checkpoints}\n"
        f"backbone   {run.export}\n"
        f"watch:     tensorboard --logdir {run.tensorboard}\n"
        f"next:      python evaluate.py linear --workdir={run.path}"
    )


@contextlib.contextmanager
def _timed(run):
    """Adds the seconds of a training, stopped or not, to those recorded before."""
    start = time.perf_counter()
    try:
        yield
    finally:
        run.record(seconds=round(run.results().get("seconds", 0) + time.perf_counter() - start, 1))
