"""Evaluation of pre-trained encoders: on frozen features, and by fine-tuning. `registry` lists the evaluations."""

from keras_moco.evaluation.accuracy import Accuracy, accuracy_of
from keras_moco.evaluation.features import LEVELS, FeatureExtractor, Features, at_level, at_levels, extract_features
from keras_moco.evaluation.finetune import fine_tune, fresh_copy
from keras_moco.evaluation.guard import frozen
from keras_moco.evaluation.knn import knn_accuracies, knn_accuracy, knn_predict, knn_vote
from keras_moco.evaluation.labelled import predict_labelled
from keras_moco.evaluation.linear import LinearSweep, linear_sweep, linear_sweep_on_images
from keras_moco.evaluation.linear_heads import LinearHeads
from keras_moco.evaluation.logistic import LinearProbe, linear_accuracy, linear_probe
from keras_moco.evaluation.measures import (
    RepresentationMeasures,
    alignment,
    effective_rank,
    feature_std,
    representation_measures,
    uniformity,
)
from keras_moco.evaluation.neighbour_plot import draw_neighbours
from keras_moco.evaluation.neighbours import Neighbours, nearest_neighbours
from keras_moco.evaluation.plots import draw_confusion, draw_label_fractions
from keras_moco.evaluation.projection_plot import draw_projection
from keras_moco.evaluation.voters import Voters, nearest_voters

__all__ = [
    "LEVELS",
    "Accuracy",
    "FeatureExtractor",
    "Features",
    "LinearProbe",
    "LinearSweep",
    "Neighbours",
    "RepresentationMeasures",
    "accuracy_of",
    "alignment",
    "draw_confusion",
    "draw_label_fractions",
    "draw_neighbours",
    "draw_projection",
    "effective_rank",
    "extract_features",
    "feature_std",
    "fine_tune",
    "fresh_copy",
    "knn_accuracies",
    "knn_accuracy",
    "knn_predict",
    "linear_accuracy",
    "linear_probe",
    "linear_sweep",
    "linear_sweep_on_images",
    "nearest_neighbours",
    "predict_labelled",
    "representation_measures",
    "uniformity",
]
