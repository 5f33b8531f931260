"""Evaluation of frozen features."""

from keras_moco.evaluation.features import FeatureExtractor, Features, extract_features
from keras_moco.evaluation.knn import KnnAccuracy, knn_accuracy, knn_predict
from keras_moco.evaluation.linear import LinearProbe, frozen, linear_accuracy, linear_probe

__all__ = [
    "FeatureExtractor",
    "Features",
    "KnnAccuracy",
    "LinearProbe",
    "extract_features",
    "frozen",
    "knn_accuracy",
    "knn_predict",
    "linear_accuracy",
    "linear_probe",
]
