"""`TF_CONFIG` names the workers, or is refused before anyone waits for them."""

import json

import pytest

from keras_moco.distribution import Cluster, read_cluster

TWO = {"worker": ["a:1", "b:2"]}


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "text, expected",
    [
        (config(TWO), Cluster(("a:1", "b:2"), 0)),
        (config(TWO, index=1), Cluster(("a:1", "b:2"), 1)),
        # As Kubeflow's training operator writes it: a chief, who comes first, and workers.
        (config({"chief": ["c:1"], **TWO}, "chief", 0), Cluster(("c:1", "a:1", "b:2"), 0)),
        (config({"chief": ["c:1"], **TWO}, "worker", 1), Cluster(("c:1", "a:1", "b:2"), 2)),
    ],
)
def test_cluster_names_the_workers_and_this_one(text, expected, monkeypatch):
    assert read_cluster(text) == expected
    monkeypatch.setenv("TF_CONFIG", text)
    assert read_cluster() == expected


@pytest.mark.parametrize(
    "text, rule",
    [
        ("", "be set"),
        ("{'cluster'}", "be JSON"),
        ("[]", 'hold a "cluster"'),
        (config({"worker": ["a:1"], "ps": ["b:1"]}), 'hold a "cluster"'),
        (config({"worker": "a:1"}), "list addresses"),
        (config({"worker": ["a"]}), "list addresses"),
        (config({"worker": ["a:port"]}), "list addresses"),
        (config({"worker": []}), "name every worker once"),
        (config({"worker": ["a:1", "a:1"]}), "name every worker once"),
        (json.dumps({"cluster": TWO}), 'hold the "task"'),
        (config(TWO, index=2), 'hold the "task"'),
        (config(TWO, index="0"), 'hold the "task"'),
        (config(TWO, ["worker"]), 'hold the "task"'),
        (config(TWO, "chief"), 'hold the "task"'),
    ],
)
def test_malformed_cluster_is_refused(text, rule):
    with pytest.raises(ValueError) as caught:
        read_cluster(text)
    message = str(caught.value)
    assert f"must {rule}" in message and f" Received: {text or 'none'}" in message
    # The example that the message gives is a good one.
    assert len(read_cluster(message[message.rindex("'{") + 1 : message.rindex("'")]).workers) == 2
