"""Locks: one process at a time, and none is held up by one that was killed."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from keras_moco import locks
from keras_moco.locks import LockedError, locked

HOLD = """
import sys
from keras_moco.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""

ADD = """
import sys
from pathlib import Path
from keras_moco.durable import update_text
path = Path(sys.argv[1])
for _ in range(100):
    update_text(path, lambda: str(int(path.read_text()) + 1))
"""
ENVIRONMENT = {**os.environ, "KERAS_MOCO_LAZY": "1"}  # without TensorFlow


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "file"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_process_is_refused_while_the_first_lives_and_no_longer(holder, tmp_path):
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked(tmp_path / "file", wait=False):
        pass
    assert os.listdir(tmp_path) == [".file.lock"]
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == [".file.lock"]  # left behind, and held by nobody
    with locked(tmp_path / "file", wait=False) as held:
        assert held
    assert os.listdir(tmp_path) == []


def test_who_waits_is_next(holder, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    waiting = subprocess.Popen(holder.args, env=ENVIRONMENT, **pipes)
    holder.communicate("")
    with waiting:
        assert waiting.communicate("")[0] == "held\n"
    assert os.listdir(tmp_path) == []


def test_processes_that_add_to_one_file_lose_nothing(tmp_path):
    """Each waits for, deletes and makes anew the same lock file all the time."""
    (tmp_path / "file").write_text("0")
    command = [sys.executable, "-c", ADD, str(tmp_path / "file")]
    for process in [subprocess.Popen(command, env=ENVIRONMENT) for _ in range(4)]:
        assert process.wait() == 0
    assert (tmp_path / "file").read_text() == "400" and os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path / "file") as held, locked(tmp_path / "file", wait=False) as too:
        assert not held and not too
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path / "file") as held:
        assert not held
