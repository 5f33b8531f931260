"""Where images come from, and how they become batches."""

from keras_moco.data.arrays import array_source
from keras_moco.data.bad_images import plain_read_errors
from keras_moco.data.evaluation_batches import evaluation_dataset, read_images
from keras_moco.data.open import open_source
from keras_moco.data.source import Source
from keras_moco.data.subset import balanced_indices, subset
from keras_moco.data.training_batches import labelled_dataset, pretrain_dataset, steps_per_epoch

__all__ = [
    "Source",
    "array_source",
    "balanced_indices",
    "evaluation_dataset",
    "labelled_dataset",
    "open_source",
    "pretrain_dataset",
    "read_images",
    "steps_per_epoch",
    "subset",
]
