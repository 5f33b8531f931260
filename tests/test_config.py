"""Every setting is a field, a flag and a line of a flagfile, and its limits are told in one sentence."""

import dataclasses

import pytest
from absl import flags

from keras_moco.config import Config, changeable, read_flagfile
from keras_moco.settings import define_flags, from_flags

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Another valid value than the default for every field; new fields have to be added here.
OTHER = {
    "dataset": "folder:my images/a=b",
    "data_dir": "/data/tfds #1",
    "cache_encoded": True,
    "max_bad_fraction": 0.0,
    "strict_data": True,
    "train_examples": 1281167,
    "channels": 1,
    "method": "simclr",
    "workdir": "runs/with space, comma",
    "backbone": "resnet18",
    "backbone_width": 16,
    "stem": "cifar",
    "bn_mode": "sync",
    "bn_splits": 4,
    "head": "mlp",
    "embedding_dim": 64,
    "image_mean": (0.1 + 0.2, 0.0, 1e-7),
    "image_std": (1 / 3,),
    "queue_size": 4096,
    "temperature": 0.1 + 0.2,
    "key_momentum": 1.0,
    "symmetric": True,
    "separate_encoders": True,
    "num_negatives": 16384,
    "bank_momentum": 0.0,
    "augment": "moco_v2",
    "crop_min_area": 0.08,
    "image_size": 32,
    "augment_exact": True,
    "augment_on": "device",
    "batch_size": 512,
    "epochs": 800,
    "base_learning_rate": 1e-300,
    "weight_decay": 5e-4,
    "optimizer": "lars",
    "optimizer_momentum": 0.0,
    "schedule": "cosine",
    "schedule_per_step": True,
    "warmup_epochs": 10,
    "strategy": "mirrored",
    "replicas": 4,
    "require_gpu": True,
    "steps_per_execution": 8,
    "precision": "mixed_bfloat16",
    "seed": 2**40,
    "knn_every_epochs": 0,
    "knn_k": 20,
    "knn_temperature": 0.07,
    "knn_features": "backbone",
    "checkpoint_epochs": 0,
    "checkpoint_minutes": 0.5,
    "checkpoint_share": 1.0,
    "keep_checkpoints": 1,
    "keep_every_epochs": 100,
    "max_minutes": 55.5,
    "on_nan": "skip",
    "deterministic": True,
    "init_from": "runs/pretrained on=ImageNet",
    "allow_config_change": ("epochs", "temperature"),
    "log_steps": 1,
    "dry_run": True,
}
RESUMABLE = {
    *("data_dir", "workdir", "knn_every_epochs", "knn_k", "knn_temperature", "log_steps", "dry_run"),
    *("strategy", "replicas", "require_gpu", "steps_per_execution", "augment_on"),
    *("cache_encoded", "max_bad_fraction", "strict_data"),
    *("checkpoint_epochs", "checkpoint_minutes", "checkpoint_share", "keep_checkpoints", "keep_every_epochs"),
    *("max_minutes", "on_nan", "allow_config_change"),
}
# What decides the result, but not the shape of what is saved.
CHANGEABLE = [
    *("dataset", "temperature", "key_momentum", "bank_momentum", "augment", "crop_min_area", "augment_exact", "epochs"),
    *("base_learning_rate", "weight_decay", "optimizer_momentum", "schedule", "schedule_per_step", "warmup_epochs"),
    *("knn_features", "deterministic"),
]
# What is asked for once, and no part of what a run is.
NOT_KEPT = {"allow_config_change", "dry_run"}
# The documented range of every number, values at its edges, and values beyond them.
RANGES = {
    "at least 1": (
        "train_examples channels backbone_width bn_splits embedding_dim queue_size num_negatives image_size batch_size "
        "epochs replicas steps_per_execution knn_k keep_checkpoints log_steps",
        [1, 2**31],
        [0, -1],
    ),
    "positive": ("temperature base_learning_rate knn_temperature", [1e-9, 5.0], [0.0, -0.1, float("nan")]),
    "at least 0": (
        "weight_decay warmup_epochs knn_every_epochs checkpoint_epochs checkpoint_minutes keep_every_epochs "
        "max_minutes seed",
        [0, 3],
        [-1, float("nan")],
    ),
    "in [0, 1]": ("key_momentum bank_momentum", [0.0, 1.0], [-0.001, 1.001, float("nan")]),
    "in [0, 1)": ("optimizer_momentum max_bad_fraction", [0.0, 0.999], [-0.001, 1.0, float("nan")]),
    "in (0, 1]": ("crop_min_area checkpoint_share", [0.001, 1.0], [0.0, 1.001, float("nan")]),
}
EDGES = [(name, good) for names, goods, _ in RANGES.values() for name in names.split() for good in goods]
BEYOND = [(name, words, bad) for words, (names, _, bads) in RANGES.items() for name in names.split() for bad in bads]


