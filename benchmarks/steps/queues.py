"""The measurements of `benchmarks/queue.py`."""

import argparse
import json
import os
import statistics
import time

from steps import CASES, new_file, peak_memory, prepare, processes_of, take

SIZES = (256, 4096, 65536, 1 << 20)
KEYS, DIM = 128, 128
# K, N, D: over K first, then over N and over D.
SETTINGS = [
    *((size, KEYS, DIM) for size in SIZES),
    *((65536, keys, DIM) for keys in (16, 256)),
    *((65536, KEYS, dim) for dim in (64, 256)),
]
STEP_SIZES = (256, 65536)

_actions = {}


def build(size, keys, dim, by_copy=False):
    """Makes a queue, which it returns, and what is to be timed on it."""
    import keras
    import tensorflow as tf
    from keras import ops

    from keras_moco.layers import FeatureQueue
    from keras_moco.methods.losses import info_nce

    queue = FeatureQueue(size, dim)
    batch, queries = (ops.normalize(keras.random.normal((keys, dim), seed=seed)) for seed in (1, 2))

    @tf.function
    def enqueue():
        if by_copy:
            rows = (queue.pointer + tf.range(min(keys, size), dtype=tf.int64)) % size
            queue.features.assign(ops.scatter_update(queue.features, rows[:, None], batch[:size]))
            queue.count.assign_add(min(keys, size))
        else:
            queue.enqueue(batch[:size])

    @tf.function
    def look_up():
        with tf.GradientTape() as tape:
            tape.watch(queries)
            logits, labels = info_nce(queries, batch, queue.features, 0.07)
            losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            loss = ops.mean(losses)
        return loss, tape.gradient(loss, queries)

    @tf.function
    def both():
        found = look_up()
        enqueue()
        return found

    _actions.update(enqueue=enqueue, look_up=look_up, both=both)
    return queue


def make(*setting):
    """`build` in another process, to which no queue can be sent."""
    build(*setting)


def act(name, times):
    """Seconds of one call, the mean of several."""
    _actions[name]()
    start = time.perf_counter()
    for _ in range(times):
        _actions[name]()
    return (time.perf_counter() - start) / times


def measure(settings, rounds):
    """(setting, by copy): seconds of each action, the median over the rounds, and peak memory of the process in GiB."""
    variants = [(setting, by_copy) for setting in settings for by_copy in (False, True)]
    found = {variant: {} for variant in variants}
    with processes_of(variants) as processes:
        for (setting, by_copy), process in processes.items():
            process.submit(make, *setting, by_copy).result()
        for name, calls in (("both", 2), ("enqueue", 50), ("look_up", 2)):
            seconds = {variant: [] for variant in variants}
            for _ in range(rounds):
                for variant, process in processes.items():
                    seconds[variant].append(process.submit(act, name, calls).result())
            for variant, values in seconds.items():
                found[variant][name] = statistics.median(values)
        for variant, process in processes.items():
            found[variant]["peak_memory_gib"] = process.submit(peak_memory).result()
    return found


def measure_steps(rounds):
    """K: seconds of the steps of a ResNet-50, taken in turns in one process."""
    cases = {size: (CASES["resnet50"]._replace(queue_size=size), "float32") for size in STEP_SIZES}
    times = {size: [] for size in STEP_SIZES}
    with processes_of(["fit"]) as processes:
        for case in cases.values():
            processes["fit"].submit(prepare, "keras", "fit", *case).result()
        for number in range(rounds + 1):
            for size, case in cases.items():
                seconds = processes["fit"].submit(take, "fit", *case).result()
                times[size] += [seconds] * (number > 0)  # the first one warms up
    return times


def main(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument("--json", type=new_file, metavar="PATH", help="also write the results there")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    settings = [(size, KEYS, DIM) for size in (4096, 1 << 20)] if arguments.quick else SETTINGS
    found = measure(settings, rounds=3 if arguments.quick else 11)
    report = {"queues": [], "steps": {}, "ratios": {}}
    print(f"{'K':>8}{'N':>5}{'D':>5}  {'written':<10}{'enqueue':>12}{'look up':>12}{'both':>12}{'peak GiB':>10}")
    for (setting, by_copy), of in found.items():
        size, keys, dim = setting
        written = "by copy" if by_copy else "in place"
        columns = "".join(f"{1000 * of[name]:9.3f} ms" for name in ("enqueue", "look_up", "both"))
        print(f"{size:8}{keys:5}{dim:5}  {written:<10}{columns}{of['peak_memory_gib']:10.2f}")
        report["queues"].append({"K": size, "N": keys, "D": dim, "written": written, **of})
    small, large = (((size, KEYS, DIM), False) for size in (4096, 1 << 20))
    report["ratios"]["enqueue_1M_vs_4096"] = found[large]["enqueue"] / found[small]["enqueue"]
    steps = measure_steps(rounds=3 if arguments.quick else 11)
    short, long = (steps[size] for size in STEP_SIZES)
    report["steps"] = {f"resnet50_K{size}": statistics.median(seconds) for size, seconds in steps.items()}
    ratios = [b / a for a, b in zip(short, long, strict=True)]
    report["ratios"]["resnet50_K65536_vs_K256"] = statistics.median(ratios)
    for name, seconds in report["steps"].items():
        print(f"step {name} {seconds:.2f} s")
    for name, ratio in report["ratios"].items():
        print(f"{name} {ratio:.3f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
