"""Runs the package's commands as pages show them, in this process, which saves it the start of TensorFlow."""

import shlex
import subprocess

from absl import flags

from keras_moco.commands import check, preview
from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.config.flags import define_flags, from_flags


def parsed(kind, arguments):
    """`(settings, mode)` of the arguments of a command."""
    values = flags.FlagValues()
    define_flags(kind, values)
    _, *others = values(with_flagfiles(["program", *arguments], values))
    return from_flags(kind, values), " ".join(others)


def run_command(command, more=""):
    """Runs a command with more flags; bash runs what is not ours."""
    if not command.startswith("python "):
        subprocess.run(["bash", "-ec", command], check=True)
        return
    _, program, *arguments = shlex.split(f"{command} {more}")
    if program == "train.py":
        pretrain(parsed(Config, arguments)[0])
    elif program == "evaluate.py":
        config, mode = parsed(EvaluationConfig, arguments)
        evaluate(mode, config)
    else:
        assert (program, arguments[0]) == ("-m", "keras_moco")
        assert {"check": check, "preview": preview}[arguments[1]].main(arguments[2:]) == 0
