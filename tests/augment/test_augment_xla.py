"""What XLA compiles agrees with what it does not."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import get_augmentation, moco_v2
from keras_moco.augment.compiled import compiled
from tests.augment.oracles import PHOTOS, draws_for, floats

SMALL = PHOTOS[:, 150:210, 200:264]
pytestmark = pytest.mark.usefixtures("with_xla")


def assert_agree(views, expected):
    """A sum in another order may round a value the other way, to the next level, but rarely."""
    assert views.dtype == expected.dtype == "uint8" and views.shape == expected.shape
    difference = np.abs(floats(views) - floats(expected))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def assert_ways_agree(view, images, draws, monkeypatch, **ways):
    """Of two steps, the second from the same result of the first, as colours would stretch a difference."""
    images, draws = tf.constant(images), tf.constant(draws)
    begun = view.begin_batch(images, draws)
    on_host = view.finish(begun, draws, on_host=True)
    for way in ways.values():
        assert_agree(way(begun, draws), on_host)
    with monkeypatch.context() as patched:
        patched.setattr("keras_moco.augment.compiled.has_xla", lambda: False)
        assert_agree(view.finish(begun, draws, on_host=True), on_host)
        assert_agree(view.begin_batch(images, draws), begun)


def test_a_compiled_recipe_gives_the_same_views(monkeypatch):
    view = moco_v2(32)  # all four functions that are compiled: crop, colours, blur, and upright
    images, draws = np.concatenate([SMALL] * 8), draws_for(view, 16, seed=2)
    assert_ways_agree(view, images, draws, monkeypatch)


def is_compiled(function, *shape):
    traced = tf.function(function, input_signature=[tf.TensorSpec(shape)]).get_concrete_function()
    called = traced.graph.as_graph_def().library.function
    return any(each.attr["_XlaMustCompile"].b for each in called)


def test_functions_are_compiled_where_all_shapes_are_known_and_there_is_xla(monkeypatch):
    double = compiled(lambda number: number + number)
    assert is_compiled(double, 3, 4) and not is_compiled(double, None, 4)
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)
    assert not is_compiled(double, 3, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "photos"),
    [("moco_v1", 32, SMALL), ("moco_v2", 224, PHOTOS), ("moco_medical", 32, SMALL), ("moco_multispectral", 32, SMALL)],
    ids=["moco_v1-32", "moco_v2-224", "moco_medical-32", "moco_multispectral-32"],
)
def test_all_ways_to_compute_it_agree(name, size, photos, monkeypatch):
    view = get_augmentation(name)(size)
    images, draws = np.concatenate([photos] * 8), draws_for(view, 16, seed=2)
    on_device = functools.partial(view.finish, on_host=False)
    in_a_compiled_step = tf.function(on_device, jit_compile=True)
    assert_ways_agree(view, images, draws, monkeypatch, eager=on_device, compiled=in_a_compiled_step)
