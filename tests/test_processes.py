"""`train.py` as a process that is signalled or out of disk resumes, and ends in the same bits."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import LIMIT, ROOT, Process, unfinished
from tests.whole_runs import STEPS, TINY_FLAGS, checkpoints, expect_same, log

pytestmark = pytest.mark.slow

EPOCHS = 5
EVERY_STEP = ["--checkpoint_minutes=1e-9"]  # a checkpoint after each
MOCO = [flag for flag in TINY_FLAGS if not flag.startswith(("--queue_size=", "--embedding_dim="))]
# The queue of 700 kB is larger than any other file, so that a limit can be drawn between them.
MOCO += ["--queue_size=1400", "--embedding_dim=128", f"--epochs={EPOCHS}", "--log_steps=1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run without interruption."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    with Process(workdir, *MOCO, pictures=True) as process:
        outcome = process.outcome()
    assert outcome.status == 0, outcome.stderr
    assert not outcome.notes("warning: ")
    for name in ("curves", "views", "neighbours", "embedding"):
        assert (workdir / f"{name}.png").stat().st_size > 1000
    return workdir


# Stopped


def expect_stopped(outcome, workdir, cause):
    """Checks that a run was stopped with everything saved, and returns the step after which it was."""
    assert outcome.status == 75, outcome.stderr
    found = re.search(rf"{cause}.* step (\d+) \(epoch (\d+), (\d+) of 11 steps\)", outcome.sentence)
    assert found, outcome.sentence
    step = int(found[1])
    assert (int(found[2]) - 1, int(found[3])) == divmod(step, STEPS)
    assert checkpoints(workdir)[-1].name == f"step-{step:09d}" and str(checkpoints(workdir)[-1]) in outcome.sentence
    return step


def heed_signals():
    """What runs in the background ignores SIGINT otherwise, under `nohup` SIGHUP, and its children with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_signal_stops_a_run_and_a_second_one_ends_it_at_once(undisturbed, tmp_path):
    run, flags = tmp_path / "run", [*MOCO, *EVERY_STEP]
    steps = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with Process(run, *flags, preexec_fn=heed_signals) as process:
            assert process.prints(r"^epoch \d/5 step ", 3), process.stderr
            process.kill(number)
            steps.append(expect_stopped(process.outcome(), run, number.name))
    assert 3 <= steps[0] < steps[1] < EPOCHS * STEPS
    with Process(run, *flags, preexec_fn=heed_signals) as process:
        assert process.prints("^resumed from "), process.stderr
        time.sleep(1)  # `Stopping` watches; the first step takes longer to be traced
        process.process.send_signal(signal.SIGINT)
        assert process.reaches(lambda: not process.catches(signal.SIGINT)), process.stderr
        assert process.kill(signal.SIGINT) == -signal.SIGINT
    with Process(run, *MOCO) as process:
        assert process.outcome().status == 0, process.stderr
    expect_same(run, undisturbed)


def test_signal_before_and_after_training_ends_a_run_which_then_resumes(undisturbed, tmp_path):
    run = tmp_path / "run"
    with Process(run, *MOCO, preexec_fn=heed_signals) as process:
        assert process.reaches(lambda: process.catches(signal.SIGHUP)), process.stderr
        process.kill(signal.SIGHUP)
        outcome = process.outcome()
    assert (outcome.status, outcome.sentence.startswith("stopped by SIGHUP. ")) == (75, True)
    with Process(run, *MOCO) as process:
        assert process.reaches(lambda: list(run.glob("export/.export-*"))), process.stderr
        process.kill(signal.SIGUSR1)
        outcome = process.outcome()
    assert (outcome.status, outcome.sentence.startswith("stopped by SIGUSR1. ")) == (75, True)
    assert not list(run.rglob(".*")) and outcome.notes("epoch 5/5 done ")
    with Process(run, *MOCO) as process:
        assert process.outcome().status == 0, process.stderr
    expect_same(run, undisturbed)


