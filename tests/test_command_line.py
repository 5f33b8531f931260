"""A mistake on the command line ends in one sentence that says what was received and what to do, and in no damage."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import absl.flags
import absl.logging
import numpy as np
import pytest
from PIL import Image

import evaluate
import train
from keras_moco import command_line, evaluating, training
from keras_moco.callbacks import NotFiniteError, Stopped
from keras_moco.config import Config
from keras_moco.distribution import WorkerLost
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
KINDS = {train: Config, evaluate: EvaluationConfig}
# What fits the digits and is built quickly.
DIGITS = ["--dataset=digits", "--queue_size=512", "--batch_size=128", "--image_size=16", "--stem=cifar"]
DIGITS += ["--backbone=resnet10", "--backbone_width=4", "--strategy=one"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs train.py or evaluate.py in this process: function of module and arguments to (status, stdout, stderr)."""

    def call(module, *arguments):
        values = absl.flags.FlagValues()
        with monkeypatch.context() as patch:
            patch.setattr(absl.flags, "FLAGS", values)
            patch.setattr(absl.logging, "set_verbosity", lambda _: None)
            argv = [module.__file__, *map(str, arguments)]
            # What `absl.app.run` comes down to, which can be had only once in a process.
            patch.setattr(command_line.app, "run", lambda main, flags_parser: main(flags_parser(argv)))
            status = 0
            try:
                command_line.run(module.main, KINDS[module])
            except SystemExit as exit:
                status = exit.code
        return status, *capsys.readouterr()

    return call


def refusal(outcome):
    """The sentence on stderr of a call that was refused."""
    status, _, stderr = outcome
    assert status == 2
    assert "Traceback" not in stderr
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    # One who reads it knows what was received, and what to do.
    assert re.search(r" Received: .+[.?] .+[.?]$", line), line
    return line.removeprefix("error: ")


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def images(tmp_path):
    """Twenty grey images in two class folders."""
    rng = np.random.default_rng(0)
    for n in range(20):
        folder = tmp_path / "images" / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype="uint8")).save(folder / f"{n}.png")
    return tmp_path / "images"


# train.py


