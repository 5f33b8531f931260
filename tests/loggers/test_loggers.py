"""What all loggers share: which are imported, which epochs a service gets, and that none of them stops a run."""

import sys

import keras
import pytest

import train
from keras_moco.errors import Stopped
from keras_moco.loggers import closed_after, log_results, make_loggers, optional_callbacks
from keras_moco.loggers.base import Service
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.plan import Plan
from tests.tiny import tiny_config
from tests.whole_runs import STEPS, TINY_FLAGS, call


class Server:
    """A service in memory, which can be out of reach."""

    def __init__(self):
        self.away, self.points, self.files, self.ends, self.settings = False, [], [], [], None


class Fake(Service):
    name = "fake"
    server: Server

    def _reach(self):
        if self.server.away:
            raise RuntimeError("nobody answers")

    def open(self, settings):
        self._reach()
        self.server.settings = settings
        return "here"

    def epochs_there(self):
        self._reach()
        return {epoch for epoch, _, _ in self.server.points}

    def log_epoch(self, epoch, step, metrics):
        self._reach()
        self.server.points.append((epoch, step, metrics))

    def log_files(self, step, pictures, card):
        self._reach()
        self.server.files.append((step, [path.name for path in pictures], card and card.name))

    def end(self, status):
        self._reach()
        self.server.ends.append(status)


@pytest.fixture
def service(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    fake = Fake(run, Plan(tiny_config(run.path, temperature=0.25, knn_k=None), 1437, 1, 1))
    fake.server = Server()
    return fake


def train_epochs(service, log, losses):
    """Ends of epochs as `fit` would have them: a dict of epoch to loss, `None` where the service is out of reach."""
    [callback] = optional_callbacks([service], [], log, min(losses))
    callback.set_model(keras.Sequential())
    callback.on_train_begin()
    for epoch, loss in losses.items():
        service.server.away = loss is None
        callback.on_epoch_end(epoch, {"loss": 9.0 if loss is None else loss})


def logged(service):
    return [(epoch, step, metrics["loss"]) for epoch, step, metrics in service.server.points]


def test_a_resumed_run_logs_each_epoch_once(service):
    train_epochs(service, {}, {0: 5.0, 1: 4.0})
    resumed = Fake(service.run, service.plan)
    resumed.server = service.server
    train_epochs(resumed, {0: {"loss": 5.0}}, {1: 4.0, 2: 3.0})  # its last checkpoint was before epoch 1
    assert logged(service) == [(0, STEPS, 5.0), (1, 2 * STEPS, 4.0), (2, 3 * STEPS, 3.0)]


def test_epochs_before_a_service_was_named_are_logged_too(service):
    train_epochs(service, {0: {"loss": 5.0}, 1: {"loss": 4.0}}, {2: 3.0})
    assert logged(service) == [(0, STEPS, 5.0), (1, 2 * STEPS, 4.0), (2, 3 * STEPS, 3.0)]


def test_a_service_that_is_gone_is_reported_once_and_gets_the_epochs_later(service, capsys):
    train_epochs(service, {}, {0: 5.0, 1: None, 2: None, 3: 2.0})
    assert logged(service) == [(0, STEPS, 5.0), (1, 2 * STEPS, 9.0), (2, 3 * STEPS, 9.0), (3, 4 * STEPS, 2.0)]
    _, line = capsys.readouterr().out.splitlines()
    assert line == "warning: fake was not written (nobody answers); continuing without it."


def test_settings_are_all_of_them_and_what_follows_from_them(service):
    train_epochs(service, {}, {0: 5.0})
    found = service.server.settings
    assert vars(service.plan.config).keys() <= found.keys()
    assert (found["temperature"], found["image_mean"], found["crop_min_area"]) == (0.25, "0.3", 0.4)
    assert (found["train_examples"], found["steps_per_epoch"], found["version_keras"]) == (1437, 11, keras.__version__)


def test_pictures_and_card_are_logged_once_when_a_run_is_complete(service):
    service.run.export.mkdir()
    for path in (service.run.curves, service.run.embedding, service.run.model_card):
        path.touch()
    log = {0: {"loss": 5.0}, 1: {"loss": 4.0}}
    service.server.away = True
    log_results([service], log)
    service.server.away = False
    for _ in range(2):  # the same command again, and once more
        again = Fake(service.run, service.plan)
        again.server = service.server
        with closed_after([again]):
            log_results([again], log)
    assert logged(service) == [(0, STEPS, 5.0), (1, 2 * STEPS, 4.0)]
    assert service.server.files == [(2 * STEPS, ["curves.png", "embedding.png"], "MODEL_CARD.md")]
    assert service.server.ends == ["finished"]


@pytest.mark.parametrize("error, status", [(Stopped, "stopped"), (KeyError, "failed")])
def test_the_end_of_a_run_says_how_it_ended(service, error, status):
    with pytest.raises(error), closed_after([service]):
        train_epochs(service, {}, {0: 5.0})
        raise error("x")
    assert service.server.ends == [status]


def test_a_missing_package_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = call(train, *TINY_FLAGS, f"--workdir={tmp_path / 'run'}", "--log_to=csv,wandb").refusal
    assert said.endswith("Run pip install 'keras_moco[wandb]', or omit wandb from --log_to.")
    assert "Received: log_to=csv,wandb, and " in said and not (tmp_path / "run").exists()


def test_only_what_is_named_is_imported_and_the_log_file_is_always_written(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    run, plan = RunDirectory(tmp_path), Plan(tiny_config(tmp_path, knn_k=None), 1437, 1, 1)
    kinds = {
        names: [type(each).__name__ for each in make_loggers(names, run, plan)] for names in [("tensorboard",), ()]
    }
    assert kinds == {("tensorboard",): ["LogFile", "TensorBoard"], (): ["LogFile"]}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="tensorboard, csv, wandb or mlflow. Received: log_to=csv,tensorbord"):
        tiny_config("x", log_to=("csv", "tensorbord"))
