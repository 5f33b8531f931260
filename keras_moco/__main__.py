"""Runs a command, or lists all of them: keras-moco [COMMAND], or python -m keras_moco [COMMAND]"""

import sys

from keras_moco import __version__
from keras_moco.command_line.standard_streams import plain_output, reader_may_leave
from keras_moco.commands.registry import COMMANDS, GROUPS
from keras_moco.errors import did_you_mean, one_line


def main(argv):
    """Runs the command that is the first argument: the exit status."""
    if argv[:1] == ["help"] and argv[1:]:
        argv = [argv[1], "--help"]
    name = argv[0].replace("_", "-") if argv else "--help"
    if name in COMMANDS:
        return COMMANDS[name].main(argv[1:])
    with plain_output():
        reader_may_leave()
        if name in ("-h", "--help", "help"):
            print(describe())
            return 0
        if name == "--version":
            print(__version__)
            return 0
        print(
            f"error: The command must be one of {', '.join(COMMANDS)}. Received: {one_line(argv[0])}. "
            f"{did_you_mean(name, COMMANDS)}Run `keras-moco` to see what each does.",
            file=sys.stderr,
        )
        return 2


def describe():
    """The commands by what they are for: a text."""
    width = max(map(len, COMMANDS))
    lines = [f"keras_moco {__version__}: Momentum Contrast for TensorFlow and Keras 3", "", "usage: keras-moco COMMAND"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {command.name:{width}}  {command.what}" for command in commands)]
    lines += ["", "first run:  keras-moco pretrain --recipe=quickstart   (handwritten digits, about a minute)"]
    lines += ["flags:      keras-moco COMMAND --help", "in Python:  import keras_moco"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
