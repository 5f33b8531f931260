"""A long training needs no more memory than a short one."""

import gc
import resource
import sys
from pathlib import Path

from tests.small_training import batches, make_model


def in_use():
    """Memory of this process in bytes, and the number of blocks that Python has allocated."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), sys.getallocatedblocks()


def test_a_thousand_steps_take_no_memory():
    model = make_model()
    data = batches().repeat()
    model.fit(data, steps_per_epoch=300, verbose=0)  # buffers and caches come to their size
    memory, blocks = in_use()
    model.fit(data, steps_per_epoch=1000, verbose=0)
    assert model.steps_done == 1300
    memory_after, blocks_after = in_use()
    # One array that stays behind in each step is a block in each; a training that keeps nothing moves by some tens.
    assert blocks_after - blocks < 500
    # Outside of Python 8 kB a step show; less may hide in memory that was free before. The allocator moves by 0.2 MB.
    assert memory_after - memory < 1.2e6