MISTAKES = {
    "unknown data set": (["--dataset=digts"], "`name` of a data source must be one of digits, .*Did you mean"),
    "missing folder": (["--dataset=folder:nowhere"], "must be an existing folder. Received: 'folder:nowhere'"),
    "wrong channels": (["--channels=3"], "Received: channels=3, digits with 1. Correct or omit --channels."),
    "queue beyond the data": (["--queue_size=1438"], "queue_size=1438, 1437 images in digits. Lower --queue_size."),
    "queue below the batch": (["--queue_size=127"], "queue_size=127, keys per step=128. Raise --queue_size or lower"),
    "batch beyond the data": (["--batch_size=2048"], "batch_size=2048, 1437 images in digits. Lower --batch_size."),
    "batch and splits": (["--bn_splits=7"], "batch_size=128, 1 replica.s., 7 group.s.. Change --batch_size"),
    "more voters than images": (["--knn_k=1438"], "knn_k=1438, 1437 images in digits. Lower --knn_k."),
    "number out of range": (["--temperature=0"], "`temperature` must be positive. Received: temperature=0.0. Correct"),
    "no list of numbers": (["--image_mean=red"], "Received: 'red'. Write for example --image_mean=0.485,0.456,0.406."),
    "two means for one channel": (["--image_mean=0.3,0.3"], "`mean` must be one number or one per channel."),
    "unknown backbone": (["--backbone=resnet51"], "one of resnet10, .*Received: 'resnet51'. Choose one of them."),
    "unknown stem": (["--stem=leaf"], "one of .*cifar.*Received: 'leaf'. Choose one of them."),
    "unknown head": (["--head=hydra"], "`head` must be one of linear, mlp, simclr. Received: 'hydra'. Choose one"),
    "unknown recipe": (["--augment=moco_v9"], "one of .*moco_v1.*Received: .*'moco_v9'"),
    "unknown schedule": (["--schedule=sine"], "`schedule` must be one of constant, step, cosine. Received: 'sine'."),
    "unknown strategy": (
        ["--strategy=two"],
        "`strategy` must be one of auto, one, mirrored, .*Received: 'two'. Choose",
    ),
    "more replicas than devices": (
        ["--strategy=mirrored", "--replicas=5"],
        "`replicas` must be the number of devices .*Received: replicas=5, 4 device.s.. Correct or omit --replicas.",
    ),
    "replicas and batch": (
        ["--strategy=mirrored", "--replicas=3"],
        "Received: batch_size=128, 3 replica.s., 1 group.s.. Change --batch_size, --replicas or --bn_splits.",
    ),
    "no workers": (["--strategy=multiworker"], "`TF_CONFIG` must be set.* Received: none. Set it on every worker"),
    "no TPU": (["--strategy=tpu"], "`strategy=tpu` must find a TPU. Received: TensorFlow .* Set TPU_NAME"),
    "no GPU": (
        ["--require_gpu"],
        r"`require_gpu` must find a GPU. Received: none, by TensorFlow \S+, built .*, or leave out --require_gpu",
    ),
    "shuffle alone": (
        ["--bn_mode=shuffle"],
        "`bn_mode='shuffle'` must have two replicas or more.* Use bn_mode='split'",
    ),
    "unknown BatchNorm": (
        ["--bn_mode=frozen"],
        "`bn_mode` must be one of auto, split.* Received: 'frozen'. Choose one",
    ),
    "unknown method": (["--method=byol"], "`method` must be one of moco, end_to_end, .*Received: 'byol'. Choose one"),
    "unknown optimizer": (["--optimizer=adam"], "`optimizer` must be one of sgd, lars. Received: 'adam'. Choose one"),
    "a queue for SimCLR": (
        ["--method=simclr"],
        "`queue_size` must not be given with method=simclr, .* Received: queue_size=512. Leave out --queue_size, or",
    ),
    "a bank for MoCo": (["--bank_momentum=0.4"], "`bank_momentum` must not be given with method=moco.*memory_bank"),
    "unknown precision": (["--precision=half"], "`precision` must be one of float32, .*Received: 'half'. Choose"),
    "warm-up beyond the end": (["--warmup_epochs=200"], "Received: warmup_epochs=200, epochs=200. Shorten the warm-up"),
    "nothing to begin with": (
        ["--init_from=nowhere"],
        "`init_from` must exist. Received: nowhere. Correct --init_from.",
    ),
    "a change that cannot be allowed": (
        ["--allow_config_change=queue_size"],
        "`allow_config_change` must name settings that can change: dataset, .* Received: queue_size. Begin a new run",
    ),
    "unknown way with NaN": (["--on_nan=maybe"], "`on_nan` must be stop or skip. Received: on_nan='maybe'. Correct"),
    "no checkpoint kept": (
        ["--keep_checkpoints=0"],
        "`keep_checkpoints` must be at least 1. Received: keep_checkpoints=0. Correct the flag --keep_checkpoints.",
    ),
    "no time for checkpoints": (
        ["--checkpoint_share=0"],
        r"`checkpoint_share` must be in \(0, 1\]. Received: checkpoint_share=0.0. Correct the flag --checkpoint_share.",
    ),
    "unknown flag": (["--quesize=3"], "Unknown command line flag 'quesize'. See --help for all of them."),
    "misspelt flag": (["--queu_size=3"], "flag 'queu_size'. Did you mean: queue_size"),
    "no number": (["--epochs=many"], "flag --epochs=many: .*See --help for all of them."),
    "missing flagfile": (["--flagfile=nowhere.cfg"], "nowhere.cfg'. See --help for all of them."),
    "no flag": (["epochs=3"], "train.py must be given flags only. Received: epochs=3. Write --name=value."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_nothing_is_written(mistake, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[mistake]
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path / 'run'}", *arguments))
    assert re.search(expected, line), line
    assert contents(tmp_path) == {}


# What a dry run can know without data, it tells as well.
@pytest.mark.parametrize(
    "mistake", [name for name in MISTAKES if name.startswith("unknown ") and "data set" not in name]
)
def test_a_dry_run_tells_the_same_mistakes(mistake, call, tmp_path):
    arguments, expected = MISTAKES[mistake]
    workdir = f"--workdir={tmp_path / 'run'}"
    line = refusal(call(train, *DIGITS, workdir, "--dry_run", "--train_examples=1437", *arguments))
    assert re.search(expected, line), line
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["{", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'], ids=["JSON", "index"]
)
def test_a_malformed_cluster_is_told_before_anybody_waits(text, call, monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", text)
    line = refusal(call(train, *DIGITS, "--strategy=multiworker", f"--workdir={tmp_path / 'run'}"))
    assert line.startswith("`TF_CONFIG` must ") and f" Received: {text}" in line
    assert contents(tmp_path) == {}


def test_a_dry_run_plans_for_devices_that_are_elsewhere(call, monkeypatch, capsys):
    for strategy in ("mirrored", "multiworker", "tpu"):
        status, out, _ = call(
            train, *DIGITS, "--dry_run", "--train_examples=1437", f"--strategy={strategy}", "--replicas=8"
        )
        assert status == 0
        assert "images on 8 replica(s)" in out and "BatchNorm: shuffle, a group per replica" in out


def test_a_lost_worker_is_told_and_ends_the_process(call, monkeypatch):
    class Ended(Exception):
        pass

    def end(status):
        raise Ended(status)

    def lost(_):
        raise WorkerLost("All workers must run. Received: a broken connection. Start again.")

    monkeypatch.setattr(training, "pretrain", lost)
    monkeypatch.setattr(command_line.os, "_exit", end)
    with pytest.raises(Ended, match="75"):
        call(train, *DIGITS)


def test_a_dry_run_needs_the_number_of_images(call):
    line = refusal(call(train, *DIGITS, "--dry_run"))
    assert line.endswith("Received: train_examples=None for digits. Add --train_examples=N.")


def test_an_empty_folder_is_told(call, tmp_path):
    (tmp_path / "images").mkdir()
    arguments = [f"--dataset=folder:{tmp_path / 'images'}", f"--workdir={tmp_path / 'run'}"]
    line = refusal(call(train, *DIGITS, *arguments))
    assert f"Received: {tmp_path / 'images'}, with none. Add some." in line
    assert not (tmp_path / "run").exists()


def test_images_of_other_channels_are_told(call, images, tmp_path):
    before = contents(tmp_path)
    arguments = [f"--dataset=folder:{images}", f"--workdir={tmp_path / 'run'}", "--batch_size=8", "--queue_size=16"]
    line = refusal(call(train, *DIGITS, *arguments, "--channels=3"))
    assert f"Received: channels=3, folder:{images} with 1. Correct or omit --channels." in line
    assert contents(tmp_path) == before


def test_fewer_images_than_a_batch_are_told(call, images, tmp_path):
    line = refusal(call(train, *DIGITS, f"--dataset=folder:{images}", f"--workdir={tmp_path / 'run'}"))
    assert f"batch_size=128, 20 images in folder:{images}. Lower --batch_size." in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_in_mid_training_is_named(call, images, tmp_path):
    damaged = images / "b" / "13.png"
    damaged.write_bytes(b"no image")
    arguments = [f"--dataset=folder:{images}", f"--workdir={tmp_path / 'run'}", "--batch_size=10", "--queue_size=16"]
    line = refusal(call(train, *DIGITS, *arguments, "--bn_splits=1", "--epochs=1"))
    assert line.endswith(
        f"At most 1 % of the images may be unreadable. Received: 1 of 20 so far, among them {damaged} (no JPEG, PNG, "
        "BMP or GIF). Repair or delete them, or raise --max_bad_fraction."
    )
    line = refusal(call(train, *DIGITS, *arguments, "--bn_splits=1", "--epochs=1", "--strict_data"))
    assert line.endswith("Repair or delete it, or go without --strict_data, which leaves it out.")


def test_a_damaged_image_that_may_be_is_left_out_and_counted(call, images, tmp_path):
    (images / "b" / "13.png").write_bytes(b"no image")
    arguments = [f"--dataset=folder:{images}", f"--workdir={tmp_path / 'run'}", "--batch_size=10", "--queue_size=16"]
    status, printed, _ = call(train, *DIGITS, *arguments, "--bn_splits=1", "--epochs=1", "--max_bad_fraction=0.1")
    assert status == 0 and "note: 1 of 20 images could not be read and were left out: " in printed
    assert json.loads((tmp_path / "run" / "results.json").read_text())["bad_images"] == 1


def test_a_folder_of_another_run_stays_as_it_is(call, tmp_path):
    RunDirectory(tmp_path).claim(Config(dataset="digits", queue_size=256, batch_size=128))
    before = contents(tmp_path)
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path}"))
    assert "another configuration" in line and "queue_size: 256 -> 512" in line
    assert line.endswith("Choose another --workdir, or the old values.")
    assert contents(tmp_path) == before


def test_what_would_have_to_be_allowed_is_offered(call, tmp_path):
    settings = dict(queue_size=512, batch_size=128, image_size=16, stem="cifar", backbone="resnet10", backbone_width=4)
    RunDirectory(tmp_path).claim(Config(dataset="digits", **settings))
    before = contents(tmp_path)
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path}", "--epochs=300", "--temperature=0.2"))
    assert line.endswith("or the old values, or --allow_config_change=temperature,epochs.")
    assert contents(tmp_path) == before


def test_damaged_figures_of_a_run_are_told(call, tmp_path):
    settings = dict(queue_size=512, batch_size=128, image_size=16, stem="cifar", backbone="resnet10", backbone_width=4)
    RunDirectory(tmp_path).claim(Config(dataset="digits", **settings))
    (tmp_path / "results.json").write_text('{"replicas": ')
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path}"))
    assert line.startswith(f"`results.json` must be as it was written. Received: {tmp_path / 'results.json'}, which ")
    assert (tmp_path / "results.json").read_text() == '{"replicas": '


