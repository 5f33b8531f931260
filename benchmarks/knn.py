"""Exact nearest neighbours by cosine similarity: keras_moco's search beside faiss and scikit-learn.

    python benchmarks/knn.py [--quick] [--json PATH]

k=200 of unit vectors of 128 numbers that lie in clusters, as trained features do. faiss is `IndexFlatIP`, scikit-learn
`NearestNeighbors(algorithm="brute", metric="cosine")`; both are exact as well, and all have the same number of threads.
A turn begins with arrays and ends with arrays, so it includes building the index. Candidates take turns, several times
over, so that a change of the machine's speed meets all of them alike; ratios are medians of those of one round, ours
over theirs. Peak memory of ours is beyond the inputs, in a fresh process each, the large bank streamed past in blocks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

THREADS = min(2, os.cpu_count())
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    os.environ[variable] = str(THREADS)  # each library reads its own once, while it is loaded
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

from keras_moco.evaluation import nearest_neighbours  # noqa: E402

K, WIDTH, CLUSTERS, BLOCK = 200, 128, 1000, 8192
SIZES = {"60000": (60_000, 10_000), "1280000": (1_280_000, 1_000)}  # bank rows, queries
QUICK_SIZES = {"60000": (60_000, 1_000), "1280000": (100_000, 200)}
ROUNDS = {"60000": 3, "1280000": 2}


def blocks(rows, seed):
    """Clustered unit vectors, float32 `(b, WIDTH)` at a time, the same for the same seed."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, WIDTH), dtype="float32")
    rng = np.random.default_rng(seed)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        block = centres[rng.integers(0, CLUSTERS, count)] + rng.standard_normal((count, WIDTH), dtype="float32")
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def candidates():
    """name: function of bank and queries to bank rows `(n, K)`."""
    from sklearn.neighbors import NearestNeighbors

    def with_sklearn(bank, queries):
        search = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine", n_jobs=-1).fit(bank)
        return search.kneighbors(queries)[1]

    found = {"keras_moco": lambda bank, queries: nearest_neighbours(bank, queries, K).rows, "sklearn": with_sklearn}
    try:
        import faiss
    except ImportError as error:
        print(f"faiss is left out: {error}")
        return found
    faiss.omp_set_num_threads(THREADS)

    def with_faiss(bank, queries):
        index = faiss.IndexFlatIP(WIDTH)
        index.add(bank)
        return index.search(queries, K)[1]

    return found | {"faiss": with_faiss}


def measure(searches, bank, queries, rounds):
    """Median seconds of each candidate, and median ratios of ours to the others; the first round warms up."""
    times = {name: [] for name in searches}
    for number in range(rounds + 1):
        for name, search in searches.items():
            start = time.perf_counter()
            search(bank, queries)
            if number:
                times[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(times["keras_moco"], values, strict=True))
        for name, values in times.items()
    }
    return {name: statistics.median(values) for name, values in times.items()}, ratios


def peak_megabytes(rows, queries, stream):
    """Peak memory of a search beyond its inputs, in MB, in this process, which must be fresh."""
    import resource

    # A first search brings in what is loaded on demand, and is small.
    nearest_neighbours(np.eye(WIDTH, dtype="float32"), np.eye(WIDTH, dtype="float32"), 1)
    inputs = np.concatenate(list(blocks(queries, seed=2)))
    bank = blocks(rows, seed=1) if stream else np.concatenate(list(blocks(rows, seed=1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearest_neighbours(bank, inputs, K)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peak_in_fresh_process(rows, queries, stream):
    command = [sys.executable, __file__, "--peak", str(rows), str(queries), str(int(stream))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: under a minute")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    parser.add_argument("--peak", nargs=3, type=int, help=argparse.SUPPRESS)  # what a fresh process is asked
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_megabytes(*arguments.peak))
        return
    if arguments.json and not Path(arguments.json).resolve().parent.is_dir():
        parser.error(f"--json must lie in an existing folder. Received: {arguments.json}. Make its folder first.")
    sizes = QUICK_SIZES if arguments.quick else SIZES
    # First of all: the peak of a process begins with that of the one that started it.
    peaks = {label: peak_in_fresh_process(*size, stream=label == "1280000") for label, size in sizes.items()}
    searches = candidates()
    report = {"seconds": {}, "ratios": {}, "peak_megabytes": peaks}
    print(f"{'bank':>9} {'queries':>7} {'':12} {'seconds':>8} {'ours / theirs':>14} {'peak MB':>8}")
    for label, (rows, count) in sizes.items():
        large = label == "1280000"
        bank, queries = (np.concatenate(list(blocks(size, seed))) for size, seed in ((rows, 1), (count, 2)))
        times, ratios = measure(searches, bank, queries, rounds=1 if arguments.quick else ROUNDS[label])
        report["seconds"][label] = times
        start = f"{rows:9} {count:7}"
        print(f"{start} {'keras_moco':12} {times['keras_moco']:8.2f} {'':14} {peaks[label]:8.0f}", flush=True)
        for name in sorted(searches.keys() - {"keras_moco"}):
            print(f"{start} {name:12} {times[name]:8.2f} {ratios[name]:14.2f}", flush=True)
            report["ratios"][f"time_vs_{name}_1280000" if large else f"time_vs_{name}"] = ratios[name]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
