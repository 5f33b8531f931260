"""The figures of a run or an evaluation, in a file `results.json`."""

import json

from keras_moco.durable import write_text
from keras_moco.errors import UserError
from keras_moco.paths import check_file, user_path


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
        rule, way_out = f"`{self.path.name}` must be as it was written.", "delete it: training goes on without."
        if not self.path.exists():
            return {}
        check_file(self.path, rule, f"Move it away, or {way_out}")
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{rule} Received: {self.path}, which is no JSON ({error}). Repair it, or {way_out}"
            ) from error

    def record(self, **figures):
        """Adds figures, or replaces those of the same name, and returns all of them."""
        results = {**self.read(), **figures}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(results, indent=2) + "\n")
        return results
