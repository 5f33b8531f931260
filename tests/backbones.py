"""Tries backbones from elsewhere, and writes the table of docs/backbones.md: python -m tests.backbones

With names of cases it writes only their rows; with --full networks of keras.applications keep their depth.
"""

import argparse
import contextlib
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
STEPS, REPLICAS, BATCH = 2, 2, 8
HEADER = (
    "| backbone | images | features from | steps on 2 replicas | resumes to the bit | SavedModel | `.keras` | ONNX "
    "| TFLite | fine-tunes |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


class Case(NamedTuple):
    """A backbone by name, and the height, width and channels of its images."""

    name: str
    size: int = 32
    channels: int = 3


def _hub(name, **arguments):
    return f"keras_hub:{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


_BLOCK = dict(
    stackwise_num_blocks=[1],
    stackwise_expansion=[[16]],
    stackwise_num_filters=[[8]],
    stackwise_kernel_size=[[3]],
    stackwise_num_strides=[[2]],
    stackwise_se_ratio=[[0.25]],
    stackwise_activation=[["relu"]],
    stackwise_padding=[[1]],
)
CASES = {
    "MobileNetV3": Case("keras.applications:MobileNetV3Small(alpha=0.35, minimalistic=True)"),
    "EfficientNetV2": Case("keras.applications:EfficientNetV2B0", channels=1),
    "ConvNeXt": Case("keras.applications:ConvNeXtTiny"),
    "DenseNet": Case("keras.applications:DenseNet121"),
    "ResNetV2": Case("keras.applications:ResNet50V2", channels=1),
    "Xception": Case("keras.applications:Xception", size=71),
    "hub ResNet": Case(
        _hub(
            "ResNetBackbone",
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
        )
    ),
    "hub MobileNet": Case(
        _hub(
            "MobileNetBackbone",
            **_BLOCK,
            output_num_filters=32,
            depthwise_filters=8,
            depthwise_stride=2,
            depthwise_residual=False,
            last_layer_filter=32,
        )
    ),
    "hub ViT": Case(
        _hub("ViTBackbone", patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, dropout_rate=0.1)
    ),
    "hub DINOV2": Case(
        _hub(
            "DINOV2Backbone",
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            intermediate_dim=32,
            dropout_rate=0.1,
            position_embedding_shape=(32, 32, 3),
        )
    ),
    "hub Swin": Case(
        _hub("SwinTransformerBackbone", embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, patch_size=4)
    ),
    "function": Case("tests.backbones:own_network(width=8)"),
}


def own_network(input_shape, width):
    """A network of one's own, with dropout."""
    from keras import Input, Model, layers

    images = Input(input_shape)
    x = layers.BatchNormalization()(layers.Conv2D(width, 3, 2, use_bias=False)(images))
    return Model(images, layers.Dropout(0.1)(layers.ReLU()(x)), name="own_network")


@contextlib.contextmanager
def thin():
    """In this block networks of keras.applications have one or two blocks per stage, with every kind of their layers.

    At their depth some take a minute to trace.
    """
    from keras.src.applications import convnext, densenet, efficientnet_v2, mobilenet_v3, resnet, xception

    dense, stack, inverted = densenet.DenseNet, resnet.stack_residual_blocks_v2, mobilenet_v3._inverted_res_block
    short = [{**block, "num_repeat": 1} for block in efficientnet_v2.DEFAULT_BLOCKS_ARGS["efficientnetv2-b0"]]

    def without_repetitions(x, expansion, filters, kernel_size, stride, *rest):
        if stride == 1 and filters == x.shape[-1]:
            return x
        return inverted(x, expansion, filters, kernel_size, stride, *rest)

    with (
        mock.patch.object(densenet, "DenseNet", lambda blocks, *rest, **more: dense([1] * len(blocks), *rest, **more)),
        mock.patch.object(resnet, "stack_residual_blocks_v2", lambda x, f, n, **more: stack(x, f, 2, **more)),
        mock.patch.object(mobilenet_v3, "_inverted_res_block", without_repetitions),
        mock.patch.object(xception, "range", lambda blocks: range(1), create=True),  # of its middle flow
        mock.patch.dict(efficientnet_v2.DEFAULT_BLOCKS_ARGS, {"efficientnetv2-b0": short}),
        mock.patch.dict(convnext.MODEL_CONFIGS["tiny"], {"depths": [1, 1, 1, 1]}),
    ):
        yield


def try_backbone(case):
    """Trains, resumes, exports and fine-tunes a backbone: its row of the table.

    What is not said by a word in the row is asserted.
    """
    from keras_moco.config import Config
    from keras_moco.export.standalone import features_model
    from keras_moco.runs.build import build_model
    from keras_moco.runs.plan import Plan
    from tests.small_training import strategy_of

    settings = dict(queue_size=2 * BATCH, embedding_dim=8, image_size=case.size, batch_size=BATCH, head="linear")
    config = Config(backbone=case.name, train_examples=64, channels=case.channels, **settings)
    plan = Plan(config, 64, case.channels, REPLICAS)
    strategy = strategy_of(REPLICAS)
    model = build_model(plan, strategy)
    shape = model.encoder.backbone.output_shape[1:]
    kind = {1: "features", 2: f"{shape[0]} tokens of {shape[-1]}", 3: f"maps {' x '.join(map(str, shape))}"}
    cells = [f"`{case.name}`", f"{case.size} x {case.size} x {case.channels}", kind[len(shape)]]
    cells += _train_and_resume(model, case, lambda: build_model(plan, strategy))
    with tempfile.TemporaryDirectory() as folder:
        cells += _export(model.encoder, case, Path(folder))
    cells.append(_fine_tune(features_model(model.encoder), case))
    return f"| {' | '.join(cells)} |"


def _images(case, step, number=BATCH):
    import numpy as np

    shape = (number, case.size, case.size, case.channels)
    return np.random.default_rng(step).uniform(0, 255, shape).astype("float32")


def _fit(model, case, *steps):
    """Trains on given steps; the losses."""
    import numpy as np
    import tensorflow as tf

    from tests.small_training import without_autotune

    views = {
        name: np.concatenate([_images(case, 2 * step + k) for step in steps]) for k, name in enumerate(("query", "key"))
    }
    batches = without_autotune(tf.data.Dataset.from_tensor_slices(views).batch(BATCH, drop_remainder=True))
    history = model.fit(
        model.distribute_strategy.experimental_distribute_dataset(batches),
        steps_per_epoch=1,
        epochs=len(steps),
        verbose=0,
        shuffle=False,
    )
    return history.history["loss"]


def _state(model):
    """Every number that a run consists of: variables of model and optimizer, and the states of random layers."""
    import numpy as np

    from keras_moco.networks.seeds import seed_generators

    states = [generator.state for generator in seed_generators(model)]
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables, *states)]


