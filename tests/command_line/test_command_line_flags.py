"""A mistake on the command line ends with one sentence, and changes nothing."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import keras_moco
import keras_moco.commands.convert as convert
import train
from keras_moco.callbacks import Stopped
from keras_moco.command_line import exit_status
from keras_moco.command_line.signals import ENDING
from keras_moco.commands import check, import_idx, pretrain, preview
from keras_moco.commands.registry import COMMANDS
from keras_moco.config import Config
from keras_moco.distribution import WorkerLost
from keras_moco.errors import UserError
from keras_moco.evaluation.registry import EVALUATIONS
from keras_moco.runs.directory import RunDirectory
from tests.tiny import tiny_config
from tests.whole_runs import TINY_FLAGS, call, contents

ROOT = Path(__file__).resolve().parents[2]


# train.py

# One for each place in which a mistake is found; the others are tested where they are found.
MISTAKES = {
    "flags": (["--quesize=3"], "'quesize'. Did you mean --queue_size"),
    "flag of recipes": (["--recpe=quickstart"], "'recpe'. Did you mean --recipe"),
    "recipe": (["--recipe=quickstat"], "Received: quickstat. Did you mean quickstart"),
    "kind of a flag": (["--epochs=many"], "--epochs=many"),
    "flagfile": (["--flagfile=nowhere.cfg"], "nowhere.cfg"),
    "no flag": (["epochs=3"], "Received: epochs=3"),
    "settings": (["--image_mean=red"], "`image_mean` .*'red'"),
    "division by zero": (["--image_std=0"], "`image_std` must be in .*image_std=0.0"),
    "devices": (["--strategy=mirrored", "--replicas=5"], r"replicas=5, 4 device\(s\)"),
    "images": (["--dataset=digts"], "`name` .*name='digts'. Did you mean `digits`"),
    "plan": (["--queue_size=1438"], "queue_size=1438, 1437 images in digits"),
    "neighbours": (["--knn_k=1438"], "knn_k=1438, 1437 images in digits"),
    "model": (["--image_mean=0.3,0.3"], "`mean` "),
    "weights": (["--init_from=nowhere"], "`init_from` must exist. Received: nowhere"),
}


@pytest.mark.parametrize("place", MISTAKES)
def test_mistake_is_refused_and_nothing_is_written(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[place]
    refusal = call(train, *TINY_FLAGS, "--workdir=run", *arguments).refusal
    assert re.search(expected, refusal), refusal
    assert contents(tmp_path) == {}


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    """By a dry run as well, which opens no data."""
    known = dict(backbone="resnet10", stem="cifar", head="simclr", augment="moco_v1", schedule="step", method="simclr")
    known |= dict(
        strategy="mirrored", bn_mode="split", optimizer="lars", precision="mixed_bfloat16", knn_features="backbone"
    )
    for name, one_of_them in known.items():
        refusal = call(train, *TINY_FLAGS, "--dry_run", "--train_examples=1437", f"--{name}=no_{name}").refusal
        assert re.search(rf" must be .*\b{one_of_them}\b.*Received: .*'no_{name}'", refusal), refusal


def test_dry_run_plans_for_devices_that_are_elsewhere_and_needs_the_number_of_images():
    assert "train_examples=None for digits" in call(train, *TINY_FLAGS, "--dry_run").refusal
    for strategy in ("mirrored", "multiworker", "tpu"):
        planned = ["--dry_run", "--train_examples=1437", f"--strategy={strategy}", "--replicas=8"]
        outcome = call(train, *TINY_FLAGS, *planned)
        assert outcome.status == 0
        assert outcome.notes("images on 8 replica(s)") and outcome.notes("BatchNorm: shuffle, a group per replica")


def test_folder_of_another_run_stays_as_it_is(tmp_path):
    RunDirectory(tmp_path).claim(tiny_config(tmp_path, queue_size=256))
    before = contents(tmp_path)
    assert "queue_size: 256 -> 500" in call(train, *TINY_FLAGS, f"--workdir={tmp_path}").refusal
    assert contents(tmp_path) == before


def test_damaged_results_are_refused_and_kept(tmp_path):
    RunDirectory(tmp_path).claim(tiny_config(tmp_path))
    (tmp_path / "results.json").write_text('{"replicas": ')
    assert f"{tmp_path / 'results.json'}" in call(train, *TINY_FLAGS, f"--workdir={tmp_path}").refusal
    assert (tmp_path / "results.json").read_text() == '{"replicas": '


def call_with(monkeypatch, work):
    monkeypatch.setattr(pretrain, "pretrain", work)
    return call(train, *TINY_FLAGS, "--symmetric")


def raising(error):
    def work(_):
        raise error

    return work


def test_training_gets_the_settings_of_the_flags(monkeypatch):
    received = []
    outcome = call_with(monkeypatch, received.append)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, "", "")
    assert received == [tiny_config(Config().workdir, symmetric=True)]


# Keras and TensorFlow raise these for what we do wrong.
@pytest.mark.parametrize("error", [ValueError, TypeError, ImportError])
def test_bug_shows_its_traceback_and_asks_for_a_report(error, monkeypatch):
    outcome = call_with(monkeypatch, raising(error("operands could not be broadcast")))
    assert outcome.status == 1 and "Traceback (most recent call last)" in outcome.stderr
    assert f"{error.__name__}: operands could not be broadcast\nerror: " in outcome.stderr
    assert "Please report it" in outcome.stderr


@pytest.mark.parametrize(
    "command, work", [(convert, "summary"), (check, "work"), (preview, "work"), (import_idx, "import_idx")]
)
def test_other_commands_end_alike(command, work, monkeypatch, capsys):
    arguments = {convert: ["show", "x"], check: ["x"], import_idx: ["x", "--name=x", "--data_dir=x"]}.get(command)
    arguments = arguments or ["--source=x", "--recipe=moco_v1", "--out=x.png"]
    monkeypatch.setattr(command, work, lambda *_: 1 / 0)
    assert command.main(arguments) == 1
    assert "ZeroDivisionError: division by zero\nerror: " in capsys.readouterr().err
    monkeypatch.setattr(command, work, lambda *_: raising(UserError("a mistake"))(_))
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.endswith(": a mistake\n")
    monkeypatch.setattr(command, work, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert command.main(arguments) == 75
    assert capsys.readouterr().err.startswith("stopped by SIGTERM. ")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("runs/a", "runs/a"),
        ("a\n  - error: b\x1b[2J", r"a\n  - error: b\x1b[2J"),
        (b"caf\xe9", r"caf\udce9"),
        (Path("Zoë"), "Zoë"),
        (7, "7"),
    ],
)
def test_error_of_the_operating_system_is_one_sentence_whatever_the_name(name, shown, monkeypatch):
    assert call_with(monkeypatch, raising(PermissionError(13, "Permission denied", name))).refusal == (
        "The operating system must let files be read and written. "
        f"Received: {shown}: Permission denied. Correct that, and run the same command again."
    )


def test_error_of_the_operating_system_without_a_file_is_one_line(monkeypatch):
    assert "Received: No space left. " in call_with(monkeypatch, raising(OSError(28, "No space left"))).refusal
    assert call_with(monkeypatch, raising(OSError("a\n  name"))).refusal == "a\\n  name"


def test_interrupted_command_exits_with_130_and_a_stopped_run_with_75(monkeypatch):
    interrupted = call_with(monkeypatch, raising(KeyboardInterrupt()))
    assert interrupted.status == 130 and interrupted.sentence.startswith("error: interrupted.")
    stopped = call_with(monkeypatch, raising(Stopped("stopped by SIGTERM, which is saved.")))
    assert (stopped.status, stopped.stdout) == (75, "")
    assert stopped.sentence.startswith("stopped by SIGTERM, which is saved. ")


@pytest.mark.parametrize("number", ENDING)
def test_signal_outside_of_training_ends_the_command_in_one_sentence(number, monkeypatch):
    before = signal.signal(number, signal.SIG_DFL)  # under `nohup` it would be ignored
    outcome = call_with(monkeypatch, lambda _: signal.raise_signal(number))
    assert outcome.status == 75 and outcome.sentence.startswith(f"stopped by {number.name}. Run the same command ")
    assert signal.signal(number, before) is signal.SIG_DFL


def test_lost_worker_ends_the_process_with_75(monkeypatch):
    class Ended(Exception):
        pass

    monkeypatch.setattr(exit_status.os, "_exit", lambda status: raising(Ended(status))(None))
    with pytest.raises(Ended, match="75"):
        call_with(monkeypatch, raising(WorkerLost("All workers must run.")))


# evaluate.py


@pytest.mark.parametrize("arguments, received", [([], "none"), (["fly"], "fly"), (["knn", "linear"], "knn linear")])
def test_evaluation_has_one_mode(arguments, received):
    refusal = call(evaluate, *arguments).refusal  # which names the mode first, not the run that is missing
    assert f"one mode of {', '.join(EVALUATIONS)}. Received: {received}. " in refusal
    assert "Received: logstic. Did you mean logistic? " in call(evaluate, "logstic").refusal


def test_evaluation_is_of_a_run(tmp_path):
    assert "workdir=None, model=None" in call(evaluate, "knn").refusal
    for mode in EVALUATIONS:
        assert f"Received: {tmp_path}, without flags.cfg" in call(evaluate, mode, f"--workdir={tmp_path}").refusal
    assert "Received: nowhere, without flags.cfg" in call(evaluate, "knn", "--workdir=nowhere").refusal
    assert contents(tmp_path) == {} and not Path("nowhere").exists()


# As a process


def shell(script, *arguments, cwd, **environment):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def refused(done, expected):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr
    assert len(lines) == 1 and expected in lines[0] and done.stdout == ""
    assert done.stderr.rstrip().endswith(lines[0])  # nothing hides it
    return True


def test_mistake_in_the_shell_ends_in_one_sentence(tmp_path):
    assert refused(shell("train.py", "--dataset=digts", cwd=tmp_path), "name='digts'")
    assert refused(shell("train.py", cwd=tmp_path, TF_USE_LEGACY_KERAS="1"), "TF_USE_LEGACY_KERAS=1")
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_dry_run_in_the_shell_writes_nothing(tmp_path):
    done = shell("train.py", f"--flagfile={ROOT / 'configs' / 'quickstart.cfg'}", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in ("steps: 11 per epoch", "learning rate: 0.03 (", "queue: 512 keys of 128, 0.25 MiB", "parameters: "):
        assert f"\n{line}" in done.stdout
    assert contents(tmp_path) == {}


# What a command answers before anything heavy is imported, which takes seconds.
KERAS_MOCO = ["keras_moco_command.py"]  # as pip's script calls it
AT_ONCE = {
    "help": (["train.py"], ["--help"]),
    "help of the evaluation": (["evaluate.py"], ["--help"]),
    "unknown flag": (["train.py"], ["--quesize=3"]),
    "no number": (["evaluate.py"], ["knn", "--knn_k=many"]),
    "number out of range": (["train.py"], ["--temperature=0"]),
    "no choice": (["train.py"], ["--head=mpl", "--dry_run"]),
    "commands": (KERAS_MOCO, ["--help"]),
    "recipes": (KERAS_MOCO, ["recipes"]),
    "help of a command": (KERAS_MOCO, ["convert", "--help"]),
    "commands by -m": (["-m", "keras_moco"], []),
    "unknown recipe of views": (["-m", "keras_moco"], ["preview", "--source=x", "--recipe=x", "--out=x.png"]),
    "unknown mode": (["-m", "keras_moco"], ["evaluate", "fly"]),
}
ANSWERED = ("--help", "recipes")  # without a mistake


@pytest.mark.parametrize("command", AT_ONCE)
def test_nothing_heavy_is_imported_for_an_answer_at_once(command, tmp_path):
    program, arguments = AT_ONCE[command]
    # At the end of the process it says what has been imported; `python -m` must be the real one.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "heavy = {'tensorflow', 'keras', 'keras_cv', 'matplotlib', 'numpy'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & sys.modules.keys())))\n"
    )
    if program == KERAS_MOCO:
        program = ["-c", "import sys; from keras_moco_command import main; sys.exit(main())"]
    elif program[0] != "-m":
        program = [str(ROOT / program[0])]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    if not arguments or {*arguments} & {*ANSWERED}:
        assert done.returncode == 0 and done.stderr == ""
    else:
        assert done.returncode == 2 and re.match(r"(error|preview): .* Received: ", done.stderr)


def flags_in(text):
    return re.findall(r"^  --(?:\[no\])?(\w+):", text, re.M)


def test_help_has_every_flag_in_one_group():
    for name, more in {"pretrain": ["recipe", "flagfile"], "evaluate": ["flagfile"]}.items():
        command = COMMANDS[name]
        assert flags_in(command.help()) == [*more, *(field.name for field in dataclasses.fields(command.kind))]
    shown = flags_in(COMMANDS["export"].help())
    assert {"workdir", "model", "output"} < {*shown} and not {"knn_k", "rates", "fractions"} & {*shown}


def test_help_may_be_read_in_part():
    for program in (
        ["train.py"],
        ["-m", "keras_moco"],
        ["-m", "keras_moco", "preview"],
        ["-m", "keras_moco", "recipes"],
    ):
        reader, writer = os.pipe()
        os.close(reader)
        arguments = ["--help"] * (program[-1] != "recipes")
        with open(writer, "w") as pipe:
            done = subprocess.run([sys.executable, *program, *arguments], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, b"")


OPEN = "import keras, keras_moco; model = keras.saving.load_model({!r}); print(type(model) is keras_moco.MoCo)"


@pytest.mark.slow
def test_a_saved_model_opens_after_a_plain_import(tmp_path):
    """Also in a package that is started with -m, which is how `python -m keras_moco` is started."""
    program = OPEN.format(str(ROOT / "tests" / "runs" / "stored" / "moco.keras"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import keras_moco\n", encoding="utf-8")
    (tmp_path / "mine" / "program.py").write_text(program, encoding="utf-8")
    for arguments in (["-c", program], ["-m", "mine.program"]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
def test_a_script_that_is_imported_leaves_the_package_whole():
    """As a module, such as in a notebook, train.py does not put off what `import keras_moco` does."""
    program = "import train, evaluate, keras_moco; print(keras_moco.MoCo.__name__, keras_moco.__version__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"MoCo {keras_moco.__version__}\n", done.stderr
