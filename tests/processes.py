"""`train.py` with the tiny network as a process, for tests that kill it."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.whole_runs import Outcome

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds after which something waits for ever
PROGRAM = """
import runpy, sys
pictures = sys.argv.pop(1) == "True"
from tests import tiny  # its backbone
if not pictures:
    from keras_moco.commands import pretrain
    pretrain.show_start = pretrain.show_end = lambda *_: None
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


class Process:
    """`train.py` as a process, with its output in files beside its run or in `output`.

    What it prints goes to `stdout`, a descriptor, where one is given. Without the pictures at start and end, which take
    seconds, unless they are asked for.
    """

    def __init__(self, workdir, *flags, output=None, stdout=None, pictures=False, **settings):
        self.workdir = Path(workdir)
        self.files = [(output or self.workdir.parent) / f"{self.workdir.name}.{name}" for name in ("stdout", "stderr")]
        with open(self.files[0], "w") as file, open(self.files[1], "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(pictures), *flags, f"--workdir={workdir}"],
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdout=stdout or file,
                stderr=stderr,
                **settings,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    @property
    def stdout(self):
        return self.files[0].read_text()

    @property
    def stderr(self):
        return self.files[1].read_text()

    def outcome(self):
        """Waits for the end: an `Outcome`."""
        return Outcome(self.process.wait(timeout=LIMIT), self.stdout, self.stderr)

    def kill(self, number):
        """Sends a signal and waits for the end, whose status is returned."""
        self.process.send_signal(number)
        return self.process.wait(timeout=LIMIT)

    def reaches(self, happened):
        """Waits until something has happened: whether it did before the process ended."""
        end = time.monotonic() + LIMIT
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < end, self.stdout
            time.sleep(0.005)
        return True

    def prints(self, pattern, times=1):
        """Waits for lines that match: whether so many came before the process ended."""
        return self.reaches(lambda: len(re.findall(pattern, self.stdout, re.M)) >= times)

    def lives(self, seconds):
        """Waits: whether the process is still there afterwards."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        return self.process.poll() is None

    def catches(self, number):
        """Whether the process, on Linux, has a handler for a signal."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)", status, re.M)  # not there once it has ended
        return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def unfinished(workdir):
    """The checkpoints in a run's folder that were begun and not finished, each with the time of that."""
    found = set()
    for path in (workdir / "checkpoints").glob(".unfinished-*"):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            found.add((path.name, path.stat().st_ctime_ns))
    return found
