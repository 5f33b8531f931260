"""`TF_CONFIG` names the workers, or is refused before anybody waits for them."""

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
        # As Kubeflow's training operator writes it: a chief, who is the first, and workers.
        (config({"chief": ["c:1"], **TWO}, "chief", 0), Cluster(("c:1", "a:1", "b:2"), 0)),
        (config({"chief": ["c:1"], **TWO}, "worker", 1), Cluster(("c:1", "a:1", "b:2"), 2)),
        (config({"worker": ["[::1]:1"]}), Cluster(("[::1]:1",), 0)),
    ],
)
def test_it_names_the_workers_and_this_one(text, expected, monkeypatch):
    assert read_cluster(text) == expected
    monkeypatch.setenv("TF_CONFIG", text)
    assert read_cluster() == expected


@pytest.mark.parametrize(
    "text, rule",
    [
        ("", "be set, and name the workers and which one this process is"),
        ("{'cluster'}", "be JSON"),
        ("[]", 'hold a "cluster" of "worker" addresses, with a "chief" or without'),
        (json.dumps({"task": {"type": "worker", "index": 0}}), 'hold a "cluster" of "worker" addresses'),
        (config({"worker": ["a:1"], "ps": ["b:1"]}), 'hold a "cluster" of "worker" addresses'),
        (config({"worker": "a:1"}), 'list addresses as "host:port"'),
        (config({"worker": ["a"]}), 'list addresses as "host:port"'),
        (config({"worker": [":1"]}), 'list addresses as "host:port"'),
        (config({"worker": ["a:port"]}), 'list addresses as "host:port"'),
        (config({"worker": []}), "name every worker once"),
        (config({"worker": ["a:1", "a:1"]}), "name every worker once"),
        (json.dumps({"cluster": TWO}), 'hold the "task" of this process'),
        (config(TWO, index=2), 'hold the "task" of this process'),
        (config(TWO, index=-1), 'hold the "task" of this process'),
        (config(TWO, index="0"), 'hold the "task" of this process'),
        (config(TWO, index=True), 'hold the "task" of this process'),
        (config(TWO, ["worker"]), 'hold the "task" of this process'),
        (config(TWO, "chief"), 'hold the "task" of this process'),
    ],
)
def test_a_malformed_one_is_refused_with_an_example(text, rule):
    with pytest.raises(ValueError) as caught:
        read_cluster(text)
    message = str(caught.value)
    assert message.startswith(f"`TF_CONFIG` must {rule}")
    assert f" Received: {text or 'none'}" in message
    # The example it gives is itself a good one.
    example = message[message.index("'{") + 1 : message.rindex("'")] if text == "" else config(TWO)
    assert len(read_cluster(example).workers) == 2
