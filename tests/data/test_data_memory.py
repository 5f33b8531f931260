"""Arrays of one's own as a source."""

import numpy as np
import pytest

from keras_moco.data import array_source, steps_per_epoch

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 9, 7, 3), dtype="uint8")
LABELS = RNG.integers(0, 4, 50)


def images_of(source):
    return np.stack([example["image"] for example in source.examples().as_numpy_iterator()])


def test_examples_are_the_images_and_labels_in_their_order_and_a_shuffle_keeps_them_together():
    source = array_source(IMAGES, LABELS)
    assert (source.num_examples, source.image_shape, source.bad) == (50, (9, 7, 3), None)
    for seed in (None, 4):
        examples = list(source.examples(seed).as_numpy_iterator())
        order = np.array([example["index"] for example in examples])
        np.testing.assert_array_equal(np.sort(order), range(50))
        assert np.mean(order == np.arange(50)) < 0.2 or (seed is None and list(order) == list(range(50)))
        np.testing.assert_array_equal([example["image"] for example in examples], IMAGES[order])
        np.testing.assert_array_equal([example["label"] for example in examples], LABELS[order])


def test_class_names_are_the_numbers_or_those_given():
    assert array_source(IMAGES, LABELS).class_names == ("0", "1", "2", "3")
    names = ("ant", "bee", "cat", "dog", "elk")
    source = array_source(IMAGES, LABELS[:, None], list(names))  # a column of labels, as of Keras's data sets
    assert source.class_names == names and source.num_classes == 5
    np.testing.assert_array_equal(source.labels(), LABELS)


def test_images_without_labels_have_no_classes_and_messages_name_the_source():
    source = array_source(IMAGES, class_names=["ant"], name="mine", split="test")
    assert source.class_names is None and source.num_classes == 0
    np.testing.assert_array_equal(source.labels(), -np.ones(50))
    with pytest.raises(ValueError, match=r"batch_size=51, mine \(test\) with 50 images"):
        steps_per_epoch(source, 51)


def test_gray_images_get_an_axis_of_one_channel():
    source = array_source(IMAGES[..., 0])
    assert source.image_shape == (9, 7, 1)
    np.testing.assert_array_equal(images_of(source), IMAGES[..., :1])


def test_other_types_are_rounded_to_whole_levels():
    for dtype in ("float32", "float64", "int64", "uint16"):
        for added in (0.3, -0.3):
            values = np.clip(IMAGES + added, 0, 255).astype(dtype)
            np.testing.assert_array_equal(images_of(array_source(values)), np.round(values).astype("uint8"))


@pytest.mark.parametrize(
    "images, received",
    [
        (IMAGES / 255, "from 0 to 1"),
        (IMAGES - 1.0, "from -1 to 254"),
        (IMAGES * 257.0, "from 0 to 65535"),
        (np.zeros((2, 4, 4, 3)), "from 0 to 0"),
        (np.where(IMAGES == IMAGES.max(), np.nan, IMAGES), "from nan to nan"),
    ],
)
def test_values_of_another_range_are_refused(images, received):
    with pytest.raises(ValueError, match=f"`images` .*values {received}"):
        array_source(images)


@pytest.mark.parametrize("shape", [(5, 8), (0, 8, 8, 3), (5, 8, 8, 3, 1)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        array_source(np.zeros(shape, "uint8"))
    assert "`images`" in str(error.value) and f"shape={shape}" in str(error.value)


@pytest.mark.parametrize("labels", [LABELS[:49], LABELS - 1, LABELS + 0.5])
def test_labels_that_do_not_fit_are_refused(labels):
    received = f"{len(labels)} labels of type {labels.dtype}, the least {labels.min()}, for 50 images"
    with pytest.raises(ValueError, match=f"`labels` .*{received}"):
        array_source(IMAGES, labels)


def test_class_names_fewer_than_classes_are_refused():
    with pytest.raises(ValueError, match="`class_names` .*2 names for 4 classes"):
        array_source(IMAGES, LABELS, class_names=["ant", "bee"])
