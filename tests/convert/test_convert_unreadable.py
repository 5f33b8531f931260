"""Files that cannot be read, or that hold another network, are refused, and the model does not change."""

import functools
import json

import numpy as np

from keras_moco.convert import encoder_from_pytorch, files, from_pytorch, load_pytorch
from keras_moco.methods import MoCo, presets
from tests.convert.small_moco import KEY, POINTER, QUERY, refused, unmatched, without


def test_a_file_that_fits_changes_every_weight(checkpoint, write, model, spare):
    spare.set_weights(model.get_weights())
    counters = {name: np.array(5) for name in checkpoint if name.endswith("num_batches_tracked")}
    load_pytorch(spare, write({**checkpoint, **counters}))
    pairs = zip(spare.weights, model.weights, strict=True)
    same = {new.name for new, old in pairs if np.array_equal(new, old)}
    assert same == {"not_finite", "sums", "steps"}  # which a file of PyTorch does not hold
    kernel = checkpoint[QUERY + "conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(spare.encoder.backbone.get_layer("conv1").kernel, kernel)
    assert spare.steps_done == 5 and int(spare.queue.count) == 23


def headed(header, data=b""):
    """A safetensors file with any header."""
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def one_tensor(dtype="F32", size=4, end=16, length=16, **others):
    return headed({"bn1.bias": {"dtype": dtype, "shape": [size], "data_offsets": [0, end]}, **others}, bytes(length))


def test_damaged_and_missing_files_are_refused(checkpoint, write, model):
    path = write(checkpoint)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = 0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1
    for content in (
        *(whole[:length] for length in lengths),
        np.random.default_rng(0).bytes(1000),
        bytes(1000),
        (2**40).to_bytes(8, "little") + b"{}",
        headed([1, 2]),
        one_tensor(length=15),
        one_tensor(size=5),
        one_tensor(dtype="F31"),
        one_tensor(__metadata__={"keras_moco": "{"}),  # notes that are not JSON
    ):
        path.write_bytes(content)
        with refused(f"{path}, which is damaged", unchanged=[model]):
            load_pytorch(model, path)
    path.write_bytes(one_tensor(dtype="F8_E4M3", end=4, length=4))
    with refused(path, "float8_e4m3fn", unchanged=[model]):
        load_pytorch(model, path)
    for place, found in (path.with_name("absent.safetensors"), "does not exist"), (path.parent, "a folder"):
        for convert in (from_pytorch, encoder_from_pytorch, functools.partial(load_pytorch, model)):
            with refused(f"{place}, ", found, unchanged=[model]):
                convert(place)


def test_unknown_notes_and_notes_of_a_wrong_type_are_ignored(checkpoint, state_dict, write):
    for notes in ({"format": "pt"}, *({"keras_moco": text} for text in ("[1]", "3", "null", '"x"'))):
        assert files.read(write(state_dict, **notes)).settings == {}, notes
    wrong = {"stem": 3, "mean": "x", "std": 1, "momentum": "big", "symmetric": 1, "bn_mode": [], "bn_splits": 2.5}
    model = from_pytorch(write(checkpoint, keras_moco=json.dumps({**wrong, "seed": None, "temperature": 0.5, "x": 1})))
    preset = presets.PRESETS["moco_v1_resnet18_cifar10"]
    assert (model.temperature, model.momentum) == (0.5, preset.momentum)
    assert (model.encoder.mean, model.encoder.std) == (list(preset.mean), list(preset.std))
    defaults = MoCo(model.encoder, queue_size=20).get_config()
    for name in ("symmetric", "bn_mode", "bn_splits", "seed"):
        assert model.get_config()[name] == defaults[name], name


def test_other_networks_are_refused(state_dict, checkpoint, write):
    for name, shape, found in (
        ("layer1.1.conv1.weight", (4, 4, 3, 3), " 2 basic blocks and a first kernel of 3x3"),
        ("layer1.0.conv3.weight", (16, 4, 1, 1), " 1 bottleneck blocks and a first kernel of 3x3"),
        ("layer2.0.conv1.weight", (8, 4, 3, 3), " 1-1 basic blocks and a first kernel of 3x3"),
        ("conv1.weight", (4, 3, 5, 5), " 1 basic blocks and a first kernel of 5x5"),
        ("conv1.weight", (4, 3), " tensors such as bn1.bias, bn1.num_batches_tracked, "),
    ):
        for convert, tensors in (
            (encoder_from_pytorch, {**state_dict, name: shape}),
            (from_pytorch, {**checkpoint, QUERY + name: shape}),
        ):
            path = write(tensors)
            with refused(path, found):
                convert(path)


def test_stem_and_preset_must_fit_the_file(checkpoint, state_dict, write):
    with refused() as error:
        encoder_from_pytorch(write(state_dict), stem="imagenet")
    assert unmatched(error.value) == ["- conv1.weight (4, 3, 3, 3)", "+ conv1.weight (4, 3, 7, 7)"]
    for convert, tensors in ((from_pytorch, checkpoint), (encoder_from_pytorch, state_dict)):
        path = write(tensors)
        with refused(
            "resnet50 of width 64, imagenet stem, mlp head of 128",
            f"{path} with tiny of width 4, cifar stem, linear head of 8",
        ):
            convert(path, preset="moco_v2_resnet50_imagenet")
        with refused("`preset`", "moco_v1_resnet50_imagenet", "'moco_v3'"):
            convert(path, preset="moco_v3")
    with refused("`stem`", "'vgg'"):
        encoder_from_pytorch(path, stem="vgg")


def test_part_of_a_moco_is_refused(state_dict, checkpoint, write, model):
    for tensors, prefixes in (
        (state_dict, "bn1, conv1, fc, layer1"),
        (without(checkpoint, KEY), "encoder_q, queue, queue_ptr"),
        (without(checkpoint, QUERY), "encoder_k, queue, queue_ptr"),
    ):
        path = write(tensors)
        for convert in (from_pytorch, functools.partial(load_pytorch, model)):
            with refused(f"{path} with {prefixes}.", unchanged=[model]):
                convert(path)


def test_pointer_must_be_a_row_of_the_queue(checkpoint, write, model):
    for pointer in ([20], [-1], [1, 2], [], [3.0], [np.nan], [True], None):
        tensors = {} if pointer is None else {POINTER: np.array(pointer, None if pointer else "int64")}
        path = write({**without(checkpoint, POINTER), **tensors})
        found = "none" if pointer is None else pointer
        with refused("`queue_ptr`", f"{path} with {found}.", unchanged=[model]):
            load_pytorch(model, path)
