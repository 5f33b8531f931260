"""What follows from a configuration, against numbers worked out by hand, and what does not fit."""

import math
import re

import pytest

from keras_moco.config import Config
from keras_moco.plan import Plan


def make_plan(train_examples=1000, channels=3, replicas=1, **settings):
    settings = {"queue_size": 512, "batch_size": 128, "epochs": 10, "bn_splits": 8, **settings}
    return Plan(Config(dataset="digits", **settings), train_examples, channels, replicas)


def refusal(**settings):
    """The whole sentence with which a plan is refused."""
    with pytest.raises(ValueError) as caught:
        make_plan(**settings)
    return str(caught.value)


# Numbers


@pytest.mark.parametrize(
    "examples, batch_size, epochs, per_epoch, total",
    [
        (1281167, 256, 200, 5004, 1000800),  # ImageNet, as in the authors' logs
        (50000, 512, 200, 97, 19400),  # CIFAR-10, likewise
        (1024, 512, 1, 2, 2),
        (1023, 512, 3, 1, 3),  # the rest is dropped
        (512, 512, 2, 1, 2),
    ],
)
def test_an_epoch_is_its_full_batches(examples, batch_size, epochs, per_epoch, total):
    plan = make_plan(examples, batch_size=batch_size, epochs=epochs)
    assert (plan.steps_per_epoch, plan.total_steps) == (per_epoch, total)


@pytest.mark.parametrize("queue_size, loss", [(65536, 11.0904), (4096, 8.3180), (512, 6.2403)])
def test_the_chance_loss_is_that_of_equal_similarities(queue_size, loss):
    assert make_plan(10**6, queue_size=queue_size).chance_loss == pytest.approx(loss, abs=1e-4)
    assert make_plan(10**6, queue_size=queue_size, symmetric=True).chance_loss == pytest.approx(2 * loss, abs=2e-4)


@pytest.mark.parametrize(
    "bn_mode, replicas, groups, synchronized",
    [("auto", 1, 8, False), ("auto", 2, 1, False), ("split", 2, 8, False), ("shuffle", 8, 1, False)]
    + [("sync", 2, 1, True), ("plain", 1, 1, False)],
)
def test_the_groups_of_batchnorm_hang_on_mode_and_replicas(bn_mode, replicas, groups, synchronized):
    found = make_plan(bn_mode=bn_mode, replicas=replicas).batch_norm
    assert (found.splits, found.synchronized) == (groups, synchronized)


# Rates: 7 steps per epoch (1000 // 128), 10 epochs, 0.03 / 2 for batches of 128


def rates(plan, steps):
    return [float(plan.learning_rate()(step)) for step in steps]


def test_the_step_schedule_falls_at_60_and_80_percent_of_the_epochs():
    steps = [0, 41, 42, 55, 56, 69]  # the last and the first steps around epochs 6 and 8
    expected = [0.015, 0.015, 0.0015, 0.0015, 0.00015, 0.00015]
    assert rates(make_plan(schedule="step"), steps) == pytest.approx(expected, rel=1e-5)


def test_the_cosine_schedule_changes_with_the_epoch():
    steps = [0, 6, 7, 35, 69]
    expected = [0.015 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in (0, 0, 1, 5, 9)]
    assert rates(make_plan(schedule="cosine"), steps) == pytest.approx(expected, rel=1e-5)


def test_the_cosine_schedule_can_change_with_the_step():
    steps = [0, 6, 7, 35, 69]
    expected = [0.015 * (1 + math.cos(math.pi * step / 70)) / 2 for step in steps]
    plan = make_plan(schedule="cosine", schedule_per_step=True)
    assert rates(plan, steps) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_warmup_comes_first():
    plan = make_plan(schedule="constant", warmup_epochs=2)  # 14 steps
    assert rates(plan, [0, 7, 14, 69]) == pytest.approx([0.0, 0.0075, 0.015, 0.015], rel=1e-5)


# The description