def test_a_folder_of_other_things_stays_as_it_is(call, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path}"))
    assert line.endswith(f"Received: {tmp_path}, which holds other things. Choose another --workdir.")
    assert contents(tmp_path) == before


def test_a_broken_flagfile_of_a_run_is_told(call, tmp_path):
    (tmp_path / "flags.cfg").write_text("--quesize=3\n")
    line = refusal(call(train, *DIGITS, f"--workdir={tmp_path}"))
    assert f"Received: {tmp_path / 'flags.cfg'} with Unknown command line flag 'quesize'" in line


def test_a_bug_is_not_taken_for_a_mistake_of_the_user(call, monkeypatch):
    def broken(_):
        raise TypeError("a bug")

    monkeypatch.setattr(training, "pretrain", broken)
    with pytest.raises(TypeError, match="a bug"):
        call(train, *DIGITS)


def test_an_interruption_says_how_to_go_on(call, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "pretrain", interrupted)
    status, _, stderr = call(train, *DIGITS)
    assert status == 130  # as shells say of a process that Ctrl-C ended
    assert stderr == ("error: interrupted. The same command begins again; a training goes on from its checkpoint.\n")


def test_a_run_that_has_been_stopped_says_so_and_can_be_told_from_a_failure(call, monkeypatch):
    def stopped(_):
        raise Stopped("stopped by SIGTERM behind step 7 (epoch 1, 7 of 11 steps), which is saved in run/checkpoints.")

    monkeypatch.setattr(training, "pretrain", stopped)
    status, stdout, stderr = call(train, *DIGITS)
    assert (status, stdout) == (75, "")  # EX_TEMPFAIL
    assert stderr == (
        "stopped by SIGTERM behind step 7 (epoch 1, 7 of 11 steps), which is saved in run/checkpoints. The same "
        "command goes on.\n"
    )


