"""The settings of a run: every field is declared once, with its type, default, help and source, and becomes a flag."""

import dataclasses
from dataclasses import dataclass

from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.config.settings import check, define_flags, from_flags, setting, to_text
from keras_moco.errors import UserError
from keras_moco.storage.paths import user_path

__all__ = ["Config"]


def _setting(default, help, *, resumable=False, changeable=False, kept=True, most=None, **metadata):
    """A field, with what `keras_moco.config.settings.setting` takes, and:

    `resumable`: it may change between two starts of one run, since it does not touch the result. `changeable`: it
    touches the result, not the shape of what is saved, so it may change where `allow_config_change` names it. `kept`:
    it is written into the flagfile of a run. `most`: where it is not given, it follows from the data, up to this
    number, which earlier flagfiles have where nobody gave one.
    """
    return setting(default, help, resumable=resumable, changeable=changeable, kept=kept, most=most, **metadata)


@dataclass(frozen=True)
class Config:
    """Settings of a pre-training run; the defaults are MoCo v1 on ImageNet (He et al. 2020, sec. 4; official code).

    Raises:
        ValueError: if a number is out of its range, or a word is none of the choices.

    Example:

    >>> Config(dataset="digits", queue_size=512).learning_rate  # base_learning_rate * batch_size / 256
    0.03
    """

    dataset: str = _setting(
        "digits",
        "Images to learn from: digits, tfds:<name>[/config], folder:<path> or tfrecord:<glob>.",
        changeable=True,
    )
    data_dir: str | None = _setting(None, "Where tfds data sets lie. TFDS's own default if not given.", resumable=True)
    cache_encoded: bool = _setting(False, "Keep encoded images in memory once they are read.", resumable=True)
    # Not resumable: where not all images fit, the order that they come in depends on it.
    shuffle_buffer_mib: int = _setting(
        1024,
        "MiB of memory for shuffling encoded images out of large files (tfrecord, tfds); completely where all fit.",
        changeable=True,
        range="at least 1",
    )
    max_bad_fraction: float = _setting(
        0.01, "Share of unreadable images that are left out before it is an error.", resumable=True, range="in [0, 1)"
    )
    strict_data: bool = _setting(False, "Make the first unreadable image an error.", resumable=True)
    train_examples: int | None = _setting(
        None,
        "Images in the training split, for --dry_run where the data is not at hand. Counted otherwise.",
        range="at least 1",
    )
    channels: int | None = _setting(
        None, "Channels of the images, 1 or 3. As in the data set if not given.", choices=(1, 3)
    )
    method: str = _setting(
        "moco",
        "What is contrasted with what: moco, end_to_end, memory_bank or simclr.",
        choices=("moco", "end_to_end", "memory_bank", "simclr"),
        table="keras_moco.methods:METHODS",
    )
    # Not kept: the folder of a run is where its flagfile lies.
    workdir: str = _setting("runs/moco", "Folder for everything that the run writes.", resumable=True, kept=False)

    backbone: str = _setting(
        "resnet50",
        "resnet10, resnet18, resnet34, resnet50, resnet101 or resnet152.",
        choices=("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        table="keras_moco.networks:BACKBONES",
    )
    backbone_width: int = _setting(64, "Channels of the first stage; 64 is the standard network.", range="at least 1")
    stem: str = _setting(
        "imagenet",
        "First layers: imagenet (7x7, pooling), half (3x3, stride 2) or cifar (3x3, full size).",
        choices=("imagenet", "half", "cifar"),
        table="keras_moco.networks.resnet:STEMS",
    )
    bn_mode: str = _setting(
        "auto",
        "BatchNorm's company: split (on one replica), shuffle (on several; the paper), sync, plain; or auto.",
        choices=("auto", "split", "shuffle", "sync", "plain"),
        table="keras_moco.networks.shuffle_bn:BN_MODES",
    )
    bn_splits: int = _setting(
        8, "Groups in each replica's batch, with statistics of their own, of --bn_mode=split.", range="at least 1"
    )
    head: str = _setting(
        "linear",
        "Projection head: linear (MoCo v1), mlp (v2) or simclr.",
        choices=("linear", "mlp", "simclr"),
        table="keras_moco.networks.heads:HEADS",
    )
    embedding_dim: int = _setting(128, "Length of the embeddings that are contrasted.", range="at least 1")
    image_mean: tuple[float, ...] = _setting(
        (0.485, 0.456, 0.406),
        "Mean of the images scaled to 0..1, one number or one per channel (ImageNet's).",
        range="in [0, 1]",
    )
    image_std: tuple[float, ...] = _setting(
        (0.229, 0.224, 0.225), "Their standard deviation, likewise.", range="in (0, 1]"
    )

    queue_size: int | None = _setting(
        None,
        "Keys in the queue, K in the paper (moco). If not given, a fifth of the images, 65536 (the paper) at most.",
        most=65536,
        range="at least 1",
    )
    temperature: float = _setting(
        0.07, "Softmax temperature, T in the paper; 0.2 in v2.", changeable=True, range="positive"
    )
    key_momentum: float = _setting(
        0.999, "Momentum of the key encoder, m in the paper (moco).", changeable=True, range="in [0, 1]"
    )
    symmetric: bool = _setting(False, "Look up both views of an image; the loss is the sum (moco; CIFAR-10 demo).")
    separate_encoders: bool = _setting(False, "Train a key encoder with weights of its own (end_to_end).")
    num_negatives: int = _setting(
        4096, "Vectors drawn from the bank in each step, K in the paper (memory_bank).", range="at least 1"
    )
    bank_momentum: float = _setting(
        0.5, "How much of an old vector stays in the bank's new one (memory_bank).", changeable=True, range="in [0, 1]"
    )

    augment: str = _setting(
        "moco_v1",
        "Augmentation recipe: moco_v1, moco_v2, moco_cifar, simclr or simclr_cifar.",
        changeable=True,
        choices=("moco_v1", "moco_v2", "moco_cifar", "simclr", "simclr_cifar"),
        table="keras_moco.augment.recipes:AUGMENTATIONS",
    )
    crop_min_area: float | None = _setting(
        None,
        "Smallest share of the image that a random crop keeps. The recipe's (0.2 or 0.08) if not given.",
        changeable=True,
        range="in (0, 1]",
    )
    image_size: int = _setting(224, "Height and width of the views, in pixels.", range="at least 1")
    augment_exact: bool = _setting(
        False, "Augment by one operation after the other instead of fused; slow.", changeable=True
    )
    augment_on: str = _setting(
        "host",
        "Where colour and blur are done: host, or device (crops stay on the host).",
        resumable=True,
        choices=("host", "device"),
    )

    batch_size: int = _setting(256, "Images per step over all replicas.", range="at least 1")
    epochs: int = _setting(200, "Passes over the training images.", changeable=True, range="at least 1")
    base_learning_rate: float = _setting(
        0.03, "Learning rate for 256 images per step; scaled linearly.", changeable=True, range="positive"
    )
    weight_decay: float = _setting(
        1e-4,
        "L2 penalty, added to the gradient of every weight (lars: of kernels).",
        changeable=True,
        range="at least 0",
    )
    optimizer: str = _setting(
        "sgd", "sgd, or lars for large batches.", choices=("sgd", "lars"), table="keras_moco.runs.build:OPTIMIZERS"
    )
    optimizer_momentum: float = _setting(0.9, "Momentum of the optimiser.", changeable=True, range="in [0, 1)")
    schedule: str = _setting(
        "step",
        "Learning rate: step (x0.1 at 60 % and 80 % of the epochs), cosine, constant.",
        changeable=True,
        choices=("step", "cosine", "constant"),
        table="keras_moco.optimizers.schedules:SCHEDULES",
    )
    schedule_per_step: bool = _setting(
        False, "Change the rate every step; the authors change it every epoch.", changeable=True
    )
    warmup_epochs: int = _setting(
        0, "Epochs of linear warm-up; the authors use none.", changeable=True, range="at least 0"
    )

    strategy: str = _setting(
        "auto",
        "Devices: auto, one, mirrored, multiworker or tpu.",
        resumable=True,
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
        table="keras_moco.distribution.strategies:STRATEGIES",
    )
    replicas: int | None = _setting(
        None,
        "Devices that train in step. All there are if not given; needed by --dry_run away from them.",
        resumable=True,
        range="at least 1",
    )
    require_gpu: bool = _setting(
        False, "Refuse to train where TensorFlow finds no GPU, instead of training on the CPU.", resumable=True
    )
    steps_per_execution: int = _setting(
        1,
        "Steps between two looks of Python at the training; more saves time where steps are short.",
        resumable=True,
        range="at least 1",
    )
    precision: str = _setting(
        "float32", "float32, mixed_bfloat16 or mixed_float16.", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    seed: int = _setting(0, "Of initial weights, data order, augmentation, shuffle and queue.", range="in [0, 2**32)")

    knn_every_epochs: int = _setting(
        1,
        "Epochs between measurements of the features (kNN, spread); 0: only before and after.",
        resumable=True,
        range="at least 0",
    )
    knn_k: int | None = _setting(
        None,
        "Neighbours that vote. If not given, as many as suit the data, 200 (CIFAR-10 demo) at most.",
        resumable=True,
        most=200,
        range="at least 1",
    )
    knn_temperature: float = _setting(
        0.1, "Temperature of their votes (CIFAR-10 demo).", resumable=True, range="positive"
    )
    knn_features: str = _setting(
        "embedding",
        "What is compared: embedding (CIFAR-10 demo), or backbone, before the head.",
        changeable=True,
        choices=("embedding", "backbone"),
        table="keras_moco.evaluation.features:LEVELS",
    )
    checkpoint_epochs: int = _setting(
        1,
        "Epochs between checkpoints; the last one has one as well. 0: not by epochs.",
        resumable=True,
        range="at least 0",
    )
    checkpoint_minutes: float = _setting(
        10.0, "Minutes after which a checkpoint is saved in mid-epoch. 0: never.", resumable=True, range="at least 0"
    )
    checkpoint_share: float = _setting(
        0.005,
        "Share of the time that checkpoints after epochs may take; short epochs go without.",
        resumable=True,
        range="in (0, 1]",
    )
    keep_checkpoints: int = _setting(
        2, "Newest checkpoints to keep, beside the best by kNN.", resumable=True, range="at least 1"
    )
    keep_every_epochs: int = _setting(
        0, "Epochs between checkpoints that are kept for good. 0: none.", resumable=True, range="at least 0"
    )
    max_minutes: float = _setting(
        0.0,
        "Minutes after which training saves, stops and exits with 75. 0: no limit.",
        resumable=True,
        range="at least 0",
    )
    on_nan: str = _setting(
        "stop",
        "When loss or gradients are not finite: stop, or skip (leave that step out, count it).",
        resumable=True,
        choices=("stop", "skip"),
    )
    deterministic: bool = _setting(
        False, "Only operations that give the same bits each time, where a GPU has faster ones.", changeable=True
    )
    init_from: str | None = _setting(
        None, "Weights of the encoder to begin with: a run's folder, or what --model of evaluate.py takes."
    )
    trust_saved_model: bool = _setting(
        False,
        "Open a SavedModel of --init_from, which is a program: only of somebody you trust.",
        resumable=True,
        kept=False,
    )
    allow_config_change: tuple[str, ...] = _setting(
        (), "Settings that may differ from those the run began with, such as epochs.", resumable=True, kept=False
    )
    log_steps: int = _setting(
        50, "Steps between log lines where the output is no terminal.", resumable=True, range="at least 1"
    )
    dry_run: bool = _setting(False, "Print what would be done, and stop without data.", resumable=True, kept=False)

    def __post_init__(self):
        check(self)
        fixed = [name for name in self.allow_config_change if name not in changeable()]
        if fixed:
            raise UserError(
                f"`allow_config_change` must name settings that can change: {', '.join(changeable())}. "
                f"Received: {', '.join(fixed)}. Begin a new run with them in another --workdir, if need be from these "
                "weights (--init_from)."
            )

    @property
    def learning_rate(self):
        """float: the rate of this batch size, `base_learning_rate * batch_size / 256`."""
        return self.base_learning_rate * self.batch_size / 256

    def to_flagfile(self):
        """The whole configuration as an absl flagfile, one line per field."""
        kept = [field.name for field in dataclasses.fields(self) if field.metadata["kept"]]
        texts = ((name, to_text(getattr(self, name))) for name in kept)
        return "".join(f"--{name}={text}\n" for name, text in texts if text is not None)

    def differences(self, other):
        """What differs and decides the result: a dict of names to `"theirs -> ours"`.

        What is not given here and follows from the data differs from nothing, as long as `Plan` has not settled it.
        """
        fixed = [field for field in dataclasses.fields(self) if not field.metadata["resumable"]]
        open_ones = [field for field in fixed if field.metadata["most"] and getattr(self, field.name) is None]
        names = [field.name for field in fixed if field not in open_ones]
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in names)
        return {name: f"{theirs} -> {ours}" for name, theirs, ours in pairs if theirs != ours}

    def changed(self):
        """Names of fields that have other values than their defaults, now or in earlier flagfiles: a list."""
        usual = ((field.name, (field.default, field.metadata["most"])) for field in dataclasses.fields(self))
        return [name for name, values in usual if getattr(self, name) not in values]


def changeable():
    """Names of the settings that `allow_config_change` may name: a list."""
    return [field.name for field in dataclasses.fields(Config) if field.metadata["changeable"]]


def read_flagfile(path):
    """The configuration that `Config.to_flagfile` wrote to `path`.

    Args:
        path: path of a recipe, or of the flagfile of a run, whose folder then is the `workdir`.

    Returns:
        `Config`.

    Raises:
        ValueError: if a line is no flag, or its value is not of the flag's kind or range.
    """
    from absl import flags

    values = flags.FlagValues()
    define_flags(Config, values)
    try:
        values(with_flagfiles(["flagfile", f"--flagfile={user_path(path)}"], values))
    except flags.Error as error:
        raise UserError(
            f"A flagfile must hold flags of train.py. Received: {path} with {error}. Correct that line."
        ) from error
    return from_flags(Config, values)
