"""A flagfile holds every setting of a run, and is read in UTF-8 or refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_moco.config import Config
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.config.settings import kinds_of
from tests.data.written import time_limit
from tests.user_environment import WITHOUT_TENSORFLOW

ROOT = Path(__file__).resolve().parents[2]


def other_value(field):
    """Another valid value than the default, with digits or characters that a flagfile could spoil."""
    if field.name == "allow_config_change":
        return ("epochs", "temperature")
    if field.name == "log_to":
        return ("csv", "mlflow")
    if isinstance(field.default, tuple):
        return (1 / 3, 0.1 + 0.2, 1e-7)
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    if field.name == "value_range":
        return "-0.5,1e3"
    if field.name == "background":
        return 128
    kind = kinds_of(field)[0]
    if kind is bool:
        return not field.default
    if kind is int:
        return (field.default or 0) + 2**31
    if kind is float:
        return (field.default or 0.5) / 3  # inside of each range of which the default is
    return f"my {field.name}, a=b #1"


OTHER = {field.name: other_value(field) for field in dataclasses.fields(Config)}
ASKED_ONCE = {"workdir", "dry_run", "allow_config_change", "trust_saved_model"}  # not settings of the run


def test_flagfile_keeps_each_setting_alone_and_together(tmp_path):
    def round_trip(config):
        path = tmp_path / "flags.cfg"
        path.write_text(config.to_flagfile())
        return read_flagfile(path)

    for name in OTHER.keys() - ASKED_ONCE:
        config = Config(**{name: OTHER[name]})
        read = round_trip(config)
        assert read == config and type(getattr(read, name)) is type(OTHER[name]), name
    kept = {name: value for name, value in OTHER.items() if name not in ASKED_ONCE}
    assert round_trip(Config(**OTHER)) == Config(**kept)
    assert round_trip(Config()) == Config()


def test_flagfile_may_have_comments_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text("# --epochs=7\n\n--queue_size=512\n// --batch_size=7\n")
    assert read_flagfile(path) == Config(queue_size=512)

    for line in ("--quesize=3", "--queue_size=many"):
        path.write_text(f"--epochs=3\n{line}\n")
        with pytest.raises(ValueError, match=r"flags\.cfg with .*que.*size"):
            read_flagfile(path)


def test_flagfile_is_utf8_whatever_the_locale_says(tmp_path):
    config = Config(dataset="folder:/data/Käthe")
    (tmp_path / "flags.cfg").write_text(config.to_flagfile(), encoding="utf-8")
    program = WITHOUT_TENSORFLOW + (
        "from keras_moco.config.flagfiles import read_flagfile\n"
        f"print(ascii(read_flagfile({str(tmp_path / 'flags.cfg')!r}).dataset))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.stdout == ascii(config.dataset) + "\n", done.stderr


def test_flagfile_that_cannot_be_read_is_refused_and_not_waited_for(tmp_path):
    path, outer = tmp_path / "flags.cfg", tmp_path / "outer.cfg"
    outer.write_text(f"--flagfile={path}\n")
    path.write_text(f"--flagfile={outer}\n")
    with pytest.raises(ValueError, match=f"must not include itself. Received: {outer}"):
        read_flagfile(outer)
    path.write_bytes(b"--dataset=caf\xe9\n")
    with pytest.raises(ValueError, match=f"Received: {path}, 'utf-8' codec can't decode byte 0xe9"):
        read_flagfile(outer)
    path.unlink()
    os.mkfifo(path)
    with time_limit(20), pytest.raises(ValueError, match=f"Received: {path}, a named pipe"):
        read_flagfile(outer)
