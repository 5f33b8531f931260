"""Commands of the package as processes that are killed at an exact place, without importing TensorFlow for each.

A launcher has imported everything and forks for each command, which saves eight seconds of processor time apiece.
TensorFlow can be forked as long as no operation has run.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

from tests.whole_runs import Outcome

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Place:
    """A call of a function, in front of which a process waits to be killed.

    Attributes:
        function: str, `"module:name"`, such as `"os:replace"`.
        words: str, in the first argument.
        number: int, from 1, of the calls with these words.
    """

    function: str
    words: str = ""
    number: int = 1

    def __str__(self):
        return f"{self.function}({self.words}) {self.number}"


class Launcher:
    """Starts commands, one at a time; a context manager."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests import launcher; launcher.serve()"],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def run(self, folder, *command, hold=None, number=signal.SIGKILL, replicas=1):
        """Runs a command to its end, or up to a place where it gets a signal.

        Args:
            folder: path for its output.
            command: the arguments of `python`, such as `"train.py", "--epochs=1"` or `"-m", "keras_moco", "convert"`.
            hold: `Place`, or `None`.
            number: int, the signal.
            replicas: int, logical CPUs.

        Returns:
            `Outcome`, whose status is negative where a signal has ended it; `None` if it has not come to the place.
        """
        files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        job = {"command": list(map(str, command)), "files": files, "replicas": replicas}
        job["hold"] = hold and dataclasses.astuple(hold)
        print(json.dumps(job), file=self.process.stdin, flush=True)
        process, answer = int(self._answer()), self._answer()
        if answer == "held":
            os.kill(process, number)
            hold, answer = None, self._answer()
        outcome = Outcome(int(answer), *(Path(file).read_text() for file in files))
        if hold is None:
            return outcome
        print(outcome.stdout, outcome.stderr)
        return None

    def _answer(self):
        line = self.process.stdout.readline()
        assert line, f"the launcher has ended with {self.process.wait()}"
        return line.strip()


# In the process of the launcher


def serve():
    """Forks for each line of the standard input."""
    for module in (
        "tensorflow",
        "keras_moco.commands.pretrain",
        "keras_moco.commands.evaluate",
        "keras_moco.commands.convert",
    ):
        importlib.import_module(module)
    from keras_moco.augment import compiled
    from keras_moco.commands import pretrain
    from tests import tiny  # its backbone

    assert tiny
    # What takes most of the time of such a run, and has tests of its own.
    compiled.has_xla = lambda: False
    pretrain.show_start = pretrain.show_end = lambda *_: None
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _run(json.loads(line))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(job):
    """Runs a command in this process, which ends with it."""
    answers = os.fdopen(os.dup(1), "w")
    for descriptor, file in zip((1, 2), job["files"], strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if job["replicas"] > 1:
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, job["replicas"] * [tf.config.LogicalDeviceConfiguration()])
    if job["hold"]:
        _hold(Place(*job["hold"]), answers)
    status = 1
    with contextlib.suppress(SystemExit):
        try:
            status = _call(*job["command"])
        except SystemExit as exit:
            status = exit.code or 0
            raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _call(program, *arguments):
    if program == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__")
    else:
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")
    return 0


def _hold(place, answers):
    """Has this process wait in front of a call until it is killed, or a signal is handled."""
    module, _, name = place.function.partition(":")
    *owners, name = name.split(".")
    owner = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), []

    def held(*arguments, **settings):
        if place.words in str(arguments[0] if arguments else ""):
            calls.append(None)
            if len(calls) == place.number:
                print("held", file=answers, flush=True)
                signal.pause()  # until it is killed, or has handled another signal
        return function(*arguments, **settings)

    setattr(owner, name, held)