def test_a_training_that_has_left_the_finite_numbers_ends_in_one_sentence(call, monkeypatch):
    def broken(_):
        raise NotFiniteError("Loss and gradients must be finite. Received: NaN in step 7. Lower the learning rate.")

    monkeypatch.setattr(training, "pretrain", broken)
    line = refusal(call(train, *DIGITS))
    assert line == "Loss and gradients must be finite. Received: NaN in step 7. Lower the learning rate."


def test_the_configuration_is_that_of_the_flags(call, monkeypatch):
    received = []
    monkeypatch.setattr(training, "pretrain", received.append)
    assert call(train, *DIGITS, "--symmetric") == (0, "", "")
    (config,) = received
    assert config == Config(
        **dict(dataset="digits", queue_size=512, batch_size=128, image_size=16, stem="cifar"),
        **dict(backbone="resnet10", backbone_width=4, strategy="one", symmetric=True),
    )


# evaluate.py


MODES = "knn, linear, logistic, semi, finetune, retrieve, embed, measures, export"


@pytest.mark.parametrize("arguments, received", [([], "none"), (["fly"], "fly"), (["knn", "linear"], "knn linear")])
def test_evaluate_wants_one_mode(arguments, received, call, tmp_path):
    line = refusal(call(evaluate, *arguments, f"--workdir={tmp_path}"))
    assert line == (
        f"evaluate.py must be given one mode of {MODES}. Received: {received}. "
        "Write for example: python evaluate.py knn --workdir=runs/quickstart."
    )