def test_the_description_holds_the_derived_numbers():
    text = make_plan(schedule="cosine", embedding_dim=64, image_size=32, augment="moco_v2").describe()
    assert "digits, 1,000 training images of 3 channel(s), views of 32 x 32 by moco_v2" in text
    assert "7 per epoch of 128 images on 1 replica(s), 70 in 10 epochs" in text
    steps = re.findall(r"([\d.e-]+) \(step (\d+)\)", text)
    assert [int(step) for _, step in steps] == [0, 18, 35, 52, 69]  # quarters, the halves to even
    cosine = [0.015 * (1 + math.cos(math.pi * (int(step) // 7) / 10)) / 2 for _, step in steps]
    assert [float(rate) for rate, _ in steps] == pytest.approx(cosine, rel=1e-3)
    assert "512 keys of 64, 0.12 MiB, 51% of the training images" in text  # 512 * 64 * 4 / 2**20 = 0.125
    assert "chance is 6.24" in text


def test_a_queue_of_more_than_a_fifth_of_the_images_is_noted():
    note = "consider a smaller --queue_size"
    assert note in make_plan(2559).describe()  # 20.008 %
    assert note not in make_plan(2560).describe()  # 20 %


# What does not fit


def test_a_batch_must_not_exceed_the_images():
    assert refusal(train_examples=127, queue_size=127) == (
        "`batch_size` must not exceed the number of training images. "
        "Received: batch_size=128, 127 images in digits. Lower --batch_size."
    )
    assert make_plan(128, queue_size=128).steps_per_epoch == 1


def test_the_queue_must_not_exceed_the_images():
    assert refusal(train_examples=511) == (
        "`queue_size` must not exceed the number of training images, or an image meets itself as a negative. "
        "Received: queue_size=512, 511 images in digits. Lower --queue_size."
    )
    assert make_plan(512).steps_per_epoch == 4


def test_the_queue_must_hold_the_keys_of_a_step():
    assert refusal(queue_size=127) == (
        "`queue_size` must be at least the number of keys that one step enqueues, or keys are overwritten before "
        "they are used. Received: queue_size=127, keys per step=128. Raise --queue_size or lower --batch_size."
    )
    assert make_plan(queue_size=128).steps_per_epoch == 7


def test_the_queue_must_hold_both_views_of_a_symmetric_step():
    assert "Received: queue_size=255, keys per step=256. " in refusal(queue_size=255, symmetric=True)
    assert make_plan(queue_size=256, symmetric=True).steps_per_epoch == 7


def test_the_queue_need_not_be_a_multiple_of_the_batch():
    assert make_plan(queue_size=509).steps_per_epoch == 7


def test_the_batch_must_be_divisible_by_the_groups_of_batchnorm():
    assert refusal(bn_splits=6) == (
        "`batch_size` must be divisible by the replicas, and each replica's share by the groups of its BatchNorm. "
        "Received: batch_size=128, 1 replica(s), 6 group(s). Change --batch_size, --replicas or --bn_splits."
    )
    assert "Received: batch_size=128, 4 replica(s), 64 group(s). " in refusal(bn_mode="split", bn_splits=64, replicas=4)


def test_the_batch_must_be_divisible_by_the_replicas():
    assert "Received: batch_size=128, 3 replica(s), 1 group(s). " in refusal(replicas=3)


def test_groups_of_split_batchnorm_do_not_count_where_nothing_is_split():
    assert make_plan(replicas=4, bn_splits=6).steps_per_epoch == 7


def test_one_replica_has_nobody_to_exchange_images_with():
    assert refusal(bn_mode="shuffle") == (
        "`bn_mode='shuffle'` must have two replicas or more: on one, shuffling changes nobody's company. "
        "Received: 1 replica. Use bn_mode='split', which imitates replicas on one, or several devices."
    )


def test_an_unknown_mode_of_batchnorm_lists_the_known():
    assert refusal(bn_mode="frozen") == (
        "`bn_mode` must be one of auto, split, shuffle, sync, plain. Received: 'frozen'. Choose one of them."
    )


def test_synchronised_batchnorm_is_noted_as_insufficient():
    assert "note: bn_mode='sync' is not sufficient with a queue" in make_plan(bn_mode="sync", replicas=2).describe()
    assert "sync" not in make_plan(replicas=2).describe()
