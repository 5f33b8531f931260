"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

Every flag is a field of `keras_moco.config.Config`; `python train.py --help` lists them.
"""

import sys

KERAS_MOCO_COMMAND = True  # TensorFlow is loaded once the flags are known to be right

try:
    from keras_moco import command_line
    from keras_moco.config import Config
except ImportError as error:
    sys.exit(f"error: {error}")


def main(arguments, config):
    if arguments:
        raise ValueError(f"train.py must be given flags only. Received: {' '.join(arguments)}. Write --name=value.")
    from keras_moco import training

    training.pretrain(config)


if __name__ == "__main__":
    command_line.run(main, Config)
