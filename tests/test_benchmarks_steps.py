"""The benchmarks of the training step compare the same work, and compute ratios from their times."""

import importlib
import sys

import numpy as np
import pytest

from tests.load_benchmark import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a module from the folder of benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.split(".")[0] in ("steps", "train_step")]:
        del sys.modules[name]


def small_case(load):
    return load("steps").Case("resnet10", "cifar", pixels=8, batch=8, queue_size=32, features=512, bn_splits=2)


@pytest.mark.slow
def test_steps_in_keras_train(load):
    candidates = load("steps.in_keras").CANDIDATES
    for name in ("fit", "limit", "supervised"):
        take = candidates[name](small_case(load), "float32")
        assert take() > 0 and take() > 0, name


def test_ratios_are_medians_over_rounds(load, capsys):
    train_step = load("train_step")
    times = {
        "fit": [1.0, 2.0, 4.0],
        "limit": [1.0, 1.0, 1.0],
        "pytorch": [3.0, 8.0, 8.0],
        "pytorch channels_last": [9.0, 9.0, 9.0],
    }
    first = dict.fromkeys(times, 10.0)
    rows, ratios = train_step.report("resnet18_float32", small_case(load), first, times, {"fit": 1.5})
    # The better of PyTorch's two; round by round 3, 4 and 2 times as long as `fit`.
    assert ratios == {"resnet18_float32_time_vs_limit": 2.0, "resnet18_float32_speed_vs_pytorch": 3.0}
    assert rows["fit"]["images_per_second"] == 4.0 and rows["fit"]["peak_memory_gib"] == 1.5
    assert "speed_vs_pytorch 3.000" in capsys.readouterr().out


def test_bfloat16_is_skipped_where_it_is_emulated(load, monkeypatch, capsys):
    train_step, bfloat16 = load("train_step"), load("steps.bfloat16")
    missing = bfloat16.what_is_missing
    zen_2 = "flags\t\t: fpu avx avx2 fma\nbugs\t\t: avx512f avx512bw avx512dq avx512vl\n"
    skylake = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512dq avx512vl\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"
    assert missing(skylake, {}) == missing(arm, {}) == missing(skylake, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}) == ""
    assert "AVX-512" in missing(zen_2, {})
    assert missing(skylake, {"ONEDNN_MAX_CPU_ISA": "avx2"}) == "ONEDNN_MAX_CPU_ISA=AVX2"
    monkeypatch.setattr(bfloat16, "reason_to_skip", lambda: "skipped: bfloat16")
    assert train_step.measurable(["resnet50_bfloat16", "resnet18_float32"]) == ["resnet18_float32"]
    assert capsys.readouterr().out == "skipped: bfloat16\n"


@pytest.mark.slow
def test_both_ways_to_enqueue_write_the_same_keys(load):
    queues = load("steps.queues")
    written = []
    for by_copy in (False, True):
        queue = queues.build(20, 8, 4, by_copy)
        queues.act("both", times=2)
        written.append((np.array(queue.features), int(queue.pointer)))
    np.testing.assert_array_equal(written[0][0], written[1][0])
    assert written[0][1] == written[1][1] == 3 * 8 - 20
    assert queues.act("look_up", times=1) > 0


@pytest.mark.torch
@pytest.mark.parametrize("backbone, features", [("resnet18", 512), ("resnet50", 2048)])
def test_pytorch_trains_the_same_network(load, backbone, features):
    in_pytorch, in_keras = load("steps.in_pytorch"), load("steps.in_keras")
    theirs = in_pytorch.resnet(backbone, "cifar", in_pytorch.torch.nn.BatchNorm2d, 128).parameters()
    ours = in_keras._encoder(small_case(load)._replace(backbone=backbone, features=features), "float32")
    assert sorted(p.numel() for p in theirs) == sorted(int(np.prod(v.shape)) for v in ours.trainable_variables)


@pytest.mark.torch
def test_split_batch_norm_in_pytorch_equals_ours(load):
    from keras_moco.layers import SplitBatchNormalization

    torch = load("torch")
    theirs, ours = load("steps.in_pytorch").SplitBatchNorm(3, splits=2), SplitBatchNormalization(2)
    x = np.float32(np.random.default_rng(0).normal(2, 3, (6, 4, 5, 3)))
    outputs = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(x, training=True), outputs, atol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.running_var, rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_in_pytorch_is_moco(load, precision):
    in_pytorch = load("steps.in_pytorch")
    torch = in_pytorch.torch
    torch.manual_seed(0)
    model = in_pytorch.MoCo(in_pytorch.resnet("resnet18", "cifar", torch.nn.BatchNorm2d, 128), 12, precision)
    images = torch.randn(2, 8, 3, 8, 8)
    query, key = (next(encoder.parameters()) for encoder in (model.query_encoder, model.key_encoder))
    assert np.isfinite(model.step(*images))
    torch.testing.assert_close(key, model.key_encoder[0].weight)
    start, queue = key.detach().clone(), model.queue.clone()
    moved = query.detach().clone()
    assert model.pointer == 8 and not torch.equal(start, moved)
    model.step(*images)
    torch.testing.assert_close(key.detach(), 0.999 * start + 0.001 * moved)
    changed = (queue != model.queue).any(0)
    assert changed.tolist() == 4 * [True] + 4 * [False] + 4 * [True] and model.pointer == 4
