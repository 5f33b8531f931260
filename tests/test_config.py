"""Every setting is a field, a flag and a line of a flagfile, and is refused outside of its range."""

import dataclasses

import pytest
from absl import flags

from keras_moco.config import Config, changeable, read_flagfile
from keras_moco.settings import check_ranges, define_flags, from_flags

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def kind_of(field):
    """The type of a field's value where there is one."""
    return getattr(field.type, "__args__", (field.type,))[0]


def is_number(field):
    return kind_of(field) in (int, float) and not isinstance(field.default, tuple)


def other_value(field):
    """Another valid value than the default, with digits or characters that a flagfile could spoil."""
    if field.name == "allow_config_change":
        return ("epochs", "temperature")
    if isinstance(field.default, tuple):
        return (1 / 3, 0.1 + 0.2, 1e-7)
    if kind_of(field) is bool:
        return not field.default
    if kind_of(field) is int:
        return (field.default or 0) + 2**31
    if kind_of(field) is float:
        return (field.default or 0.5) / 3  # inside of each range of which the default is
    return {"augment_on": "device", "on_nan": "skip"}.get(field.name, f"my {field.name}, a=b #1")


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


# Differences between two starts of one run


def test_run_may_resume_elsewhere_and_with_other_reports():
    # Where it runs, what it prints and how often it saves do not change the weights.
    moved = dict(workdir="b", data_dir="b", strategy="mirrored", replicas=2, augment_on="device", max_minutes=5.0)
    reports = dict(log_steps=1, knn_k=20, knn_every_epochs=3, checkpoint_epochs=2, keep_checkpoints=5, on_nan="skip")
    assert Config(**moved, **reports).differences(Config()) == {}


def test_run_may_not_resume_with_what_decides_the_weights():
    decisive = dict(dataset="b", method="simclr", backbone="resnet18", embedding_dim=64, queue_size=9, seed=1)
    rates = dict(temperature=0.2, key_momentum=0.9, batch_size=9, epochs=9, base_learning_rate=0.1, schedule="cosine")
    others = dict(augment="moco_v2", image_size=9, bn_mode="sync", precision="half", symmetric=True, init_from="b")
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


# Ranges


@dataclasses.dataclass
class One:
    """Settings of one number, or several, or none."""

    number: object


@pytest.mark.parametrize(
    "words, inside, outside",
    [
        ("at least 1", [1, 2**31, (1, 2), None], [0, -1, (1, 0)]),
        ("at least 0", [0, 0.0, 3], [-1, float("nan")]),
        ("positive", [1e-300, 5.0], [0, -0.1, float("nan")]),
        ("in [0, 1]", [0.0, 1.0], [-0.001, 1.001, float("nan")]),
        ("in [0, 1)", [0.0, 0.999], [-0.001, 1.0, float("nan")]),
        ("in (0, 1]", [0.001, 1.0], [0.0, 1.001, float("nan")]),
        ("in (0, 100]", [0.001, 100.0], [0.0, 100.001, float("nan")]),
    ],
)
def test_range_includes_and_excludes_its_edges(words, inside, outside):
    for value in inside:
        check_ranges(One(value), {words: "number"})
    for value in outside:
        with pytest.raises(ValueError) as caught:
            check_ranges(One(value), {words: "number"})
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"`number` must be {words}. Received: number={text}. " in str(caught.value)


def test_every_number_has_a_range():
    numbers = [field for field in FIELDS.values() if is_number(field)]
    assert len(numbers) > 30
    for field in numbers:
        for value in [-1, *([float("nan")] if kind_of(field) is float else [])]:
            with pytest.raises(ValueError, match=f"`{field.name}` must be .*Received: {field.name}={value}. "):
                Config(**{field.name: value})


def test_edges_of_ranges():
    """For a few settings, what is the last value that makes sense, and what makes none."""
    edges = dict(
        **dict(temperature=(1e-9, 0.0), base_learning_rate=(1e-300, 0.0), weight_decay=(0.0, -1e-9), seed=(0, -1)),
        **dict(key_momentum=(1.0, 1.001), bank_momentum=(0.0, -0.001), optimizer_momentum=(0.999, 1.0)),
        **dict(max_bad_fraction=(0.0, 1.0), crop_min_area=(1.0, 0.0), checkpoint_share=(1.0, 0.0)),
        **dict(queue_size=(1, 0), epochs=(1, 0), keep_checkpoints=(1, 0), steps_per_execution=(1, 0)),
        **dict(
            warmup_epochs=(0, -1), knn_every_epochs=(0, -1), checkpoint_minutes=(0.0, -0.1), max_minutes=(0.0, -1.0)
        ),
    )
    for name, (good, bad) in edges.items():
        assert getattr(Config(**{name: good}), name) == good
        with pytest.raises(ValueError, match=f"`{name}` .*{name}={bad}"):
            Config(**{name: bad})


def test_word_must_be_one_of_its_choices():
    for name, choices in (("augment_on", "host or device"), ("on_nan", "stop or skip")):
        with pytest.raises(ValueError, match=f"`{name}` must be {choices}. Received: {name}='maybe'"):
            Config(**{name: "maybe"})


# What follows


def test_learning_rate_scales_with_the_batch_and_changes_are_listed():
    for batch_size, rate in ((256, 0.03), (512, 0.06), (128, 0.015)):
        assert Config(batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)
    assert Config().changed() == []
    assert Config(queue_size=512, epochs=200, method="simclr").changed() == ["method", "queue_size"]
