"""Which devices train."""

import contextlib
import functools
import os
import signal

import tensorflow as tf

from keras_moco.checks.ranges import check_number
from keras_moco.command_line import signals
from keras_moco.distribution.cluster import read_cluster
from keras_moco.errors import UserError


def make_strategy(name="auto", replicas=None):
    """The devices to train on.

    Args:
        name: `"one"`: a single device; `"mirrored"`: the GPUs of this machine in step; `"multiworker"`: those of
            several machines, which `TF_CONFIG` names (call it before anything else of TensorFlow); `"tpu"`: the TPU
            that TensorFlow finds; `"auto"`: `"mirrored"` where there are several GPUs, else `"one"`.
        replicas: int, the number of devices. Defaults to `None`: all there are, for `"mirrored"` all GPUs. Where a
            machine has no GPU, its logical CPUs can be asked for.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: for an unknown name, if there are not `replicas` devices, or no usable `TF_CONFIG` or TPU.
    """
    strategy = _kind(name, replicas)[1](replicas)
    _check_replicas(name, replicas, strategy.num_replicas_in_sync)
    return strategy


def count_replicas(name="auto", replicas=None):
    """How many replicas `make_strategy` would give, without waiting for other machines.

    Args:
        name: as for `make_strategy`.
        replicas: likewise; where given, it is the answer, so that a run can be planned away from its devices.
            `"one"` has no other than 1.

    Returns:
        int.

    Raises:
        ValueError: for an unknown name, where it cannot be told, or for a number that no machine has.
    """
    return _kind(name, replicas)[0](replicas)


def check_gpu():
    """Raises `ValueError` where TensorFlow finds no GPU, and would train on the CPU without a word.

    Of several workers each looks for its own, before it joins the others (call it before `make_strategy`).
    """
    if not _gpus():
        build = "with" if tf.test.is_built_with_gpu_support() else "without"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            "`require_gpu` must find a GPU. "
            f"Received: none, by TensorFlow {tf.__version__}, built {build} support of GPUs"
            f"{'' if hidden is None else f', with CUDA_VISIBLE_DEVICES={hidden}'}. Look at what nvidia-smi lists, "
            "install tensorflow[and-cuda], or leave out --require_gpu to train on the CPU."
        )


def num_replicas():
    """Replicas that train in step under the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def describe(strategy):
    """One line on the devices of a strategy, for people."""
    kind = next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
    replicas = strategy.num_replicas_in_sync
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return f"{replicas} {kind}(s) of {len(read_cluster().workers)} worker(s)"
    return f"one {kind}" if replicas == 1 else f"{replicas} {kind}s, {type(strategy).__name__}"


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
            "`replicas` must be given where a TPU is planned for from afar. Received: replicas=None. Add --replicas=N."
        )
    return replicas


def _auto(replicas):
    return (_mirrored if max(len(_gpus()), replicas or 1) > 1 else _one)(replicas)


def _one(_):
    return tf.distribute.get_strategy()


# Kept: two strategies of a process number their collective operations alike, and those of the second meet the first's.
@functools.cache
def _mirrored(replicas):
    if replicas is None:
        return tf.distribute.MirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    _check_replicas("mirrored", replicas, len(devices), at_least=True)
    return tf.distribute.MirroredStrategy([device.name for device in devices[:replicas]])


@functools.cache
def _multiworker(replicas):
    cluster = read_cluster()
    _check_replicas("multiworker", replicas, _count_multiworker(None))  # before the others are waited for
    print(
        f"worker {cluster.index + 1} of {len(cluster.workers)}: waiting for all of {', '.join(cluster.workers)}",
        flush=True,
    )
    with _stoppable():
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def _stoppable():
    """Lets signals stop a process that waits for others in TensorFlow's own code, and after it.

    There Python's handlers get no turn; and TensorFlow takes SIGTERM for a note of preemption that nobody
    reads, after which only SIGKILL would end a worker.
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


# name: (how many replicas it would have, the strategy), each for the number that is asked for or `None`
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
    # Physical ones: to list logical devices starts TensorFlow, after which no worker can join others.
    return tf.config.list_physical_devices("GPU")


def _check_replicas(name, wanted, available, at_least=False):
    if wanted is not None and not (wanted <= available if at_least else wanted == available):
        raise UserError(
            f"`replicas` must be the number of devices that `strategy={name}` finds{', or less' if at_least else ''}. "
            f"Received: replicas={wanted}, {available} device(s). Correct or omit --replicas."
        )
