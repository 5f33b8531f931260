"""From a configuration to a trained, evaluated and exported encoder."""

import contextlib
import dataclasses
import math
import sys
import time
from importlib.metadata import version

import keras

import keras_moco
from keras_moco import data, distribution
from keras_moco.augment import get_augmentation
from keras_moco.backbones import resnet
from keras_moco.callbacks import Checkpoint, Curves, KnnMonitor, Progress, restore
from keras_moco.config import Config
from keras_moco.export import export_backbone
from keras_moco.models import HEADS, Encoder, MoCo
from keras_moco.optimizers import SGD
from keras_moco.plan import Plan
from keras_moco.run_directory import RunDirectory

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@data.plain_read_errors()
def pretrain(config):
    """Pre-trains an encoder with MoCo, evaluates and exports it; what `train.py` does.

    A run that was stopped goes on from its last epoch when it is started again.

    Args:
        config: `Config`.

    Returns:
        dict, what was written to `results.json` (an empty one with `dry_run`): `knn_top1_initial` and `knn_top1` in
        percent where the data has labels, `epochs`, `steps`, `seconds` of training and kNN, and versions.

    Raises:
        ValueError: if anything about the configuration, the data or the folder is wrong, before any work starts.
    """
    # 1. Everything that can be wrong is found out first.
    strategy = distribution.make_strategy(config.strategy)
    if config.dry_run:
        dry_run(config, strategy.num_replicas_in_sync)
        return {}
    run = RunDirectory(config.workdir)
    run.check(config)
    train = data.open_source(config.dataset, "train", config.data_dir)
    test = labelled_test_split(config, train)
    plan = Plan(config, train.num_examples, _channels(config, train), strategy.num_replicas_in_sync)
    augmentation = build_augmentation(config)
    monitor = build_monitor(config, train, test)
    print(f"{_versions_line()}; {distribution.describe(strategy)}")
    print(plan.describe(), flush=True)

    # 2. The model, fresh or as it was.
    model = build_model(plan, strategy)
    run.claim(config)
    steps_done = restore(model, run.checkpoints)
    first_epoch = steps_done // plan.steps_per_epoch
    if steps_done:
        print(f"resumed from {run.checkpoints} after {first_epoch} of {config.epochs} epochs", flush=True)

    # 3. Training.
    if monitor:
        monitor.set_model(model)
        if "knn_top1_initial" not in run.results():
            run.record(knn_top1_initial=round(monitor.evaluate(), 2))
        monitor.initial_top1 = run.results()["knn_top1_initial"]
        print(f"kNN top-1 at random initialisation: {monitor.initial_top1:.2f} %", flush=True)
    if first_epoch < config.epochs:
        with _timed(run):
            model.fit(
                data.pretrain_dataset(train, augmentation, config.batch_size, config.seed, first_epoch),
                steps_per_epoch=plan.steps_per_epoch,
                initial_epoch=first_epoch,
                epochs=config.epochs,
                callbacks=build_callbacks(plan, run, monitor, resumed=steps_done > 0),
                verbose="auto" if sys.stdout.isatty() else 0,
                shuffle=False,
            )

    # 4. What came out.
    if monitor:
        run.record(knn_top1=round(monitor.history[-1][1] if monitor.history else monitor.evaluate(), 2))
    export_backbone(model.encoder, run.export)
    results = run.record(epochs=config.epochs, steps=int(model.step), versions=_versions())
    print(closing_lines(run, results), flush=True)
    return results


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run that `train.py` has left, opened for evaluation.

    Attributes:
        run: `RunDirectory`.
        config: `Config`.
        encoder: the query `Encoder` of its last checkpoint.
        train: `Source`, the training split.
    """

    run: RunDirectory
    config: Config
    encoder: Encoder
    train: object

    @property
    def num_classes(self):
        """int."""
        return self.train.num_classes

    def labelled_data(self):
        """The images of both splits without augmentation, `(train, test)`.

        Raises:
            ValueError: if they have no labels, or there is no test split.
        """
        if self.train.class_names is None:
            raise ValueError(
                "The data must have labels to be evaluated by them. "
                f"Received: {self.config.dataset}, without labels. Give a folder with one sub-folder per class."
            )
        test = data.open_source(self.config.dataset, "test", self.config.data_dir)
        return [data.evaluation_dataset(split, self.config.image_size) for split in (self.train, test)]


def load_run(workdir, data_dir=None):
    """Opens the newest checkpoint of a run.

    Args:
        workdir: path of the run's folder.
        data_dir: path, where tfds data sets lie now. Defaults to `None`: as in training.

    Returns:
        `TrainedRun`.

    Raises:
        ValueError: if there is no run, or it has no checkpoint.
    """
    run = RunDirectory(workdir)
    config = run.config()
    config = dataclasses.replace(config, data_dir=data_dir or config.data_dir)
    train = data.open_source(config.dataset, "train", config.data_dir)
    strategy = distribution.make_strategy("one")
    model = build_model(Plan(config, train.num_examples, _channels(config, train), replicas=1), strategy)
    if not restore(model, run.checkpoints):
        raise ValueError(
            f"`workdir` must hold a checkpoint. Received: {run.path} without one. Train an epoch with train.py first."
        )
    return TrainedRun(run, config, model.encoder, train)


def dry_run(config, replicas):
    """Prints what a run of `config` would be: settings, plan and sizes. Opens no data, writes nothing.

    Args:
        config: `Config`; `train_examples` stands for the data.
        replicas: int.

    Raises:
        ValueError: as `pretrain`.
    """
    if config.train_examples is None:
        raise ValueError(
            "`train_examples` must be known for a dry run, since it opens no data. "
            f"Received: train_examples=None for {config.dataset}. Add --train_examples=N."
        )
    plan = Plan(config, config.train_examples, config.channels or 3, replicas)
    build_augmentation(config)
    with _precision(config.precision):
        encoder = build_encoder(plan)
    print(f"{_versions_line()}\n\n{config.to_flagfile()}\n{plan.describe()}")
    print(
        f"parameters: {_parameters(encoder):,} in each encoder ({_parameters(encoder.backbone):,} in the backbone), "
        f"features of {encoder.feature_dim}, embeddings of {encoder.embedding_dim}"
    )


def build_augmentation(config):
    """The augmentation of a configuration, an `Augmentation` layer for one view."""
    recipe = get_augmentation(config.augment)
    crop = {} if config.crop_min_area is None else {"crop_scale": (config.crop_min_area, 1.0)}
    return recipe(config.image_size, **crop)


def build_encoder(plan):
    """The query encoder of a plan, with fresh weights."""
    config = plan.config
    if config.head not in HEADS:
        raise ValueError(f"`head` must be one of {', '.join(HEADS)}. Received: {config.head!r}. Choose one of them.")
    size = config.image_size
    # The initial weights hang on the seed alone, not on what was built before.
    keras.utils.set_random_seed(config.seed)
    backbone = resnet(
        config.backbone,
        width=config.backbone_width,
        stem=config.stem,
        input_shape=(size, size, plan.channels),
        bn_splits=plan.bn_splits,
    )
    head = HEADS[config.head](backbone.output_shape[-1], config.embedding_dim)
    return Encoder(backbone, head, mean=config.image_mean, std=config.image_std, name="encoder")


def build_model(plan, strategy):
    """The compiled `MoCo` of a plan, its optimiser built, on the devices of `strategy`."""
    config = plan.config
    with strategy.scope(), _precision(config.precision):
        model = MoCo(
            build_encoder(plan),
            queue_size=config.queue_size,
            momentum=config.key_momentum,
            temperature=config.temperature,
            symmetric=config.symmetric,
            seed=config.seed,
        )
        optimizer = SGD(plan.learning_rate(), momentum=config.sgd_momentum, weight_decay=config.weight_decay)
        model.compile(optimizer=optimizer)
        model.optimizer.build(model.trainable_variables)
    return model


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
        every_epochs=config.knn_every_epochs or config.epochs,
    )


def build_callbacks(plan, run, monitor, resumed):
    """Callbacks of a run in order: those that add to the logs, those that read them, and the checkpoint last."""
    config = plan.config
    logging = [
        Progress(plan.steps_per_epoch, config.epochs, config.batch_size, log_steps=config.log_steps),
        keras.callbacks.CSVLogger(run.log_csv, append=resumed),
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
        return data.open_source(config.dataset, "test", config.data_dir)
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


def _parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def _channels(config, source):
    channels = source.image_shape[-1]
    if config.channels not in (None, channels):
        raise ValueError(
            "`channels` must be what the images have. "
            f"Received: channels={config.channels}, {config.dataset} with {channels}. Correct or omit --channels."
        )
    return channels


@contextlib.contextmanager
def _timed(run):
    """Adds the seconds of a training, stopped or not, to those recorded before."""
    start = time.perf_counter()
    try:
        yield
    finally:
        run.record(seconds=round(run.results().get("seconds", 0) + time.perf_counter() - start, 1))


@contextlib.contextmanager
def _precision(policy):
    if policy not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {policy!r}. Choose one of them."
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _versions():
    return {"keras_moco": keras_moco.__version__, **{name: version(name) for name in ("keras", "tensorflow")}}


def _versions_line():
    return ", ".join(f"{name} {number}" for name, number in _versions().items())
