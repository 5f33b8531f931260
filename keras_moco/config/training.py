"""The settings of a run: every field is declared once, with its type, default, help and source, and becomes a flag."""

from dataclasses import dataclass
from functools import partial

from keras_moco.checks.calls import BACKBONE_FORM
from keras_moco.checks.ranges import VALUE_RANGE
from keras_moco.config.resuming import RunSettings
from keras_moco.config.settings import setting

__all__ = ["Config"]

# What a person decides by a setting; `--help` lists them in this order, within a group the most used first.
_data, _views, _network, _method, _optim = (
    partial(setting, group=group) for group in ("data", "views", "network", "method", "optimisation")
)
_devices, _knn, _run = (
    partial(setting, group=group, resumable=True) for group in ("devices", "evaluation during training", "run")
)

AUTO = "auto"
FILES = ("folder", "list", "zip", "tfrecord", "webdataset")  # sources of image files


@dataclass(frozen=True)
class Config(RunSettings):
    """Settings of a pre-training run; the defaults are MoCo v1 on ImageNet (He et al. 2020, sec. 4; official code).

    Raises:
        ValueError: if a number is out of its range, or a word is none of the choices.

    Example:

    >>> Config(dataset="digits", queue_size=512).learning_rate  # base_learning_rate * batch_size / 256
    0.03
    """

    # Data: the images, and how they are read.

    dataset: str = _data(
        "digits",
        "Training images: digits, tfds:<name>[/config], folder:<path>, list:<file>, zip:<path>, tfrecord:<glob> or "
        "webdataset:<glob>.",
        changeable=True,
    )
    test_fraction: float = _data(
        0.0,
        "Share of the images that is held out as the test split, by the names of the files; 0: none.",
        range="in [0, 1)",
        used_by=("folder", "list"),
    )
    data_dir: str | None = _data(
        None, "Folder of prepared TensorFlow Datasets. TFDS's own if not given.", used_by=("tfds",), resumable=True
    )
    channels: int | None = _data(
        None,
        "Image channels. Those of the first image if not given. Gray and colour are converted to each other.",
        range="at least 1",
        follows_data=True,
    )
    value_range: str = _data(
        "auto",
        "Values of image files that become 0..255: auto, full, window, LOW,HIGH or percentile:P,Q.",
        range=VALUE_RANGE,
        used_by=FILES,
        follows_data=True,
        measured_if="percentile:",
    )
    background: int = _data(
        255, "Gray level under transparent images, 0..255.", range="from 0 to 255", used_by=FILES, changeable=True
    )
    image_mean: tuple[float, ...] | str = _data(
        (0.485, 0.456, 0.406),
        "Mean of images in 0..1, one number or one per channel (ImageNet), or auto: measured for each channel.",
        range="in [0, 1]",
        measured_if=AUTO,
    )
    image_std: tuple[float, ...] | str = _data(
        (0.229, 0.224, 0.225),
        "Standard deviation of images in 0..1, likewise (ImageNet).",
        range="in (0, 1]",
        measured_if=AUTO,
    )
    train_examples: int | None = _data(
        None, "Number of training images, for --dry_run without the data. Counted if not given.", range="at least 1"
    )
    cache_encoded: bool = _data(False, "Keep encoded images in memory once they are read.", resumable=True)
    # Not resumable: where not all images fit, their order depends on it.
    shuffle_buffer_mib: int = _data(
        1024,
        "Memory for shuffling encoded images, in MiB; complete if all fit.",
        range="at least 1",
        used_by=("tfds", "tfrecord"),
        changeable=True,
    )
    tfrecord_image_feature: str = _data(
        "image/encoded", "Feature of TFRecords with the encoded image.", used_by=("tfrecord",), changeable=True
    )
    tfrecord_label_feature: str = _data(
        "image/class/label", "Feature of TFRecords with the label.", used_by=("tfrecord",), changeable=True
    )
    max_bad_fraction: float = _data(
        0.01, "Fraction of unreadable images that is skipped before it is an error.", range="in [0, 1)", resumable=True
    )
    strict_data: bool = _data(False, "Stop at the first unreadable image.", resumable=True)

    # Views: the augmentation.

    augment: str = _views(
        "moco_v1",
        "Augmentation recipe",
        choices=("moco_v1", "moco_v2", "moco_cifar", "moco_medical", "moco_multispectral", "simclr", "simclr_cifar"),
        table="keras_moco.augment.recipes:AUGMENTATIONS",
        changeable=True,
    )
    image_size: int = _views(224, "Height and width of the views, in pixels.", range="at least 1")
    crop_min_area: float | None = _views(
        None, "Smallest crop, a fraction of the area. The recipe's if not given.", range="in (0, 1]", changeable=True
    )
    augment_on: str = _views(
        "host",
        "Where colour and blur are computed",
        choices={"host": "CPU", "device": "accelerator; crops stay on the host"},
        resumable=True,
    )
    augment_exact: bool = _views(False, "Apply each operation by itself instead of fused; slow.", changeable=True)

    # Network: backbone, head and BatchNorm, and the weights that they begin with.

    backbone: str = _network(
        "resnet50",
        "Backbone",
        choices=("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        range=BACKBONE_FORM,
        table="keras_moco.networks:BACKBONES keras_moco.networks:RESNETS",
    )
    backbone_weights: str | None = _network(
        None,
        "Weights that the backbone begins with: random, or of keras.applications also imagenet or a file. Those of a "
        ".keras file or of a preset of KerasHub, otherwise random ones, if not given.",
    )
    backbone_width: int = _network(
        64, "Channels of the first stage of our ResNets; 64 is the standard network.", range="at least 1"
    )
    stem: str = _network(
        "imagenet",
        "First layers of our ResNets",
        choices={"imagenet": "7x7, pooling", "half": "3x3, stride 2", "cifar": "3x3, full size"},
        table="keras_moco.networks.resnet:STEMS",
    )
    head: str = _network(
        "linear",
        "Projection head",
        choices={"linear": "MoCo v1", "mlp": "MoCo v2", "simclr": "with BatchNorm"},
        table="keras_moco.networks.heads:HEADS",
    )
    embedding_dim: int = _network(128, "Embedding dimension.", range="at least 1")
    init_from: str | None = _network(
        None, "Initial weights of the encoder: the folder of a run, or what --model of evaluate takes."
    )
    trust_saved_model: bool = _network(
        False, "Allow a SavedModel for --init_from; it can run any code.", resumable=True, in_flagfile=False
    )
    bn_mode: str = _network(
        "auto",
        "BatchNorm mode (auto: split on one replica, shuffle on several)",
        choices=("auto", "split", "shuffle", "sync", "plain"),
        table="keras_moco.networks.shuffle_bn:BN_MODES",
        used_by=("moco", "end_to_end"),
    )
    bn_splits: int = _network(
        8, "BatchNorm groups per replica, for --bn_mode=split.", range="at least 1", used_by=("moco", "end_to_end")
    )

    # Method: what is contrasted with what.

    method: str = _method(
        "moco",
        "Pre-training method",
        choices=("moco", "end_to_end", "memory_bank", "simclr"),
        table="keras_moco.methods:METHODS",
    )
    temperature: float = _method(
        0.07, "Softmax temperature, T in the paper (MoCo v2: 0.2).", range="positive", changeable=True
    )
    queue_size: int | None = _method(
        None,
        "Keys in the queue, K in the paper. A fifth of the images, at most 65536, if not given.",
        range="at least 1",
        used_by=("moco",),
        follows_data=True,
        auto_up_to=65536,
    )
    key_momentum: float = _method(
        0.999, "Momentum of the key encoder, m in the paper.", range="in [0, 1]", used_by=("moco",), changeable=True
    )
    symmetric: bool = _method(False, "Use both views as queries and sum the losses (CIFAR-10 demo).", used_by=("moco",))
    separate_encoders: bool = _method(False, "Train a separate key encoder.", used_by=("end_to_end",))
    num_negatives: int = _method(
        4096, "Negatives sampled from the memory bank, K in the paper.", range="at least 1", used_by=("memory_bank",)
    )
    bank_momentum: float = _method(
        0.5, "Momentum of the vectors in the memory bank.", range="in [0, 1]", used_by=("memory_bank",), changeable=True
    )

    # Optimisation: batches, epochs, learning rate.

    batch_size: int = _optim(256, "Images per step, over all replicas.", range="at least 1")
    epochs: int = _optim(200, "Passes over the training images.", range="at least 1", changeable=True)
    base_learning_rate: float = _optim(
        0.03, "Learning rate for 256 images per step; scaled linearly.", range="positive", changeable=True
    )
    schedule: str = _optim(
        "step",
        "Learning rate schedule",
        choices={"step": "x0.1 at 60 % and 80 %", "cosine": "to 0", "constant": "no change"},
        table="keras_moco.optimizers.schedules:SCHEDULES",
        changeable=True,
    )
    schedule_per_step: bool = _optim(
        False, "Update the learning rate every step (the authors: every epoch).", changeable=True
    )
    warmup_epochs: int = _optim(0, "Epochs of linear warm-up (the authors: none).", range="at least 0", changeable=True)
    weight_decay: float = _optim(
        1e-4, "L2 penalty, added to the gradient (lars: of kernels only).", range="at least 0", changeable=True
    )
    optimizer: str = _optim(
        "sgd", "Optimiser", choices={"sgd": "MoCo", "lars": "large batches"}, table="keras_moco.runs.build:OPTIMIZERS"
    )
    optimizer_momentum: float = _optim(0.9, "Momentum of the optimiser.", range="in [0, 1)", changeable=True)

    # Devices: where and how the steps run; like all that follow, most may differ when a run resumes.

    strategy: str = _devices(
        "auto",
        "Distribution strategy",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
        table="keras_moco.distribution.strategies:STRATEGIES",
    )
    replicas: int | None = _devices(
        None, "Number of replicas. All devices if not given; for --dry_run of another machine.", range="at least 1"
    )
    require_gpu: bool = _devices(False, "Refuse to train if TensorFlow finds no GPU.")
    precision: str = _devices(
        "float32", "Precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), resumable=False
    )
    steps_per_execution: int = _devices(
        1, "Training steps per host loop iteration (Keras `steps_per_execution`).", range="at least 1"
    )
    deterministic: bool = _devices(
        False, "Use deterministic operations only, even if slower.", changeable=True, resumable=False
    )

    # Evaluation: kNN during training.

    knn_every_epochs: int = _knn(
        1, "Epochs between kNN evaluations; 0: only before and after training.", range="at least 0"
    )
    knn_k: int | None = _knn(
        None,
        "Neighbours of kNN. As suits the data, at most 200, if not given.",
        range="at least 1",
        follows_data=True,
        auto_up_to=200,
    )
    knn_temperature: float = _knn(0.1, "Temperature of the kNN votes (CIFAR-10 demo).", range="positive")
    knn_features: str = _knn(
        "embedding",
        "Features of kNN",
        choices={"embedding": "CIFAR-10 demo", "backbone": "before the head"},
        table="keras_moco.evaluation.features:LEVELS",
        changeable=True,
        resumable=False,
    )

    # Run: its folder, checkpoints, and when it stops.

    workdir: str = _run("runs/moco", "Folder of the run.", in_flagfile=False)  # which has the flagfile
    seed: int = _run(0, "Random seed.", range="in [0, 2**32)", resumable=False)
    dry_run: bool = _run(False, "Print the plan and stop, without data.", in_flagfile=False)
    max_minutes: float = _run(
        0.0, "Minutes until training saves, stops and exits with status 75; 0: no limit.", range="at least 0"
    )
    checkpoint_epochs: int = _run(
        1, "Epochs between checkpoints, besides that of the last epoch; 0: not by epochs.", range="at least 0"
    )
    checkpoint_minutes: float = _run(10.0, "Minutes between checkpoints within an epoch; 0: none.", range="at least 0")
    checkpoint_share: float = _run(
        0.005, "Largest share of the time for checkpoints after epochs; short epochs skip theirs.", range="in (0, 1]"
    )
    keep_checkpoints: int = _run(2, "Newest checkpoints to keep, besides the best by kNN.", range="at least 1")
    keep_every_epochs: int = _run(0, "Epochs between checkpoints that are never deleted; 0: none.", range="at least 0")
    on_nan: str = _run(
        "stop",
        "When loss or gradients are not finite",
        choices={"stop": "training stops", "skip": "the step is skipped and counted"},
    )
    log_to: tuple[str, ...] = _run(
        ("tensorboard", "csv"),
        "Where metrics are logged after every epoch; log.csv and curves.png are always written",
        choices={
            "tensorboard": "events in the folder of the run",
            "csv": "log.csv",
            "wandb": "Weights & Biases, the extra wandb",
            "mlflow": "the extra mlflow",
        },
        table="keras_moco.loggers:LOGGERS",
    )
    log_steps: int = _run(50, "Steps between log lines if the output is not a terminal.", range="at least 1")
    allow_config_change: tuple[str, ...] = _run(
        (), "Settings that may change when a run resumes, such as epochs.", in_flagfile=False
    )

    @property
    def learning_rate(self) -> float:
        """float: the rate of this batch size, `base_learning_rate * batch_size / 256`."""
        return self.base_learning_rate * self.batch_size / 256
