"""Runs a command, or lists all of them: python -m keras_moco [COMMAND]"""

import importlib
import sys

from keras_moco import __version__
from keras_moco.command_line.standard_streams import plain_output
from keras_moco.errors import one_line

# Each runs `main` of the module of its name in `keras_moco.commands`.
COMMANDS = {
    "convert": "converts weights from and to PyTorch",
    "check": "looks at images before training, and suggests settings",
    "preview": "draws random views of images",
    "import_idx": "imports MNIST-like files as a data set of TensorFlow Datasets",
}
SCRIPTS = {
    "python train.py": "pre-trains an encoder (in a checkout)",
    "python evaluate.py": "evaluates an encoder, finds similar images, exports the backbone (in a checkout)",
}


def main(argv):
    if argv and argv[0] in COMMANDS:
        return importlib.import_module(f"keras_moco.commands.{argv[0]}").main(argv[1:])
    with plain_output():
        if argv and argv[0] not in ("-h", "--help", "help"):
            print(
                f"error: The command must be one of {', '.join(COMMANDS)}. Received: {one_line(argv[0])}. "
                "Run `python -m keras_moco` to see what each does.",
                file=sys.stderr,
            )
            return 2
        print(f"keras_moco {__version__}: Momentum Contrast for TensorFlow and Keras 3\n")
        rows = SCRIPTS | {f"python -m keras_moco {name}": what for name, what in COMMANDS.items()}
        width = max(map(len, rows))
        for command, what in rows.items():
            print(f"  {command:{width}}  {what}")
        print("\n--help lists the options of each. In Python, start with `import keras_moco` (docs/api.md).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
