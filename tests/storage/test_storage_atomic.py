"""Files are replaced atomically."""

import errno
import os
from unittest import mock

import pytest

from keras_moco.storage import atomic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.txt"


def half_written(error):
    def write_text(path, text, **_):
        path.write_bytes(text[: len(text) // 2].encode())
        raise error

    return write_text


def raising(error):
    return mock.Mock(side_effect=error)


def test_a_file_is_replaced_without_leftovers(path):
    for text in ("long " * 1000, "first\nÄ → 日本 🙂\r\n\ttab, no newline at the end", ""):
        atomic.write_text(str(path), text)
        assert path.read_bytes() == text.encode("utf-8") and os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize(
    "module, name, failing",
    [(atomic.Path, "write_text", half_written), (os, "fsync", raising), (os, "replace", raising)],
)
def test_a_full_disk_or_an_interrupt_keeps_the_old_file(module, name, failing, path, monkeypatch):
    path.write_text("the old one")
    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            patch.setattr(module, name, failing(error))
            atomic.write_text(path, "the new one")
        assert caught.value is error
        assert {each.name: each.read_text() for each in path.parent.iterdir()} == {"file.txt": "the old one"}


def test_the_file_is_flushed_before_the_renaming_and_the_folder_after_it(path, monkeypatch):
    done = []
    flush, replace = atomic.flush, os.replace
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: "0123abcd")
    monkeypatch.setattr(atomic, "flush", lambda path: (done.append(f"flush {path.name}"), flush(path)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(f"rename to {new.name}"), replace(old, new)))
    atomic.write_text(path, "")
    assert done == ["flush .file.txt.0123abcd.tmp", "rename to file.txt", f"flush {path.parent.name}"]


def test_a_file_system_that_cannot_flush_folders_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.EINVAL, "unsupported")))
    atomic.flush(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(OSError, match="unsupported"):
        atomic.flush(tmp_path / "file.txt")


def test_the_next_write_deletes_the_temporary_file_of_a_killed_process_and_no_other(path):
    left = path.with_name(".file.txt.0123abcd.tmp")
    others = {".file.txt.tmp", ".other.txt.0123abcd.tmp", ".file.txt.copy.tmp"}
    for name in (left.name, *others):
        (path.parent / name).touch()
    assert {each.name for each in atomic.leftovers(path.parent)} == {left.name, ".other.txt.0123abcd.tmp"}
    atomic.write_text(path, "")
    assert set(os.listdir(path.parent)) == {"file.txt", *others}


def test_json_that_nests_too_deeply_is_refused(path):
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="too deeply"):
        atomic.read_json(path)
