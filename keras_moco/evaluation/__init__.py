"""Evaluation of what an encoder has learnt: by frozen features, and by fine-tuning."""

from keras_moco.evaluation.accuracy import Accuracy, accuracy_of
from keras_moco.evaluation.features import LEVELS, FeatureExtractor, Features, at_level, extract_features
from keras_moco.evaluation.fine_tuning import fine_tune, fresh_copy
from keras_moco.evaluation.knn import KnnAccuracy, knn_accuracy, knn_predict
from keras_moco.evaluation.linear import LinearProbe, frozen, linear_accuracy, linear_probe
from keras_moco.evaluation.linear_heads import (
    LinearHeads,
    LinearSweep,
    linear_sweep,
    linear_sweep_on_images,
    predict_labelled,
)

__all__ = [
    "LEVELS",
    "Accuracy",
    "FeatureExtractor",
    "Features",
    "KnnAccuracy",
    "LinearHeads",
    "LinearProbe",
    "LinearSweep",
    "accuracy_of",
    "at_level",
    "extract_features",
    "fine_tune",
    "fresh_copy",
    "frozen",
    "knn_accuracy",
    "knn_predict",
    "linear_accuracy",
    "linear_probe",
    "linear_sweep",
    "linear_sweep_on_images",
    "predict_labelled",
]
