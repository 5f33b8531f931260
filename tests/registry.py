"""Every public object of the package: what `tests/test_conformance.py` checks of it, or why nothing.

Public is what is in the `__all__` of `MODULES`; `INTERNALS` are no longer public, and checked in the same way. `MATRIX`
holds what computes with tensors or is saved by Keras. Everything else `is_outside`, `TESTED_APART`, or a function that
cannot be part of a graph: of files, NumPy arrays or whole models, or that makes an object.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as keras_layers
from keras.optimizers.schedules import CosineDecay

from keras_moco import augment, distribution, evaluation, export, layers, methods, networks, optimizers
from keras_moco.optimizers import schedules
from tests.small_encoder import SHAPE, small_encoder

MODULES = """
api augment callbacks commands.evaluate commands.pretrain config convert data distribution errors evaluation export
layers methods methods.losses methods.presets networks networks.shuffle_bn optimizers optimizers.schedules
runs.load
""".split()
# Names that were public once and stay importable.
INTERNALS = """
callbacks.drop_events callbacks.find_step data.plain_read_errors distribution.Cluster distribution.any_worker
distribution.check_gpu distribution.check_training distribution.endless distribution.has_workers
distribution.plain_worker_errors distribution.read_cluster distribution.run_if distribution.share_overflow
errors.one_line evaluation.LinearHeads evaluation.Voters evaluation.at_level evaluation.at_levels evaluation.frozen
evaluation.knn_vote evaluation.nearest_voters methods.presets.closest networks.shuffle_bn.batch_norm_layers
networks.shuffle_bn.moving_statistics networks.shuffle_bn.resolve
""".split()
# Their functions are tested on replicas and in graphs by tests/distribution, tests/networks.
TESTED_APART = ("networks.shuffle_bn.", "distribution.", "networks.copy_weights", "methods.momentum_update")
TENSORS = ("graph", "mixed", "replicas", "xla")
COLUMNS = ("config", "keras_file", *TENSORS)


def public_names():
    """All public names as `module.name`: a list."""
    modules = {module: importlib.import_module(f"keras_moco.{module}") for module in MODULES}
    return [f"{module}.{name}" for module, holder in modules.items() for name in holder.__all__]


def public_object(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"keras_moco.{module}"), attribute)


@dataclass(frozen=True)
class Whole:
    """An input that every replica gets whole; other inputs are split by rows."""

    value: Any


@dataclass(frozen=True)
class Entry:
    """A row of the matrix: how to make an object, and how to run it."""

    make: Callable  # without arguments; called under the policy and the strategy of a column
    inputs: tuple = ()
    run: Callable = lambda made, *inputs: made(*inputs)  # returns tensors in any structure
    columns: tuple = COLUMNS
    # Columns that the object cannot meet, with the reason; a test tries that it cannot.
    exempt: dict = field(default_factory=dict)
    same: bool = False  # whether every replica returns the whole result, or its rows of the batch
    # Whether floats come out in the compute dtype of the policy, or else in float32.
    compute_dtype: bool = False
    # Function of the object that returns the part of it that has a configuration.
    part: Callable = lambda made: made
    # Absolute and relative, in float32, and of half precision compared with float32.
    tolerance: float = 1e-5
    half_tolerance: float = 0.03


BATCH = 4  # which two replicas divide
_rng = np.random.default_rng(0)
IMAGES = _rng.uniform(0, 255, (BATCH, *SHAPE)).astype("float32")
KEYS = IMAGES + _rng.normal(0, 20, IMAGES.shape).astype("float32")
PICTURES = _rng.uniform(0, 255, (BATCH, 12, 10, 3)).astype("float32")
ROWS = _rng.normal(size=(BATCH, 6)).astype("float32")
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
OTHERS = UNIT[::-1].copy()
INDICES = np.arange(BATCH)


def contrastive(kind, **settings):
    """A training step, and the embeddings after it."""

    def make():
        model = kind(small_encoder(), **settings)
        model.compile(optimizer=scaled(optimizers.SGD(0.1)), jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        return model

    def step(model, query, key, index):
        loss = model.train_step({"query": query, "key": key, "index": index})["loss"]
        return {"loss": loss, "embeddings": model(query)}

    return Entry(make, (IMAGES, KEYS, INDICES), step, ("config", *TENSORS))  # saved to the bit in tests/models


def scaled(optimizer):
    """float16 scales the loss by 2^15 at first, with which the first steps would overflow and be skipped."""
    if keras.config.dtype_policy().name != "mixed_float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=16.0)


def augmentation(make, **settings):
    draws = np.random.default_rng(0).random((BATCH, make().num_draws), dtype="float32")

    def run(layer, images, draws):
        return layer.augment_images(images, draws)

    return Entry(make, (PICTURES, draws), run, **{"tolerance": 2e-3, **settings})


def optimizer(kind, **settings):
    """A step of a model that is compiled with it."""

    def make():
        model = keras.Sequential([keras.Input((6,)), keras_layers.Dense(3)])
        model.compile(optimizer=scaled(kind(0.1, **settings)), loss="mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        return model

    def step(model, rows):
        model.train_step((rows, rows[:, :3]))
        return tensors(model.trainable_variables)

    return Entry(make, (ROWS,), step, same=True, part=lambda model: model.optimizer)


def schedule(kind):
    def rates(made, steps):
        return tf.stack([made(step) for step in tf.unstack(steps)])

    make, steps = lambda: kind(CosineDecay(0.5, decay_steps=4), steps=3), Whole(np.float32([0, 3, 7, 12]))
    return Entry(make, (steps,), rates, ("config", *TENSORS), same=True)


def function(name, *inputs, run=None, **settings):
    """A function of tensors; `run` gets it as its first argument."""
    return Entry(lambda: public_object(name), inputs, *filter(None, [run]), **{"columns": TENSORS, **settings})


def tensors(variables):
    return [tf.convert_to_tensor(variable) for variable in variables]


def built(layer):
    """Builds a layer: a function that is traced for several replicas cannot create variables."""
    layer.build(ROWS.shape)
    return layer


def training(layer, inputs):
    return layer(inputs, training=True)


def enqueue(queue, keys):
    queue.enqueue(distribution.all_gather(keys))
    return {"features": tf.identity(queue.features), "pointer": queue.pointer, "fill": queue.fill}


def move(bank, rows, indices):
    indices = distribution.all_gather(indices)
    bank.update(indices, distribution.all_gather(rows))
    return {"all": tf.identity(bank.features), "own": bank.look_up(indices), "drawn": bank.draw(3, indices, 7)}


def own_rows(function, first, second, *args):
    """In-batch contrasts, each replica with its rows against all."""
    own = distribution.local_slice(tf.range(BATCH))
    return function(first, *(distribution.all_gather(side) for side in (second, *args)), own, 0.2)


def small_resnet():
    return networks.resnet("resnet10", width=4, stem="cifar", input_shape=SHAPE)


def cropped_and_gray():
    return [augment.RandomResizedCrop(8), augment.RandomGrayscale(), augment.RandomHorizontalFlip()]


PARTITIONED = "images are sorted by the operation they drew, into parts whose sizes XLA would have to know"
TRANSFORMING = "ImageProjectiveTransformV3, by which Keras moves pixels, is no operation of XLA's"
RESIZING = "tf.image.resize with antialiasing is no operation of XLA's"
MATRIX = {
    # Models.
    "methods.MoCo": contrastive(methods.MoCo, queue_size=9, momentum=0.9, temperature=0.2),
    "methods.EndToEnd": contrastive(methods.EndToEnd, temperature=0.2, shared=False),
    "methods.MemoryBank": contrastive(methods.MemoryBank, bank_size=9, num_negatives=5, bank_momentum=0.3, seed=2),
    "methods.SimCLR": contrastive(methods.SimCLR, temperature=0.4),
    "networks.Encoder": Entry(lambda: small_encoder(batch_norm=True), (IMAGES,)),
    "networks.linear_head": Entry(lambda: networks.linear_head(6, 5), (ROWS,), compute_dtype=True),
    "networks.mlp_head": Entry(lambda: networks.mlp_head(6, 5), (ROWS,), compute_dtype=True),
    "networks.simclr_head": Entry(lambda: networks.simclr_head(6, 5), (ROWS,), compute_dtype=True),
    "networks.resnet": Entry(small_resnet, (IMAGES / 255,), compute_dtype=True),
    "export.standalone_backbone": Entry(lambda: export.standalone_backbone(small_encoder(batch_norm=True)), (IMAGES,)),
    "evaluation.FeatureExtractor": Entry(
        lambda: evaluation.FeatureExtractor(small_encoder().features),
        (IMAGES, INDICES),
        lambda extractor, images, n: extractor({"image": images, "label": n, "index": n}),
        exempt=dict.fromkeys(("config", "keras_file"), "it holds a callable, which has no configuration"),
    ),
    # Layers.
    "layers.FeatureQueue": Entry(lambda: layers.FeatureQueue(5, 6, seed=2), (UNIT,), enqueue),
    "layers.FeatureBank": Entry(
        lambda: layers.FeatureBank(9, 6, momentum=0.3, seed=2), (UNIT, INDICES), move, same=True
    ),
    "layers.SplitBatchNormalization": Entry(
        lambda: built(layers.SplitBatchNormalization(splits=2)),
        (ROWS,),
        training,
        compute_dtype=True,
        exempt={"replicas": "each replica's batch is grouped by itself, so other rows are normalised together"},
    ),
    "layers.SplitBatchNormalization synchronized": Entry(
        lambda: built(layers.SplitBatchNormalization(synchronized=True)), (ROWS,), training, compute_dtype=True
    ),
    "evaluation.LinearHeads": Entry(lambda: built(evaluation.LinearHeads(3, 2)), (ROWS,), compute_dtype=True),
    # Augmentations.
    "augment.RandomResizedCrop": augmentation(lambda: augment.RandomResizedCrop(8)),
    "augment.RandomHorizontalFlip": augmentation(lambda: augment.RandomHorizontalFlip(rate=0.8)),
    "augment.RandomColorJitter": augmentation(
        lambda: augment.RandomColorJitter(0.4, 0.4, 0.4, 0.1), exempt={"xla": PARTITIONED}
    ),
    "augment.RandomGrayscale": augmentation(lambda: augment.RandomGrayscale(rate=0.6)),
    "augment.RandomBandBrightness": augmentation(lambda: augment.RandomBandBrightness(0.4, offset=9, bands=3)),
    "augment.RandomBandDrop": augmentation(lambda: augment.RandomBandDrop(0.5, rate=0.8, fill="mean", bands=3)),
    "augment.RandomNoise": augmentation(lambda: augment.RandomNoise(sigma=(2, 9), rate=0.8)),
    "augment.RandomRightAngle": augmentation(
        lambda: augment.Compose([augment.RandomResizedCrop(8), augment.RandomRightAngle()])
    ),
    "augment.RandomRotation": augmentation(
        lambda: augment.RandomRotation(30, rate=0.8), exempt={"xla": TRANSFORMING}, tolerance=2e-2
    ),
    "augment.RandomGaussianBlur": augmentation(lambda: augment.RandomGaussianBlur(sigma=(0.5, 1.5), rate=0.8)),
    "augment.Compose": augmentation(lambda: augment.Compose(cropped_and_gray())),
    "augment.Fused": augmentation(lambda: augment.Fused(cropped_and_gray())),
    "augment.central_view": function(
        "augment.central_view", PICTURES, run=lambda made, images: made(images, 8), exempt={"xla": RESIZING}
    ),
    "augment.two_views": Entry(
        lambda: augment.RandomHorizontalFlip(),
        (PICTURES, np.random.default_rng(0).random((BATCH, 2, 1), dtype="float32")),
        augment.two_views,
        TENSORS,
    ),
    # Optimizers and schedules.
    "optimizers.SGD": optimizer(optimizers.SGD, momentum=0.8, weight_decay=0.1, nesterov=True),
    "optimizers.LARS": optimizer(optimizers.LARS, momentum=0.8, weight_decay=0.1, trust=0.1),
    "optimizers.schedules.InSteps": schedule(schedules.InSteps),
    "optimizers.schedules.Staircase": schedule(schedules.Staircase),
    "optimizers.schedules.Warmup": schedule(schedules.Warmup),
    # Functions of tensors.
    "methods.losses.info_nce": function("methods.losses.info_nce", UNIT, OTHERS, Whole(UNIT), Whole(0.2)),
    "methods.losses.in_batch": function("methods.losses.in_batch", UNIT, OTHERS, run=own_rows),
    "methods.losses.nt_xent": function("methods.losses.nt_xent", UNIT, OTHERS, UNIT, run=own_rows),
}


def is_class(found, *kinds):
    return isinstance(found, type) and issubclass(found, kinds)


def is_abstract(found):
    """By `abc`, or an augmentation that does nothing yet (keras-cv's base class does not use `abc`)."""
    if is_class(found, augment.Augmentation) and not inspect.isabstract(found):
        try:
            found().augment(None, None)
        except NotImplementedError:
            return True
    return inspect.isabstract(found)


def is_outside(found):
    """Constants, records, errors, callbacks, which Keras does not save, and abstract classes need no row."""
    if not isinstance(found, type):
        return isinstance(found, dict | list | tuple)
    record = dataclasses.is_dataclass(found) or hasattr(found, "_fields")
    callback = is_class(found, keras.callbacks.Callback) and not hasattr(found, "get_config")
    return record or is_class(found, Exception) or callback or is_abstract(found)
