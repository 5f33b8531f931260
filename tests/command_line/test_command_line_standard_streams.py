"""Output of commands is escaped for terminals, raises no errors, and may have nowhere to go."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

from keras_moco.command_line.standard_streams import Output
from tests.user_environment import WITHOUT_TENSORFLOW

ROOT = Path(__file__).resolve().parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_control_codes_are_escaped():
    printed = io.StringIO()
    print("a\x1b]0;title\x07b", "\x1b[2J", "\x9b1m", "tab\tand line\n", "\x7f", end="", file=Output(printed))
    assert printed.getvalue() == "a\\x1b]0;title\\x07b \\x1b[2J \\x9b1m tab\tand line\n \\x7f"


def test_progress_bars_are_not_changed(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)  # which it shows

    def bar(stream):
        monkeypatch.setattr(sys, "stdout", stream)
        bar = keras.utils.Progbar(3, interval=0)
        for step in (1, 2, 3):
            bar.update(step, [("loss", 1.5)], finalize=step == 3)

    raw, ours = Terminal(), Terminal()
    bar(raw)
    bar(Output(ours))
    assert ours.getvalue() == raw.getvalue() and {"\r", "\x08", "\x1b"} & set(raw.getvalue())


def test_characters_outside_of_the_encoding_are_escaped():
    for encoding, expected in (("ascii", b"Zo\\xeb \\udc9b"), ("utf-8", "Zoë \\udc9b".encode())):
        printed = io.BytesIO()
        stream = io.TextIOWrapper(printed, encoding=encoding, errors="surrogateescape")
        print("Zoë \udc9b", end="", flush=True, file=Output(stream))
        assert printed.getvalue() == expected


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def full_disk():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    return open("/dev/full", "w")


@pytest.mark.parametrize("lose, why", [(broken_pipe, "Broken pipe"), (full_disk, "No space left on device")])
def test_output_that_cannot_be_written_is_dropped(lose, why):
    with lose() as stream:  # which writes the rest when it is closed
        output = Output(stream)
        print("epoch 1", file=output)
        assert output.lost is None  # it waits in the buffer
        output.flush()
        assert output.lost == why
        print("epoch 2", file=output, flush=True)


# As processes, without TensorFlow.


def python(program, **settings):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, **settings)


HOLD = WITHOUT_TENSORFLOW + "from keras_moco.command_line import standard_streams\nstandard_streams.hold_descriptors()"


@pytest.mark.parametrize(
    "closed, start",
    [
        *((closed, HOLD) for closed in [(0,), (1,), (2,), (0, 1, 2)]),
        pytest.param((0, 1, 2), "import keras_moco", marks=pytest.mark.slow),
    ],
)
def test_no_file_takes_the_place_of_a_closed_stream(closed, start, tmp_path):
    program = (
        f"import sys\n{start}\n"
        f"file = open({str(tmp_path / 'checkpoint')!r}, 'w')\n"
        "from keras_moco.command_line.standard_streams import plain_output\n"
        "with plain_output():\n"
        "    print('out'), print('err', file=sys.stderr), sys.stdin.read(), sys.stdout.isatty()\n"
        "file.write(str(file.fileno()))\n"
    )
    done = python(program, capture_output=True, preexec_fn=lambda: [os.close(each) for each in closed])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if 1 in closed else "out\n") and done.stderr == ("" if 2 in closed else "err\n")
    assert int((tmp_path / "checkpoint").read_text()) > 2


@pytest.mark.parametrize("work, status", [("print('x')", 2), ("print('x'), sys.exit(0)", 2), ("sys.exit(75)", 75)])
def test_lost_output_is_reported_in_one_sentence(work, status):
    start = "from keras_moco.command_line.standard_streams import plain_output"
    program = f"{WITHOUT_TENSORFLOW}{start}\nwith plain_output():\n    {work}"
    with broken_pipe() as pipe:
        done = python(program, stdout=pipe, stderr=subprocess.PIPE)
    assert done.returncode == status
    said = "error: The standard output must accept what is printed. Received: Broken pipe."
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1 if status == 2 else done.stderr == ""
