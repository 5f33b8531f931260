"""From a configuration to a trained, evaluated and exported encoder."""

import contextlib
import dataclasses
import time

from keras_moco import callbacks, data, distribution
from keras_moco.callbacks.optional_output import expendable
from keras_moco.commands.dry_run import dry_run
from keras_moco.commands.resume import (
    build_checkpoint,
    check_checkpoints,
    note_changes,
    note_replicas,
    note_unsaved,
    resume,
)
from keras_moco.config import EvaluationConfig
from keras_moco.data.source import check_same_classes
from keras_moco.data.subset import in_file_order
from keras_moco.distribution.determinism import make_deterministic
from keras_moco.errors import UserError
from keras_moco.evaluation.knn import USUAL_K, told_usual_k, usual_k
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.target import Subject
from keras_moco.export.backbone import export_backbone
from keras_moco.runs.build import build_augmentation, build_model, open_split
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.initial_weights import initial_weights
from keras_moco.runs.plan import Plan
from keras_moco.runs.versions import versions, versions_line
from keras_moco.summaries.closing import closing_lines
from keras_moco.summaries.showing import show_end, show_start

__all__ = ["pretrain"]

PAIRS, PAIR_BATCH = 2048, 128  # images whose two views are compared during training, and how many of them at once


@data.plain_read_errors()
def pretrain(config):
    """Pre-trains an encoder with MoCo, evaluates and exports it; what `train.py` does.

    A run that was stopped goes on from its newest whole checkpoint when it is started again, and ends in the same bits
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
        Stopped: when a signal (SIGTERM, SIGHUP, SIGUSR1, SIGINT), `max_minutes` or the loss of the standard output end
            the training, with everything saved.
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
    """`pretrain` on the devices of a strategy. Of several workers the first, the chief, speaks and writes."""
    chief = distribution.is_chief(strategy)
    stopping = callbacks.Stopping(max_minutes=config.max_minutes)  # which counts from here
    run = RunDirectory(config.workdir)
    run.check(config)
    with run.locked() if chief else contextlib.nullcontext() as check_in_place:
        return _pretrain_in(run, strategy, config, stopping, check_in_place)


def _pretrain_in(run, strategy, config, stopping, check_in_place):
    """`pretrain_on` in a folder that no other training writes to."""
    # 1. Everything that can be wrong is found out first.
    chief = check_in_place is not None
    if chief:
        check_checkpoints(run)
    train = open_split(config, "train")
    test = labelled_test_split(config, train)
    if chief:
        config = with_voters(config, train, test)
    plan = Plan.of(config, train, strategy.num_replicas_in_sync)
    config = plan.config  # with what was not given and follows from the data
    run.check(config)
    augmentation = build_augmentation(config)
    monitor = build_monitor(config, train, test) if chief else None
    print(f"{versions_line()}; {distribution.describe(strategy)}")
    print(plan.describe() if chief else "training along; the first worker writes", flush=True)
    if chief and train.buffer:
        print(train.buffer.describe(), flush=True)

    # 2. The model: as its newest whole checkpoint has it, else with the weights of --init_from, else fresh.
    begins = chief and not callbacks.is_saved(run.checkpoints)
    starts = begins and config.init_from
    prepare = initial_weights(config.init_from, config.trust_saved_model) if starts else None
    model = build_model(plan, strategy, augmentation, prepare)
    checkpoint = build_checkpoint(plan, run, train, check_in_place) if chief else None
    if chief:
        changed = resume(model, checkpoint, train, config, run)
        # First, as a process that is killed in between comes by here again.
        note_changes(changed, model, run)
        run.claim(config)
        note_replicas(plan, run)
        if checkpoint.saved is None:
            # Before anything is logged: a run that has no checkpoint later on has lost it.
            checkpoint.set_model(model)
            checkpoint.save(epoch=0, step_in_epoch=0)
        run.record(has_checkpoints=checkpoint.saved is not None)
        run.record(train_examples=train.num_examples, train_licence=train.licence)  # for the model card
    distribution.broadcast([*model.weights, *model.optimizer.variables], strategy)
    epoch, step = divmod(model.steps_done, plan.steps_per_epoch)
    if prepare:
        print(f"begins with the weights of {config.init_from}", flush=True)
    if chief and model.steps_done:
        done = f"{epoch} of {config.epochs} epochs" + (f" and {step} of {plan.steps_per_epoch} steps" if step else "")
        print(f"resumed from {checkpoint.saved} after {done}", flush=True)

    # 3. Training.
    if monitor:
        measure_start(monitor, model, run)

    def batches(context):
        host = config.augment_on == "host"
        settings = {"context": context, "entries": model.required if host else (*model.required, "draws")}
        place = {"seed": config.seed, "first_epoch": epoch, "first_step": step}
        return data.pretrain_dataset(train, augmentation, config.batch_size, finish=host, **place, **settings)

    if epoch < config.epochs:
        watching = [callbacks.NotFiniteGuard()]
        if chief:
            monitors = [*filter(None, [monitor]), build_representation_monitor(config, train, augmentation)]
            watching = build_callbacks(plan, run, monitors, checkpoint, epoch)
            show_start(run, plan, train, augmentation, model.required)
        stopping.checkpoint = checkpoint
        with stopping, timed(run if chief else None):
            model.fit(
                strategy.distribute_datasets_from_function(batches),
                steps_per_epoch=plan.steps_per_epoch,
                initial_epoch=epoch,
                initial_step=step,
                epochs=config.epochs,
                callbacks=[*watching, stopping],
                verbose=0,  # `Progress` tells
                shuffle=False,
            )

    # 4. What came out.
    if not chief:
        return {}
    check_in_place()
    note_unsaved(model, checkpoint)
    if monitor:
        run.record(knn_top1=round(monitor.history[-1][1] if monitor.history else monitor.evaluate(), 2))
    export_backbone(model.encoder, run.export)
    for source in filter(None, (train, test)):
        if source.bad and source.bad.count:
            print(f"note: {source.bad.summary()}", flush=True)
    counts = {"bad_images": train.bad.count} if train.bad else {}
    if config.on_nan == "skip":
        counts["steps_skipped"] = model.steps_not_finite
    run.record(epochs=config.epochs, steps=model.steps_done, versions=versions(), **counts)
    write_card_of(run, model)
    show_end(run, config, model.encoder, train, test)
    results = run.results()
    print(closing_lines(run, results), flush=True)
    return results


def measure_start(monitor, model, run):
    """The accuracy that training has to beat, measured before its first step; of a run without one it stays unknown."""
    monitor.set_model(model)
    initial = run.results().get("knn_top1_initial")
    if initial is None and model.steps_done == 0:
        initial = round(monitor.evaluate(), 2)
        checkpoints = run.results().get("checkpoints", {})
        run.record(knn_top1_initial=initial, checkpoints={**checkpoints, "knn_top1_initial": {"step": 0}})
        print(f"kNN top-1 before training: {initial:.2f} %", flush=True)
    monitor.initial_top1 = initial


def write_card_of(run, model):
    """The model card beside the export, of the weights that are in it."""
    with expendable(str(run.export / "MODEL_CARD.md")):
        subject = Subject(EvaluationConfig(workdir=str(run.path)), model.encoder, model.steps_done)
        subject.note_checkpoint("export", *({"knn_top1"} & run.results().keys()))
        write_card(subject)


def with_voters(config, train, test):
    """The configuration with a number of neighbours, which follows from the labels where it is not given."""
    if test is None or config.knn_k is not None:
        return config
    k = usual_k(train.labels())
    if k < USUAL_K:
        print(told_usual_k(k), flush=True)
    return dataclasses.replace(config, knn_k=k)


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
    # As training makes them, but by another seed: views that are no training batch, and the same in every epoch.
    seed, entries = config.seed + 1, ("query", "key")
    pairs = data.pretrain_dataset(in_file_order(train), augmentation, batch, seed, entries=entries)
    return callbacks.RepresentationMonitor(
        pairs.take(min(PAIRS, train.num_examples) // batch).cache(),
        every_epochs=config.knn_every_epochs or config.epochs,
    )


def build_callbacks(plan, run, monitors, checkpoint, first_epoch):
    """Callbacks of a run in order: those that add to the logs, those that read them, and the checkpoint last."""
    config, log = plan.config, checkpoint.log
    callbacks.drop_events(run.tensorboard, first_epoch)
    events = callbacks.EventLog(run.events, {"chance_loss": plan.chance_loss}, monitors)
    logging = [
        callbacks.Progress(plan.steps_per_epoch, config.epochs, config.batch_size, log_steps=config.log_steps),
        callbacks.NotFiniteGuard(checkpoint),
        callbacks.Health(plan.chance_loss),
        callbacks.Expendable(callbacks.EpochLog(run.log_csv, log), f"{run.log_csv}"),
        callbacks.Expendable(events, f"{run.tensorboard}"),
        callbacks.Expendable(callbacks.Curves(run.curves, plan.chance_loss, log), f"{run.curves}"),
        checkpoint,
    ]
    return [*monitors, *logging]


def labelled_test_split(config, train):
    """The test split for kNN, or `None`, with a note, where there are no labels or there is no such split."""
    if train.class_names is None:
        print("note: the images have no labels, so there is no kNN accuracy")
        return None
    try:
        test = open_split(config, "test")
    except UserError as error:
        print(f"note: training goes on without a kNN accuracy, for which there is no test split. {error}")
        return None
    check_same_classes(train, test)
    return test


@contextlib.contextmanager
def timed(run):
    """Adds the seconds of a training, stopped or not, to those recorded before; without a run it does nothing."""
    start = time.perf_counter()
    try:
        yield
    finally:
        if run:
            # Neither a disk that is full nor a damaged file may hide why training ended.
            with contextlib.suppress(OSError, UserError):
                run.record(seconds=round(run.results().get("seconds", 0) + time.perf_counter() - start, 1))
