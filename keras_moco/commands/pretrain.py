"""From a configuration to a pre-trained, evaluated and exported encoder."""

import contextlib
import dataclasses
import time
from typing import NamedTuple

from keras_moco import augment, callbacks, data, distribution
from keras_moco.callbacks.optional_output import warn_if_not_written
from keras_moco.checks.ranges import value_limits
from keras_moco.commands import resume
from keras_moco.commands.build_callbacks import build_callbacks, build_monitor, build_representation_monitor
from keras_moco.commands.dry_run import dry_run
from keras_moco.config import Config, EvaluationConfig
from keras_moco.data.source import ClassesError, check_same_classes
from keras_moco.distribution.determinism import make_deterministic
from keras_moco.errors import UserError
from keras_moco.evaluation.knn import USUAL_K, note_on_usual_k, usual_k
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.export.backbone import export_backbone
from keras_moco.loggers import closed_after, log_results, make_loggers
from keras_moco.runs.backbone_notes import backbone_notes
from keras_moco.runs.build import build_augmentation, build_model, open_split
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import initial_weights
from keras_moco.runs.plan import Plan, settled_by
from keras_moco.runs.versions import versions, versions_line
from keras_moco.summaries.sample_notes import sample_notes
from keras_moco.summaries.start_and_end import closing_lines, show_end, show_start

__all__ = ["pretrain"]


@data.plain_read_errors()
def pretrain(config: Config, train: data.Source | None = None) -> dict:
    """Pre-trains an encoder with MoCo, evaluates and exports it; what `train.py` does.

    A run that was stopped resumes from its newest whole checkpoint when it is started again, and in the end is bit-
    identical to an uninterrupted run. Of several workers (`strategy="multiworker"`) each calls this; the first one
    evaluates and writes, the others need no access to its files.

    Args:
        config: `Config`.
        train: `Source` of the training images, if they have been opened already. Defaults to `None`.

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
        return pretrain_on(strategy, config, train)


def pretrain_on(strategy, config, source=None):
    """`pretrain` on the devices of a strategy."""
    started = time.monotonic()  # `max_minutes` counts from here
    run = RunDirectory(config.workdir)
    run.check(config)
    if not distribution.is_chief(strategy):
        return train_along(run, config, strategy, started, source)
    with run.locked() as check_in_place:
        setup = prepare(run, config, strategy, source)
        with closed_after(setup.loggers):
            model, checkpoint = build(run, setup, strategy, check_in_place)
            train(run, setup, model, strategy, checkpoint, started)
            check_in_place()
            return finish(run, setup, model, checkpoint)


def train_along(run, config, strategy, started, source=None):
    """`pretrain_on` for all workers but the first, the chief, which alone prints, and reads and writes the folder."""
    config = resume.as_begun(config, run)
    train = source or open_split(config, "train")
    setup = plan_run(run, config, train, labelled_test_split(settled_by(config, train), train), strategy)
    print(f"{setup.devices}\nthis worker trains; the first one prints and writes", flush=True)
    model = build_model(setup.plan, strategy, setup.augmentation)
    distribution.broadcast([*model.weights, *model.optimizer.variables], strategy)
    if model.steps_done < setup.plan.total_steps:
        with callbacks.Stopping(None, config.max_minutes, started) as stopping:
            fit(setup, model, strategy, [callbacks.NotFiniteGuard(), stopping])
    return {}


class Setup(NamedTuple):
    """What a run trains with."""

    plan: Plan  # with the settings that were not given and follow from the data
    train: data.Source
    test: data.Source | None  # with labels, for the kNN accuracy
    augmentation: augment.Augmentation
    devices: str  # and versions, for people
    monitor: callbacks.KnnMonitor | None = None
    loggers: tuple = ()


def plan_run(run, config, train, test, strategy):
    """Checks that configuration, images, devices and folder fit each other: a `Setup`."""
    plan = Plan.of(config, train, strategy.num_replicas_in_sync)
    run.check(plan.config)
    devices = f"{versions_line()}; {distribution.describe(strategy)}"
    return Setup(plan, train, test, build_augmentation(plan.config), devices)


def prepare(run, config, strategy, source=None):
    """Finds whatever is wrong before any work starts, and says what the run will be: a `Setup`."""
    resume.check_checkpoints(run)
    config = resume.as_begun(config, run)
    train = source or open_split(config, "train")
    config = settled_by(config, train)
    test = labelled_test_split(config, train)
    setup = plan_run(run, with_neighbours(config, train, test), train, test, strategy)
    loggers = make_loggers(config.log_to, run, setup.plan)
    setup = setup._replace(monitor=build_monitor(setup.plan.config, train, test), loggers=loggers)
    print(f"{setup.devices}\n{setup.plan.describe()}", flush=True)
    if train.buffer:
        print(train.buffer.describe(), flush=True)
    if not callbacks.is_saved(run.checkpoints):  # a run that is resumed has said so
        for line in sample_notes(train, setup.plan.config, setup.augmentation):
            print(line, flush=True)
    return setup


def build(run, setup, strategy, check_in_place):
    """The model: restored from the newest whole checkpoint, or with the weights of --init_from, or random ones."""
    plan, config, train = setup.plan, setup.plan.config, setup.train
    init_from = None if callbacks.is_saved(run.checkpoints) else config.init_from
    copy_initial = initial_weights(init_from, config.trust_saved_model) if init_from else None
    fill = not (init_from or callbacks.is_saved(run.checkpoints))
    model = build_model(plan, strategy, setup.augmentation, copy_initial, fill)
    for line in backbone_notes(config, model.encoder, model.batch_norm):
        print(line, flush=True)
    checkpoint = resume.build_checkpoint(plan, run, train, check_in_place)
    changed = resume.resume(model, checkpoint, train, config, run)
    # First, since a process that is killed in between comes here again.
    resume.note_changes(changed, model, run)
    run.claim(config)
    resume.note_replicas(plan, run)
    if checkpoint.saved is None:
        # Before anything is logged: a run that has no checkpoint later on has lost it.
        checkpoint.set_model(model)
        checkpoint.save(epoch=0, step_in_epoch=0)
    facts = {"train_examples": train.num_examples, "train_licence": train.licence}  # for the model card
    run.results.record(has_checkpoints=checkpoint.saved is not None, **facts)
    distribution.broadcast([*model.weights, *model.optimizer.variables], strategy)
    if init_from:
        print(f"begins with the weights of {init_from}", flush=True)
    if model.steps_done:
        epoch, step = divmod(model.steps_done, plan.steps_per_epoch)
        steps = f" and {step} of {plan.steps_per_epoch} steps" if step else ""
        print(f"resumed from {checkpoint.saved} after {epoch} of {config.epochs} epochs{steps}", flush=True)
    return model, checkpoint


def train(run, setup, model, strategy, checkpoint, started):
    """Trains to the end of the last epoch; measures, logs and saves meanwhile."""
    plan, monitor = setup.plan, setup.monitor
    if monitor:
        measure_start(monitor, model, run)
    if model.steps_done >= plan.total_steps:
        return
    representation = build_representation_monitor(plan.config, setup.train, setup.augmentation)
    monitors = [*filter(None, [monitor]), representation]
    first_epoch = model.steps_done // plan.steps_per_epoch
    logging = build_callbacks(plan, run, monitors, checkpoint, first_epoch, setup.loggers)
    show_start(run, plan, setup.train, setup.augmentation, model.required)
    stopping = callbacks.Stopping(checkpoint, plan.config.max_minutes, started)
    with stopping, timed(run):
        fit(setup, model, strategy, [*logging, stopping])


def measure_start(monitor, model, run):
    """The accuracy before the first step, which training has to beat; unknown of a model that was trained before."""
    monitor.set_model(model)
    initial = run.results.read().get("knn_top1_initial")
    if initial is None and model.steps_done == 0:
        initial = round(monitor.evaluate(), 2)
        run.results.record({"step": 0}, knn_top1_initial=initial)
        print(f"kNN top-1 before training: {initial:.2f} %", flush=True)
    monitor.initial_top1 = initial


def fit(setup, model, strategy, watching):
    """Trains with callbacks, from the step where the model stands to the end of the last epoch."""
    config, steps = setup.plan.config, setup.plan.steps_per_epoch
    epoch, step = divmod(model.steps_done, steps)

    def batches(context):
        host = config.augment_on == "host"
        settings = {"context": context, "entries": model.required if host else (*model.required, "draws")}
        place = {"seed": config.seed, "first_epoch": epoch, "first_step": step}
        images = (setup.train, setup.augmentation, config.batch_size)
        return data.pretrain_dataset(*images, finish=host, **place, **settings)

    model.fit(
        strategy.distribute_datasets_from_function(batches),
        steps_per_epoch=steps,
        initial_epoch=epoch,
        initial_step=step,
        epochs=config.epochs,
        callbacks=watching,
        verbose=0,  # `Progress` prints
        shuffle=False,
    )


@contextlib.contextmanager
def timed(run):
    """Adds the seconds of a block, stopped or not, to those recorded before."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        # Neither a disk that is full nor a damaged file may hide why training ended.
        with contextlib.suppress(OSError, UserError):
            run.results.record(seconds=lambda before: round((before or 0) + seconds, 1))


