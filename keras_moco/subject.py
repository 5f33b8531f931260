"""What is evaluated: an encoder, images, and a place for what is found out."""

import functools
from pathlib import Path

from keras_moco import data
from keras_moco.config import Config
from keras_moco.data.sources import check_same_classes
from keras_moco.errors import UserError
from keras_moco.evaluation import at_level, at_levels
from keras_moco.loading import load_backbone, load_encoder
from keras_moco.models import Encoder
from keras_moco.results import Results
from keras_moco.run_directory import RunDirectory


class Subject:
    """An encoder with the images that it is evaluated on.

    Args:
        config: `EvaluationConfig`.

    Attributes:
        config: the same.
        path: `pathlib.Path` of the run or model.
        recipe: `Config` of its training, or `None` where it is not known.
        encoder: `Encoder`, or a backbone without a head.
        folder: `pathlib.Path` for pictures and other files.
        card: `pathlib.Path` of the model card.

    Raises:
        ValueError: if there is no such run or model.
    """

    def __init__(self, config):
        self.config = config
        self.path = Path(config.workdir or config.model).expanduser()
        self.recipe = RunDirectory(self.path).config() if config.workdir else None
        self.encoder = load_encoder(self.path, config.data_dir, config.checkpoint, config.trust_saved_model)
        home = Path(config.output).expanduser() if config.output else self._home()
        is_own = home == self.path
        self.folder = home / "evaluation" if is_own else home
        self.card = (RunDirectory(home).export if is_own else home) / "MODEL_CARD.md"
        self.results = Results(home / "results.json")
        # Whose figures these are, where the folder does not say.
        self.names = {} if is_own else {"model": str(self.path), "checkpoint": config.checkpoint}
        before = {name: self.results.read().get(name, value) for name, value in self.names.items()}
        if before != self.names:
            raise UserError(
                "`output` must be new, or hold evaluations of the same model. "
                f"Received: {home}, with those of {' '.join(before.values())}. Choose another --output."
            )

    def _home(self):
        """Where `results.json` lies: that of a run holds figures of its newest checkpoint."""
        if self.recipe is None:
            return Path("evaluation") / self.path.stem
        newest = self.config.checkpoint == "newest"
        return self.path if newest else self.path / "evaluation" / self.config.checkpoint

    def backbone(self):
        """The backbone, loaded anew: a `keras.Model` that may be trained."""
        config = self.config
        return load_backbone(self.path, config.data_dir, config.checkpoint, config.trust_saved_model)

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
        return self.folder / name

    def record(self, **figures):
        """Adds figures to `results.json`; those on other images than it was trained on stand apart."""
        if figures and not self.is_own:
            others = self.results.read().get("other_data", {})
            figures = {"other_data": {**others, self.dataset: {**others.get(self.dataset, {}), **figures}}}
        self.results.record(**figures, **self.names)

    @property
    def training_facts(self):
        """What its training recorded, a dict; empty where that is not known."""
        return RunDirectory(self.path).results() if self.recipe else {}

    def recorded(self):
        """The figures on these images so far, a dict."""
        results = self.results.read()
        return results if self.is_own else results.get("other_data", {}).get(self.dataset, {})
