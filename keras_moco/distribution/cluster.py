"""The workers of a run on several machines, as the environment variable `TF_CONFIG` names them."""

import json
import os
from dataclasses import dataclass

from keras_moco.errors import UserError

EXAMPLE = """{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}"""


@dataclass(frozen=True)
class Cluster:
    """The workers of a run, and the place of this process among them.

    Attributes:
        workers: addresses `host:port`, in the order of their shares of every batch.
        index: int, the index of this process; the first is the chief, which writes files.
    """

    workers: tuple[str, ...]
    index: int


def read_cluster(text: str | None = None) -> Cluster:
    """The `Cluster` that `TF_CONFIG` describes, checked, since a mistake in it would make workers wait forever.

    Args:
        text: str, JSON as in `TF_CONFIG`. Defaults to the value of that variable.

    Raises:
        ValueError: if the variable is missing, is not JSON, or does not name the workers and this task among them.

    Example:

    >>> read_cluster('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    Cluster(workers=('a:1', 'b:1'), index=1)
    """
    text = os.environ.get("TF_CONFIG") if text is None else text
    if not text:
        raise _refusal("be set, and name the workers and which one this process is", "none")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refusal("be JSON", f"{text} ({error})") from error
    jobs = config.get("cluster") if isinstance(config, dict) else None
    if not (isinstance(jobs, dict) and jobs and jobs.keys() <= {"chief", "worker"}):
        raise _refusal('hold a "cluster" of "worker" addresses, with a "chief" or without', text)
    addresses = [address for job in ("chief", "worker") for address in _addresses(jobs.get(job, []), text)]
    if not addresses or len(set(addresses)) < len(addresses):
        raise _refusal("name every worker once", text)
    task = config.get("task")
    kind, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    known = isinstance(kind, str) and kind in jobs and type(index) is int
    if not (known and 0 <= index < len(jobs[kind])):
        raise _refusal('hold the "task" of this process, its type and its index from 0 in that list', text)
    return Cluster(tuple(addresses), index + (len(jobs.get("chief", [])) if kind == "worker" else 0))


def _addresses(job, text):
    def is_address(value):
        return isinstance(value, str) and value.rpartition(":")[0] and value.rpartition(":")[2].isdigit()

    if not (isinstance(job, list) and all(map(is_address, job))):
        raise _refusal('list addresses as "host:port"', text)
    return job


def _refusal(rule, received):
    return UserError(
        f"`TF_CONFIG` must {rule}. Received: {received.strip()}. Set it on every worker, for example on the first of "
        f"two to '{EXAMPLE}'."
    )
