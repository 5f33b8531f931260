"""Evaluates a pre-trained encoder, or uses its features: python evaluate.py MODE --workdir=runs/quickstart

Modes:
  knn        weighted k-nearest-neighbour accuracy
  linear     linear classifiers by SGD, as the authors train them (a minute with --linear_on=features)
  logistic   logistic regression on the frozen features
  semi       fine-tuning on 1 % and 10 % of the labels, beside the same network from random weights
  finetune   fine-tuning on all labels; saves the classifier
  retrieve   the most similar training images, as a picture
  embed      the features of all images, in a file for NumPy
  measures   alignment, uniformity, embedding std and effective rank; needs no labels
  export     SavedModel and .keras file of the backbone, again; --to=hf:FOLDER for the Hugging Face Hub

Instead of a run, --model takes a .keras file, a PyTorch checkpoint or, with --trust_saved_model, a SavedModel, and
--dataset the images. Metrics are printed, added to results.json, and listed in a model card. Every flag is a field of
`keras_moco.config.evaluation.EvaluationConfig`.
"""

import importlib.util
import sys

# `keras_moco/__init__.py` loads TensorFlow. `flags.run` executes it once the flags are known to be right, so that
# --help and mistakes are answered at once.
if __name__ == "__main__" and (package := importlib.util.find_spec("keras_moco")):
    sys.modules.setdefault("keras_moco", importlib.util.module_from_spec(package))

try:
    from keras_moco.command_line import flags
    from keras_moco.config import EvaluationConfig
except ImportError as error:
    sys.exit(f"error: {error}")


def main(arguments, config):
    from keras_moco.commands import evaluate

    evaluate.evaluate(" ".join(arguments), config)


if __name__ == "__main__":
    flags.run(main, EvaluationConfig)
