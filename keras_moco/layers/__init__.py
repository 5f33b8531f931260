"""Layers that contrastive learning needs and Keras lacks."""

from keras_moco.layers.feature_bank import FeatureBank
from keras_moco.layers.feature_queue import FeatureQueue
from keras_moco.layers.split_batch_normalization import SplitBatchNormalization, split_batch, splittable

__all__ = ["FeatureBank", "FeatureQueue", "SplitBatchNormalization", "split_batch", "splittable"]