def test_evaluate_wants_a_run_or_a_model(call):
    assert "Received: workdir=None, model=None. Give --workdir or --model." in refusal(call(evaluate, "knn"))


@pytest.mark.parametrize("mode", evaluating.MODES)
@pytest.mark.parametrize("name", ["", "nowhere"])
def test_evaluate_wants_the_folder_of_a_run(mode, name, call, tmp_path):
    line = refusal(call(evaluate, mode, f"--workdir={tmp_path / name}"))
    assert line.endswith(f"Received: {tmp_path / name}, without flags.cfg. Give the --workdir of a run of train.py.")
    assert contents(tmp_path) == {}


def test_lists_of_numbers_are_checked(call, tmp_path):
    line = refusal(call(evaluate, "knn", f"--workdir={tmp_path}", "--knn_k=20,many"))
    assert line.endswith(
        "must be whole numbers separated by commas. Received: '20,many'. Write for example --knn_k=200."
    )


def test_evaluate_wants_a_checkpoint(call, tmp_path):
    settings = dict(queue_size=512, batch_size=128, image_size=16, stem="cifar", backbone="resnet10", backbone_width=4)
    RunDirectory(tmp_path).claim(Config(dataset="digits", **settings))
    before = contents(tmp_path)
    line = refusal(call(evaluate, "knn", f"--workdir={tmp_path}"))
    assert line.endswith(f"Received: {tmp_path} without one. Train with train.py first.")
    assert contents(tmp_path) == before


# The same through the shell, where it costs seconds


