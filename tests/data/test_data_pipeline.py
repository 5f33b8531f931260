import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import Augmentation, RandomResizedCrop, central_view, moco_v1
from keras_moco.data import evaluation_dataset, open_source, plain_read_errors, pretrain_dataset, steps_per_epoch
from tests.batches import assert_same, take


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", "test")  # 360 images


@pytest.fixture(scope="module")
def crop():
    return RandomResizedCrop(8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30 - number, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return open_source(f"folder:{folder}")


def test_batches_have_static_shapes(digits, photos, crop):
    for source, channels in ((digits, 1), (photos, 3)):
        spec = pretrain_dataset(source, crop, batch_size=3).element_spec
        assert spec["query"] == spec["key"] == tf.TensorSpec((3, 8, 8, channels), tf.float32)
        assert spec["index"] == tf.TensorSpec((3,), tf.int64)


def test_every_epoch_reads_each_image_once_and_in_a_new_order(digits, crop):
    index = take(pretrain_dataset(digits, crop, batch_size=90), 8)["index"].reshape(2, 360)
    np.testing.assert_array_equal(np.sort(index), [range(360)] * 2)
    assert np.mean(index[0] == index[1]) < 0.1


def test_no_batch_spans_two_epochs(digits, crop):
    index = take(pretrain_dataset(digits, crop, batch_size=100), 6)["index"].reshape(2, 300)
    assert all(len(set(epoch)) == 300 for epoch in index)


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_order(digits):
    one, again, other = (take(pretrain_dataset(digits, moco_v1(8), 60, seed=seed), 7) for seed in (3, 3, 4))
    assert_same(one, again)
    assert np.mean(one["index"] == other["index"]) < 0.1


def test_first_epoch_continues_where_two_epochs_end(digits, crop):
    assert_same(
        take(pretrain_dataset(digits, crop, 120, first_epoch=2), 4),
        take(pretrain_dataset(digits, crop, 120).skip(6), 4),
    )


def test_first_step_continues_inside_an_epoch(digits, photos, crop):
    for source, size in ((digits, 120), (photos, 2)):
        assert_same(
            take(pretrain_dataset(source, crop, size, first_epoch=1, first_step=2), 4),
            take(pretrain_dataset(source, crop, size).skip(5), 4),
        )


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """Images of different sizes in a TFDS set, which are read as a stream."""
    folder = tmp_path_factory.mktemp("streamed")
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="png")}
    rng = np.random.default_rng(0)
    rows = [(row, {"image": rng.integers(0, 256, (9 + row, 12, 3), dtype="uint8")}) for row in range(13)]
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="streamed",
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows},
    )
    return open_source("tfds:streamed", data_dir=folder)


