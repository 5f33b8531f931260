"""Images in tar and zip archives give the batches that the same images give as files, and no archive stays open."""

import os

import pytest
import tensorflow as tf

from keras_moco.augment import Fused, RandomHorizontalFlip, RandomResizedCrop
from keras_moco.data import open_source, pretrain_dataset
from tests.batches import assert_same, take
from tests.data.written import encoded, read, smooth, write, write_tar

IMAGES, BATCH, STEPS = 14, 4, 3
DAMAGED = (5, 9)
KINDS = ("webdataset", "zip")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The same images, two of which are damaged, opened as each kind."""
    files = [encoded(smooth(number, 40 - number, 24 + number), "jpeg") for number in range(IMAGES)]
    for number in DAMAGED:
        files[number] = b"" if number == DAMAGED[0] else files[number][:-100]

    def opened(kind, **options):
        folder = tmp_path_factory.mktemp(kind)
        return open_source(write(folder, kind, files)[0], max_bad_fraction=0.3, **options)

    return opened


def batches(source, **options):
    recipe = Fused([RandomResizedCrop(8), RandomHorizontalFlip()])
    return pretrain_dataset(source, recipe, BATCH, seed=3, first_epoch=1, **options)


@pytest.fixture(scope="module")
def expected(opened):
    return take(batches(opened("folder")), 2 * STEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_same_images_in_a_folder(opened, expected, kind):
    source = opened(kind)
    assert_same(take(batches(source), 2 * STEPS), expected)
    assert sorted(source.bad.met) == list(DAMAGED)
    assert source.buffer is None and len(source.files) == IMAGES


@pytest.mark.parametrize("kind", KINDS)
def test_resume_inside_an_epoch_is_exact_also_from_memory(opened, expected, kind):
    source = opened(kind, cache=True)
    source.bad.remember({number: f"number {number}" for number in DAMAGED})
    assert_same(take(batches(source, first_step=2), 4), {name: each[2 * BATCH :] for name, each in expected.items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_reads_its_share_of_the_batches(opened, kind):
    context = tf.distribute.InputContext(2, 1, 2)
    found, same = (take(batches(opened(each), context=context), STEPS) for each in (kind, "folder"))
    assert_same(found, same)
    assert len(found["index"]) == STEPS * BATCH // 2


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_an_archive_lost_during_a_run_are_unreadable(tmp_path, kind):
    files = [encoded(smooth(number, 20, 24), "jpeg") for number in range(4)]
    source = open_source(write(tmp_path, kind, files)[0], max_bad_fraction=0.9)
    path = tmp_path / ("0.tar" if kind == "webdataset" else "images.zip")
    path.unlink()
    examples = source.examples().take(2).as_numpy_iterator()
    if kind == "zip":
        with pytest.raises(tf.errors.OpError):  # of all images
            next(examples)
    else:
        assert [example["index"] for example in examples] == [2, 3]
    assert source.bad.met[0] == f"{path}/00.jpg (No such file or directory)"


def test_hundreds_of_archives_are_read_without_keeping_them_open(tmp_path):
    image = encoded(smooth(0, 5, 6), "png")
    for number in range(300):
        write_tar(tmp_path / f"{number:03}.tar", {"a.png": image})
    before = len(os.listdir("/dev/fd"))
    source = open_source(f"webdataset:{tmp_path}/*.tar")
    assert len(read(source, seed=1)) == 300
    assert len(os.listdir("/dev/fd")) <= before + 4
