"""One process at a time holds a lock, and a killed process holds none."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from keras_moco.storage import locks
from keras_moco.storage.locks import LockedError, locked
from tests.permissions import as_a_user
from tests.user_environment import WITHOUT_TENSORFLOW

HOLD = """
import sys
from keras_moco.storage.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""

ADD = """
import sys
from pathlib import Path
from keras_moco.storage.atomic import update_text
path = Path(sys.argv[1])
for _ in range(100):
    update_text(path, lambda: str(int(path.read_text()) + 1))
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "file"`."""
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW + HOLD, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_process_is_refused_only_while_the_first_one_lives(holder, tmp_path):
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked(tmp_path / "file", wait=False):
        pass
    assert os.listdir(tmp_path) == [".file.lock"]
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == [".file.lock"]  # left over, and not locked
    with locked(tmp_path / "file", wait=False) as held:
        assert held
    assert os.listdir(tmp_path) == []


def test_a_waiting_process_gets_the_lock_next(holder, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    waiting = subprocess.Popen(holder.args, **pipes)
    holder.communicate("")
    with waiting:
        assert waiting.communicate("")[0] == "held\n"
    assert os.listdir(tmp_path) == []


def test_processes_that_update_one_file_lose_no_update(tmp_path):
    """Each of them waits for, deletes and recreates the same lock file all the time."""
    (tmp_path / "file").write_text("0")
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW + ADD, str(tmp_path / "file")]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait() == 0
    assert (tmp_path / "file").read_text() == "400" and os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path / "file") as held, locked(tmp_path / "file", wait=False) as too:
        assert not held and not too
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path / "file") as held:
        assert not held


def test_a_link_or_a_pipe_is_refused_as_a_lock_file(tmp_path):
    """In a folder that somebody else has prepared."""
    target = tmp_path / "important"
    target.write_text("years of work")
    (tmp_path / ".link.lock").symlink_to(target)
    os.mkfifo(tmp_path / ".pipe.lock")
    for name in ("link", "pipe"):
        for wait in (True, False):
            with pytest.raises(OSError), locked(tmp_path / name, wait=wait):
                pass
    os.link(target, tmp_path / ".other_name.lock")
    with locked(tmp_path / "other_name"):
        assert target.read_text() == "years of work"


def test_a_lock_created_after_the_folder_was_moved_is_not_deleted(tmp_path):
    before, after = tmp_path / "run", tmp_path / "moved"
    before.mkdir()
    with locked(before / "file") as lock:
        assert lock and lock.is_in_place()
        before.rename(after)
        assert not lock.is_in_place()
        before.mkdir()
        (before / ".file.lock").touch()
        assert not lock.is_in_place()
    assert (before / ".file.lock").exists()


def test_a_lock_file_left_by_another_user_can_be_locked(tmp_path):
    (tmp_path / ".file.lock").touch(0o444)
    with as_a_user(tmp_path), locked(tmp_path / "file", wait=False) as lock:
        assert lock


def test_a_process_that_waits_long_says_for_which_one(holder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    release = threading.Timer(0.3, holder.kill)
    release.start()
    with locked(tmp_path / "file"):
        release.join()
    assert f"note: waiting for process {holder.pid} on " in capsys.readouterr().out
