"""How a command starts and ends: flags, signals, output, exit status."""

import os
import sys

_SCRIPTS = {"pretrain": "train.py", "evaluate": "evaluate.py"}


def how_to_call(name):
    """How a person calls a command: `keras-moco NAME`, or by its script, as this process was called."""
    by_script = os.path.basename(sys.argv[0]) in _SCRIPTS.values()
    return f"python {_SCRIPTS[name]}" if by_script else f"keras-moco {name}"


def load_package():
    """Loads what `keras_moco/__init__.py` has put off while a command reads its arguments: TensorFlow, for seconds."""
    package = sys.modules["keras_moco"]
    if not hasattr(package, "MoCo"):
        package.__spec__.loader.exec_module(package)
