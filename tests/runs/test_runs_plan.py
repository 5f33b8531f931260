"""What follows from a configuration, against numbers worked out by hand, and what does not fit."""

import math
import re
from types import SimpleNamespace

import pytest

from keras_moco.config import Config
from keras_moco.runs.plan import Plan


def make_plan(train_examples=1000, channels=3, replicas=1, **settings):
    settings = {"queue_size": 512, "batch_size": 128, "epochs": 10, "bn_splits": 8, **settings}
    return Plan(Config(dataset="digits", **settings), train_examples, channels, replicas)


def refused(match, **settings):
    with pytest.raises(ValueError, match=match):
        make_plan(**settings)


# Numbers


def test_an_epoch_is_its_full_batches():
    for examples, batch_size, epochs, per_epoch, total in (
        (1281167, 256, 200, 5004, 1000800),  # ImageNet, as in the authors' logs
        (50000, 512, 200, 97, 19400),  # CIFAR-10, likewise
        (1023, 512, 3, 1, 3),  # the rest is dropped
    ):
        plan = make_plan(examples, batch_size=batch_size, epochs=epochs)
        assert (plan.steps_per_epoch, plan.total_steps) == (per_epoch, total)


@pytest.mark.parametrize("queue_size, loss", [(65536, 11.0904), (512, 6.2403)])
def test_loss_at_chance_level_is_that_of_equal_similarities(queue_size, loss):
    assert make_plan(10**6, queue_size=queue_size).chance_loss == pytest.approx(loss, abs=1e-4)
    assert make_plan(10**6, queue_size=queue_size, symmetric=True).chance_loss == pytest.approx(2 * loss, abs=2e-4)


@pytest.mark.parametrize(
    "bn_mode, replicas, groups, synchronized",
    [("auto", 1, 8, False), ("auto", 2, 1, False), ("split", 2, 8, False), ("shuffle", 8, 1, False)]
    + [("sync", 2, 1, True), ("plain", 1, 1, False)],
)
def test_batchnorm_groups_depend_on_mode_and_replicas(bn_mode, replicas, groups, synchronized):
    found = make_plan(bn_mode=bn_mode, replicas=replicas).batch_norm
    assert (found.splits, found.synchronized) == (groups, synchronized)


@pytest.mark.parametrize(
    "examples, batch_size, symmetric, size, notes",
    [
        (1281167, 256, False, 65536, 0),  # the paper's
        (327_680, 256, False, 65536, 0),  # a fifth
        (327_679, 256, False, 65280, 1),  # a step less
        (50_000, 512, False, 9728, 1),  # 19 steps of 10,000 / 512 = 19.5
        (50_000, 512, True, 9216, 1),  # 9 steps of 1,024 keys
        (1437, 128, False, 256, 1),
        (300, 128, False, 128, 2),  # one step, which is more than a fifth
    ],
)
def test_queue_that_is_not_given_is_a_fifth_of_the_images_in_whole_steps(examples, batch_size, symmetric, size, notes):
    settings = {"batch_size": batch_size, "symmetric": symmetric}
    plan = make_plan(examples, queue_size=None, **settings)
    assert plan.config.queue_size == size and plan.settled == {"queue_size": size}
    assert len(re.findall("^note: ", plan.describe(), re.M)) == notes
    same = make_plan(examples, queue_size=size, **settings)  # as it stands in the flagfile of the run
    assert (same.config, same.settled, same.chance_loss) == (plan.config, {}, plan.chance_loss)


def test_batch_that_leaves_no_room_for_a_queue_is_refused():
    refused(
        "queue_size=200, keys per step=256.* lower the batch size", queue_size=None, train_examples=200, symmetric=True
    )


def test_queue_of_an_earlier_flagfile_is_no_setting_of_another_method():
    """Which had the defaults of all methods."""
    config = Config(method="simclr", queue_size=65536, batch_size=128)
    assert Plan(config, 1000, 3, 1).config == config
    assert make_plan(10**6, queue_size=65536).settled == {}


# Rates: 7 steps per epoch (1000 // 128), 10 epochs, 0.03 / 2 for batches of 128


def rates(plan, steps):
    return [float(plan.learning_rate()(step)) for step in steps]


def test_step_schedule_falls_at_60_and_80_percent_of_the_epochs():
    steps = [0, 41, 42, 55, 56, 69]  # the last and the first steps around epochs 6 and 8
    expected = [0.015, 0.015, 0.0015, 0.0015, 0.00015, 0.00015]
    assert rates(make_plan(schedule="step"), steps) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per_step, places", [(False, [0, 0, 1, 5, 9]), (True, [0, 6 / 7, 1, 5, 69 / 7])])
