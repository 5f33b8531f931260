"""MLflow, by its client: any tracking server or store that `MLFLOW_TRACKING_URI` names.

The only module that imports mlflow.
"""

import importlib
import os
import time

from keras_moco.loggers.base import Service

EXPERIMENT = "keras_moco"  # unless MLFLOW_EXPERIMENT_NAME is set
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST = 100  # parameters or tags at once
# By default a server that is gone would hold up training for minutes after every epoch.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MLflow(Service):
    """Logs to MLflow; the variables `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` count.

    Which epochs were logged, the server says. Parameters of MLflow cannot change: a setting that has changed since the
    run began stays as it was, and its new value becomes the tag `changed.<name>`.
    """

    name = "mlflow"

    def __init__(self, run, plan):
        super().__init__(run, plan)
        self._entities = importlib.import_module("mlflow.entities")
        self._tracking = importlib.import_module("mlflow.tracking")

    def open(self, settings):
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client = self._tracking.MlflowClient()
        self._run_id = self.state.get("run_id") or self._create()
        self._client.update_run(self._run_id, status="RUNNING")
        found = self._client.get_run(self._run_id)
        texts = {name: "" if value is None else str(value) for name, value in settings.items()}
        before = found.data.params
        new = [self._entities.Param(name, text) for name, text in texts.items() if name not in before]
        for start in range(0, len(new), MOST):
            self._client.log_batch(self._run_id, params=new[start : start + MOST])
        changed = [name for name in before.keys() & texts.keys() if before[name] != texts[name]]
        if changed:
            tags = [self._entities.RunTag(f"changed.{name}", texts[name]) for name in changed]
            self._client.log_batch(self._run_id, tags=tags)
        return f"run {self._run_id} of experiment {found.info.experiment_id} at {self._client.tracking_uri}"

    def _create(self):
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = self._client.create_run(experiment_id, run_name=self.run.path.name).info.run_id
        self.remember(run_id=run_id)
        return run_id

    def epochs_there(self):
        return {int(point.value) for point in self._client.get_metric_history(self._run_id, "epoch")}

    def log_epoch(self, epoch, step, metrics):
        now = int(1000 * time.time())
        # In one request, so that an epoch is there with all its metrics or not at all.
        values = {**metrics, "epoch": float(epoch)}
        points = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=points)

    def log_files(self, step, pictures, card):
        for path in [*pictures, *filter(None, [card])]:
            self._client.log_artifact(self._run_id, str(path))

    def end(self, status):
        self._client.set_terminated(self._run_id, STATUS[status])
