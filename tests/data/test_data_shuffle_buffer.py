"""How much of a stream waits in memory to be shuffled, and that looking at some images reads no more than these."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import RandomResizedCrop
from keras_moco.commands.preview import preview
from keras_moco.data import open_source
from keras_moco.data.shuffle_buffer import ShuffleBuffer, shuffled_stream
from keras_moco.summaries.image_grid import GAP, LINE
from keras_moco.summaries.views import first_views
from tests.data.written import encoded, record, smooth, write_records
from tests.tiny import tiny_config
from tests.whole_runs import pretrain

SEED = tf.constant(3, tf.int64)
IMAGENET = {"num_examples": 1_281_167, "num_bytes": 147_897_477_120}  # its archive of training images


def counted(num_examples, read):
    """A stream of cheap records that notes each one that is read."""

    def note(index):
        read.append(index)
        return index

    dataset = tf.data.Dataset.range(num_examples)
    return dataset.map(lambda index: {"index": tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), [])})


def test_first_image_needs_no_more_reads_than_the_buffer_holds():
    buffer = ShuffleBuffer.of(**IMAGENET, mebibytes=4)
    assert buffer.images == 4 * 2**20 * 1_281_167 // 147_897_477_120  # 36 of 115 kB each
    assert buffer.num_bytes <= 4 * 2**20
    read = []
    images = iter(shuffled_stream(counted(1_281_167, read), buffer, SEED, cache=False))
    for place in range(200):
        assert int(next(images)["index"]) < place + buffer.images
        assert len(read) <= place + buffer.images + 64  # TensorFlow prepares some ahead


def test_the_default_holds_a_gibibyte():
    buffer = ShuffleBuffer.of(**IMAGENET, mebibytes=1024)
    assert (buffer.images, buffer.describe()) == (9301, "shuffle buffer: 9,301 of 1,281,167 images, 1,024 MiB")


def test_a_set_that_fits_is_shuffled_completely_in_the_order_of_tensorflow():
    buffer = ShuffleBuffer.of(500, 3 * 2**20, mebibytes=3)
    assert buffer.describe() == "shuffle buffer: all 500 images, 3 MiB"
    assert ShuffleBuffer.of(500, 3 * 2**20 + 1, mebibytes=3).images == 499
    found = [int(each["index"]) for each in shuffled_stream(counted(500, []), buffer, SEED, cache=False)]

    # As runs were shuffled that are to go on.
    def whole(seed):
        tf.random.set_seed(1)
        return tf.data.Dataset.range(500).shuffle(500, seed=seed, reshuffle_each_iteration=False)

    assert found == list(tf.data.Dataset.from_tensors(SEED).flat_map(whole).as_numpy_iterator())
    assert sorted(found) == list(range(500)) != found


def test_empty_buffer_is_refused():
    with pytest.raises(ValueError, match="`shuffle_buffer_mib` must be at least 1. Received: shuffle_buffer_mib=0"):
        ShuffleBuffer.of(500, 2**20, mebibytes=0)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The name of 40 images with 100 kB beside each: 4 MB, of which ten fit into a mebibyte."""
    folder = tmp_path_factory.mktemp("records")
    images = [encoded(smooth(number, 20, 24), "png") for number in range(40)]
    # A decoder does not mind what follows the end of an image.
    write_records(folder / "a", [record(image + bytes(100_000)) for image in images])
    return f"tfrecord:{folder}/a"


def test_files_decide_the_buffer_and_every_process_has_the_same(records):
    first, second = (open_source(records, shuffle_buffer_mib=1) for _ in range(2))
    assert first.buffer == second.buffer and 9 <= first.buffer.images <= 10
    orders = [[int(each["index"]) for each in source.read(SEED)] for source in (first, second)]
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(40))
    assert max(index - place for place, index in enumerate(orders[0])) < first.buffer.images
    assert open_source(records).buffer.images == 40


def seen_of(source):
    """A source that notes the seeds by which it is read."""
    seeds = []

    def read(seed):
        seeds.append(seed)
        return source.read(seed)

    return dataclasses.replace(source, read=read), seeds


def test_preview_shows_the_first_images_and_fills_no_buffer(records):
    source, seeds = seen_of(open_source(records, shuffle_buffer_mib=1))
    picture, names, _ = preview(source, RandomResizedCrop(20), images=2, views=1)
    assert names == ["image 0", "image 1"] and seeds == [None]
    for row in range(2):
        top = row * (LINE + 100 + GAP) + LINE
        cell = picture[top : top + 100 : 5, :100:5]  # the whole image, 20 x 24, as large as fits, enlarged
        assert np.abs(cell[3:17].mean() - smooth(row, 20, 24).mean()) < 5


@pytest.mark.slow
def test_shown_views_are_of_the_first_images_and_fill_no_buffer(records):
    source, seeds = seen_of(open_source(records, shuffle_buffer_mib=1))
    [views], _ = first_views(source, RandomResizedCrop(20, scale=(1, 1), ratio=(1.2, 1.2)), 16, ["query"])
    assert set(seeds) == {None}
    means = [smooth(number, 20, 24).mean() for number in range(8)]
    np.testing.assert_allclose(views.mean(axis=(1, 2, 3)), means, atol=2)


@pytest.mark.slow
def test_run_logs_its_buffer_size_once(records, tmp_path):
    settings = {"dataset": records, "channels": 3, "shuffle_buffer_mib": 1, "batch_size": 8, "queue_size": 16}
    printed = pretrain(tiny_config(tmp_path / "run", **settings, epochs=1, bn_splits=2, augment="moco_v1")).printed
    images = open_source(records, shuffle_buffer_mib=1).buffer.images
    assert [line for line in printed.splitlines() if "shuffle buffer" in line] == [
        f"shuffle buffer: {images} of 40 images, 1 MiB"
    ]
