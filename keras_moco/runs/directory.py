"""Paths inside the folder of a run, and the check that it belongs to a configuration."""

import contextlib
import dataclasses
import os

from keras_moco.config.flagfiles import FLAGFILE, RUN_HEADER, read_flagfile
from keras_moco.errors import UserError, UserOSError
from keras_moco.runs.results import Results
from keras_moco.storage.atomic import leftovers, write_text
from keras_moco.storage.locks import LockedError, locked
from keras_moco.storage.paths import refuse_pipe, user_path


class RunDirectory:
    """Names what a run writes, and prevents different runs from writing into one folder.

    Args:
        path: path of the folder; nothing is created before `claim`.

    Example:

    >>> RunDirectory("runs/quickstart").results_json.name
    'results.json'
    """

    def __init__(self, path):
        self.path = user_path(path)
        self.flagfile = self.path / FLAGFILE
        self.log_csv = self.path / "log.csv"
        self.curves = self.path / "curves.png"
        self.views = self.path / "views.png"
        self.neighbours = self.path / "neighbours.png"
        self.embedding = self.path / "embedding.png"
        self.results_json = self.path / "results.json"
        self.results = Results(self.results_json)
        self.tensorboard = self.path / "tensorboard"
        self.events = self.tensorboard / "train"  # "train" is the name of the run in TensorBoard
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.model_card = self.export / "MODEL_CARD.md"
        self.loggers_json = self.path / "loggers.json"  # what identifies the run in services that log it

    def check(self, config):
        """Raises `ValueError` unless the folder is new, empty, or holds a run of this configuration."""
        names = self._names()
        if not names:
            return
        if FLAGFILE not in names:
            raise UserError(
                "`workdir` must be new, empty, or the folder of a run. "
                f"Received: {self.path}, which holds other things. Choose another --workdir."
            )
        self.check_changes(config, config.differences(self.config()))
        for folder in (self.checkpoints, self.export, self.tensorboard):
            if folder.is_symlink() and not folder.exists():
                raise UserError(
                    "The folders of a run must exist. "
                    f"Received: {folder}, a link to what is not there. Mount or restore it, or delete the link."
                )

    def check_changes(self, config, changed):
        """Raises `ValueError` unless a configuration allows all that it changes, a dict as of `Config.differences`."""
        refused = {name: change for name, change in changed.items() if name not in config.allow_config_change}
        if refused:
            allowable = [name for name in refused if name in config.changeable()]
            allow = f", or --allow_config_change={','.join(allowable)}" if len(allowable) == len(refused) else ""
            raise UserError(
                "`workdir` must hold a run of this configuration, or two runs would be mixed. "
                f"Received: {self.path} with {_listed(refused)}. Choose another --workdir, or the old values{allow}."
            )

    def claim(self, config):
        """Creates the folder, or opens it again, and writes the configuration as a flagfile.

        Returns:
            dict, the allowed changes from the configuration before: names to `"before -> now"`.
        """
        self.check(config)
        changed = config.differences(self.config()) if self.flagfile.exists() else {}
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.flagfile, f"{RUN_HEADER}: keras-moco pretrain --flagfile=THIS_FILE\n{config.to_flagfile()}")
        return changed

    @contextlib.contextmanager
    def locked(self):
        """Keeps other processes from training in the folder, which is made if missing, for the time of a block.

        Yields:
            Function that raises `ValueError` where the folder has been moved, deleted or given to another run, so that
            further output would be lost or mixed with that of the other run.

        Raises:
            ValueError: if another process trains in it.
            OSError: if it cannot be written to.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / "training", wait=False) as lock:
                if not lock:
                    print(f"note: files cannot be locked in {self.path}; start no second process that trains in it")
                yield lambda: self._check_in_place(lock)
        except LockedError as error:
            raise UserError(
                "A run may be trained by one process at a time. "
                f"Received: {self.path}, where {error.holder} trains. Wait until it ends, or choose another --workdir."
            ) from error
        finally:
            with contextlib.suppress(OSError):  # of a folder that is not empty, which stays
                for folder in made:
                    folder.rmdir()

    def _check_in_place(self, lock):
        if not lock.is_in_place():
            raise UserError(
                "The folder of a run must stay where it is while it trains. "
                f"Received: {self.path}, which was moved or deleted. "
                "Where it was moved, resume it from its last checkpoint by --flagfile=FOLDER/flags.cfg."
            )

    def _names(self):
        """The names in the folder, a set, without the files of a process that was killed before it had a flagfile."""
        try:
            names = set(os.listdir(self.path))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self.path.is_symlink():
                return set()
            reasons = {FileNotFoundError: "a link to what is not there", NotADirectoryError: "a file"}
            raise UserOSError(
                "`workdir` must be a folder that can be read. "
                f"Received: {self.path}, {reasons.get(type(error), error.strerror)}. "
                "Make it readable, or choose another --workdir."
            ) from error
        begun = {path.name for path in leftovers(self.path, FLAGFILE)}
        return names - begun - {f".{name}.lock" for name in ("training", FLAGFILE)} - {f".{FLAGFILE}.tmp"}

    def config(self):
        """The `Config` of the run.

        Raises:
            ValueError: if this is not the folder of a run.
        """
        if FLAGFILE not in self._names():
            raise UserError(
                f"`workdir` must be the folder of a run. Received: {self.path}, without {FLAGFILE}. "
                "Give the --workdir of a run of pretrain."
            )
        return dataclasses.replace(read_flagfile(self.flagfile), workdir=str(self.path))

    def logged_epochs(self):
        """The number of epochs in the log, an int."""
        try:
            refuse_pipe(self.log_csv)
            with open(self.log_csv, encoding="utf-8", errors="replace", newline="") as file:
                return max(sum(1 for _ in file) - 1, 0)  # without the names of the columns
        except FileNotFoundError:
            return 0


def _listed(changes):
    return ", ".join(f"{name}: {change}" for name, change in changes.items())
