"""Every setting is a field, a flag and a line of a flagfile, and is refused outside of its range."""

import dataclasses
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import keras_moco
from keras_moco.checks.ranges import RANGES, broken_rule
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.settings import choices_of, define_flags, from_flags
from keras_moco.config.training import changeable, read_flagfile
from tests.data.written import time_limit

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def kind_of(field):
    """The type of a field's value where there is one."""
    return getattr(field.type, "__args__", (field.type,))[0]


def is_number(field):
    return kind_of(field) in (int, float)


def other_value(field):
    """Another valid value than the default, with digits or characters that a flagfile could spoil."""
    if field.name == "allow_config_change":
        return ("epochs", "temperature")
    if isinstance(field.default, tuple):
        return (1 / 3, 0.1 + 0.2, 1e-7)
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    if kind_of(field) is bool:
        return not field.default
    if kind_of(field) is int:
        return (field.default or 0) + 2**31
    if kind_of(field) is float:
        return (field.default or 0.5) / 3  # inside of each range of which the default is
    return f"my {field.name}, a=b #1"


OTHER = {name: other_value(field) for name, field in FIELDS.items()}
KEPT = [name for name, field in FIELDS.items() if field.metadata["kept"]]


def parse(*arguments):
    values = flags.FlagValues()
    define_flags(Config, values)
    values(["train.py", *arguments])
    return values


def with_flags(*arguments):
    return from_flags(Config, parse(*arguments))


# Flags


def test_flags_are_the_fields_with_default_and_help():
    values = parse()
    assert set(values) == set(FIELDS)
    assert from_flags(Config, values) == Config()
    for name, field in FIELDS.items():
        assert values[name].help == field.metadata["help"], name
        assert len(values[name].help) > 10 and values[name].help.endswith((".", ".)")), name


def test_flags_may_be_switches_and_lists_and_are_checked():
    assert with_flags("--symmetric").symmetric
    assert not with_flags("--symmetric", "--nosymmetric").symmetric
    with pytest.raises(ValueError, match=r"`image_std` .*'0\.2,red,0\.2'.* --image_std=0\.229,0\.224,0\.225"):
        with_flags("--image_std=0.2,red,0.2")
    with pytest.raises(ValueError, match="`temperature` must be positive. Received: temperature=-1.0"):
        with_flags("--temperature=-1")


# Flagfiles