def parse(*arguments):
    values = flags.FlagValues()
    define_flags(Config, values)
    values(["train.py", *arguments])
    return values


def round_trip(config, folder):
    path = folder / "flags.cfg"
    path.write_text(config.to_flagfile())
    return read_flagfile(path)


def test_other_values_cover_every_field():
    assert OTHER.keys() == FIELDS.keys()
    assert not [name for name, value in OTHER.items() if value == FIELDS[name].default]


# Flags


def test_there_is_one_flag_per_field_and_no_other():
    values = flags.FlagValues()
    define_flags(Config, values)
    assert set(values) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_has_the_default_and_the_help_of_its_field(name):
    flag = parse()[name]
    default = list(map(str, FIELDS[name].default)) if isinstance(FIELDS[name].default, tuple) else FIELDS[name].default
    assert flag.value == default
    assert type(flag.value) is type(default)
    assert flag.help == FIELDS[name].metadata["help"]
    assert len(flag.help) > 10 and flag.help.endswith((".", "(ImageNet's)."))


def test_no_flags_give_the_defaults():
    assert from_flags(Config, parse()) == Config()


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_sets_its_field_and_no_other(name):
    value = OTHER[name]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    config = from_flags(Config, parse(f"--{name}={text}"))
    assert config == Config(**{name: value})
    assert type(getattr(config, name)) is type(value)


def test_a_bool_is_a_switch():
    assert from_flags(Config, parse("--symmetric")).symmetric
    assert not from_flags(Config, parse("--symmetric", "--nosymmetric")).symmetric


def test_a_list_that_holds_no_numbers_is_an_error():
    with pytest.raises(ValueError) as caught:
        from_flags(Config, parse("--image_std=0.2,red,0.2"))
    assert str(caught.value) == (
        "`image_std` must be numbers separated by commas. Received: '0.2,red,0.2'. "
        "Write for example --image_std=0.229,0.224,0.225."
    )


def test_a_flag_beyond_its_range_is_an_error():
    with pytest.raises(ValueError, match="^`temperature` must be positive. Received: temperature=-1.0. "):
        from_flags(Config, parse("--temperature=-1"))


# Flagfiles


KEPT = [name for name in FIELDS if name not in NOT_KEPT]


@pytest.mark.parametrize("name", KEPT)
def test_every_field_that_is_kept_survives_a_flagfile(name, tmp_path):
    config = Config(**{name: OTHER[name]})
    read = round_trip(config, tmp_path)
    assert read == config
    assert type(getattr(read, name)) is type(OTHER[name])


def test_all_fields_that_are_kept_survive_a_flagfile_together(tmp_path):
    assert round_trip(Config(**OTHER), tmp_path) == Config(**{name: OTHER[name] for name in KEPT})
    assert round_trip(Config(), tmp_path) == Config()


def test_a_flagfile_names_every_field_that_is_kept_and_not_none():
    lines = Config(**OTHER).to_flagfile().splitlines()
    assert [line.partition("=")[0] for line in lines] == [f"--{name}" for name in KEPT]
    lines = Config().to_flagfile().splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        f"--{name}" for name in KEPT if FIELDS[name].default is not None
    ]


@pytest.mark.parametrize("name", sorted(NOT_KEPT))
def test_what_is_asked_for_once_is_not_written_into_a_flagfile(name):
    assert Config(**{name: OTHER[name]}).to_flagfile() == Config().to_flagfile()


