"""Where the results of an evaluation are stored: `results.json`, pictures and other files, and the model card."""

import errno
from pathlib import Path

from keras_moco.errors import UserError, UserOSError
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import is_run
from keras_moco.runs.results import Results
from keras_moco.storage.locks import locked


class EvaluationOutput:
    """The folder for the results of an evaluation, each recorded with the checkpoint that it belongs to.

    Args:
        target: `EvaluationTarget`, whose encoder need not be loaded yet.

    Attributes:
        folder: `pathlib.Path` for pictures and other files.
        card: `pathlib.Path` of the model card.
        results: `Results`, the content of `results.json`.

    Raises:
        ValueError: if the folder belongs to another run or model.
        OSError: if it cannot be written to.
    """

    def __init__(self, target):
        self.target = target
        config, run = target.config, target.path
        home = Path(config.output).expanduser() if config.output else _default_folder(target)
        in_run = target.recipe is not None and home.resolve() == run.resolve()
        if not in_run and is_run(home):
            raise UserError(
                "`output` must not be the folder of another run, whose metrics it holds. "
                f"Received: {home}. Choose another --output."
            )
        self.folder = home / "evaluation" if in_run else home
        self.card = (RunDirectory(home).export if in_run else home) / "MODEL_CARD.md"
        self.results = Results(home / "results.json")
        # Which model the metrics belong to, where the folder does not say so.
        self._model = {} if in_run else {"model": str(run), "checkpoint": config.checkpoint}
        self._files = []
        for folder in (home, self.folder, self.card.parent):
            _check_writable(folder)
        self._check_model(self.results.read())

    def path_of(self, name):
        """Path of a file in `folder`, which is made if it is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files.append(name)
        return self.folder / name

    def record(self, **metrics):
        """Adds metrics to `results.json`, with the checkpoint that they belong to.

        Metrics on other images than those of the training are stored apart.

        Args:
            **metrics: values by name; or functions of the value before, `None` at first, which are called while no
                other process writes.
        """

        def add(here):
            for name, value in metrics.items():
                here[name] = value(here.get(name)) if callable(value) else value
            self._note_checkpoint(here, metrics)

        self._update(add)

    def finish(self):
        """Records the checkpoint that the files belong to, and a licence that was given."""
        files = [name for name in self._files if (self.folder / name).exists()]
        licence = {"data_licence": self.target.config.data_licence} if self.target.config.data_licence else {}
        if not files and not licence:
            self.results.record(**self._model)
            return

        def add(here):
            here.update(licence)
            self._note_checkpoint(here, files)

        self._update(add)

    def note_checkpoint(self, *names):
        """Records that metrics or files, which exist already, belong to this checkpoint."""
        self._update(lambda here: self._note_checkpoint(here, names))

    def recorded(self):
        """The metrics on these images so far, a dict."""
        results = self.results.read()
        return results if self.target.is_training_data else results.get("other_data", {}).get(self.target.dataset, {})

    def _note_checkpoint(self, here, names):
        if names:
            here["checkpoints"] = here.get("checkpoints", {}) | dict.fromkeys(names, self.target.checkpoint)

    def _update(self, add):
        """Has `add` change what is recorded on these images, while no other process writes."""

        def change(results):
            self._check_model(results)
            others = None if self.target.is_training_data else self.target.dataset
            add(results if others is None else results.setdefault("other_data", {}).setdefault(others, {}))
            return {**results, **self._model}

        self.results.update(change)

    def _check_model(self, results):
        before = {name: results.get(name, value) for name, value in self._model.items()}
        if before != self._model:
            raise UserError(
                "`output` must be new, or hold evaluations of the same model. "
                f"Received: {self.results.path.parent}, with those of {' '.join(map(str, before.values()))}. "
                "Choose another --output."
            )


def _default_folder(target):
    """The folder with `results.json`: that of a run holds the metrics of its newest checkpoint."""
    if target.recipe is None:
        return Path("evaluation") / target.path.stem
    checkpoint = target.config.checkpoint
    return target.path if checkpoint == "newest" else target.path / "evaluation" / checkpoint


def _check_writable(folder):
    """Raises `OSError` unless files can be written in a folder, which may have to be made; tried where it exists."""
    there = folder
    try:
        while not there.exists() and there != there.parent:
            if there.is_symlink():
                raise FileNotFoundError(errno.ENOENT, "a link to what is not there", str(there))
            there = there.parent
        with locked(there / ".writable"):
            pass
    except OSError as error:
        raise UserOSError(
            "The folder for results.json, the model card and pictures must be one that can be written to. "
            f"Received: {folder} ({error.strerror}). Choose another --output."
        ) from error
