"""The command `keras-moco`, which train.py and evaluate.py are too.

It is beside the package, not in it: `keras_moco/__init__.py` loads TensorFlow, for which `--help` and mistakes must not
wait. So it leaves that part to `keras_moco.command_line`, once the arguments are known to be right.
"""

import sys

reads_arguments = False  # what `keras_moco/__init__.py` looks at


def main(argv=None):
    """Runs the command as a process of its own; a program calls `keras_moco.commands.pretrain.pretrain` instead.

    Args:
        argv: list of str, the name of a sub-command and its arguments. Defaults to `None`: those of the process.

    Returns:
        int, the exit status.
    """
    global reads_arguments
    reads_arguments = True
    try:
        from keras_moco.__main__ import main as run
    except ImportError as error:
        sys.exit(f"error: {error}")
    return run(sys.argv[1:] if argv is None else argv)
