"""What is evaluated: an encoder, images, and a place for what is found out."""

import errno
import functools
import hashlib
from pathlib import Path

import keras

from keras_moco import data
from keras_moco.config import Config
from keras_moco.data.source import check_same_classes
from keras_moco.errors import UserError, UserOSError
from keras_moco.evaluation import at_level, at_levels
from keras_moco.export.backbone import standalone_backbone
from keras_moco.networks import Encoder
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_backbone, load_encoder
from keras_moco.runs.results import Results
from keras_moco.runs.trained import is_run, open_trained_encoder
from keras_moco.storage.locks import locked


class Subject:
    """An encoder with the images that it is evaluated on.

    Args:
        config: `EvaluationConfig`.
        encoder: `Encoder` of a run whose training has just ended. Defaults to `None`: it is loaded.
        step: int, the steps that it was trained, where it is given.

    Attributes:
        config: the same.
        path: `pathlib.Path` of the run or model.
        recipe: `Config` of its training, or `None` where it is not known.
        encoder: `Encoder`, or a backbone without a head.
        checkpoint: dict that says which weights these are: `"weights"`, a digest of those of the backbone, the same in
            whatever file they lie, and of a run `"step"`, after which they were saved.
        folder: `pathlib.Path` for pictures and other files.
        card: `pathlib.Path` of the model card.

    Raises:
        ValueError: if there is no such run or model.
        OSError: if what is found out could not be written.
    """

    def __init__(self, config, encoder=None, step=None):
        self.config = config
        self.path = Path(config.workdir or config.model).expanduser()
        self.recipe = RunDirectory(self.path).config() if config.workdir else None
        home = Path(config.output).expanduser() if config.output else self._home()
        is_own = self.recipe is not None and home.resolve() == self.path.resolve()
        if not is_own and is_run(home):
            raise UserError(
                "`output` must not be the folder of another run, whose metrics it holds. "
                f"Received: {home}. Choose another --output."
            )
        self.folder = home / "evaluation" if is_own else home
        self.card = (RunDirectory(home).export if is_own else home) / "MODEL_CARD.md"
        self.results = Results(home / "results.json")
        # Whose figures these are, where the folder does not say.
        self.names = {} if is_own else {"model": str(self.path), "checkpoint": config.checkpoint}
        for folder in (home, self.folder, self.card.parent):
            _check_writable(folder)
        self._check_names(self.results.read())
        self._placed = []
        # Loaded once: a training that goes on meanwhile saves newer checkpoints, and deletes this one.
        if encoder is None and config.workdir:
            encoder, step = open_trained_encoder(self.path, config.data_dir, config.checkpoint)
        elif encoder is None:
            encoder = load_encoder(self.path, config.data_dir, config.checkpoint, config.trust_saved_model)
        self.encoder = encoder
        self.checkpoint = {"weights": _digest(encoder)} if step is None else {"step": step, "weights": _digest(encoder)}

    def _check_names(self, results):
        before = {name: results.get(name, value) for name, value in self.names.items()}
        if before != self.names:
            raise UserError(
                "`output` must be new, or hold evaluations of the same model. "
                f"Received: {self.results.path.parent}, with those of {' '.join(map(str, before.values()))}. "
                "Choose another --output."
            )

    def _home(self):
        """Where `results.json` lies: that of a run holds figures of its newest checkpoint."""
        if self.recipe is None:
            return Path("evaluation") / self.path.stem
        newest = self.config.checkpoint == "newest"
        return self.path if newest else self.path / "evaluation" / self.config.checkpoint

    def backbone(self):
        """A backbone with the weights of the encoder: a new `keras.Model`, which may be trained.

        Raises:
            ValueError: if it has to be read again from a file that has been replaced.
        """
        if isinstance(self.encoder, Encoder):
            return standalone_backbone(self.encoder)
        backbone = load_backbone(self.path, self.config.data_dir, self.config.checkpoint, self.config.trust_saved_model)
        if _digest(backbone) != self.checkpoint["weights"]:
            raise UserError(
                "The model must stay as it is while it is evaluated. "
                f"Received: {self.path}, which has other weights now. Evaluate it again."
            )
        return backbone

    @property
    def levels(self):
        """Names of the places where features are taken: a tuple.

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
        """The function from images to the features that are asked for; those of the backbone if none are."""
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
    def is_own(self):
        """bool, whether the images are those that it was trained on."""
        return self.recipe is not None and self.dataset == self.recipe.dataset

    @property
    def image_shape(self):
        """`(H, W, C)` that the encoder takes, `None` where any size goes."""
        return self.encoder.image_shape if isinstance(self.encoder, Encoder) else self.encoder.input_shape[1:]

    @property
    def image_size(self):
        """int, pixels.

        Raises:
            ValueError: if the encoder takes one size alone, and that is another one.
        """
        fixed = self.image_shape[0]
        size = self.config.image_size or (self.recipe and self.recipe.image_size) or fixed or 224
        if fixed not in (None, size):
            raise UserError(
                "`image_size` must be that of the encoder, which takes no other one. "
                f"Received: image_size={size} for {self.path} of {fixed}. Leave --image_size out."
            )
        return size

    @functools.cached_property
    def train(self):
        """`Source` of the training images."""
        return self._checked(self.open(self.dataset, "train"))

    @functools.cached_property
    def test(self):
        """`Source` of the test images."""
        return self._checked(self.open(self.dataset, "test"))

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
        """Its images without augmentation, as batches."""
        return data.evaluation_dataset(source, self.image_size, self.config.batch_size)

    def open(self, dataset, split):
        """A `Source` by name, read as in training."""
        settings = self.recipe or Config()
        return data.open_source(
            dataset,
            split,
            self.config.data_dir or settings.data_dir,
            cache=settings.cache_encoded,
            max_bad_fraction=settings.max_bad_fraction,
            strict=settings.strict_data,
            shuffle_buffer_mib=settings.shuffle_buffer_mib,
        )

    def _checked(self, source):
        channels = self.image_shape[-1]
        if source.image_shape[-1] != channels:
            raise UserError(
                "Images must have as many channels as the encoder takes. "
                f"Received: {source.name} of {source.image_shape[-1]} channel(s) for {self.path} of {channels}. "
                "Evaluate it on other images."
            )
        return source

    # What was found out

    def place(self, name):
        """Path of a file in its folder, which is made if it is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._placed.append(name)
        return self.folder / name

    def record(self, **figures):
        """Adds figures to `results.json`, and of which checkpoint they are.

        Those on other images than it was trained on stand apart.

        Args:
            **figures: values by name; or functions of the value before, `None` at first, which are called while no
                other process writes.
        """

        def add(here):
            for name, value in figures.items():
                here[name] = value(here.get(name)) if callable(value) else value
            self._note_checkpoint(here, figures)

        self._update(add)

    def finish(self):
        """Records what belongs to no single figure: of which checkpoint its files are, and a licence that was given."""
        files = [name for name in self._placed if (self.folder / name).exists()]
        licence = {"data_licence": self.config.data_licence} if self.config.data_licence else {}
        if not files and not licence:
            self.results.record(**self.names)
            return

        def add(here):
            here.update(licence)
            self._note_checkpoint(here, files)

        self._update(add)

    def note_checkpoint(self, *names):
        """Records that figures or files, which are there already, are of this checkpoint."""
        self._update(lambda here: self._note_checkpoint(here, names))

    def _note_checkpoint(self, here, names):
        if names:
            here["checkpoints"] = here.get("checkpoints", {}) | dict.fromkeys(names, self.checkpoint)

    def _update(self, add):
        """Has `add` change what is recorded on these images, while no other process writes."""

        def change(results):
            self._check_names(results)
            add(results if self.is_own else results.setdefault("other_data", {}).setdefault(self.dataset, {}))
            return {**results, **self.names}

        self.results.update(change)

    @property
    def training_facts(self):
        """What its training recorded, a dict; empty where that is not known."""
        return RunDirectory(self.path).results() if self.recipe else {}

    def recorded(self):
        """The figures on these images so far, a dict."""
        results = self.results.read()
        return results if self.is_own else results.get("other_data", {}).get(self.dataset, {})


def _digest(model):
    """Which weights a backbone has, whatever file they came from: 16 digits.

    An exported backbone has them in another order than the encoder of the run, and a SavedModel in a third one.
    """
    backbone = model.backbone if isinstance(model, Encoder) else model
    weights = (keras.ops.convert_to_numpy(weight) for weight in backbone.weights)
    digests = sorted(hashlib.sha256(weight.tobytes()).digest() for weight in weights if weight.dtype.kind == "f")
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _check_writable(folder):
    """Raises `OSError` unless files can be written in a folder, which may have to be made; tried where it exists."""
    there = folder
    try:
        while not there.exists() and there != there.parent:
            if there.is_symlink():
                raise FileNotFoundError(errno.ENOENT, "a link to what is not there", str(there))
            there = there.parent
        with locked(there / ".writable"):
            pass
    except OSError as error:
        raise UserOSError(
            "The folder for results.json, the model card and pictures must be one that can be written to. "
            f"Received: {folder} ({error.strerror}). Choose another --output."
        ) from error