def finish(run, setup, model, checkpoint):
    """Evaluates and exports what was trained, and returns the results: a dict."""
    config, train, test, monitor = setup.plan.config, setup.train, setup.test, setup.monitor
    resume.note_unsaved(model, checkpoint)
    if monitor:
        run.results.record(knn_top1=round(monitor.history[-1][1] if monitor.history else monitor.evaluate(), 2))
    export_backbone(model.encoder, run.export, value_limits(config.value_range))
    for source in filter(None, (train, test)):
        if source.bad and source.bad.count:
            print(f"note: {source.bad.summary()}", flush=True)
    counts = {"bad_images": train.bad.count} if train.bad else {}
    if config.on_nan == "skip":
        counts["steps_skipped"] = model.steps_not_finite
    run.results.record(epochs=config.epochs, steps=model.steps_done, versions=versions(), **counts)
    with warn_if_not_written(str(run.model_card)):
        target = EvaluationTarget(EvaluationConfig(workdir=str(run.path)), model.encoder, model.steps_done)
        target.output.note_checkpoint("export", *({"knn_top1"} & run.results.read().keys()))
        write_card(target)
    show_end(run, config, model.encoder, train, test)
    log_results(setup.loggers, checkpoint.log)
    results = run.results.read()
    print(closing_lines(run, results), flush=True)
    return results


def with_neighbours(config, train, test):
    """The configuration with a number of neighbours, chosen from the labels if it is not given."""
    if test is None or config.knn_k is not None:
        return config
    k = usual_k(train.labels())
    if k < USUAL_K:
        print(note_on_usual_k(k), flush=True)
    return dataclasses.replace(config, knn_k=k)


def labelled_test_split(config, train):
    """The test split for kNN, or `None`, with a note, where there are no labels or there is no such split."""
    if train.class_names is None:
        print("note: the images have no labels, so there is no kNN accuracy")
        return None
    try:
        test = open_split(config, "test")
    except ClassesError:
        raise
    except UserError as error:
        print(f"note: there is no kNN accuracy during training, since there is no test split. {error}")
        return None
    check_same_classes(train, test)
    return test
