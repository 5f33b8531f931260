"""Features of whole data sets, in blocks and at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_moco.evaluation import FeatureExtractor, at_levels, extract_features
from keras_moco.models import Encoder, linear_head


def rows(n):
    images = np.random.default_rng(0).uniform(0, 255, (n, 6, 6, 3)).astype("float32")
    return {"image": images, "label": np.arange(n) % 3, "index": np.arange(n, dtype="int64") + 2**40}


def dataset(n, batch_size):
    return tf.data.Dataset.from_tensor_slices(rows(n)).batch(batch_size)


def channel_means(images):
    return ops.mean(images, axis=(1, 2))


def test_rows_keep_the_order_of_the_data_set():
    unknown_length = dataset(11, 4).filter(lambda batch: True)  # ends without a warning
    for data in (dataset(11, 4), unknown_length, list(dataset(11, 4).as_numpy_iterator())):
        features, labels, index = extract_features(channel_means, data)
        np.testing.assert_allclose(features, rows(11)["image"].mean(axis=(1, 2)), rtol=1e-5)
        np.testing.assert_array_equal(labels, rows(11)["label"])
        np.testing.assert_array_equal(index, rows(11)["index"])
        assert (features.dtype, labels.dtype, index.dtype) == ("float32", "int32", "int64")


def test_one_trace_is_used_for_all_data_sets_and_weights():
    weight = keras.Variable(np.eye(3, dtype="float32"))
    traces = []

    def embed(images):
        traces.append(1)
        return channel_means(images) @ weight

    extractor = FeatureExtractor(embed)
    extractor.extract(dataset(11, 4))
    traces.clear()  # Keras also runs it once symbolically
    first = extractor.extract(dataset(7, 4)).features
    weight.assign(2 * np.eye(3))
    second = extractor.extract(dataset(7, 4)).features
    assert traces == []
    np.testing.assert_allclose(second, 2 * first)


def test_blocks_are_whole_batches_and_together_the_data_set():
    extractor = FeatureExtractor(channel_means)
    whole = extractor.extract(dataset(11, 4))
    plain = list(dataset(11, 4).as_numpy_iterator())
    for batches, limit, sizes in (
        (dataset(11, 4), 8, [8, 3]),
        (plain, 7, [4, 4, 3]),
        (plain, 100, [11]),
    ):
        blocks = list(extractor.blocks(batches, rows=limit))
        assert [len(block.index) for block in blocks] == sizes
        features, labels, index = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        np.testing.assert_allclose(features, whole.features, rtol=1e-6)
        np.testing.assert_array_equal(labels, whole.labels)
        np.testing.assert_array_equal(index, whole.index)


def test_blocks_are_embedded_when_they_are_asked_for():
    read = []

    def batches():
        for start in range(0, 12, 4):
            read.append(start)
            yield {name: values[start : start + 4] for name, values in rows(12).items()}

    blocks = FeatureExtractor(channel_means).blocks(batches(), rows=4)
    assert next(blocks).index.tolist() == list(range(2**40, 2**40 + 4)) and read == [0]


def test_images_are_not_rounded_by_a_half_precision_policy():
    keras.config.set_dtype_policy("mixed_float16")
    data = rows(4)
    data["image"][:] = 100.03125  # not a float16 number
    features = extract_features(channel_means, tf.data.Dataset.from_tensor_slices(data).batch(4)).features
    np.testing.assert_allclose(features, 100.03125, rtol=1e-6)


def test_both_levels_come_from_one_pass_with_the_rows_of_each_alone():
    encoder = Encoder(keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()]), linear_head(108, 4))
    extractor = FeatureExtractor(at_levels(encoder, ("embedding", "backbone")))
    found, blocks = extractor.extract(dataset(11, 4)), list(extractor.blocks(dataset(11, 4), rows=8))
    for level, embed in (("embedding", encoder), ("backbone", encoder.features)):
        expected = np.array(embed(rows(11)["image"]))
        together = np.concatenate([block[level].features for block in blocks])
        for features in (found[level].features, together):
            np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[level].index, rows(11)["index"])
    with pytest.raises(ValueError, match="'head'"):
        at_levels(encoder, ("head",))


def test_feature_maps_are_refused():
    with pytest.raises(ValueError, match=r"`embed` .*Received: features of shape \(4, 6, 6, 3\)"):
        extract_features(lambda images: images, dataset(4, 4))
