"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

Every flag is a field of `keras_moco.config.Config`; `python train.py --help` lists them.
"""

import importlib.util
import sys

# `keras_moco/__init__.py` loads TensorFlow. `flags.run` executes it once the flags are known to be right, so that
# --help and mistakes are answered at once.
if __name__ == "__main__" and (package := importlib.util.find_spec("keras_moco")):
    sys.modules.setdefault("keras_moco", importlib.util.module_from_spec(package))

try:
    from keras_moco.command_line import flags
    from keras_moco.config import Config
    from keras_moco.errors import UserError
except ImportError as error:
    sys.exit(f"error: {error}")


def main(arguments, config):
    if arguments:
        raise UserError(f"train.py must be given flags only. Received: {' '.join(arguments)}. Write --name=value.")
    from keras_moco.commands import pretrain

    pretrain.pretrain(config)


if __name__ == "__main__":
    flags.run(main, Config)
