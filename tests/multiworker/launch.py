"""Starts the processes of a multi-worker test on this machine, with `TF_CONFIG` as a launcher would set it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Seconds after which something waits for ever; a test ends in seconds.
LIMIT = 240


def free_ports(number):
    """Ports that are free now; all held at once, so that they differ."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Workers:
    """Processes that run one command of Python, a list or a function of a worker's index, each `i` in `folder/i`."""

    def __init__(self, folder, command, number=2):
        addresses = [f"localhost:{port}" for port in free_ports(number)]
        self.folders = [Path(folder) / str(index) for index in range(number)]
        self.processes = []
        for index, own in enumerate(self.folders):
            own.mkdir(parents=True, exist_ok=True)
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            settings = {"TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
            with open(own / "stdout", "w") as stdout, open(own / "stderr", "w") as stderr:
                arguments = [sys.executable, *(command(index) if callable(command) else command)]
                started = subprocess.Popen(arguments, cwd=own, env=os.environ | settings, stdout=stdout, stderr=stderr)
                self.processes.append(started)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def output(self, index, stream="stdout"):
        return (self.folders[index] / stream).read_text()

    def wait_for(self, text, index=0):
        """Waits until a worker has printed `text`."""
        end = time.monotonic() + LIMIT
        while text not in self.output(index):
            assert self.processes[index].poll() is None, self.output(index, "stderr")[-3000:]
            assert time.monotonic() < end, f"{text!r} was never printed: {self.output(index)}"
            time.sleep(0.01)

    def kill(self, index):
        self.processes[index].send_signal(signal.SIGKILL)

    def codes(self):
        """Waits for all; their exit codes."""
        return [process.wait(timeout=LIMIT) for process in self.processes]

    def succeed(self):
        codes = self.codes()
        assert codes == [0] * len(codes), [self.output(i, "stderr")[-3000:] for i in range(len(codes))]
        return self
