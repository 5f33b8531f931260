"""What a logger is, and what all services share: which epochs they have, and what they are given at the end."""

import dataclasses
import json

import keras

from keras_moco.callbacks.optional_output import CANNOT_WRITE
from keras_moco.config import Config
from keras_moco.config.settings import to_text
from keras_moco.runs.versions import versions
from keras_moco.storage.atomic import read_json, update_text


class Logger:
    """One place where the metrics of a run are logged.

    Args:
        run: `RunDirectory` of the run.
        plan: `Plan` of the run.

    Attributes:
        what: str, its name in messages.
        errors: tuple of the exceptions after which training continues without it.
    """

    errors: tuple[type[Exception], ...] = CANNOT_WRITE

    def __init__(self, run, plan):
        self.run, self.plan = run, plan

    @property
    def what(self):
        raise NotImplementedError

    def callback(self, monitors, log, first_epoch):
        """The `keras.callbacks.Callback` that logs each epoch; arguments as of `optional_callbacks`."""
        raise NotImplementedError

    def finish(self, log):
        """Logs what there is at the end of a run, whose epochs are `log`."""

    def close(self, status):
        """Ends logging; `status` is `"finished"`, `"stopped"` or `"failed"`."""


class Service(Logger):
    """A logger to a service, which may be out of reach at any time, and may have some epochs of the run already.

    Each epoch is logged at the step after it, under the names that the columns of `log.csv` have, with `epoch` among
    them. All epochs that the service does not have are logged whenever it can be reached: those before a run was
    resumed, and those of which nothing could be logged at the time. What identifies the run there is kept in
    `loggers.json` in the folder of the run, so that a resumed run continues it.

    Subclasses implement `open`, `epochs_there`, `log_epoch`, `log_files` and `end`.

    Attributes:
        name: str, its name in `LOGGERS`.
    """

    # Whatever a client raises: its own errors, those of the packages that it uses, or bugs. None may stop a run.
    errors = (Exception,)
    name: str

    def __init__(self, run, plan):
        super().__init__(run, plan)
        self.rows = {}
        self._is_open = False

    @property
    def what(self):
        return self.name

    # What subclasses implement

    def open(self, settings):
        """Begins or continues the run of this folder; returns where people find it, a str.

        Args:
            settings: dict of name to a number, bool, text or `None`.
        """
        raise NotImplementedError

    def epochs_there(self):
        """The epochs that have been logged, a set of int, from 0."""
        raise NotImplementedError

    def log_epoch(self, epoch, step, metrics):
        """Logs one epoch.

        Args:
            epoch: int, from 0.
            step: int, the number of training steps until its end.
            metrics: dict of name to float.
        """
        raise NotImplementedError

    def log_files(self, step, pictures, card):
        """Logs the files of a finished run; any of them may be missing.

        Args:
            step: int, the number of training steps.
            pictures: list of `pathlib.Path` of PNG files.
            card: `pathlib.Path` of the model card, or `None`.
        """
        raise NotImplementedError

    def end(self, status):
        """Ends an opened run; as `close`."""
        raise NotImplementedError

    # What they share

    def callback(self, monitors, log, first_epoch):
        self.rows = dict(log)
        return _EachEpoch(self)

    def send(self):
        """Logs all epochs that are not there yet."""
        if not self._is_open:
            print(f"{self.name}: {self.open(settings_of(self.plan))}", flush=True)
            self._is_open = True
        there = self.epochs_there()
        for epoch, row in sorted(self.rows.items()):
            if epoch not in there:
                metrics = {name: float(value) for name, value in row.items()}
                self.log_epoch(epoch, (epoch + 1) * self.plan.steps_per_epoch, metrics)

    def finish(self, log):
        step = self.plan.total_steps
        if self.state.get("complete") == step:  # a finished run that was started again
            return
        self.rows |= log
        self.send()
        pictures = [self.run.curves, self.run.views, self.run.neighbours, self.run.embedding]
        card = self.run.model_card
        self.log_files(step, [path for path in pictures if path.exists()], card if card.exists() else None)
        self.remember(complete=step)

    def close(self, status):
        if self._is_open:
            self._is_open = False
            self.end(status)

    @property
    def state(self):
        """What is kept of this service in the folder of the run: a dict."""
        try:
            return read_json(self.run.loggers_json).get(self.name, {})
        except FileNotFoundError:
            return {}

    def remember(self, **facts):
        """Adds to `state`."""

        def text():
            try:
                kept = read_json(self.run.loggers_json)
            except FileNotFoundError:
                kept = {}
            return json.dumps({**kept, self.name: {**kept.get(self.name, {}), **facts}}, indent=2) + "\n"

        update_text(self.run.loggers_json, text)


class _EachEpoch(keras.callbacks.Callback):
    """Has a `Service` log each epoch."""

    def __init__(self, service):
        super().__init__()
        self.service = service

    def on_train_begin(self, logs=None):
        self.service.send()

    def on_epoch_end(self, epoch, logs=None):
        self.service.rows[epoch] = dict(logs or {})
        self.service.send()


def settings_of(plan):
    """All settings of a run, the values that follow from them, and versions: a dict of names to plain values."""
    values = {field.name: getattr(plan.config, field.name) for field in dataclasses.fields(Config)}
    values |= {"train_examples": plan.train_examples, "channels": plan.channels, "replicas": plan.replicas}
    values |= {"steps_per_epoch": plan.steps_per_epoch, "chance_loss": plan.chance_loss}
    values |= {f"version_{name}": number for name, number in versions().items()}
    plain = (bool, int, float, str, type(None))
    return {name: value if isinstance(value, plain) else to_text(value) for name, value in values.items()}
