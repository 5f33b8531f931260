"""Evaluates a pre-trained encoder, or uses its features: python evaluate.py MODE --workdir=runs/quickstart

The same as `keras-moco evaluate`. Every flag is a field of `keras_moco.config.evaluation.EvaluationConfig`; `--help`
lists them and the modes.
"""

import sys

from keras_moco_command import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
