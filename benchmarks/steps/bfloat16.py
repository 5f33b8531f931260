"""Whether bfloat16 can be measured here: without AVX-512 a processor may emulate a step for minutes."""

import os
from pathlib import Path

from steps import processes_of

# In /proc/cpuinfo. With AVX-512, as far as oneDNN needs it, bfloat16 takes up to four times as long as float32 where
# it is emulated, and is faster where it is not (avx512_bf16, amx_bf16); without, TensorFlow has no fast way.
AVX512, ARM = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, {"bf16"}
# What ONEDNN_MAX_CPU_ISA may lower a processor to that is below AVX-512.
BELOW = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
CPUINFO = Path("/proc/cpuinfo")


def what_is_missing(cpuinfo, environment):
    """Why bfloat16 is slow on a processor with such a /proc/cpuinfo; "" where it is not."""
    lowered = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if lowered in BELOW:
        return f"ONEDNN_MAX_CPU_ISA={lowered}"
    lines = [line.split() for line in cpuinfo.splitlines()]
    features = {word for line in lines if line and line[0] in ("flags", "Features") for word in line}
    return "" if AVX512 <= features or ARM <= features else "no AVX-512"


def has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def reason_to_skip():
    """The sentence that says why bfloat16 is skipped on this machine, or "": never where there is a GPU."""
    missing = what_is_missing(CPUINFO.read_text() if CPUINFO.exists() else "", os.environ)
    if missing:
        with processes_of(["gpu"]) as processes:  # this process need not load TensorFlow
            missing = "" if processes["gpu"].submit(has_gpu).result() else missing
    return missing and f"skipped: bfloat16, which this processor only emulates ({missing})."
