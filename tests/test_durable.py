"""Files that are replaced whole or not at all."""

import errno
import os

import pytest

from keras_moco import durable


def test_the_content_is_what_was_given_to_the_byte(tmp_path):
    text = "first\nÄ → 日本 🙂\r\n\ttab, no newline at the end"
    durable.write_text(tmp_path / "file.txt", text)
    assert (tmp_path / "file.txt").read_bytes() == text.encode("utf-8")


@pytest.mark.parametrize("old", ["", "short", "long " * 1000])
def test_an_old_file_is_replaced_whatever_its_length_and_nothing_is_left_beside_it(tmp_path, old):
    path = tmp_path / "file.txt"
    path.write_text(old)
    durable.write_text(str(path), "the new one")
    assert path.read_text() == "the new one"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_who_has_the_old_file_open_reads_all_of_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("the old one")
    with open(path) as file:
        durable.write_text(path, "new")
        assert file.read() == "the old one"


def fail(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("module", "name"), [(os, "replace"), (os, "fsync"), (durable, "flush"), (durable.Path, "write_text")]
)
@pytest.mark.parametrize("old", [None, "the old one"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, module, name, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        durable.write_text(path, "the new one")
    monkeypatch.undo()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == ({} if old is None else {"file.txt": old})


def test_a_file_that_is_half_written_when_the_disk_is_full_is_removed(tmp_path, monkeypatch):
    def half(path, text, **_):
        path.write_bytes(text[: len(text) // 2].encode())
        fail()

    (tmp_path / "file.txt").write_text("the old one")
    monkeypatch.setattr(durable.Path, "write_text", half)
    with pytest.raises(OSError, match="No space left on device"):
        durable.write_text(tmp_path / "file.txt", "the new one")
    assert os.listdir(tmp_path) == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "the old one"


def test_the_content_is_on_the_disk_before_the_name_is_and_the_name_before_it_returns(tmp_path, monkeypatch):
    done = []
    flush, replace = durable.flush, os.replace
    monkeypatch.setattr(durable, "flush", lambda path: (done.append(f"flush {path.name}"), flush(path)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(f"rename to {new.name}"), replace(old, new)))
    durable.write_text(tmp_path / "file.txt", "")
    assert done == ["flush .file.txt.tmp", "rename to file.txt", f"flush {tmp_path.name}"]


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.write_text(tmp_path / "none" / "file.txt", "")
    assert os.listdir(tmp_path) == []


def test_flush_leaves_no_file_open_even_if_it_fails(tmp_path, monkeypatch):
    opened = []
    open_ = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: (opened.append(open_(*a, **k)), opened[-1])[1])
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        durable.flush(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
