"""Every setting is a flag, is refused outside of its range, and may or may not change when a run resumes."""

import dataclasses
import math
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from keras_moco.checks.ranges import RANGES, broken_rule
from keras_moco.config import Config, EvaluationConfig
from keras_moco.config.flags import define_flags, from_flags, help_of
from keras_moco.config.settings import choices_of, kinds_of

KINDS = {Config: {}, EvaluationConfig: {"workdir": "x"}}  # with what has to be given
ALL = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]


def kind_of(field):
    return kinds_of(field)[0]


def is_number(field):
    return kind_of(field) in (int, float)


def is_text(field):
    return kind_of(field) is str and not field.metadata["choices"]


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
    assert set(values) == {field.name for field in dataclasses.fields(Config)}
    assert from_flags(Config, values) == Config()
    for _, field in ALL:
        assert re.fullmatch(r"[A-Z].{9,}\.", field.metadata["help"]), field.name
    assert values["queue_size"].help.endswith(" Used by moco.")


@pytest.mark.parametrize("kind", KINDS)
def test_help_lists_every_flag_once_in_its_group(kind):
    text = help_of(kind)
    assert re.findall(r"^  --(?:\[no\])?(\w+): ", text, re.M) == [field.name for field in dataclasses.fields(kind)]
    groups = re.findall(r"^(\w.*):$", text, re.M)
    assert groups == list(dict.fromkeys(groups)) and len(groups) > 5
    assert max(map(len, text.splitlines())) <= 100


def test_help_says_defaults_and_switches():
    text = help_of(Config)
    assert "  --batch_size: Images per step, over all replicas. Default: 256\n" in text
    assert re.search(r"^  --\[no\]symmetric: ", text, re.M) and "Default: None" not in text


def test_flags_may_be_switches_and_lists_and_are_checked():
    assert with_flags("--symmetric").symmetric
    assert not with_flags("--symmetric", "--nosymmetric").symmetric
    with pytest.raises(ValueError, match=r"`image_std` .*'0\.2,red,0\.2'.* --image_std=0\.229,0\.224,0\.225"):
        with_flags("--image_std=0.2,red,0.2")
    scaled = with_flags("--image_mean=auto", "--image_std=0.2")
    assert (scaled.image_mean, scaled.image_std) == ("auto", (0.2,)) and "--image_mean=auto\n" in scaled.to_flagfile()
    with pytest.raises(ValueError, match=r"`image_mean` must be numbers, or auto\. Received: image_mean='car'"):
        Config(image_mean="car")
    with pytest.raises(ValueError, match="`temperature` must be positive. Received: temperature=-1.0"):
        with_flags("--temperature=-1")


# Changes when a run resumes


def test_run_may_resume_elsewhere_and_with_other_reports():
    # Where it runs, what it prints and how often it saves do not change the weights.
    moved = dict(workdir="b", data_dir="b", strategy="mirrored", replicas=2, augment_on="device", max_minutes=5.0)
    reports = dict(log_steps=1, knn_k=20, knn_every_epochs=3, checkpoint_epochs=2, keep_checkpoints=5, on_nan="skip")
    assert Config(**moved, **reports).differences(Config()) == {}


def test_run_may_not_resume_with_what_decides_the_weights():
    decisive = dict(
        dataset="b", test_fraction=0.1, method="simclr", backbone="resnet18", embedding_dim=64, queue_size=9, seed=1
    )
    rates = dict(temperature=0.2, key_momentum=0.9, batch_size=9, epochs=9, base_learning_rate=0.1, schedule="cosine")
    others = dict(
        augment="moco_v2", image_size=9, bn_mode="sync", precision="mixed_float16", symmetric=True, init_from="b"
    )
    settings = {**decisive, **rates, **others}
    assert Config(**settings).differences(Config()).keys() == settings.keys()


def test_setting_that_follows_from_the_data_differs_from_nothing():
    assert Config().differences(Config(queue_size=512)) == {}  # before the data are opened
    assert Config(queue_size=256).differences(Config(queue_size=512)) == {"queue_size": "512 -> 256"}
    ranges = [Config(value_range=text) for text in ("auto", "full", "0,4095")]
    assert ranges[1].differences(ranges[0]) == ranges[0].differences(ranges[1]) == {}
    assert ranges[2].differences(ranges[1]) == {"value_range": "full -> 0,4095"}
    assert Config(value_range="percentile:1,99").differences(ranges[2]) == {}
    assert Config(image_mean="auto", image_std="auto").differences(Config(image_mean=(0.3,), image_std=(0.2,))) == {}
    assert Config(queue_size=65536, knn_k=200).changed() == []  # as earlier flagfiles have it
    assert Config(queue_size=65535).changed() == ["queue_size"]


def test_settings_that_may_be_allowed_to_change_keep_the_shape_of_checkpoints():
    allowed = set(Config.changeable())
    assert allowed >= {"epochs", "temperature", "base_learning_rate", "weight_decay", "schedule", "augment"}
    shapes = "method backbone backbone_width stem head embedding_dim queue_size num_negatives separate_encoders"
    assert not allowed & {*shapes.split(), "optimizer", "precision", "batch_size", "image_size", "seed"}
    for _, field in ALL:
        assert not (field.metadata["changeable"] and field.metadata["resumable"]), field.name  # may change without


