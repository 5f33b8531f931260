"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

Every flag is a field of `keras_moco.config.Config`; `python train.py --help` lists them.
"""

import sys

try:
    from absl import flags

    from keras_moco import command_line, settings, training
    from keras_moco.config import Config
except ImportError as error:
    sys.exit(f"error: {error}")
except KeyboardInterrupt:  # importing takes seconds
    sys.exit(130)


def define_flags(values):
    settings.define_flags(Config, values)
    flags.adopt_module_key_flags(settings, values)  # or --help, which shows the main module's, would not list them


def main(arguments):
    if arguments:
        raise ValueError(f"train.py must be given flags only. Received: {' '.join(arguments)}. Write --name=value.")
    training.pretrain(settings.from_flags(Config, flags.FLAGS))


if __name__ == "__main__":
    command_line.run(main, define_flags)
