"""What a step of `MoCo.fit` costs, beside the least it must compute, the same step in PyTorch, and Keras's own `fit`.

    python benchmarks/train_step.py [--quick] [--only CASE ...] [--bn_splits N] [--xla] [--json PATH]

fit         `MoCo.fit`: the step as users run it, metrics, checks and all
limit       the same encoders in one function: forward, backward and SGD of the query's, forward of the key's
supervised  Keras's own `fit` of the same network as a classifier, on one view of as many images
pytorch     MoCo's step in PyTorch, where it is installed, in its default layout and in channels_last; autocast
            in bfloat16

Every candidate lives in a process of its own, whose peak memory is thus its own; they take their steps in turns, one
round after the other, so that a change of the machine's speed meets all of them alike. Only ratios travel to other
machines. `--quick` takes two rounds of what the ratios need, of ResNet-18 with 32 images and of ResNet-50 at 128
pixels, and all cases share the processes: it says whether all this runs, and its ratios are rough. Cases in bfloat16
are skipped on processors without AVX-512, which only emulate it.
"""

import argparse
import importlib.util
import json
import os
import statistics

from steps import CASES, bfloat16, device, divisor_of_batches, new_file, peak_memory, prepare, processes_of, take

ROUNDS = 9
SMALLER = {"resnet18": {"batch": 32}, "resnet50": {"pixels": 128}}
FRAMEWORKS = {
    "fit": "keras",
    "limit": "keras",
    "supervised": "keras",
    "fit with XLA": "keras",
    "pytorch": "pytorch",
    "pytorch channels_last": "pytorch",
}
NOT_QUICK = ("supervised", "pytorch channels_last")
LABELS = {f"{name}_{precision}": (name, precision) for name in CASES for precision in ("float32", "bfloat16")}


def candidates(quick, xla):
    names = [name for name in FRAMEWORKS if not (quick and name in NOT_QUICK) and (xla or name != "fit with XLA")]
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: without it.")
        names = [name for name in names if FRAMEWORKS[name] != "pytorch"]
    return names


def measurable(labels):
    """The cases without those in bfloat16 where the processor only emulates it, which is printed."""
    in_float32 = [label for label in labels if LABELS[label][1] == "float32"]
    if in_float32 != labels and (reason := bfloat16.reason_to_skip()):
        print(reason)
        return in_float32
    return labels


def prepare_all(processes, cases, at_once):
    """Builds every candidate for every case, `(Case, precision)`; seconds of building it and taking its first step."""
    waiting = {case: {} for case in cases}
    for case, of in waiting.items():
        for name, process in processes.items():
            of[name] = process.submit(prepare, FRAMEWORKS[name], name, *case)
            if not at_once:
                of[name].result()
    return {case: {name: future.result() for name, future in of.items()} for case, of in waiting.items()}


def measure(processes, case, rounds):
    """Seconds of the step of each candidate in each round."""
    times = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            times[name].append(process.submit(take, name, *case).result())
    return times


def over(times, name, other):
    """The median, over the rounds, of how many times as long one takes as another."""
    return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))


def report(label, case, first, times, memory):
    """Prints the results of a case, a line for each candidate, and its ratios, and returns both."""
    rows, ratios = {}, {f"{label}_time_vs_limit": over(times, "fit", "limit")}
    for name, seconds in times.items():
        rows[name] = {
            "images_per_second": case.batch / statistics.median(seconds),
            "time_vs_limit": over(times, name, "limit"),
            "first_step_seconds": first[name],
            "peak_memory_gib": memory.get(name),
        }
    in_pytorch = [name for name in times if FRAMEWORKS[name] == "pytorch"]
    if in_pytorch:
        best = min(in_pytorch, key=lambda name: statistics.median(times[name]))
        ratios[f"{label}_speed_vs_pytorch"] = over(times, best, "fit")
    print(f"{'':<24}{'images/s':>10}{'time / limit':>14}{'first step s':>14}{'peak GiB':>10}")
    for name, row in rows.items():
        gib = "" if row["peak_memory_gib"] is None else f"{row['peak_memory_gib']:.1f}"
        speed, ratio = row["images_per_second"], row["time_vs_limit"]
        print(f"{name:<24}{speed:10.1f}{ratio:14.3f}{row['first_step_seconds']:14.1f}{gib:>10}")
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.3f}", flush=True)
    return rows, ratios


def case_of(label, arguments):
    name, precision = LABELS[label]
    case = CASES[name]._replace(bn_splits=arguments.bn_splits)
    if arguments.quick:
        case = case._replace(**SMALLER[name])
    return case, precision


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds, without supervised and channels_last")
    parser.add_argument("--only", nargs="+", choices=LABELS, default=list(LABELS), metavar="CASE", help="some cases")
    parser.add_argument(
        "--bn_splits", type=divisor_of_batches, default=8, help="groups of BatchNorm, 1 for plain BatchNorm"
    )
    parser.add_argument(
        "--xla", action="store_true", help="`fit` with jit_compile=True too, which compiles for minutes"
    )
    parser.add_argument("--json", type=new_file, metavar="PATH", help="also write the results there")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    names = candidates(arguments.quick, arguments.xla)
    found = {"cases": {}, "ratios": {}}
    # One by one, so that times are of one that builds and memory of one case; or all at once, which is faster.
    only = measurable(arguments.only)
    for labels in filter(None, [only] if arguments.quick else [[label] for label in only]):
        cases = {label: case_of(label, arguments) for label in labels}
        with processes_of(names) as processes:
            first = prepare_all(processes, cases.values(), at_once=arguments.quick)
            found["device"] = processes["fit"].submit(device).result()
            for label, case in cases.items():
                times = measure(processes, case, rounds=2 if arguments.quick else ROUNDS)
                alone = {} if arguments.quick else processes
                memory = {name: process.submit(peak_memory).result() for name, process in alone.items()}
                print(f"\n{label} on {found['device']}")
                found["cases"][label], ratios = report(label, case[0], first[case], times, memory)
                found["ratios"] |= ratios
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
