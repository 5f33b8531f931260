"""What libraries print while they are loaded is held back, without what is known and of no use."""

import logging
import os
import sys

import pytest

from keras_moco.command_line import quiet_start as module
from keras_moco.command_line.quiet_start import LEVEL, quiet_start

NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1796024739.428765    4076 port.cc:153] oneDNN custom operations are on.\n"
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.\n"
)
REASON = "E0000 00:00:1796024739.4 4076 cuda_platform.cc:52] failed call to cuInit\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # no TPU
    monkeypatch.delenv(LEVEL, raising=False)
    logger = logging.getLogger("tensorflow")
    before = [*logger.filters]
    yield
    logger.filters[:] = before


def start(fails=False):
    with quiet_start():
        os.write(2, (NOISE + REASON).encode())
        print("a warning of Python", file=sys.stderr)
        if fails:
            raise ImportError("a library is missing")
    os.write(2, b"later\n")


def printed(capfd):
    """The lines on the standard error; what Python prints has a buffer of its own."""
    return {*capfd.readouterr().err.splitlines(keepends=True)}


def test_known_lines_are_dropped_and_all_others_kept(capfd):
    start()
    assert printed(capfd) == {REASON, "a warning of Python\n", "later\n"}
    assert os.environ[LEVEL] == "3"


def test_nothing_else_is_lost_where_loading_fails(capfd):
    with pytest.raises(ImportError, match="a library is missing"):
        start(fails=True)
    assert printed(capfd) == {REASON, "a warning of Python\n"}


def test_everything_is_shown_to_those_who_ask(capfd, monkeypatch):
    monkeypatch.setenv(LEVEL, "0")
    start()
    assert NOISE in capfd.readouterr().err and os.environ[LEVEL] == "0"


def test_new_models_that_are_traced_are_no_reason_for_a_warning(caplog):
    start()
    logger = logging.getLogger("tensorflow")
    logger.warning("5 out of the last 5 calls to %s triggered tf.function retracing. Tracing is expensive", "f")
    logger.warning("another warning")
    assert [record.getMessage() for record in caplog.records if record.name == "tensorflow"] == ["another warning"]
