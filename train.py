"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

Every flag is a field of `keras_moco.config.Config`; `python train.py --help` lists them.
"""

import os
import sys

os.environ["KERAS_MOCO_LAZY"] = "1"  # TensorFlow is loaded once the flags are known to be right

try:
    from keras_moco.command_line import flags
    from keras_moco.config import Config
    from keras_moco.errors import UserError
except ImportError as error:
    sys.exit(f"error: {error}")
del os.environ["KERAS_MOCO_LAZY"]


def main(arguments, config):
    if arguments:
        raise UserError(f"train.py must be given flags only. Received: {' '.join(arguments)}. Write --name=value.")
    from keras_moco.commands import pretrain

    pretrain.pretrain(config)


if __name__ == "__main__":
    flags.run(main, Config)