def test_other_settings_cannot_be_allowed_to_change():
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


def refusal(kind, name, value):
    with pytest.raises(ValueError) as caught:
        kind(**{**KINDS[kind], name: value})
    message = str(caught.value)
    assert message.startswith(f"`{name}` must be ") and message.endswith(f". Correct the flag --{name}."), message
    return message


def test_every_number_has_a_range_or_choices():
    for _, field in ALL:
        assert not is_number(field) or field.metadata["range"] in RANGES or field.metadata["choices"], field.name


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
    for kind, field in [(kind, field) for kind, field in ALL if is_text(field)]:
        for bad in ("a\n--epochs=3", "a\r", "a\x1b]0;b", "runs/a ", "a\u3000", "a\u2028b", "a\udcff", Path("a\nb")):
            value = (str(bad),) if isinstance(field.default, tuple) else bad
            message = refusal(kind, field.name, value)
            assert message.isprintable() and "text of one line" in message, message
    assert Config(workdir=" Zoë's\u3000runs/1").workdir == " Zoë's\u3000runs/1"


def test_values_become_plain_python():
    config = Config(
        workdir=Path("runs/a"), epochs=np.int64(3), temperature=np.float32(0.5), image_mean=[0, np.float64(1)]
    )
    kept = (config.workdir, config.epochs, config.temperature, config.image_mean)
    assert kept == ("runs/a", 3, 0.5, (0.0, 1.0))
    assert [type(value) for value in (*kept[:3], *kept[3])] == [str, int, float, float, float]


CHOOSING = [(kind, field) for kind, field in ALL if field.metadata["choices"]]


@pytest.mark.parametrize("kind, field", CHOOSING, ids=[f"{kind.__name__}.{field.name}" for kind, field in CHOOSING])
def test_choices_are_the_known_names_and_the_help_lists_them(kind, field, monkeypatch):
    choices = field.metadata["choices"]
    as_value = (lambda *words: words) if isinstance(field.default, tuple) else (lambda word: word)
    for choice in choices:
        assert getattr(kind(**{**KINDS[kind], field.name: as_value(choice)}), field.name) == as_value(choice)
        assert re.search(rf"\b{choice}\b", field.metadata["help"]), choice
    message = refusal(kind, field.name, as_value(2 if kind_of(field) is int else "maybe"))
    assert all(re.search(rf"\b{choice}\b", message.partition(" Received")[0]) for choice in choices)
    if field.metadata["table"]:
        tables = [pkgutil.resolve_name(table) for table in field.metadata["table"].split()]
        assert set(choices) - {"auto"} == set().union(*tables) - {"auto", "tiny"}  # "tiny" is of tests/tiny.py
        for table in tables:
            if isinstance(table, dict):  # what somebody adds may be chosen
                with monkeypatch.context() as patch:
                    patch.setitem(table, "maybe", None)
                    chosen = kind(**{**KINDS[kind], field.name: as_value("maybe")})
                    assert getattr(chosen, field.name) == as_value("maybe")
                    assert "maybe" in choices_of(field)


def test_edges_of_ranges():
    """For a few settings, what is the last value that makes sense, and what makes none."""
    edges = dict(
        **dict(temperature=(1e-9, 0.0), base_learning_rate=(1e-300, 0.0), weight_decay=(0.0, -1e-9), seed=(0, -1)),
        **dict(key_momentum=(1.0, 1.001), bank_momentum=(0.0, -0.001), optimizer_momentum=(0.999, 1.0)),
        **dict(max_bad_fraction=(0.0, 1.0), crop_min_area=(1.0, 0.0), checkpoint_share=(1.0, 0.0)),
        **dict(queue_size=(1, 0), epochs=(1, 0), keep_checkpoints=(1, 0), steps_per_execution=(1, 0)),
        **dict(test_fraction=(0.0, 1.0), image_mean=((0.0, 1.0), (1.01,)), image_std=((1.0,), (0.0,)), channels=(1, 0)),
        **dict(value_range=("percentile:0.5,99.5", "percentile:5,5"), background=(0, 256)),
        **dict(
            warmup_epochs=(0, -1), knn_every_epochs=(0, -1), checkpoint_minutes=(0.0, -0.1), max_minutes=(0.0, -1.0)
        ),
    )
    for name, (good, bad) in edges.items():
        assert getattr(Config(**{name: good}), name) == good
        refusal(Config, name, bad)


# What follows from the settings


def test_learning_rate_scales_with_the_batch_and_changes_are_listed():
    for batch_size, rate in ((256, 0.03), (512, 0.06), (128, 0.015)):
        assert Config(batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)
    assert Config().changed() == []
    assert Config(queue_size=512, epochs=200, method="simclr").changed() == ["method", "queue_size"]
