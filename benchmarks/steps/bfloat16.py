"""Whether bfloat16 can be measured here: where a processor only emulates it, one step may take minutes."""

import os
from pathlib import Path

from steps import processes_of

NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}  # in /proc/cpuinfo, the last one of Arm
# What ONEDNN_MAX_CPU_ISA may lower a processor to that does not compute bfloat16.
WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
CPUINFO = Path("/proc/cpuinfo")


def what_is_missing(cpuinfo, environment):
    """Why a processor with such a /proc/cpuinfo only emulates bfloat16; "" where it computes it."""
    lowered = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if lowered in WITHOUT:
        return f"ONEDNN_MAX_CPU_ISA={lowered}"
    lines = [line.split() for line in cpuinfo.splitlines()]
    features = {word for line in lines if line and line[0] in ("flags", "Features") for word in line}
    return "" if features & NATIVE else "no avx512_bf16 or amx_bf16"


def has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def reason_to_skip():
    """The sentence that says why bfloat16 is skipped on this machine, or "": never where there is a GPU."""
    missing = what_is_missing(CPUINFO.read_text() if CPUINFO.exists() else "", os.environ)
    if missing:
        with processes_of(["gpu"]) as processes:  # this process may have no use for TensorFlow
            missing = "" if processes["gpu"].submit(has_gpu).result() else missing
    return missing and f"skipped: bfloat16, which this processor only emulates ({missing})."
