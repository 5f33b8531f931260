"""MLflow with a real server on this machine; what it has is read by its REST interface."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from keras_moco.loggers.base import Service
from tests.tiny import tiny_config
from tests.whole_runs import STEPS, log, pretrain, stop_in_mid_epoch

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
if not all(map(importlib.util.find_spec, ("flask", "sqlalchemy", "aiohttp"))):
    pytest.skip("MLflow's server is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of MLflow are not ours


class Server:
    """`mlflow server` with its store in a folder, which can be stopped and started again."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url, self.process = folder, f"http://127.0.0.1:{self.port}", None

    def start(self):
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        command += [f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db"]
        command += [f"--artifacts-destination={self.folder}/artifacts"]
        with open(self.folder / "server.log", "a") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,  # it starts processes of its own, which end with it
            )
        for _ in range(240):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.url}/health").close()
                return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.5)
        pytest.fail((self.folder / "server.log").read_text())

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def get(self, what, **arguments):
        url = f"{self.url}/api/2.0/mlflow/{what}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)

    def runs(self):
        [experiment] = [self.get("experiments/get-by-name", experiment_name="keras_moco")["experiment"]]
        body = json.dumps({"experiment_ids": [experiment["experiment_id"]]}).encode()
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["runs"]

    def history(self, run, metric):
        """`(step, value)` of every point of a metric, in order."""
        points = self.get("metrics/get-history", run_id=run["info"]["run_id"], metric_key=metric)["metrics"]
        return sorted((int(point.get("step", 0)), point["value"]) for point in points)

    def artifact(self, run, name):
        return urllib.request.urlopen(f"{self.url}/get-artifact?run_id={run['info']['run_id']}&path={name}").read()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(started, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.url)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return started


def test_a_stopped_and_resumed_run_is_one_run_with_everything_once(server, tmp_path):
    config = tiny_config(tmp_path / "first", log_to=("csv", "mlflow"))
    stop_in_mid_epoch(config)
    [run] = [run for run in server.runs() if run["info"]["run_name"] == "first"]
    assert run["info"]["status"] == "KILLED" and len(server.history(run, "loss")) == 1
    path = pretrain(config, at_the_end=pytest.MonkeyPatch.context).path
    assert not (path / "tensorboard").exists()  # which was not asked for
    [run] = [run for run in server.runs() if run["info"]["run_name"] == "first"]
    assert run["info"]["status"] == "FINISHED"
    rows = log(path)
    for name in rows[0]:
        expected = [((number + 1) * STEPS, pytest.approx(float(row[name]))) for number, row in enumerate(rows)]
        assert server.history(run, name) == expected, name
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert params["temperature"] == "0.1" and params["image_mean"] == "0.3" and params["method"] == "moco"
    for file in ("curves.png", "views.png", "neighbours.png", "embedding.png", "export/MODEL_CARD.md"):
        assert server.artifact(run, file.rpartition("/")[2]) == (path / file).read_bytes()


def test_settings_that_changed_are_tags(server, tmp_path):
    stop_in_mid_epoch(tiny_config(tmp_path / "changed", log_to=("csv", "mlflow")))
    pretrain(tiny_config(tmp_path / "changed", log_to=("csv", "mlflow"), epochs=3, allow_config_change=("epochs",)))
    [run] = [run for run in server.runs() if run["info"]["run_name"] == "changed"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert (params["epochs"], tags["changed.epochs"]) == ("2", "3")


def test_a_server_that_is_gone_in_the_middle_stops_nothing_and_gets_the_rest_later(server, tmp_path, monkeypatch):
    config = tiny_config(tmp_path / "gone", log_to=("csv", "mlflow"), epochs=3)
    send = Service.send

    def send_and_stop(service):
        send(service)
        if 0 in service.rows:
            server.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Service, "send", send_and_stop)
        began = time.monotonic()
        outcome = pretrain(config)
    assert outcome.results["epochs"] == 3 and time.monotonic() - began < 120
    lines = [line for line in outcome.printed.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2 and all(line.startswith("warning: mlflow was not written (") for line in lines)
    server.start()
    [run] = [run for run in server.runs() if run["info"]["run_name"] == "gone"]
    assert [step for step, _ in server.history(run, "loss")] == [STEPS]
    pretrain(config)  # the same command again, which trains nothing
    assert [step for step, _ in server.history(run, "loss")] == [STEPS, 2 * STEPS, 3 * STEPS]
    [run] = [run for run in server.runs() if run["info"]["run_name"] == "gone"]
    assert run["info"]["status"] == "FINISHED"