def test_sighup_and_sigusr1_stop_a_run_unless_it_ignores_them(undisturbed, tmp_path):
    run, flags = tmp_path / "run", [*MOCO, *EVERY_STEP]
    for number in (signal.SIGHUP, signal.SIGUSR1):
        with Process(run, *flags, preexec_fn=heed_signals) as process:
            assert process.prints(r"^epoch \d/5 step ", 3), process.stderr
            process.kill(number)
            expect_stopped(process.outcome(), run, number.name)
    with Process(run, *MOCO, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:  # `nohup`
        assert process.prints(r"^epoch \d/5 "), process.stderr
        process.process.send_signal(signal.SIGHUP)
        assert process.outcome().status == 0, process.stderr
    expect_same(run, undisturbed)


# Without an output


def test_a_run_whose_output_closes_saves_and_stops_and_one_without_output_trains(undisturbed, tmp_path):
    run, flags = tmp_path / "run", [*MOCO, "--checkpoint_minutes=0", "--checkpoint_epochs=0"]
    reader, writer = os.pipe()
    with Process(run, *flags, stdout=writer) as process, open(reader) as lines:
        os.close(writer)
        assert any(line.startswith("epoch 1/5 step 3/") for line in lines), process.stderr
        lines.close()  # as `head` does it
        step = expect_stopped(process.outcome(), run, "loss of the standard output .Broken pipe.")
    assert step >= 4
    with open("/dev/full", "w") as full, Process(run, *flags, stdout=full.fileno()) as process:
        again = expect_stopped(process.outcome(), run, "loss of the standard output .No space left on device.")
    assert again == step + 1
    with Process(run, *MOCO, preexec_fn=lambda: [os.close(descriptor) for descriptor in range(3)]) as process:
        assert process.outcome().status == 0
    assert process.stdout == process.stderr == ""
    expect_same(run, undisturbed)


def test_twenty_stops_in_one_process_end_in_the_same_bits_without_a_leak(tmp_path):
    """By SIGTERM, SIGHUP and SIGINT in turn, every four steps."""
    epochs, stops = "8", [str(step) for step in range(4, 84, 4)]
    found = {}
    for name, steps in (("whole", []), ("stopped", stops)):
        command = [sys.executable, "-m", "tests.stops", tmp_path / name, epochs, *steps]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr
        found[name] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (len(found["whole"]), len(found["stopped"])) == (1, 21)
    expect_same(tmp_path / "stopped", tmp_path / "whole")
    memory, descriptors = ([each[name] for each in found["stopped"]] for name in ("mib", "descriptors"))
    print(memory, descriptors)
    assert max(descriptors[10:20]) <= max(descriptors[:10])
    # What TensorFlow keeps of 10 more traced trainings; a queue or an encoder of each would be no more than that, but
    # the images and pipelines of each would.
    assert memory[19] - memory[9] < 10 * 10


def test_deterministic_runs_have_the_same_bits_with_and_without_a_stop(undisturbed, tmp_path):
    flags = [*MOCO, *EVERY_STEP, "--deterministic"]
    with Process(tmp_path / "whole", *flags) as process:
        assert process.outcome().status == 0, process.stderr
    with Process(tmp_path / "stopped", *flags, "--max_minutes=0.001") as process:
        assert expect_stopped(process.outcome(), tmp_path / "stopped", "0.001 minutes") == 1
    with Process(tmp_path / "stopped", *flags) as process:
        assert process.outcome().status == 0, process.stderr
    expect_same(tmp_path / "stopped", tmp_path / "whole")
    # Not those of other runs, since other operations round otherwise; 11 steps multiply the difference.
    ours, theirs = (float(log(run)[0]["loss"]) for run in (tmp_path / "whole", undisturbed))
    assert ours == pytest.approx(theirs, rel=1e-3)


# No room on the disk


def limit_files(size):
    """Makes the system refuse files beyond `size` bytes, as a full disk would."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_run_that_cannot_write_checkpoints_continues(tmp_path):
    run, limit = tmp_path / "run", limit_files(600_000)  # below the weights, above everything else
    flags = [*MOCO, *EVERY_STEP, "--epochs=1"]
    with Process(run, *flags, preexec_fn=limit, start_new_session=True) as process:
        outcome = process.outcome()
    assert outcome.notes("epoch 1/1 done ") and len(log(run)) == 1
    notes = outcome.notes("warning: the checkpoint of step ")
    assert len(notes) > 1 and all(re.search(r" was not written \(.+\); there is none yet", line) for line in notes)
    assert list(run.rglob("checkpoints/*")) == list(run.rglob(".*")) == []
    assert outcome.status == 0, outcome.stderr


@contextlib.contextmanager
def disk(folder, size):
    """Mounts a disk of so many bytes in memory, or skips the test where that is not permitted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(path):
    """Takes all the room that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.mark.parametrize("room", ["no room for a checkpoint", "no room for a byte"])
def test_run_on_a_full_disk_continues_and_later_ends_in_the_same_bits(room, undisturbed, tmp_path):
    whole = undisturbed
    checkpoint = sum(path.stat().st_size for path in checkpoints(whole)[-1].iterdir())
    size = int(2.5 * checkpoint) if room == "no room for a checkpoint" else 2**26
    with disk(tmp_path / "disk", size) as folder:
        run = folder / "run"
        with Process(run, *MOCO, output=tmp_path) as process:
            if room == "no room for a byte":
                assert process.reaches(lambda: len(checkpoints(run)) > 1), process.stderr  # beside that of step 0
                fill(folder / "rubbish")
            outcome = process.outcome()
        print(outcome.stdout, outcome.stderr)
        # Beside two checkpoints there may just be room for the export.
        assert outcome.status == 2 or (outcome.status == 0 and room == "no room for a checkpoint")
        assert "No space left on device" in outcome.notes("warning: the checkpoint of step ")[0]
        assert outcome.notes("epoch 5/5 done ") and unfinished(run) == set()
        kept = checkpoints(run)
        assert kept and kept[-1].name < f"step-{EPOCHS * STEPS:09d}"

        (folder / "rubbish").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        with Process(run, *MOCO, output=tmp_path) as process:
            again = process.outcome()
        assert again.status == 0, again.stderr
        assert again.notes(f"resumed from {kept[-1]} ") and not again.notes("is damaged")
        expect_same(run, whole)
