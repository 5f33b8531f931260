"""What a run or an evaluation has measured, in a file `results.json`."""

import json

from keras_moco.errors import UserError
from keras_moco.storage.atomic import read_json, update_text
from keras_moco.storage.paths import user_path

# The types of what is read again: a file from elsewhere may hold anything.
NUMBER = int | float
KINDS = {
    "replicas": int,
    "seconds": NUMBER,
    "has_checkpoints": bool,
    **dict.fromkeys(("train_examples", "epochs", "steps"), int | None),
    "config_changes": list,
    **dict.fromkeys(("versions", "checkpoints", "semi", "other_data"), dict),
}


class Results:
    """Metrics and other facts by name, to which more are added as they are found.

    Several processes may add to the same file: each reads what is there, adds its own and writes while the file is
    locked, so that nothing is lost.

    Args:
        path: path of the file; it need not exist yet.
    """

    def __init__(self, path):
        self.path = user_path(path)

    def read(self):
        """What has been recorded so far: a dict, empty at first.

        Raises:
            ValueError: if the file has been damaged.
        """
        try:
            found = read_json(self.path)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise self._damaged(f"is not JSON ({error})") from error
        if not isinstance(found, dict):
            raise self._damaged(f"holds a {type(found).__name__} instead of an object")
        if odd := _odd(found):
            raise self._damaged(f"has {odd} of another form")
        return found

    def record(self, checkpoint=None, /, **facts):
        """Adds facts, or replaces those of the same name.

        Args:
            checkpoint: dict that says of which weights they are, which is noted beside them. Defaults to `None`.
            **facts: values by name; or functions of the value before, `None` at first, which are called while no other
                process writes.

        Returns:
            dict of all facts.
        """

        def change(results):
            new = {name: fact(results.get(name)) if callable(fact) else fact for name, fact in facts.items()}
            if checkpoint is not None:
                new["checkpoints"] = results.get("checkpoints", {}) | dict.fromkeys(facts, checkpoint)
            return results | new

        return self.update(change)

    def update(self, change):
        """Replaces what has been recorded by what `change` makes of it, while no other process writes.

        Args:
            change: function of the dict of all facts so far that returns the new one.

        Returns:
            dict, what it returned.

        Raises:
            ValueError: as `read`; also whatever `change` raises. Then the file stays as it was.
            OSError: if it cannot be written.
        """
        new = {}

        def text():
            new.update(change(self.read()))
            return json.dumps(new, indent=2) + "\n"

        self.path.parent.mkdir(parents=True, exist_ok=True)
        update_text(self.path, text)
        return new

    def _damaged(self, what):
        return UserError(
            f"`{self.path.name}` must be as it was written. Received: {self.path}, which {what}. "
            "Repair it, or delete it: training does not need it."
        )


def _odd(facts):
    """The name of a fact of another form than this package writes, empty if there is none."""
    for name, kind in KINDS.items():
        if name in facts and not isinstance(facts[name], kind):
            return name
    if facts.get("replicas", 1) < 1:
        return "replicas"
    if not all(map(_is_checkpoint, facts.get("checkpoints", {}).values())):
        return "checkpoints"
    if not all(map(_are_runs, facts.get("semi", {}).values())):
        return "semi"
    others = facts.get("other_data", {}).values()
    return next(("other_data" for found in others if not isinstance(found, dict) or _odd(found)), "")


def _is_checkpoint(found):
    return found is None or isinstance(found, dict) and isinstance(found.get("step", 0), int)


def _are_runs(ways):
    """Whether these are accuracies by what was trained, and the settings that they were trained with."""
    if not isinstance(ways, dict) or not isinstance(ways.get("settings", {}), dict):
        return False
    accuracies = [found for way, found in ways.items() if way != "settings"]
    return _is_checkpoint(ways.get("settings", {}).get("checkpoint")) and all(
        isinstance(found, list) and all(isinstance(one, NUMBER) for one in found) for found in accuracies
    )
