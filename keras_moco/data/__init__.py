"""Where images come from, and how they become batches."""

from keras_moco.data.pipeline import evaluation_dataset, pretrain_dataset, steps_per_epoch
from keras_moco.data.read_errors import plain_read_errors
from keras_moco.data.sources import Source, open_source

__all__ = [
    "Source",
    "evaluation_dataset",
    "open_source",
    "plain_read_errors",
    "pretrain_dataset",
    "steps_per_epoch",
]