def test_comments_in_a_flagfile_do_not_count(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text("# --epochs=7\n\n--queue_size=512\n// --batch_size=7\n")
    assert read_flagfile(path) == Config(queue_size=512)


@pytest.mark.parametrize("line", ["--quesize=3", "--queue_size=many"])
def test_a_broken_flagfile_is_an_error_that_names_it(line, tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text(f"--epochs=3\n{line}\n")
    with pytest.raises(ValueError, match=r"^A flagfile must hold .*flags\.cfg with .*que.*\. Correct that line\.$"):
        read_flagfile(path)


# Differences


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - RESUMABLE))
def test_a_field_that_decides_the_result_is_a_difference(name):
    ours, theirs = Config(**{name: OTHER[name]}), Config()
    assert ours.differences(theirs) == {name: f"{FIELDS[name].default} -> {OTHER[name]}"}


@pytest.mark.parametrize("name", sorted(RESUMABLE))
def test_a_resumable_field_is_no_difference(name):
    assert Config(**{name: OTHER[name]}).differences(Config()) == {}


def test_all_differences_are_listed():
    assert list(Config(**OTHER).differences(Config())) == [name for name in FIELDS if name not in RESUMABLE]


# What may change under way, where it is said


def test_what_leaves_the_shape_of_what_is_saved_may_change():
    assert changeable() == CHANGEABLE
    assert not set(CHANGEABLE) & RESUMABLE


@pytest.mark.parametrize("name", CHANGEABLE)
def test_each_of_these_can_be_allowed(name):
    assert from_flags(Config, parse(f"--allow_config_change={name}")).allow_config_change == (name,)


@pytest.mark.parametrize(
    "names, received",
    [
        ("queue_size", "queue_size"),
        ("epochs,backbone,knn_k", "backbone, knn_k"),
        ("epoch", "epoch"),
        ("epochs temperature", "epochs temperature"),
    ],
)
def test_nothing_else_can_be_allowed(names, received):
    with pytest.raises(ValueError) as caught:
        from_flags(Config, parse(f"--allow_config_change={names}"))
    assert str(caught.value) == (
        f"`allow_config_change` must name settings that can change: {', '.join(CHANGEABLE)}. Received: {received}. "
        "Begin a new run with them in another --workdir, if need be from these weights (--init_from)."
    )


def test_nothing_is_allowed_at_first():
    assert Config().allow_config_change == from_flags(Config, parse("--allow_config_change=")).allow_config_change == ()


# Choices


@pytest.mark.parametrize("name, choices", [("augment_on", ("host", "device")), ("on_nan", ("stop", "skip"))])
def test_another_word_than_the_choices_is_an_error(name, choices):
    assert [getattr(Config(**{name: choice}), name) for choice in choices] == list(choices)
    with pytest.raises(ValueError) as caught:
        Config(**{name: "maybe"})
    assert str(caught.value) == (
        f"`{name}` must be {' or '.join(choices)}. Received: {name}='maybe'. Correct the flag --{name}."
    )


# Ranges


@pytest.mark.parametrize("name, words, bad", BEYOND)
def test_a_number_beyond_its_range_is_an_error(name, words, bad):
    with pytest.raises(ValueError) as caught:
        Config(**{name: bad})
    assert str(caught.value) == f"`{name}` must be {words}. Received: {name}={bad}. Correct the flag --{name}."


@pytest.mark.parametrize("name, good", EDGES)
def test_a_number_at_the_edge_of_its_range_is_none(name, good):
    assert getattr(Config(**{name: good}), name) == good


def test_every_number_has_a_range():
    numbers = {
        name for name, field in FIELDS.items() if {int, float} & set(getattr(field.type, "__args__", [field.type]))
    }
    numbers -= {"image_mean", "image_std"}
    assert numbers == {name for name, _ in EDGES}


# Learning rate


@pytest.mark.parametrize("batch_size, rate", [(256, 0.03), (512, 0.06), (128, 0.015), (4096, 0.48)])
def test_the_learning_rate_scales_with_the_batch(batch_size, rate):
    assert Config(batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)


def test_what_differs_from_the_defaults_is_told_by_name():
    assert Config().changed() == []
    assert Config(queue_size=512, epochs=200, method="simclr").changed() == ["method", "queue_size"]


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3
