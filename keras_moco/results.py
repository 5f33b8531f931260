"""The figures of a run or an evaluation, in a file `results.json`."""

import json

from keras_moco.durable import write_text
from keras_moco.errors import UserError
from keras_moco.paths import user_path


class Results:
    """Figures by name, which are added to as they are found.

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
            return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        except ValueError as error:
            raise UserError(
                f"`{self.path.name}` must be as it was written. Received: {self.path}, which is no JSON ({error}). "
                "Repair it, or delete it: training goes on without."
            ) from error

    def record(self, **figures):
        """Adds figures, or replaces those of the same name, and returns all of them."""
        results = {**self.read(), **figures}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(results, indent=2) + "\n")
        return results
