"""Where the time of a step of `MoCo.fit` goes: by kind of operation, and what surrounds the encoders by itself.

    python benchmarks/profile_step.py [resnet18|resnet50] [--precision bfloat16] [--quick] [--trace DIR] [--json PATH]

One operation at a time is let run, so that shares add up (a step takes longer for it than it does otherwise). The trace
can be looked at in TensorBoard's profiler if `--trace` keeps it.
"""

import argparse
import collections
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from steps import CASES, MOMENTUM, bfloat16, new_file

KINDS = {
    "Conv2DBackpropFilter": "convolution, gradient of kernels",
    "Conv2DBackpropInput": "convolution, gradient of inputs",
    "Conv2D": "convolution, forward",
    "FusedBatchNorm": "BatchNorm, both ways",
    "Unpack": "groups of BatchNorm taken apart",
    "Pack": "groups of BatchNorm put together",
    "Relu": "ReLU, both ways",
}


def kind_of(operation):
    return next((kind for part, kind in KINDS.items() if part in operation), "everything else")


def profile(take, directory, steps):
    """kind: seconds per step."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tf.profiler.experimental.Profile(str(directory)):
        for _ in range(steps):
            take()
    space = xplane_pb2.XSpace()
    [path] = Path(directory).rglob("*.xplane.pb")
    space.ParseFromString(path.read_bytes())
    seconds = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # "layer/operation:Kind#...": what is not of this form is the executor's.
            name, _, operation = plane.event_metadata[event.metadata_id].name.split("#")[0].rpartition(":")
            if name and not name.endswith(":") and not name.startswith(("EagerLocalExecute", "ThreadpoolListener")):
                seconds[kind_of(operation)] += event.duration_ps / 1e12 / steps
    return dict(seconds.most_common())


def parts(model, images):
    """What a step does beside the encoders, each in a function of its own: name to function."""
    import tensorflow as tf

    from keras_moco import distribution
    from keras_moco.networks.momentum import momentum_update

    variables = model.trainable_variables
    gradients = [tf.zeros_like(variable) for variable in variables]
    keys = model.queue.features[:images]
    functions = {
        "momentum update": lambda: momentum_update(model.key_encoder, model.query_encoder, MOMENTUM),
        "optimizer": lambda: model.optimizer.apply(gradients, variables),
        "are gradients finite": lambda: distribution.all_finite(gradients),
        "look-up": lambda: (
            model._look_up("query_to_key", keys, keys, tf.convert_to_tensor(model.queue.features)).logits
        ),
        "enqueue": lambda: model.queue.enqueue(keys),
    }
    return {name: tf.function(function) for name, function in functions.items()}


def seconds_of(function, repetitions):
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES, default="resnet50", help="what is trained")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the encoders")
    parser.add_argument("--quick", action="store_true", help="a step instead of three")
    parser.add_argument("--trace", metavar="DIR", help="keep the trace there")
    parser.add_argument("--json", type=new_file, metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.precision == "bfloat16" and (reason := bfloat16.reason_to_skip()):
        print(reason)
        return
    import tensorflow as tf
    from steps import in_keras

    tf.config.threading.set_inter_op_parallelism_threads(1)
    case = CASES[arguments.case]
    model, take = in_keras.model_and_step(case, arguments.precision)
    for _ in range(2):
        take()
    steps = 1 if arguments.quick else 3
    whole = statistics.median(take() for _ in range(steps))
    with tempfile.TemporaryDirectory() as temporary:
        kinds = profile(take, arguments.trace or temporary, steps)
    alone = {name: seconds_of(f, 3 * steps) for name, f in parts(model, case.batch).items()}
    total = sum(kinds.values())
    print(f"{arguments.case}, {arguments.precision}: {whole:.2f} s a step, one operation at a time")
    for name, seconds in kinds.items():
        print(f"  {name:<36}{1000 * seconds:9.1f} ms {100 * seconds / total:5.1f} %")
    print("by themselves")
    for name, seconds in alone.items():
        print(f"  {name:<36}{1000 * seconds:9.1f} ms {100 * seconds / whole:5.1f} %")
    ratios = {f"{name} of a step": seconds / whole for name, seconds in alone.items()}
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"kinds": kinds, "parts": alone, "ratios": ratios}, file, indent=2)


if __name__ == "__main__":
    main()
