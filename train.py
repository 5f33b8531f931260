"""Pre-trains an encoder with Momentum Contrast: python train.py --flagfile=configs/quickstart.cfg

The same as `keras-moco pretrain`. Every flag is a field of `keras_moco.config.Config`; `--help` lists them.
"""

import sys

from keras_moco_command import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