def shell(script, *arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "script, arguments, environment, expected",
    [
        ("train.py", ["--quesize=3"], {}, "Unknown command line flag 'quesize'. See --help for all of them."),
        ("train.py", ["--dataset=digts"], {}, "Received: name='digts'. Did you mean `digits`?"),
        ("evaluate.py", ["--workdir=run"], {}, f"one mode of {MODES}. Received: none. Write for example"),
        ("train.py", [], {"TF_USE_LEGACY_KERAS": "1"}, "Received: TF_USE_LEGACY_KERAS=1. Unset it."),
    ],
    ids=["unknown flag", "unknown data set", "no mode", "legacy Keras"],
)
def test_a_mistake_in_the_shell_ends_in_one_sentence(script, arguments, environment, expected, tmp_path):
    done = shell(script, *arguments, cwd=tmp_path, **environment)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.rstrip().endswith(line)  # nothing hides it
    assert expected in line
    assert done.stdout == ""
    assert contents(tmp_path) == {}


def test_a_dry_run_in_the_shell_succeeds_and_writes_nothing(tmp_path):
    flagfile = ROOT / "configs" / "quickstart.cfg"
    done = shell("train.py", f"--flagfile={flagfile}", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in ("steps: 11 per epoch", "learning rate: 0.03 (", "queue: 512 keys of 128, 0.25 MiB", "parameters: "):
        assert f"\n{line}" in done.stdout
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("script, settings", [("train.py", Config), ("evaluate.py", EvaluationConfig)])
def test_help_lists_every_flag(script, settings, tmp_path):
    done = shell(script, "--help", cwd=tmp_path)
    flags = set(re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.M))
    assert flags == set(settings.__dataclass_fields__)


# What a command answers before anything heavy is imported, which takes seconds.
AT_ONCE = {
    "help": ("train.py", ["--help"]),
    "help of the evaluation": ("evaluate.py", ["--help"]),
    "unknown flag": ("train.py", ["--quesize=3"]),
    "no number": ("evaluate.py", ["knn", "--knn_k=many"]),
    "number out of range": ("train.py", ["--temperature=0"]),
    "no flag": ("train.py", ["epochs=3"]),
}


@pytest.mark.parametrize("command", AT_ONCE)
def test_nothing_heavy_is_imported_for_an_answer_at_once(command, tmp_path):
    script, arguments = AT_ONCE[command]
    program = (
        "import runpy, sys\n"
        f"sys.argv = {[str(ROOT / script), *arguments]!r}\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print('heavy:', sorted({'tensorflow', 'keras', 'keras_cv', 'matplotlib', 'numpy'} & sys.modules.keys()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    if "--help" not in arguments:
        assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_saved_models_can_be_read_after_a_plain_import(tmp_path):
    """Outside of commands nothing is left for later: Keras has to know the classes."""
    program = "import keras_moco, keras; print(keras.saving.get_registered_object('keras_moco>MoCo').__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "MoCo\n", done.stderr


def wait_for(text, path, process):
    end = time.monotonic() + 120
    while text not in path.read_text():
        assert process.poll() is None and time.monotonic() < end, path.read_text()
        time.sleep(0.01)


def test_ctrl_c_ends_a_training_with_75_and_one_line_and_the_same_command_goes_on(tmp_path):
    arguments = [*DIGITS, "--image_size=8", "--bn_splits=4", "--knn_k=20", "--epochs=2", "--log_steps=1"]
    arguments += ["--workdir=run", "--checkpoint_epochs=0"]
    output = tmp_path / "output"
    with open(output, "w") as stdout, open(tmp_path / "error", "w") as stderr:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=stdout, stderr=stderr)
        try:
            wait_for("epoch 1/2 step 2/11 ", output, process)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 75
        finally:
            process.kill()
    error = (tmp_path / "error").read_text()
    assert "Traceback" not in error
    assert re.fullmatch(
        r"stopped by SIGINT behind step \d+ \(epoch 1, \d+ of 11 steps\), which is saved in "
        r"run/checkpoints/step-\d{9}\. The same command goes on\.",
        error.splitlines()[-1],  # behind what TensorFlow says
    )
    [saved] = (tmp_path / "run" / "checkpoints").iterdir()
    done = shell("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"resumed from run/checkpoints/{saved.name} after 0 of 2 epochs and {int(saved.name[5:])} of " in done.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 22
