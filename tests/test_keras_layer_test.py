"""Keras's own test of layers, on those of the package.

It makes a layer from its configuration, builds it, calls it on symbolic and on real inputs, trains it for a step (on a
CPU with XLA too), and calls it in mixed_float16. It is not part of what Keras promises: `keras.src` may change.
"""

import pytest
from keras.src.testing import TestCase

from keras_moco import augment, models
from tests.registry import public_object
from tests.small_encoder import SHAPE, small_encoder

pytestmark = pytest.mark.slow
# Nothing in an augmentation can be trained, and Keras warns of that.
IMAGES = {"input_shape": (2, 8, 8, 3), "expected_output_dtype": "float32", "run_training_check": False}
LAYERS = {"layers": [augment.RandomResizedCrop(4, seed=1), augment.RandomGrayscale(seed=2)]}
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
# Models, which train themselves by batches of their own, are not tested by it.
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


def test_encoder_passes_keras_own_test():
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
def test_layer_passes_keras_own_test(name):
    TestCase().run_layer_test(public_object(name), **CASES[name])
