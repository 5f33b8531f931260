"""Layers that MoCo needs and Keras does not have."""

from keras_moco.layers.feature_queue import FeatureQueue
from keras_moco.layers.split_batch_normalization import SplitBatchNormalization
from keras_moco.layers.splittable import splittable

__all__ = ["FeatureQueue", "SplitBatchNormalization", "splittable"]
