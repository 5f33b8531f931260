"""Runs the package's commands as pages show them, in this process, which saves it the start of TensorFlow."""

import re
import shlex
import subprocess
import sys

from absl import flags

from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.commands.registry import COMMANDS
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.config.flags import define_flags, from_flags

# The other ways to call `keras-moco`.
FORMER = {
    "python -m keras_moco": "keras-moco",
    "python train.py": "keras-moco pretrain",
    "python evaluate.py": "keras-moco evaluate",
}


def parsed(kind, arguments):
    """`(settings, mode)` of the arguments of a command."""
    values = flags.FlagValues()
    define_flags(kind, values)
    _, *others = values(with_flagfiles(["program", *arguments], values, recipes=kind.has_recipes))
    return from_flags(kind, values), " ".join(others)


def run_command(command, more=""):
    """Runs a command with more flags; bash runs what is not ours."""
    if not command.startswith(("python ", "keras-moco ")):
        subprocess.run(["bash", "-ec", command], check=True)
        return
    for former, now in FORMER.items():
        command = re.sub(rf"^{former}", now, command)
    words = shlex.split(f"{command} {more}")
    _, name, *arguments = words
    if name == "pretrain":
        pretrain(parsed(Config, arguments)[0])
    elif name == "evaluate":
        config, mode = parsed(EvaluationConfig, arguments)
        evaluate(mode, config)
    else:
        assert COMMANDS[name].main(arguments) == 0


def write_script(folder):
    """Writes `keras-moco` as pip does, also where this environment was made without it: the folder, for the path."""
    folder.mkdir()
    program = "import sys\nfrom keras_moco_command import main\nsys.exit(main())\n"
    (folder / "keras-moco").write_text(f"#!{sys.executable}\n{program}")
    (folder / "keras-moco").chmod(0o755)
    return folder
