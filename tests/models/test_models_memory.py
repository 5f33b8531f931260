"""A long training needs no more memory than a short one."""

import gc
import resource
from pathlib import Path

from tests.small_training import batches, make_model


def resident():
    """Memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_thousand_steps_take_no_memory():
    model = make_model()
    data = batches().repeat()
    model.fit(data, steps_per_epoch=300, verbose=0)  # buffers and caches come to their size
    before = resident()
    model.fit(data, steps_per_epoch=1000, verbose=0)
    assert model.steps_done == 1300
    # A view that stayed behind in each step would be 1.5 MB, the weights as they were 2 MB, the graph of a step far
    # more; the allocator alone moves by some hundred kB.
    assert resident() - before < 1.2e6
