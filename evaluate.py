"""Evaluates what was learnt, and puts it to use: python evaluate.py MODE --workdir=runs/quickstart

Modes:
  knn        weighted k-nearest-neighbour accuracy
  linear     a linear classifier by SGD, as the authors train it (--linear_on=features: in a minute)
  logistic   logistic regression on the frozen features
  semi       fine-tuning on 1 % and 10 % of the labels, beside the same network from random weights
  finetune   fine-tuning on all labels
  retrieve   the most similar training images, as a picture
  embed      the features of all images, in a file for NumPy
  measures   alignment, uniformity, spread and effective rank; needs no labels
  export     SavedModel and .keras file of the backbone, again

In place of a run, --model takes a .keras file, a checkpoint of PyTorch or, with --trust_saved_model, a SavedModel, and
--dataset the images. Figures are printed, added to results.json, and told in a model card. Every flag is a field of
`keras_moco.config.evaluation.EvaluationConfig`.
"""

import os
import sys

os.environ["KERAS_MOCO_LAZY"] = "1"  # TensorFlow is loaded once the flags are known to be right

try:
    from keras_moco.command_line import flags
    from keras_moco.config import EvaluationConfig
except ImportError as error:
    sys.exit(f"error: {error}")
del os.environ["KERAS_MOCO_LAZY"]


def main(arguments, config):
    from keras_moco.commands import evaluate

    evaluate.evaluate(" ".join(arguments), config)


if __name__ == "__main__":
    flags.run(main, EvaluationConfig)
