"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

Every flag is a field of `keras_moco.config.Config`; `python train.py --help` lists them.
"""

import importlib.util
import sys

# `keras_moco/__init__.py` loads TensorFlow. `flags.run` executes it once the flags are known to be right, so that
# --help and mistakes are answered at once.
sys.modules.setdefault("keras_moco", importlib.util.module_from_spec(importlib.util.find_spec("keras_moco")))

from keras_moco.command_line import flags  # noqa: E402
from keras_moco.config import Config  # noqa: E402
from keras_moco.errors import UserError  # noqa: E402


def main(arguments, config):
    if arguments:
        raise UserError(f"train.py must be given flags only. Received: {' '.join(arguments)}. Write --name=value.")
    from keras_moco.commands import pretrain

    pretrain.pretrain(config)


if __name__ == "__main__":
    flags.run(main, Config)