def test_flagfile_keeps_each_setting_alone_and_together(tmp_path):
    def round_trip(config):
        path = tmp_path / "flags.cfg"
        path.write_text(config.to_flagfile())
        return read_flagfile(path)

    for name in KEPT:
        config = Config(**{name: OTHER[name]})
        read = round_trip(config)
        assert read == config and type(getattr(read, name)) is type(OTHER[name]), name
    # What is asked for once, as a dry run, is not in it.
    assert round_trip(Config(**OTHER)) == Config(**{name: OTHER[name] for name in KEPT})
    assert round_trip(Config()) == Config() and not {"dry_run", "allow_config_change"} & set(KEPT)


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
    read = (
        "import sys, types; package = sys.modules['keras_moco'] = types.ModuleType('keras_moco'); "
        f"package.__path__ = {keras_moco.__path__!r}; "  # without what it imports, which takes seconds
        "from keras_moco.config import read_flagfile; print(ascii(read_flagfile('flags.cfg').dataset))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, env=plain, capture_output=True, text=True)
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


# Differences between two starts of one run


def test_run_may_resume_elsewhere_and_with_other_reports():
    # Where it runs, what it prints and how often it saves do not change the weights.
    moved = dict(workdir="b", data_dir="b", strategy="mirrored", replicas=2, augment_on="device", max_minutes=5.0)
    reports = dict(log_steps=1, knn_k=20, knn_every_epochs=3, checkpoint_epochs=2, keep_checkpoints=5, on_nan="skip")
    assert Config(**moved, **reports).differences(Config()) == {}


def test_run_may_not_resume_with_what_decides_the_weights():
    decisive = dict(dataset="b", method="simclr", backbone="resnet18", embedding_dim=64, queue_size=9, seed=1)
    rates = dict(temperature=0.2, key_momentum=0.9, batch_size=9, epochs=9, base_learning_rate=0.1, schedule="cosine")
    others = dict(
        augment="moco_v2", image_size=9, bn_mode="sync", precision="mixed_float16", symmetric=True, init_from="b"
    )
    settings = {**decisive, **rates, **others}
    assert Config(**settings).differences(Config()).keys() == settings.keys()


def test_what_is_not_given_and_follows_from_the_data_differs_from_nothing():
    assert Config().differences(Config(queue_size=512)) == {}  # before the data are opened
    assert Config(queue_size=256).differences(Config(queue_size=512)) == {"queue_size": "512 -> 256"}
    assert Config(queue_size=65536, knn_k=200).changed() == []  # as earlier flagfiles have it
    assert Config(queue_size=65535).changed() == ["queue_size"]


def test_what_may_be_allowed_to_change_keeps_the_shape_of_what_is_saved():
    allowed = set(changeable())
    assert allowed >= {"epochs", "temperature", "base_learning_rate", "weight_decay", "schedule", "augment"}
    shapes = "method backbone backbone_width stem head embedding_dim queue_size num_negatives separate_encoders"
    assert not allowed & {*shapes.split(), "optimizer", "precision", "batch_size", "image_size", "seed"}
    assert not [name for name in allowed if FIELDS[name].metadata["resumable"]]  # those may change without


def test_other_changes_cannot_be_allowed():
    for names, received in (("epochs,backbone,knn_k", "backbone, knn_k"), ("epochs temperature", "epochs temperature")):
        with pytest.raises(ValueError, match=rf"`allow_config_change` .*: dataset, .*Received: {received}\. "):
            with_flags(f"--allow_config_change={names}")


# Ranges and choices


@pytest.mark.parametrize(
    "words, inside, outside",
    [
        ("at least 1", [1, 2**31], [0, -1]),
        ("at least 0", [0, 0.0, 3], [-1]),
        ("positive", [1e-300, 5.0], [0, -0.1]),
        ("in [0, 1]", [0.0, 1.0], [-0.001, 1.001]),
        ("in [0, 1)", [0.0, 0.999], [-0.001, 1.0]),
        ("in (0, 1]", [0.001, 1.0], [0.0, 1.001]),
        ("in (0, 100]", [0.001, 100.0], [0.0, 100.001]),
        ("in [0, 2**32)", [0, 2**32 - 1], [-1, 2**32]),
    ],
)
def test_range_includes_and_excludes_its_edges(words, inside, outside):
    assert [broken_rule(value, words) for value in inside] == [None] * len(inside)
    assert [broken_rule(value, words) for value in outside] == [words] * len(outside)


def test_only_finite_numbers_are_in_a_range():
    for words in RANGES:
        for value in (math.nan, math.inf, -math.inf, np.float32("nan")):
            assert broken_rule(value, words) == "a finite number"
        for value in ("1", None, True, [1]):
            assert broken_rule(value, words) == "a number"
    assert broken_rule(10**400, "positive") is None  # more than a float can hold
    assert broken_rule(np.int64(3), "at least 1", whole=True) is None
    assert broken_rule(3.0, "at least 1", whole=True) == "a whole number"


def test_seed_is_one_that_numpy_takes():
    np.random.RandomState(2**32 - 1)
    with pytest.raises(ValueError, match="Seed must be between"):
        np.random.RandomState(2**32)


KINDS = {Config: {}, EvaluationConfig: {"workdir": "x"}}  # with what has to be given
ALL = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]
# Any text will do, or what is right is known only when the data or the model is opened.
FREE = {
    *("dataset", "data_dir", "workdir", "init_from", "allow_config_change"),
    *("checkpoint", "model", "output", "data_licence", "queries"),
}


def refusal(kind, name, value):
    with pytest.raises(ValueError) as caught:
        kind(**{**KINDS[kind], name: value})
    message = str(caught.value)
    assert message.startswith(f"`{name}` must be ") and message.endswith(f". Correct the flag --{name}."), message
    return message


def test_every_number_has_a_range_and_every_word_its_choices():
    for _, field in ALL:
        if is_number(field):
            assert field.metadata["range"] in RANGES or field.metadata["choices"], field.name
        elif kind_of(field) is str:
            assert bool(field.metadata["choices"]) != (field.name in FREE), field.name
    assert FREE <= {field.name for _, field in ALL}


def test_no_number_may_be_negative_or_not_finite():
    numbers = [(kind, field) for kind, field in ALL if is_number(field)]
    assert len(numbers) > 40
    for kind, field in numbers:
        for bad in [-1, *([math.nan, math.inf, -math.inf] if kind_of(field) is float else [1.5, True])]:
            value, text = (
                ((*field.default[:1], bad), ",".join(map(str, (*field.default[:1], bad))))
                if isinstance(field.default, tuple)
                else (bad, bad)
            )
            assert f"Received: {field.name}={text}. " in refusal(kind, field.name, value)


