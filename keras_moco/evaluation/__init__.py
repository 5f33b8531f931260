"""Evaluation of frozen features."""

from keras_moco.evaluation.features import LEVELS, FeatureExtractor, Features, at_level, extract_features
from keras_moco.evaluation.knn import KnnAccuracy, knn_accuracy, knn_predict
from keras_moco.evaluation.linear import LinearProbe, frozen, linear_accuracy, linear_probe

__all__ = [
    "LEVELS",
    "FeatureExtractor",
    "Features",
    "KnnAccuracy",
    "LinearProbe",
    "at_level",
    "extract_features",
    "frozen",
    "knn_accuracy",
    "knn_predict",
    "linear_accuracy",
    "linear_probe",
]
