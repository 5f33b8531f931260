"""The devices to train on."""

import contextlib
import functools
import os
import signal

import tensorflow as tf

from keras_moco.checks.ranges import check_number
from keras_moco.command_line import signals
from keras_moco.distribution.cluster import read_cluster
from keras_moco.errors import UserError

NVIDIA = "/proc/driver/nvidia/version"  # exists where the driver of a GPU is loaded


def make_strategy(name: str = "auto", replicas: int | None = None) -> tf.distribute.Strategy:
    """The devices to train on, as a `tf.distribute.Strategy`.

    Args:
        name: `"one"`: a single device; `"mirrored"`: the GPUs of this machine in step; `"multiworker"`: those of
            several machines, which `TF_CONFIG` names (call it before anything else of TensorFlow); `"tpu"`: the TPU
            that TensorFlow finds; `"auto"`: `"mirrored"` where there are several GPUs, else `"one"`.
        replicas: int, the number of devices. Defaults to `None`: all of them, for `"mirrored"` all GPUs. On a machine
            without a GPU it counts logical CPUs.

    Raises:
        ValueError: for an unknown name, if there are not `replicas` devices, or no usable `TF_CONFIG` or TPU.
    """
    strategy = _kind(name, replicas)[1](replicas)
    _check_replicas(name, replicas, strategy.num_replicas_in_sync)
    return strategy


def count_replicas(name: str = "auto", replicas: int | None = None) -> int:
    """The number of replicas of `make_strategy`, without waiting for other machines: int.

    Args:
        name: name of a strategy, as for `make_strategy`.
        replicas: int; where given, it is the result, so that a run can be planned away from its devices. `"one"` allows
            only 1.

    Raises:
        ValueError: for an unknown name, where the number is unknown, or for a number that no machine has.
    """
    return _kind(name, replicas)[0](replicas)


def check_gpu() -> None:
    """Raises `ValueError` where TensorFlow finds no GPU, and would silently train on the CPU.

    Each of several workers checks its own machine before it joins the others: call it before `make_strategy`.
    """
    if not _gpus():
        build = "with" if tf.test.is_built_with_gpu_support() else "without"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            "`require_gpu` must find a GPU. "
            f"Received: none, by TensorFlow {tf.__version__}, built {build} GPU support"
            f"{'' if hidden is None else f', with CUDA_VISIBLE_DEVICES={hidden}'}. Look at what nvidia-smi lists, "
            "install tensorflow[and-cuda], or omit --require_gpu to train on the CPU."
        )


def has_accelerator() -> bool:
    """Whether TensorFlow finds a GPU here; does not start TensorFlow."""
    return bool(_gpus())


def num_replicas() -> int:
    """Replicas that train in step under the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line on the devices of a strategy, for people."""
    kind = next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
    replicas = strategy.num_replicas_in_sync
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return f"{replicas} {kind}(s) of {len(read_cluster().workers)} worker(s)"
    unused = kind == "CPU" and os.path.exists(NVIDIA)
    hint = "; TensorFlow does not use the GPU of this machine (TF_CPP_MIN_LOG_LEVEL=0 shows why)" if unused else ""
    return (f"one {kind}" if replicas == 1 else f"{replicas} {kind}s, {type(strategy).__name__}") + hint


def _count_one(replicas):
    _check_replicas("one", replicas, 1)
    return 1


def _count_auto(replicas):
    return replicas or max(1, len(_gpus()))


def _count_multiworker(replicas):
    return replicas or len(read_cluster().workers) * _count_auto(None)


def _count_tpu(replicas):
    if replicas is None:
        raise UserError(
            "`replicas` must be given to plan a run on a TPU elsewhere. Received: replicas=None. Add --replicas=N."
        )
    return replicas


def _auto(replicas):
    return (_mirrored if max(len(_gpus()), replicas or 1) > 1 else _one)(replicas)


def _one(_):
    return tf.distribute.get_strategy()


def _mirrored(replicas):
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    wanted = replicas or len(gpus) or 1
    _check_replicas("mirrored", wanted, len(devices), at_least=True)
    return _mirrored_on(tuple(device.name for device in devices[:wanted]))


# Cached: two strategies of a process give their collective operations the same numbers, and would mix them up.
@functools.cache
def _mirrored_on(devices):
    return tf.distribute.MirroredStrategy([*devices])


def _multiworker(replicas):
    _check_replicas("multiworker", replicas, _count_multiworker(None))  # before it waits for the others
    return _all_workers()


@functools.cache
def _all_workers():
    cluster = read_cluster()
    print(
        f"worker {cluster.index + 1} of {len(cluster.workers)}: waiting for all of {', '.join(cluster.workers)}",
        flush=True,
    )
    with _stoppable():
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def _stoppable():
    """Lets signals stop a process that waits for others in TensorFlow's own code.

    Python's handlers do not run there; and TensorFlow treats SIGTERM as a notice of preemption that nothing reads,
    after which only SIGKILL would end a worker.
    """
    before = signals.handle((signal.SIGINT, *signals.ENDING), signal.SIG_DFL)
    try:
        yield
    finally:
        signals.restore(before)


def _tpu(_):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            "`strategy=tpu` must find a TPU. "
            f"Received: TensorFlow {tf.__version__}, which says: {' '.join(str(error).split())} "
            "Set TPU_NAME, and install tensorflow-tpu in place of tensorflow (docs/multi_gpu_and_multi_machine.md)."
        ) from error


# name: (number of replicas, strategy), two functions of the requested number or `None`
STRATEGIES = {
    "auto": (_count_auto, _auto),
    "one": (_count_one, _one),
    "mirrored": (_count_auto, _mirrored),
    "multiworker": (_count_multiworker, _multiworker),
    "tpu": (_count_tpu, _tpu),
}


def _kind(name, replicas):
    if name not in STRATEGIES:
        raise UserError(f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {name!r}. Choose one of them.")
    if replicas is not None:
        check_number("replicas", replicas, "at least 1", "Correct or omit --replicas.", whole=True)
    return STRATEGIES[name]


def _gpus():
    # Physical devices: listing logical ones starts TensorFlow, after which a worker cannot join others.
    return tf.config.list_physical_devices("GPU")


def _check_replicas(name, wanted, available, at_least=False):
    if wanted is not None and not (wanted <= available if at_least else wanted == available):
        raise UserError(
            f"`replicas` must be the number of devices that `strategy={name}` finds{', or fewer' if at_least else ''}. "
            f"Received: replicas={wanted}, {available} device(s). Correct or omit --replicas."
        )
