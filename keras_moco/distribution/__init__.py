"""All exchange between replicas; on one replica every function works, without traffic.

A replica is one device that trains in step with others: a GPU, a TPU core, or a logical CPU. A worker is a process
with one replica or more. `collectives` are called by each replica inside a step, the others by each worker.
"""

from keras_moco.distribution.cluster import Cluster, read_cluster
from keras_moco.distribution.collectives import (
    all_finite,
    all_gather,
    average,
    local_slice,
    mean,
    permutation,
    random_rows,
    run_if,
    share_overflow,
    shuffle,
    unshuffle,
)
from keras_moco.distribution.steps import check_training, on_all_replicas
from keras_moco.distribution.strategies import (
    STRATEGIES,
    check_gpu,
    count_replicas,
    describe,
    has_accelerator,
    make_strategy,
    num_replicas,
)
from keras_moco.distribution.workers import (
    WorkerLost,
    any_worker,
    broadcast,
    endless,
    has_workers,
    is_chief,
    plain_worker_errors,
)

__all__ = [
    "STRATEGIES",
    "WorkerLost",
    "all_finite",
    "all_gather",
    "average",
    "broadcast",
    "count_replicas",
    "describe",
    "is_chief",
    "local_slice",
    "make_strategy",
    "mean",
    "num_replicas",
    "on_all_replicas",
    "permutation",
    "random_rows",
    "shuffle",
    "unshuffle",
]
