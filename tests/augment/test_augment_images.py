"""What is no batch of images is refused by one sentence, and what the sentence says to do works."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import RandomHorizontalFlip, central_view, moco_cifar, two_views

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 24, 20, 3), "uint8")
LABELS = np.arange(8)
SIZES = [image[: 10 + row] for row, image in enumerate(IMAGES)]
VIEW = moco_cifar(16)
FLIP = RandomHorizontalFlip()

TAKERS = {
    "two_views": lambda images: two_views(VIEW, images)["key"],
    "augment_images": lambda images: FLIP.augment_images(images, np.zeros((8, 1))),
    "central_view": lambda images: central_view(images, 16),
}
# What is given, what of it is received, and a word of the way out.
MISTAKES = {
    "a batch with its labels": (
        {"image": IMAGES, "label": LABELS},
        "a dictionary with 'image', 'label'",
        r'batch\["image"\]',
    ),
    "a tuple with labels": ((IMAGES, LABELS), r"a tuple of \(8, 24, 20, 3\), \(8,\)", r"batch\[0\]"),
    "a ragged batch": (tf.ragged.stack(SIZES), "a RaggedTensor", "Resize"),
    "a list of sizes": (SIZES, r"a list of \(10, 20, 3\), .*, \.\.\.", "Resize"),
    "objects": (np.array([*SIZES, None], object)[:8], "a ndarray of type object", "Resize"),
    "files": (tf.constant([b"\xff\xd8\xff"]), "a tensor of type string", "Decode"),
    "one image": (IMAGES[0], r"shape=\(24, 20, 3\)", r"images\[None\]"),
    "gray images": (IMAGES[..., 0], r"shape=\(8, 24, 20\)", r"images\[\.\.\., None\]"),
    "videos": (IMAGES[None], r"shape=\(1, 8, 24, 20, 3\)", "Reshape"),
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("mistake, received, way_out", MISTAKES.values(), ids=MISTAKES)
def test_other_inputs_are_refused_with_a_way_out(taker, mistake, received, way_out):
    with pytest.raises(ValueError, match=rf"\A`images` .* Received: {received}\. .*{way_out}.*\Z"):
        taker(mistake)


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
def test_a_list_of_images_of_one_size_is_a_batch(taker):
    assert taker(list(IMAGES)).shape[0] == 8


def test_a_layer_takes_single_images_and_refuses_batches_with_other_names():
    np.testing.assert_array_equal(FLIP({"images": IMAGES[0]})["images"].shape, IMAGES[0].shape)
    with pytest.raises(ValueError, match=r"\A`images` .*with 'image', 'label'\. Take the images out of it: [^\n]*\Z"):
        FLIP({"image": IMAGES, "label": LABELS})
    with pytest.raises(ValueError, match="a RaggedTensor. Resize"):
        FLIP(tf.ragged.stack(SIZES))


# In `tf.data`, where AutoGraph would make an error of its own of any but Python's.


def mapped(function, images=IMAGES):
    return tf.data.Dataset.from_tensor_slices(images).batch(4).map(function)


def test_a_recipe_made_in_a_mapped_function_is_refused_and_one_made_before_works():
    with pytest.raises(ValueError, match=r"\AAn augmentation must be made once.*Received: .*made within one\. "):
        mapped(lambda batch: two_views(moco_cifar(16), batch))
    assert next(iter(mapped(lambda batch: two_views(VIEW, batch))))["key"].shape == (4, 16, 16, 3)


def test_error_keeps_its_text_in_a_mapped_function():
    with pytest.raises(ValueError, match=r'\A`images` .*with \'image\', \'label\'\. .*batch\["image"\]\.\Z'):
        mapped(lambda batch: two_views(VIEW, batch), {"image": IMAGES, "label": LABELS})
    unknown = tf.TensorSpec([None, None, None, None], tf.uint8)
    batches = tf.data.Dataset.from_generator(lambda: [IMAGES], output_signature=unknown)
    with pytest.raises(ValueError, match=r"\A`images` .*shape=\(None, None, None, None\)\. .*tf\.ensure_shape"):
        batches.map(lambda batch: two_views(VIEW, batch))
    known = batches.map(lambda batch: two_views(VIEW, tf.ensure_shape(batch, (None, None, None, 3))))
    assert next(iter(known))["query"].shape == (8, 16, 16, 3)
