"""The cost of the queue: enqueueing keys, comparing queries with it, and its share of a training step.

    python benchmarks/queue.py [--quick] [--json PATH]

enqueue    `FeatureQueue.enqueue` of N keys in place, or by a copy of the whole queue
look up    InfoNCE of N queries, their keys and K negatives: loss, and gradient of the queries
both       one after the other, as in a step: a variable that was written in place is copied when it is read
step       `MoCo.fit` of a ResNet-50 at 224 pixels, batch 16, with K = 256 and with K = 65,536

Each row is measured in a process of its own, whose peak memory is printed too; repetitions alternate between all sizes.
Only ratios are comparable between machines.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if __name__ == "__main__":
    from steps.queues import main

    main(__doc__)
else:  # Python's own `queue` was meant: this folder comes first in the path of all scripts in it
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("queue", [path for path in sys.path if os.path.abspath(path) != folder])
    sys.modules["queue"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["queue"])
