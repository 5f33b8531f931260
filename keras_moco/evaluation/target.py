"""What is evaluated: an encoder, with the images that it is evaluated on."""

import functools
import hashlib
from pathlib import Path

import keras

from keras_moco import data
from keras_moco.checks.ranges import value_limits
from keras_moco.config import Config
from keras_moco.data.sample import share_outside
from keras_moco.data.source import check_same_classes
from keras_moco.data.value_range import AUTO, FULL, text_of
from keras_moco.errors import UserError
from keras_moco.evaluation.features import at_level, at_levels
from keras_moco.evaluation.output import EvaluationOutput
from keras_moco.export.standalone import features_model
from keras_moco.networks import Encoder
from keras_moco.networks.raw_values import limits_of, takes_0_to_255
from keras_moco.networks.seeds import initial_seed
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_backbone, load_encoder, open_trained_encoder

MOST_CLIPPED = 0.2  # of the values of other images, before a note says so


class EvaluationTarget:
    """An encoder, the images that it is evaluated on, and the folder for the results.

    Args:
        config: `EvaluationConfig`.
        encoder: `Encoder` of a run whose training has just ended. Defaults to `None`: it is loaded.
        step: int, number of steps that a given encoder was trained for.
        writes: bool. Whether results are written. Defaults to `True`.

    Attributes:
        config: the same `EvaluationConfig`.
        path: `pathlib.Path` of the run or model.
        recipe: `Config` of its training, or `None` where it is not known.
        opened: list of the `Source` of each split that was opened.
        output: `EvaluationOutput`, which records the results; `None` if nothing is written.
        encoder: `Encoder`, or a backbone without a head.
        value_range: `(low, high)`, the values of image files that become 0..255, each a float or a tuple of one for
            each channel; `None` if it does not change them.
        checkpoint: dict that identifies the weights: `"weights"` is a digest of those of the backbone, the same for
            every file format, and `"step"`, for a run, the step after which they were saved.

    Raises:
        ValueError: if there is no such run or model.
        OSError: if results could not be written.
    """

    def __init__(self, config, encoder=None, step=None, writes=True):
        self.config = config
        self.opened = []
        self.path = Path(config.workdir or config.model).expanduser()
        self.recipe = RunDirectory(self.path).config() if config.workdir else None
        # Before the encoder is loaded, since it refuses a bad folder.
        self.output = EvaluationOutput(self) if writes else None
        # Loaded once: a training run that continues meanwhile saves newer checkpoints, and deletes this one.
        if encoder is None and config.workdir:
            encoder, step = open_trained_encoder(self.path, config.data_dir, config.checkpoint)
        elif encoder is None:
            encoder = load_encoder(config.model, config.data_dir, config.checkpoint, config.trust_saved_model)
        self.value_range = value_limits(self.recipe.value_range) if self.recipe else limits_of(encoder)
        self.encoder = takes_0_to_255(encoder)  # as images are read here
        self.checkpoint = {"weights": _digest(encoder)} if step is None else {"step": step, "weights": _digest(encoder)}

    def backbone(self):
        """A new `keras.Model` with the weights of the encoder's backbone, which may be trained.

        Raises:
            ValueError: if it has to be read again from a file that has been replaced.
        """
        if isinstance(self.encoder, Encoder):
            with initial_seed(self.config.seed):  # of random layers such as `Dropout`; weights are copied
                return features_model(self.encoder)
        backbone = load_backbone(
            self.config.model, self.config.data_dir, self.config.checkpoint, self.config.trust_saved_model
        )
        if _digest(backbone) != self.checkpoint["weights"]:
            raise UserError(
                "The model must stay as it is while it is evaluated. "
                f"Received: {self.path}, which has other weights now. Evaluate it again."
            )
        return takes_0_to_255(backbone)

    @property
    def levels(self):
        """Levels at which features are taken, of `LEVELS`: a tuple.

        Raises:
            ValueError: if the embedding is asked for, and there is no head.
        """
        asked = (self.config.features,) if self.config.features else ()
        if isinstance(self.encoder, Encoder):
            return asked or ("backbone", "embedding")
        if self.config.features == "embedding":
            raise UserError(
                "An embedding needs a head, which an exported backbone does not have. "
                f"Received: --features=embedding for {self.path}. Use --features=backbone."
            )
        return ("backbone",)

    @property
    def features_by_level(self):
        """The function from images to a dict of their features at all `levels`, from one pass of the backbone."""
        if isinstance(self.encoder, Encoder):
            return at_levels(self.encoder, self.levels)
        return lambda images: {level: self.encoder(images, training=False) for level in self.levels}

    @property
    def features(self):
        """The function from images to the features of the configured level, by default the backbone's."""
        if isinstance(self.encoder, Encoder):
            return at_level(self.encoder, self.config.features or "backbone")
        (_,) = self.levels
        return functools.partial(self.encoder, training=False)

    # Images

    @property
    def dataset(self):
        """str, the name of the data set."""
        name = self.config.dataset or (self.recipe and self.recipe.dataset)
        if name is None:
            raise UserError(
                "A model must be given images to be evaluated on. "
                f"Received: {self.path} without --dataset. Give one, such as --dataset=tfds:cifar10."
            )
        return name

    @property
    def is_training_data(self):
        """bool, whether the data set is the one that the encoder was trained on."""
        return self.recipe is not None and self.dataset == self.recipe.dataset

    @property
    def test_fraction(self):
        """float, the share of the images that is the test split; that of training for the images of training."""
        if self.config.test_fraction is not None:
            return self.config.test_fraction
        return self.recipe.test_fraction if self.is_training_data else 0.0

    @property
    def image_shape(self):
        """`(H, W, C)` that the encoder takes, `None` for sides of any size."""
        return self.encoder.image_shape if isinstance(self.encoder, Encoder) else self.encoder.input_shape[1:]

    @property
    def image_size(self):
        """int, pixels.

        Raises:
            ValueError: if the encoder takes only one size, and another one is asked for.
        """
        fixed = self.image_shape[0]
        size = self.config.image_size or (self.recipe and self.recipe.image_size) or fixed or 224
        if fixed not in (None, size):
            raise UserError(
                "`image_size` must be that of the encoder, which takes no other size. "
                f"Received: image_size={size} for {self.path} of {fixed}. Omit --image_size."
            )
        return size

    @functools.cached_property
    def train(self):
        """`Source` of the training images."""
        return self._open("train")

    @functools.cached_property
    def test(self):
        """`Source` of the test images."""
        return self._open("test")

    @property
    def images(self):
        """`Source` of the images of the configured split."""
        return getattr(self, self.config.split)

    def labelled(self):
        """Training and test images, `(train, test)`.

        Raises:
            ValueError: if they have no labels or not the same classes, or there is no test split.
        """
        if self.train.class_names is None:
            raise UserError(
                "The data must have labels to be evaluated by them. "
                f"Received: {self.dataset}, without labels. Give a folder with one sub-folder per class."
            )
        check_same_classes(self.train, self.test)
        return self.train, self.test

    def dataset_of(self, source):
        """Batches of the images of a `Source`, without augmentation."""
        return data.evaluation_dataset(source, self.image_size, self.config.batch_size)

    def _open(self, split):
        """A `Source` of the data set, read as in training."""
        settings, channels = self.recipe or Config(), self.image_shape[-1]
        source = data.open_source(
            self.dataset,
            split,
            self.config.data_dir or settings.data_dir,
            cache=settings.cache_encoded,
            max_bad_fraction=settings.max_bad_fraction,
            strict=settings.strict_data,
            shuffle_buffer_mib=settings.shuffle_buffer_mib,
            channels=channels,
            value_range=self._value_range,
            background=settings.background,
            test_fraction=self.test_fraction,
            tfrecord_image_feature=settings.tfrecord_image_feature,
            tfrecord_label_feature=settings.tfrecord_label_feature,
        )
        if source.image_shape[-1] != channels:
            raise UserError(
                "Images must have as many channels as the encoder takes. "
                f"Received: {source.name} of {source.image_shape[-1]} channel(s) for {self.path} of {channels}. "
                "Evaluate it on other images."
            )
        self.opened.append(source)
        if not self.is_training_data and (share := share_outside(source)) > MOST_CLIPPED:
            print(
                f"note: {100 * share:.0f} % of the values of {source.name}, or of a channel, are outside of the range "
                f"of the training, {self._value_range}, and clipped; are they in another unit?",
                flush=True,
            )
        return source

    @property
    def _value_range(self):
        """How its training read image files."""
        if self.recipe is None:
            return AUTO if self.value_range is None else text_of(self.value_range)
        # A run of a version that had no such setting took black to white of each file.
        return FULL if self.recipe.value_range == AUTO else self.recipe.value_range

    @property
    def training_facts(self):
        """What its training recorded, a dict; empty where that is not known."""
        return RunDirectory(self.path).results.read() if self.recipe else {}


def _digest(model):
    """A digest of the weights of a backbone, the same for every file format: 16 hexadecimal digits.

    An exported backbone has the weights in another order than the encoder of the run, and a SavedModel in a third one.
    """
    backbone = model.backbone if isinstance(model, Encoder) else model
    weights = (keras.ops.convert_to_numpy(weight) for weight in backbone.weights)
    digests = sorted(hashlib.sha256(weight.tobytes()).digest() for weight in weights if weight.dtype.kind == "f")
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]
