"""Arrays of one's own as a source."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.data import array_source, steps_per_epoch

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 9, 7, 3), dtype="uint8")
LABELS = RNG.integers(0, 4, 50)


def images_of(source):
    return source.arrays()[0].numpy()


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


def test_class_names_are_the_numbers_or_those_given_and_without_labels_there_are_none():
    assert array_source(IMAGES, LABELS).class_names == ("0", "1", "2", "3")
    names = ("ant", "bee", "cat", "dog", "elk")
    source = array_source(IMAGES, LABELS[:, None], list(names))  # a column of labels, as of Keras's data sets
    assert source.class_names == names and source.num_classes == 5
    np.testing.assert_array_equal(source.labels(), LABELS)
    source = array_source(IMAGES, class_names=["ant"], name="mine", split="test")
    assert source.class_names is None and source.num_classes == 0
    np.testing.assert_array_equal(source.labels(), -np.ones(50))
    with pytest.raises(ValueError, match=r"batch_size=51, mine \(test\) with 50 images"):
        steps_per_epoch(source, 51)


def test_gray_images_get_an_axis_of_one_channel_and_other_types_are_rounded_to_whole_levels():
    np.testing.assert_array_equal(images_of(array_source(IMAGES[..., 0])), IMAGES[..., :1])
    for dtype in ("float32", "float64", "int64", "uint16"):
        for added in (0.3, -0.3):
            values = np.clip(IMAGES + added, 0, 255).astype(dtype)
            np.testing.assert_array_equal(images_of(array_source(values)), np.round(values).astype("uint8"))


def test_other_ranges_shapes_labels_and_names_are_refused():
    for arguments, received in (
        ((IMAGES / 255,), "`images` .*values from 0 to 1"),
        ((IMAGES - 1.0,), "`images` .*values from -1 to 254"),
        ((IMAGES * 257.0,), "`images` .*values from 0 to 65535"),
        ((np.zeros((2, 4, 4, 3)),), "`images` .*values from 0 to 0"),
        ((np.where(IMAGES == IMAGES.max(), np.nan, IMAGES),), "`images` .*values from nan to nan"),
        (((IMAGES, LABELS),), "`images` .*a tuple"),
        (({"image": IMAGES},), "`images` .*a dict"),
        (([IMAGES[0], IMAGES[0, :5]],), "`images` .*a list.*one size"),
        ((tf.data.Dataset.from_tensor_slices(IMAGES),), "`images` .*a _TensorSliceDataset"),
        ((IMAGES[0, 0],), r"`images` .*shape=\(7, 3\)"),
        ((IMAGES[:0],), r"`images` .*shape=\(0, 9, 7, 3\)"),
        ((IMAGES[..., None],), r"`images` .*shape=\(50, 9, 7, 3, 1\)"),
        ((IMAGES, LABELS[:49]), "`labels` .*49 labels of type int64, the least 0, for 50 images"),
        ((IMAGES, LABELS - 1), "`labels` .*the least -1, for 50 images"),
        ((IMAGES, LABELS + 2**32), f"`labels` .*a label {2**32 + 3}"),  # which an int32 would not hold
        ((IMAGES, LABELS + 0.5), "`labels` .*50 labels of type float64, the least 0.5"),
        ((IMAGES, LABELS, ["ant", "bee"]), "`class_names` .*2 names for 4 classes"),
        ((IMAGES, LABELS + 1, ["ant", "bee", "cat", "dog"]), "`class_names` .*4 names for 5 classes.*labels - 1"),
    ):
        with pytest.raises(ValueError, match=received):
            array_source(*arguments)
