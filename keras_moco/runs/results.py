"""The figures of a run or an evaluation, in a file `results.json`."""

import json

from keras_moco.errors import UserError
from keras_moco.storage.atomic import read_json, update_text
from keras_moco.storage.paths import user_path

# What is read again must be of the kind that was written: files of others may say anything.
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
    """Figures by name, which are added to as they are found.

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
            raise self._damaged(f"is no JSON ({error})") from error
        if not isinstance(found, dict):
            raise self._damaged(f"holds no object with names but a {type(found).__name__}")
        if odd := _odd(found):
            raise self._damaged(f"has {odd} of another form")
        return found

    def record(self, **figures):
        """Adds figures, or replaces those of the same name, and returns all of them."""
        return self.update(lambda results: {**results, **figures})

    def update(self, change):
        """Replaces what has been recorded by what `change` makes of it, while no other process writes.

        Args:
            change: function of the dict of all figures so far that returns the new one.

        Returns:
            dict, what it returned.

        Raises:
            ValueError: as `read`, or whatever `change` raises; then the file stays as it was.
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
            "Repair it, or delete it: training goes on without."
        )


def _odd(figures):
    """The name of what is not as it is written, empty if all is."""
    for name, kind in KINDS.items():
        if name in figures and not isinstance(figures[name], kind):
            return name
    if figures.get("replicas", 1) < 1:
        return "replicas"
    if not all(map(_is_checkpoint, figures.get("checkpoints", {}).values())):
        return "checkpoints"
    if not all(map(_are_draws, figures.get("semi", {}).values())):
        return "semi"
    others = figures.get("other_data", {}).values()
    return next(("other_data" for found in others if not isinstance(found, dict) or _odd(found)), "")


def _is_checkpoint(found):
    return found is None or isinstance(found, dict) and isinstance(found.get("step", 0), int)


def _are_draws(ways):
    """Whether these are accuracies by what was trained, and the settings that they were trained with."""
    if not isinstance(ways, dict) or not isinstance(ways.get("settings", {}), dict):
        return False
    accuracies = [found for way, found in ways.items() if way != "settings"]
    return _is_checkpoint(ways.get("settings", {}).get("checkpoint")) and all(
        isinstance(found, list) and all(isinstance(one, NUMBER) for one in found) for found in accuracies
    )
