"""Reads the files that wandb writes offline: a log in LevelDB's format, of protocol buffers."""

import json

BLOCK, HEADER, PREAMBLE = 32768, 7, 7  # bytes
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # of a record, in a block


def records(path):
    """All records of a file `run-<id>.wandb`: a list of `wandb_internal_pb2.Record`."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts, found = path.read_bytes(), PREAMBLE, [], []
    assert content.startswith(b":W&B")
    while len(content) - place > HEADER:
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK  # padding
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        place += HEADER
        parts.append(content[place : place + length])
        place += length
        if kind in (FULL, LAST):
            found.append(wandb_internal_pb2.Record.FromString(b"".join(parts)))
            parts = []
    return found


def of_kind(path, kind):
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path):
    """The rows that were logged, in order: dicts of names to values."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in of_kind(path, "history")
    ]


def settings(path):
    """The last value of each setting."""
    updates = [run.config for run in of_kind(path, "run")] + of_kind(path, "config")
    return {update.key: json.loads(update.value_json) for config in updates for update in config.update}
