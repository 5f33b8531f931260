"""From a plan to the objects that carry it out."""

import contextlib

import keras

from keras_moco.augment import get_augmentation
from keras_moco.config.training import AUTO
from keras_moco.data import open_source
from keras_moco.networks import HEADS, Encoder, by_name
from keras_moco.networks.encoder import features_shape_of
from keras_moco.networks.seeds import initial_seed
from keras_moco.optimizers import LARS, SGD
from keras_moco.runs.plan import Plan

OPTIMIZERS = {"sgd": SGD, "lars": LARS}


def open_split(config, split):
    """The images of a split, a `Source`."""
    return open_source(
        config.dataset,
        split,
        config.data_dir,
        cache=config.cache_encoded,
        max_bad_fraction=config.max_bad_fraction,
        strict=config.strict_data,
        shuffle_buffer_mib=config.shuffle_buffer_mib,
        channels=config.channels,
        value_range=config.value_range,
        background=config.background,
        test_fraction=config.test_fraction,
        tfrecord_image_feature=config.tfrecord_image_feature,
        tfrecord_label_feature=config.tfrecord_label_feature,
    )


def plan_of(config, replicas):
    """The `Plan` of a configuration; its data is opened only if something that follows from it is not given."""
    if None in (config.train_examples, config.channels) or AUTO in (config.image_mean, config.image_std):
        return Plan.of(config, open_split(config, "train"), replicas)
    return Plan(config, config.train_examples, config.channels, replicas)


def build_augmentation(config):
    """The augmentation of a configuration, an `Augmentation` layer for one view."""
    recipe = get_augmentation(config.augment)
    crop = {} if config.crop_min_area is None else {"crop_scale": (config.crop_min_area, 1.0)}
    return recipe(config.image_size, exact=config.augment_exact, **crop)


def build_encoder(config, channels):
    """The query encoder of a configuration for images with `channels`; its weights depend on the seed alone."""
    with initial_seed(config.seed):
        return _fresh_encoder(config, channels)


def _fresh_encoder(config, channels, fill=False):
    """The encoder; `fill`: with the weights that its backbone comes with, if any."""
    shape = (config.image_size, config.image_size, channels)
    weights = {"weights": config.backbone_weights, "fill": fill}
    backbone, scaling = by_name.backbone(config.backbone, shape, config.backbone_width, config.stem, **weights)
    head = HEADS[config.head](features_shape_of(backbone)[-1], config.embedding_dim)
    scaling = {"mean": config.image_mean, "std": config.image_std} | scaling
    return Encoder(backbone, head, **scaling, name="encoder")


def build_optimizer(plan):
    """The optimiser of a plan."""
    config = plan.config
    optimizer = OPTIMIZERS[config.optimizer]
    return optimizer(plan.learning_rate(), momentum=config.optimizer_momentum, weight_decay=config.weight_decay)


def build_model(plan, strategy, augmentation=None, prepare=None, fill=False):
    """The compiled model of a plan, its optimiser built, on the devices of `strategy`.

    Args:
        plan: `Plan`.
        strategy: `tf.distribute.Strategy`.
        augmentation: `Augmentation` that the training step applies, where the configuration has that on the device.
        prepare: function that is called with the fresh encoder, before the model makes copies of it.
        fill: bool, whether the backbone begins with the weights that it comes with (`backbone_weights`), if any.
    """
    config = plan.config
    with strategy.scope(), precision(config.precision):
        with initial_seed(config.seed):
            encoder = _fresh_encoder(config, plan.channels, fill)
            if prepare:
                prepare(encoder)
            model = plan.method.build(plan, encoder)
        plan.check_groups(model.batch_norm.splits)
        model.compile(optimizer=build_optimizer(plan), steps_per_execution=config.steps_per_execution)
        model.optimizer.build(model.trainable_variables)
    if config.augment_on == "device":
        model.augmentation = augmentation
    model.skip_not_finite = config.on_nan == "skip"
    return model


@contextlib.contextmanager
def precision(policy):
    """Layers made in this block have the dtype policy of that name.

    For a block, since backbones and heads may be anybody's, whose layers take no `dtype` from here.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
