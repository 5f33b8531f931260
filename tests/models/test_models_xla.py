"""A whole step is what a TPU wants: static shapes, and operations that XLA has."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import kernels

from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder, EndToEnd, MemoryBank, MoCo, SimCLR, linear_head
from keras_moco.optimizers import SGD

BATCH, SHAPE = 8, (6, 6, 3)


# Neither the batch nor its double divides the queue: keys wrap around.
MODELS = {
    "split": lambda encoder: MoCo(encoder, queue_size=21, momentum=0.9, bn_splits=2),
    "symmetric": lambda encoder: MoCo(encoder, queue_size=21, momentum=0.9, symmetric=True, bn_mode="plain"),
    "end_to_end": lambda encoder: EndToEnd(encoder, bn_splits=2),
    "memory_bank": lambda encoder: MemoryBank(encoder, bank_size=30, num_negatives=11),
    "simclr": SimCLR,
}


@pytest.fixture(params=MODELS)
def step(request):
    """The step of a model as a function that XLA compiles, and its views."""
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3), SplitBatchNormalization(), layers.ReLU(), layers.Conv2D(8, 3)]
    )
    model = MODELS[request.param](Encoder(backbone, linear_head(8, 5)))
    model.compile(optimizer=SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    images = np.random.default_rng(0).uniform(0, 255, (2, BATCH, *SHAPE)).astype("float32")
    return tf.function(model.train_step, jit_compile=True), {
        "query": tf.constant(images[0]),
        "key": tf.constant(images[1]),
        "index": tf.range(BATCH),
    }


def operations(graph):
    """Kinds of operations in a graph, and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def has_xla_kernel(operation):
    return "XLA_CPU_JIT" in {k.device_type for k in kernels.get_registered_kernels_for_op(operation).kernel}


def test_every_operation_of_a_step_is_known_to_xla(step):
    function, views = step
    kinds = operations(function.get_concrete_function(views).graph)
    functions = {kind for kind in kinds if kind.startswith("__") or "PartitionedCall" in kind}
    unknown = {kind for kind in kinds - functions - {"Placeholder", "NoOp"} if not has_xla_kernel(kind)}
    assert len(kinds) > 40 and not unknown
    # What would fail: the shuffle that TensorFlow offers.
    assert not has_xla_kernel("StatelessShuffle")


def test_a_compiled_step_has_static_shapes_only(step):
    function, views = step
    function(views)
    code = function.experimental_get_compiler_ir(views)(stage="hlo")
    shapes = re.findall(r"[a-z]+\d+\[([^\]]*)\]", code)
    assert len(shapes) > 200
    assert not [shape for shape in shapes if "<=" in shape or "?" in shape]