def test_every_value_must_be_of_its_kind():
    for kind, field in ALL:
        if isinstance(field.default, tuple):
            wrong = [1, "a,b", *([()] if field.default else [])]
        else:
            wrong = {bool: [1, "yes"], str: [1, ["a"]], int: ["1", 1.5], float: ["1", [0.5]]}[kind_of(field)]
            wrong += [] if None in getattr(field.type, "__args__", [None])[1:] or field.default is None else [None]
        for value in wrong:
            refusal(kind, field.name, value)


def test_text_that_a_line_of_a_flagfile_cannot_hold_is_refused():
    texts = [(kind, field) for kind, field in ALL if kind_of(field) is str and not field.metadata["choices"]]
    assert {field.name for _, field in texts} == FREE
    for kind, field in texts:
        for bad in ("a\n--epochs=3", "a\r", "a\x1b]0;b", "runs/a ", "a\u3000", "a\u2028b", "a\udcff", Path("a\nb")):
            value = (str(bad),) if isinstance(field.default, tuple) else bad
            message = refusal(kind, field.name, value)
            assert message.isprintable() and "text of one line" in message, message
    assert Config(workdir=" Zoë's\u3000runs/1").workdir == " Zoë's\u3000runs/1"


def test_what_is_right_is_kept_as_plain_python():
    config = Config(
        workdir=Path("runs/a"), epochs=np.int64(3), temperature=np.float32(0.5), image_mean=[0, np.float64(1)]
    )
    kept = (config.workdir, config.epochs, config.temperature, config.image_mean)
    assert kept == ("runs/a", 3, 0.5, (0.0, 1.0))
    assert [type(value) for value in (*kept[:3], *kept[3])] == [str, int, float, float, float]


CHOOSING = [(kind, field) for kind, field in ALL if field.metadata["choices"]]


@pytest.mark.parametrize("kind, field", CHOOSING, ids=[f"{kind.__name__}.{field.name}" for kind, field in CHOOSING])
def test_choices_are_those_there_are_and_the_help_lists_them(kind, field, monkeypatch):
    choices = field.metadata["choices"]
    for choice in choices:
        assert getattr(kind(**{**KINDS[kind], field.name: choice}), field.name) == choice
        assert re.search(rf"\b{choice}\b", field.metadata["help"]), choice
    message = refusal(kind, field.name, 2 if kind_of(field) is int else "maybe")
    assert all(re.search(rf"\b{choice}\b", message.partition(" Received")[0]) for choice in choices)
    if field.metadata["table"]:
        module, _, name = field.metadata["table"].partition(":")
        table = getattr(importlib.import_module(module), name)
        assert set(choices) - {"auto"} == set(table) - {"auto", "tiny"}  # "tiny" is of tests/tiny.py
        if isinstance(table, dict):  # what somebody adds may be chosen
            monkeypatch.setitem(table, "maybe", None)
            assert getattr(kind(**{**KINDS[kind], field.name: "maybe"}), field.name) == "maybe"
            assert choices_of(field)[-1] == "maybe"


def test_edges_of_ranges():
    """For a few settings, what is the last value that makes sense, and what makes none."""
    edges = dict(
        **dict(temperature=(1e-9, 0.0), base_learning_rate=(1e-300, 0.0), weight_decay=(0.0, -1e-9), seed=(0, -1)),
        **dict(key_momentum=(1.0, 1.001), bank_momentum=(0.0, -0.001), optimizer_momentum=(0.999, 1.0)),
        **dict(max_bad_fraction=(0.0, 1.0), crop_min_area=(1.0, 0.0), checkpoint_share=(1.0, 0.0)),
        **dict(queue_size=(1, 0), epochs=(1, 0), keep_checkpoints=(1, 0), steps_per_execution=(1, 0)),
        **dict(image_mean=((0.0, 1.0), (1.01,)), image_std=((1.0,), (0.0,)), channels=(1, 2)),
        **dict(
            warmup_epochs=(0, -1), knn_every_epochs=(0, -1), checkpoint_minutes=(0.0, -0.1), max_minutes=(0.0, -1.0)
        ),
    )
    for name, (good, bad) in edges.items():
        assert getattr(Config(**{name: good}), name) == good
        refusal(Config, name, bad)


# What follows


def test_learning_rate_scales_with_the_batch_and_changes_are_listed():
    for batch_size, rate in ((256, 0.03), (512, 0.06), (128, 0.015)):
        assert Config(batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)
    assert Config().changed() == []
    assert Config(queue_size=512, epochs=200, method="simclr").changed() == ["method", "queue_size"]