def _same(ours, theirs):
    import numpy as np

    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def _train_and_resume(model, case, rebuild):
    import numpy as np

    from keras_moco.runs.checkpoints import restore, save

    fresh = [np.array(variable) for variable in model.trainable_variables]
    losses = _fit(model, case, *range(STEPS))
    assert np.isfinite(losses).all(), losses
    moved = [not np.array_equal(a, b) for a, b in zip(fresh, model.trainable_variables, strict=True)]
    assert np.mean(moved) > 0.7, "most of the network must learn"
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        saved = _state(model)
        _fit(model, case, STEPS)
        after = _state(model)
        restore(model, folder)
        restored = _same(_state(model), saved)
        _fit(model, case, STEPS)
        repeated = _same(_state(model), after)
        # What another process builds has the same state, and takes the same step of it.
        other = rebuild()
        restore(other, folder)
        return [str(STEPS), "yes" if restored and repeated and _same(_state(other), saved) else "no"]


def _export(encoder, case, folder):
    """The cells of the formats: `yes` where the features are those of the encoder."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_moco.export import export_backbone
    from keras_moco.export.standalone import features_model
    from keras_moco.runs.load import load_backbone

    images = _images(case, 99)
    expected = np.array(encoder.features(images))

    def cell(features):
        far = np.abs(np.array(features) - expected).max() / np.abs(expected).max()
        assert far < 1e-4, far
        return "yes"

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*backbone.keras is not written")
        export_backbone(encoder, folder)
    served = tf.saved_model.load(str(folder / "saved_model"))
    cells = [cell(served.serve(images))]
    if (folder / "backbone.keras").exists():
        model = load_backbone(folder / "backbone.keras")
        cells.append(cell(model(images)))
    else:
        model = features_model(encoder)
        cells.append("no: layers of KerasHub")
    model(images[:1])
    for form, path, read in (("onnx", "backbone.onnx", _by_onnx), ("litert", "backbone.tflite", _by_tflite)):
        path = folder / path
        with contextlib.redirect_stdout(None):
            try:
                keras.Model.export(model, path, format=form, verbose=False)
                features = read(path, images)
            except Exception as error:  # of whichever library; the table says which
                cells.append(f"no: {_reason(error)}")
                continue
        cells.append(cell(features))
    return cells


def _by_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _by_tflite(path, images):
    from ai_edge_litert.interpreter import Interpreter

    [features] = Interpreter(str(path)).get_signature_runner()(images=images).values()
    return features


def _reason(error):
    operation = re.search(r"No Op registered for (\w+)", str(error))
    return (
        f"tf2onnx lacks {operation[1]}" if operation else f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    )


def _fine_tune(backbone, case):
    import numpy as np

    from keras_moco.data.arrays import array_source
    from keras_moco.evaluation.finetune import fine_tune

    before = [np.array(variable) for variable in backbone.trainable_variables]
    source = array_source(_images(case, 7).astype("uint8"), np.arange(BATCH) % 2, name="two classes")
    classifier = fine_tune(backbone, source, case.size, epochs=2)
    assert np.isfinite(classifier.predict(_images(case, 8), verbose=0)).all()
    moved = [not np.array_equal(a, b) for a, b in zip(before, backbone.trainable_variables, strict=True)]
    return "yes" if np.mean(moved) > 0.7 else "no"


def rows_of(page):
    """The rows of the table on the page, by the name of the backbone."""
    return {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `") and row.count("|") > 9}


def write_row(name, row):
    """Puts a row into the table on the page, in the order of the cases."""
    page = PAGE.read_text(encoding="utf-8")
    rows = {**rows_of(page), name: row}
    table = "\n".join([HEADER, *(rows[case.name] for case in CASES.values() if case.name in rows)])
    before, _, after = page.partition(HEADER.splitlines()[0])
    after = after.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table}\n\n{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--full", action="store_true", help="at full depth; prints the rows and writes nothing")
    flags = parser.parse_args()
    from tests.conftest import prepare_tensorflow

    prepare_tensorflow()
    import keras

    from keras_moco.augment import compiled

    for name in flags.cases or CASES:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        with (
            mock.patch.object(compiled, "has_xla", lambda: False),
            contextlib.nullcontext() if flags.full else thin(),
        ):
            start = os.times()
            row = try_backbone(CASES[name])
            end = os.times()
        print(
            f"{name}: {sum(end[:2]) - sum(start[:2]):.0f} s of processor time, {end[4] - start[4]:.0f} s\n{row}",
            flush=True,
        )
        if not flags.full:
            write_row(CASES[name].name, row)


if __name__ == "__main__":
    main()
