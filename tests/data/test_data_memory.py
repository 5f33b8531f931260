"""Arrays of one's own as a source."""

import numpy as np
import pytest

from keras_moco.augment import Augmentation, moco_v1
from keras_moco.data import array_source, evaluation_dataset, pretrain_dataset, steps_per_epoch

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 9, 7, 3), dtype="uint8")
LABELS = RNG.integers(0, 4, 50)


class Untouched(Augmentation):
    """Views that are the images."""

    num_draws = 1

    def augment(self, images, draws):
        return images


def read(dataset):
    batches = list(dataset.as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def images_of(source):
    return np.stack([example["image"] for example in source.examples().as_numpy_iterator()])


def test_examples_are_the_images_and_labels_in_their_order():
    source = array_source(IMAGES, LABELS)
    examples = list(source.examples().as_numpy_iterator())
    np.testing.assert_array_equal([example["image"] for example in examples], IMAGES)
    np.testing.assert_array_equal([example["label"] for example in examples], LABELS)
    assert [example["index"] for example in examples] == list(range(50))
    assert (source.num_examples, source.image_shape, source.bad) == (50, (9, 7, 3), None)


def test_a_shuffle_keeps_what_belongs_together():
    examples = list(array_source(IMAGES, LABELS).examples(seed=4).as_numpy_iterator())
    order = np.array([example["index"] for example in examples])
    assert sorted(order) == list(range(50)) and np.mean(order == np.arange(50)) < 0.2
    np.testing.assert_array_equal([example["image"] for example in examples], IMAGES[order])
    np.testing.assert_array_equal([example["label"] for example in examples], LABELS[order])


def test_batches_are_the_images_of_their_indices():
    batch = read(pretrain_dataset(array_source(IMAGES), Untouched(), 10).take(10))
    np.testing.assert_array_equal(np.sort(batch["index"].reshape(2, 50)), [range(50)] * 2)
    for name in ("query", "key"):
        np.testing.assert_array_equal(batch[name], IMAGES[batch["index"]])


def test_evaluation_gives_images_labels_and_indices():
    batch = read(evaluation_dataset(array_source(IMAGES[:, :7], LABELS), image_size=7, batch_size=20))
    np.testing.assert_allclose(batch["image"], IMAGES[:, :7], atol=1e-3)
    np.testing.assert_array_equal(batch["label"], LABELS)
    np.testing.assert_array_equal(batch["index"], range(50))


def test_class_names_are_the_numbers_or_those_given():
    assert array_source(IMAGES, LABELS).class_names == ("0", "1", "2", "3")
    names = ("ant", "bee", "cat", "dog", "elk")
    source = array_source(IMAGES, LABELS, class_names=list(names))
    assert source.class_names == names and source.num_classes == 5


def test_images_without_labels_have_no_classes():
    source = array_source(IMAGES, class_names=["ant"])
    assert source.class_names is None and source.num_classes == 0
    assert {int(example["label"]) for example in source.examples()} == {-1}


def test_labels_may_be_a_column_as_those_of_keras_datasets():
    examples = array_source(IMAGES, LABELS[:, None]).examples().as_numpy_iterator()
    np.testing.assert_array_equal([example["label"] for example in examples], LABELS)


def test_name_and_split_are_those_of_messages():
    source = array_source(IMAGES, name="mine", split="test")
    assert (source.name, source.split) == ("mine", "test")
    with pytest.raises(ValueError, match=r"Received: batch_size=51, mine \(test\) with 50 images"):
        steps_per_epoch(source, 51)


def test_gray_images_get_an_axis_of_one_channel():
    source = array_source(IMAGES[..., 0])
    assert source.image_shape == (9, 7, 1)
    np.testing.assert_array_equal(images_of(source), IMAGES[..., :1])


def test_five_channels_keep_their_colours_in_a_recipe(monkeypatch):
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)  # to compile takes ten seconds
    recipe = moco_v1(8)
    images = RNG.integers(0, 256, (8, 9, 9, 5), dtype="uint8")
    batch = read(pretrain_dataset(array_source(images), recipe, 4).take(2))
    assert batch["query"].shape == batch["key"].shape == (8, 8, 8, 5)
    # What the recipe does to one channel, it does to five that are alike: hue and saturation are left alone.
    gray = images[..., :1]
    one, five = (
        read(pretrain_dataset(array_source(pixels), recipe, 4, seed=2).take(2))
        for pixels in (gray, np.repeat(gray, 5, axis=-1))
    )
    for name in ("query", "key"):
        assert np.ptp(one[name]) > 50
        np.testing.assert_allclose(five[name].astype(int), np.repeat(one[name], 5, axis=-1).astype(int), atol=1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
def test_other_types_are_rounded_to_whole_levels(dtype):
    values = (IMAGES + 0.3 * (IMAGES < 255)).astype(dtype)
    np.testing.assert_array_equal(images_of(array_source(values)), IMAGES)


def test_values_that_round_up_do():
    images = np.full((2, 4, 4, 3), 7.6)
    np.testing.assert_array_equal(images_of(array_source(images)), np.full((2, 4, 4, 3), 8))


@pytest.mark.parametrize(
    "images, received",
    [
        (IMAGES / 255, "from 0 to 1"),
        (IMAGES - 1.0, "from -1 to 254"),
        (IMAGES * 257.0, "from 0 to 65535"),
        (IMAGES / 127.5 - 1, "from -1 to 1"),
        (np.zeros((2, 4, 4, 3)), "from 0 to 0"),
    ],
)
def test_values_of_another_range_are_refused(images, received):
    with pytest.raises(ValueError) as error:
        array_source(images)
    assert str(error.value) == (
        f"`images` must have values in 0..255. Received: values {received}. Scale them, from 0..1 by 255."
    )


def test_values_that_are_no_numbers_are_refused():
    images = IMAGES.astype("float32")
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`images` must have values in 0\.\.255\. Received: values from nan to nan"):
        array_source(images)


@pytest.mark.parametrize("shape", [(5, 8), (0, 8, 8, 3), (5, 8, 8, 3, 1)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        array_source(np.zeros(shape, "uint8"))
    assert str(error.value) == (
        "`images` must have the shape (n, height, width, channels), or (n, height, width) for gray ones. "
        f"Received: shape={shape}. Reshape them."
    )


@pytest.mark.parametrize("labels", [LABELS[:49], LABELS - 1, LABELS + 0.5])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError) as error:
        array_source(IMAGES, labels)
    assert str(error.value) == (
        "`labels` must be one class per image, a whole number from 0. "
        f"Received: {len(labels)} labels of type {labels.dtype}, the least {labels.min()}, for 50 images. Correct them."
    )


def test_class_names_fewer_than_classes_are_refused():
    with pytest.raises(ValueError, match="class_names"):
        array_source(IMAGES, LABELS, class_names=["ant", "bee"])
