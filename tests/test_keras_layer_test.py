"""Keras's own test of layers, on those of the package.

It makes a layer from its configuration, builds it, calls it on symbolic and on real inputs, trains it for a step (on a
CPU with XLA too), and calls it in mixed_float16. It is not part of what Keras promises: `keras.src` may change.
"""

import keras
import pytest
from keras.src.testing import TestCase

from keras_moco import augment, models
from tests.registry import is_class, public_names, public_object
from tests.small_encoder import SHAPE, small_encoder

# Nothing in an augmentation can be trained, and Keras warns of that.
IMAGES = {"input_shape": (2, 8, 8, 3), "expected_output_dtype": "float32", "run_training_check": False}
LAYERS = {"layers": [augment.RandomResizedCrop(4, seed=1), augment.RandomGrayscale(seed=2)]}
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
CASES = {
    "layers.FeatureBank": dict(init_kwargs={"size": 5, "dim": 3}),
    "layers.FeatureQueue": dict(init_kwargs={"size": 5, "dim": 3}),
    "layers.SplitBatchNormalization": dict(
        init_kwargs={"splits": 2},
        input_shape=(4, 5, 3),
        expected_output_shape=(4, 5, 3),
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=2,
        expected_num_seed_generators=0,
    ),
    "evaluation.LinearHeads": dict(
        init_kwargs={"num_classes": 3, "num_heads": 2},
        input_shape=(4, 5),
        expected_output_shape=(4, 2, 3),
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=0,
    ),
    "augment.RandomResizedCrop": dict(init_kwargs={"size": 4}, **IMAGES, expected_output_shape=(2, 4, 4, 3)),
    "augment.RandomHorizontalFlip": dict(init_kwargs={}, **IMAGES, expected_output_shape=(2, 8, 8, 3)),
    "augment.RandomColorJitter": dict(init_kwargs=JITTER, **IMAGES, expected_output_shape=(2, 8, 8, 3)),
    "augment.RandomGrayscale": dict(init_kwargs={}, **IMAGES, expected_output_shape=(2, 8, 8, 3)),
    "augment.RandomGaussianBlur": dict(init_kwargs={}, **IMAGES, expected_output_shape=(2, 8, 8, 3)),
    "augment.Compose": dict(init_kwargs=LAYERS, **IMAGES, expected_output_shape=(2, 4, 4, 3)),
    "augment.Fused": dict(init_kwargs=LAYERS, **{**IMAGES, "expected_output_dtype": "uint8"}),
}
# A Keras model is a layer too, but is not put into other models by its class and a few arguments.
EXCEPTIONS = {
    "augment.Augmentation": "the base class of the others, which augments nothing itself",
    "evaluation.FeatureExtractor": "holds any callable, so it has no configuration",
    "models.ContrastiveModel": "abstract",
    "models.Encoder": "has a test of its own below, since it is made of models",
    **dict.fromkeys(
        ["models.EndToEnd", "models.MemoryBank", "models.MoCo", "models.SimCLR"],
        "trains itself, by a step and batches of its own (tests/test_conformance.py)",
    ),
}


def test_every_public_layer_is_tested_or_excepted():
    found = {name for name in public_names() if is_class(public_object(name), keras.layers.Layer)}
    assert found == CASES.keys() | EXCEPTIONS.keys() and not CASES.keys() & EXCEPTIONS.keys()


def test_keras_own_test_of_the_encoder():
    made = small_encoder(batch_norm=True)
    TestCase().run_layer_test(
        models.Encoder,
        {"backbone": made.backbone, "head": made.head},
        input_shape=(4, *SHAPE),
        expected_output_shape=(4, 8),
        expected_output_dtype="float32",
        run_mixed_precision_check=False,  # its types follow from those of its parts, which are given
    )


@pytest.mark.parametrize("name", CASES)
def test_keras_own_test_of_a_layer(name):
    TestCase().run_layer_test(public_object(name), **CASES[name])
