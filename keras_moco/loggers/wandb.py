"""Weights & Biases, by its client; also offline (`WANDB_MODE=offline`), for `wandb sync` later on.

The only module that imports wandb.
"""

import importlib
import os
import secrets
import shutil

from keras_moco.loggers.base import Service

PROJECT = "keras_moco"  # unless WANDB_PROJECT is set
STATUS = {"finished": 0, "stopped": 0, "failed": 1}  # exit codes


class WeightsAndBiases(Service):
    """Logs to Weights & Biases; its environment variables, such as `WANDB_PROJECT` and `WANDB_MODE`, count.

    Their steps can only rise, and offline nothing says what was logged before. So the epochs that were logged are kept
    in the folder of the run.
    """

    name = "wandb"

    def __init__(self, run, plan):
        super().__init__(run, plan)
        self._client = importlib.import_module("wandb")
        self._remote = None
        self._failure = None

    def open(self, settings):
        if self._failure:  # to wait for a server again after every epoch would cost minutes each time
            raise self._failure
        if "id" not in self.state:
            self.remember(id=secrets.token_hex(8), epochs=[])
        try:
            self._remote = self._client.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=self.state["id"],
                resume="allow",
                name=os.environ.get("WANDB_NAME", self.run.path.name),
                dir=os.environ.get("WANDB_DIR", str(self.run.path)),
                reinit="create_new",  # beside a run of the same process, as in a notebook
                # The console stays as it is: what is printed is for people and batch queues.
                settings=self._client.Settings(console="off", silent=True),
            )
        except Exception as error:
            self._failure = error
            raise
        self._remote.config.update(settings, allow_val_change=True)
        return self._remote.settings.sync_dir if self._remote.offline else self._remote.url

    def epochs_there(self):
        return set(self.state["epochs"])

    def log_epoch(self, epoch, step, metrics):
        # Without `commit`, a row is stored when the next one begins, and the last one would be lost in a crash.
        self._remote.log({**metrics, "epoch": epoch}, step=step, commit=True)
        self.remember(epochs=sorted({*self.state["epochs"], epoch}))

    def log_files(self, step, pictures, card):
        if pictures:
            self._remote.log(
                {path.stem: self._client.Image(str(path)) for path in pictures}, step=step + 1, commit=True
            )
        if card:
            copy = shutil.copy(card, self._remote.dir)  # a link, which wandb would make, breaks where folders move
            self._remote.save(copy, base_path=self._remote.dir, policy="now")

    def end(self, status):
        self._remote.finish(exit_code=STATUS[status])