@pytest.mark.parametrize("workers, replicas", [(1, 2), (2, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("kind, size", [("digits", 60), ("streamed", 12)])
def test_workers_share_every_batch_in_the_order_of_their_replicas(kind, size, workers, replicas, crop, request):
    source = request.getfixturevalue(kind)
    steps = 2 * (source.num_examples // size) + 1  # into the third epoch
    expected = take(pretrain_dataset(source, crop, size, seed=5), steps)
    rows, local = size // replicas, replicas // workers
    shares = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        dataset = pretrain_dataset(source, crop, size, seed=5, context=context)
        assert dataset.element_spec["query"].shape[0] == rows
        found = take(dataset, steps * local)
        shares.append({name: array.reshape(steps, local * rows, *array.shape[1:]) for name, array in found.items()})
    together = {name: np.concatenate([share[name] for share in shares], axis=1) for name in expected}
    assert_same({name: array.reshape(expected[name].shape) for name, array in together.items()}, expected)


def test_a_worker_goes_on_inside_an_epoch(digits, crop):
    context = tf.distribute.InputContext(2, 1, 2)
    assert_same(
        take(pretrain_dataset(digits, crop, 60, first_epoch=1, first_step=2, context=context), 5),
        take(pretrain_dataset(digits, crop, 60, context=context).skip(8), 5),
    )


def test_a_worker_does_not_open_the_images_of_others(photos, crop, tmp_path):
    for path in sorted(photos_folder(photos).iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shares = [tf.distribute.InputContext(2, worker, 2) for worker in range(2)]
    source = open_source(f"folder:{tmp_path}")
    own, others = (set(take(pretrain_dataset(source, crop, 6, context=share), 1)["index"]) for share in shares)
    assert len(own) == len(others) == 3 and not own & others
    files = sorted(tmp_path.iterdir())
    for index in others:
        files[index].write_bytes(b"no image")
    assert set(take(pretrain_dataset(source, crop, 6, context=shares[0]), 1)["index"]) == own
    with pytest.raises(ValueError, match="At most 1 % of the images may be unreadable"), plain_read_errors():
        take(pretrain_dataset(source, crop, 6, context=shares[1]), 1)


def photos_folder(source):
    return pathlib.Path(source.name.removeprefix("folder:"))


def test_views_depend_on_the_image_and_the_epoch_not_on_the_batch(digits, photos, crop):
    for source, sizes in ((digits, (72, 120)), (photos, (2, 3))):
        small, large = (take(pretrain_dataset(source, crop, size), source.num_examples // size) for size in sizes)
        order = [np.argsort(views["index"]) for views in (small, large)]
        for name in ("query", "key", "index"):
            # rtol: the resize sums in another order in batches of another size
            np.testing.assert_allclose(small[name][order[0]], large[name][order[1]], rtol=1e-4, atol=1e-3)


def test_an_image_gets_new_views_in_a_new_epoch_and_two_different_views_in_each(digits, crop):
    views = [take(pretrain_dataset(digits, crop, 360, first_epoch=epoch), 1) for epoch in (0, 1)]
    query = [epoch["query"][np.argsort(epoch["index"])] for epoch in views]
    changed = [np.abs(query[0] - query[1]), np.abs(views[0]["query"] - views[0]["key"])]
    assert all(np.mean(difference.max(axis=(1, 2, 3)) > 1) > 0.95 for difference in changed)


def test_views_are_made_from_the_image_of_their_index(digits):
    class Untouched(Augmentation):
        num_draws = 1

        def augment(self, images, draws):
            return images

    images = np.stack([example["image"] for example in digits.examples().as_numpy_iterator()])
    batch = take(pretrain_dataset(digits, Untouched(), 100), 2)
    np.testing.assert_array_equal(batch["query"], images[batch["index"]])
    np.testing.assert_array_equal(batch["key"], images[batch["index"]])


def test_evaluation_reads_all_images_in_order_and_unchanged_at_their_own_size(digits):
    dataset = evaluation_dataset(digits, image_size=8, batch_size=100)
    assert len(dataset) == 4
    batch = take(dataset, 4)
    examples = list(digits.examples().as_numpy_iterator())
    np.testing.assert_array_equal(batch["index"], range(360))
    np.testing.assert_array_equal(batch["label"], [example["label"] for example in examples])
    np.testing.assert_allclose(batch["image"], [example["image"] for example in examples], atol=1e-3)


def test_evaluation_views_are_central_views(photos):
    batch = take(evaluation_dataset(photos, image_size=16), 1)
    for image, example in zip(batch["image"], photos.examples().as_numpy_iterator(), strict=True):
        np.testing.assert_allclose(image, central_view(example["image"][None], 16)[0], atol=1e-3)


def test_steps_per_epoch_is_the_whole_division(digits):
    assert [steps_per_epoch(digits, size) for size in (1, 100, 360)] == [360, 3, 1]


@pytest.mark.parametrize("entries", [("query", "key"), ("query", "index"), ("index",)])
def test_what_is_left_out_changes_nothing_else(digits, photos, crop, entries):
    for source in (digits, photos):
        some = take(pretrain_dataset(source, crop, 2, entries=entries), 2)
        every = take(pretrain_dataset(source, crop, 2), 2)
        assert_same(some, {name: every[name] for name in entries})


def test_an_entry_that_there_is_not_is_an_error(digits, crop):
    with pytest.raises(ValueError) as error:
        pretrain_dataset(digits, crop, 2, entries=("query", "image"))
    assert str(error.value) == (
        "`entries` must be names out of query, key, index, label, draws. Received: query, image. Choose among them."
    )


@pytest.mark.parametrize("size", [361, 0])
def test_a_batch_that_cannot_be_filled_is_an_error(digits, crop, size):
    with pytest.raises(ValueError, match=rf"Received: batch_size={size}, digits \(test\) with 360 images"):
        pretrain_dataset(digits, crop, size)


@pytest.mark.parametrize("start", [{"first_epoch": -1}, {"first_step": 4}])
def test_a_start_outside_the_epoch_is_an_error(digits, crop, start):
    with pytest.raises(ValueError, match="`first_step` from 0 to 3"):
        pretrain_dataset(digits, crop, 100, **start)