def test_cosine_schedule_changes_with_the_epoch_or_the_step(per_step, places):
    expected = [0.015 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in places]
    plan = make_plan(schedule="cosine", schedule_per_step=per_step)
    assert rates(plan, [0, 6, 7, 35, 69]) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_warmup_comes_first():
    plan = make_plan(schedule="constant", warmup_epochs=2)  # 14 steps
    assert rates(plan, [0, 7, 14, 69]) == pytest.approx([0.0, 0.0075, 0.015, 0.015], rel=1e-5)


# The description


def test_description_holds_the_derived_numbers():
    text = make_plan(schedule="cosine", embedding_dim=64, image_size=32, augment="moco_v2").describe()
    for number in ("1,000 training images of 3 channel(s)", "views of 32 x 32 by moco_v2", "1 replica(s)", "10 epochs"):
        assert number in text
    assert re.search(r"^steps: 7 per epoch of 128 images on 1 replica\(s\), 70 in 10 epochs$", text, re.M)
    steps = re.findall(r"([\d.e-]+) \(step (\d+)\)", text)
    assert [int(step) for _, step in steps] == [0, 18, 35, 52, 69]  # quarters, the halves to even
    cosine = [0.015 * (1 + math.cos(math.pi * (int(step) // 7) / 10)) / 2 for _, step in steps]
    assert [float(rate) for rate, _ in steps] == pytest.approx(cosine, rel=1e-3)
    assert "512 keys of 64, 0.12 MiB, 51% of the training images" in text  # 512 * 64 * 4 / 2**20 = 0.125
    assert "6.24" in text  # the chance loss


@pytest.mark.parametrize(
    "epochs, steps", [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 4]), (9, [0, 2, 4, 7, 8])]
)
def test_learning_rates_of_short_runs_are_of_steps_that_exist_each_once(epochs, steps):
    text = make_plan(128, batch_size=128, queue_size=128, epochs=epochs).describe()  # a step per epoch
    assert [int(step) for step in re.findall(r"\(step (\d+)\)", text)] == steps


@pytest.mark.parametrize(
    "augment, channels, names",
    [
        ("moco_v1", 3, ""),
        ("moco_v1", 13, "grayscale, saturation, hue"),
        ("moco_medical", 1, ""),
        ("moco_multispectral", 13, ""),
        ("moco_multispectral", 1, "band dropping"),
    ],
)
def test_operations_without_effect_on_the_channels_are_noted_once(augment, channels, names):
    text = make_plan(augment=augment, channels=channels).describe()
    note = f" (without effect on {channels} channel(s): {names})" if names else ""
    assert re.search(rf"views of .* by {augment}{re.escape(note)}$", text, re.M)
    assert text.count("without effect") == bool(names)


def test_large_queue_and_synchronised_batchnorm_are_noted():
    assert "consider a smaller --queue_size" in make_plan(2559).describe()  # 20.008 % of the images
    assert "consider a smaller --queue_size" not in make_plan(2560).describe()  # 20 %
    assert "note: bn_mode='sync'" in make_plan(bn_mode="sync", replicas=2).describe()
    assert "sync" not in make_plan(replicas=2).describe()


# What does not fit, and what just does


def test_batch_and_queue_must_not_exceed_the_images():
    refused("batch_size=128, 127 images in digits", train_examples=127, queue_size=127)
    refused("Received: 1 in digits", train_examples=1, batch_size=1, queue_size=1)
    assert make_plan(128, queue_size=128).steps_per_epoch == 1
    refused("queue_size=512, 511 images in digits", train_examples=511)
    assert make_plan(512).steps_per_epoch == 4


def test_queue_must_hold_the_keys_of_a_step():
    refused("queue_size=127, keys per step=128", queue_size=127)
    refused("queue_size=255, keys per step=256", queue_size=255, symmetric=True)
    for settings in ({"queue_size": 128}, {"queue_size": 256, "symmetric": True}, {"queue_size": 509}):
        assert make_plan(**settings).steps_per_epoch == 7


def test_batch_must_be_divisible_by_replicas_and_batchnorm_groups():
    refused(r"batch_size=128, 1 replica\(s\), 6 group\(s\)", bn_splits=6)
    refused(r"batch_size=128, 4 replica\(s\), 64 group\(s\)", replicas=4, bn_mode="split", bn_splits=64)
    refused(r"batch_size=128, 3 replica\(s\), 1 group\(s\)", replicas=3)
    assert make_plan(replicas=4, bn_splits=6).steps_per_epoch == 7  # nothing is split
    refused("bn_mode='shuffle'.* Received: 1 replica", bn_mode="shuffle")


def test_channels_must_be_those_of_the_images():
    source = SimpleNamespace(image_shape=(8, 8, 1), num_examples=1000, decoding=None)
    assert Plan.of(make_plan().config, source, 1).channels == 1
    with pytest.raises(ValueError, match="channels=3, digits with 1"):
        Plan.of(Config(dataset="digits", channels=3, queue_size=512), source, 1)
