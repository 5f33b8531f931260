"""Where results and the model card are written, and which checkpoint they belong to."""

import dataclasses
import errno
import html
import json
import shutil
import subprocess
import sys

import pytest
from markdown_it import MarkdownIt

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.evaluation import semi, target
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.runs.directory import RunDirectory
from keras_moco.storage import locks
from tests.evaluation.finished_run import SIZE, refusal, results, train_on
from tests.processes import ROOT


def test_model_has_its_own_output_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"dataset": "digits", "image_size": SIZE}
    votes = {"knn_k": (5,), "pictures": False}
    evaluate("knn", EvaluationConfig(model=str(trained.export / "backbone.keras"), **settings, **votes))
    (folder,) = (tmp_path / "evaluation").iterdir()
    assert folder.name == "backbone" and {path.name for path in folder.iterdir()} == {"results.json", "MODEL_CARD.md"}
    found = results(folder)
    assert found["model"] == str(trained.export / "backbone.keras")
    assert set(found["other_data"]["digits"]) == {"knn_backbone", "knn_top1_backbone", "checkpoints"}  # it has no head
    assert "knn top1 backbone" in (folder / "MODEL_CARD.md").read_text()

    before = {path: path.read_bytes() for path in folder.iterdir()}
    said = refusal("embed", model=str(trained.export), output=str(folder), **settings)
    assert f"Received: {folder}, with those of {trained.export / 'backbone.keras'} newest" in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_metrics_and_files_are_recorded_with_their_checkpoint(run):
    config = EvaluationConfig(workdir=str(run))
    first = EvaluationTarget(config)
    share = {"settings": {"checkpoint": first.checkpoint}, "a": [7.0]}
    first.output.record(linear_top1=80.0, semi=lambda _: {"1 %": share})
    first.config = dataclasses.replace(config, dataset="folder:elsewhere")
    first.output.record(knn_top1=70.0)
    old = {"step": 0, "weights": first.checkpoint["weights"]}
    assert results(run)["checkpoints"] == {"linear_top1": old, "semi": old}
    assert results(run)["other_data"]["folder:elsewhere"]["checkpoints"] == {"knn_top1": old}
    train_on(run)
    second = EvaluationTarget(config)
    second.output.path_of("features_test.npz").touch()
    second.output.finish()
    new = {"step": 11, "weights": second.checkpoint["weights"]}
    assert new["weights"] != old["weights"] and len(new["weights"]) == 16
    assert results(run)["checkpoints"] == {"linear_top1": old, "semi": old, "features_test.npz": new}
    second.output.record(knn_top1=90.0)
    RunDirectory(run).results.record(logistic_top1=60.0)  # as earlier versions did

    write_card(second)
    card = (run / "export" / "MODEL_CARD.md").read_text()
    outdated = f"step 0, `{old['weights']}`, **not this one**"
    for row in (
        f"| checkpoint | step 11, `{new['weights']}` |",
        "| steps | 11 |",
        f"| linear top1 | 80 | {outdated} |",
        f"| semi, 1 %, a | 7.00 %, 1 seed | {outdated} |",
        f"| knn top1 | 90 | step 11, `{new['weights']}` |",
        f"| knn top1 | 70 | {outdated} |",
        "| logistic top1 | 60 | not recorded |",
    ):
        assert row in card.splitlines()


def test_unwritable_output_is_refused_before_any_work(run, silent, tmp_path, monkeypatch):
    monkeypatch.setattr(target, "open_trained_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    (tmp_path / "file").touch()
    for output in ("file", "file/new"):
        said = refusal("finetune", workdir=str(run), output=str(tmp_path / output))
        assert f"Received: {tmp_path / output} (Not a directory). " in said
    real = locks.os.open

    def read_only(path, flags, *mode):
        if flags & locks.os.O_CREAT and str(path).startswith(str(run / "export")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(locks.os, "open", read_only)
    assert f"Received: {run / 'export'} (Permission denied). " in refusal("finetune", workdir=str(run))
    assert not (run / "evaluation").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, by which permissions bind root too")
def test_read_only_run_is_evaluated_into_another_folder(run, tmp_path):
    program = "from tests import tiny; import runpy; runpy.run_path('evaluate.py', run_name='__main__')"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program, "embed"]
    run.chmod(0o555)
    try:
        refused, done = (
            subprocess.run([*command, f"--workdir={run}", *flags], cwd=ROOT, capture_output=True, text=True)
            for flags in ([], [f"--output={tmp_path / 'out'}"])
        )
    finally:
        run.chmod(0o755)
    assert refused.returncode == 2 and "features of digits" not in refused.stdout
    assert f"Received: {run} (Permission denied). " in refused.stderr.splitlines()[-1]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "features_test.npz").exists() and not (run / "evaluation").exists()


def test_two_models_cannot_share_an_output(trained, tmp_path):
    settings = {"dataset": "digits", "image_size": SIZE, "output": str(tmp_path / "out")}
    first, second = (
        EvaluationTarget(EvaluationConfig(model=str(path), **settings))
        for path in (trained.export, trained.export / "backbone.keras")
    )
    first.output.record(knn_top1=1.0)
    with pytest.raises(ValueError, match=f"Received: {tmp_path / 'out'}, with those of {trained.export} newest"):
        second.output.record(knn_top1=2.0)
    assert results(tmp_path / "out")["other_data"]["digits"]["knn_top1"] == 1.0


@pytest.mark.parametrize("dataset", [None, "folder:elsewhere"])
def test_concurrent_evaluations_keep_the_metrics_of_both(run, dataset, monkeypatch):
    """Each is there before the other has written."""
    first, second = (EvaluationTarget(EvaluationConfig(workdir=str(run), dataset=dataset)) for _ in range(2))
    settings = {"epochs": 1, "checkpoint": first.checkpoint}

    def found(**accuracies):
        return {"settings": settings, **accuracies}

    first.output.record(knn_top1=1.0)
    second.output.record(linear_top1=2.0)
    record_share = semi._record_share
    assert record_share(first, "1 %", found(a=[10.0])) == found(a=[10.0])
    assert record_share(second, "10 %", found(a=[90.0], b=[80.0])) == found(a=[90.0], b=[80.0])
    assert record_share(second, "1 %", found(b=[20.0])) == found(a=[10.0], b=[20.0])
    assert record_share(first, "1 %", found(a=[10.0, 11.0])) == found(a=[10.0, 11.0], b=[20.0])
    other = {"settings": settings | {"epochs": 2}, "a": [5.0]}
    assert record_share(second, "1 %", other) == other
    recorded = first.output.recorded()
    assert (recorded["knn_top1"], recorded["linear_top1"]) == (1.0, 2.0)
    assert recorded["semi"] == {"1 %": other, "10 %": found(a=[90.0], b=[80.0])}
    assert set(recorded["checkpoints"]) == {"knn_top1", "linear_top1", "semi"}


def test_card_escapes_foreign_names(run, tmp_path):
    ugly = "a|b`c` [x](javascript:y) <script>alert(1)</script> # *z* $w$ \\|\n# new"
    (run / "results.json").write_text(
        json.dumps({"other_data": {ugly: {"knn_top1": 9.5}}, "data_licence": ugly, "converted_from": ugly})
    )
    write_card(EvaluationTarget(EvaluationConfig(workdir=str(run))))
    card = (run / "export" / "MODEL_CARD.md").read_text()
    (licence,) = [line for line in card.splitlines() if line.startswith("| licence of the data |")]
    assert licence == (
        r"| licence of the data | a\|b\`c\` \[x\](javascript:y) &lt;script&gt;alert(1)&lt;/script&gt; \# \*z\* \$w\$ "
        r"\\\| \# new |"
    )
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert "<script" not in rendered and "href" not in rendered and rendered.count("<h1>") == 1
    shown = html.escape(" ".join(ugly.split()), quote=False)
    assert f"<td>{shown}</td>" in rendered  # the licence
    assert f"<p>On <code>{shown}</code>:</p>" in rendered and f"converted from <code>{shown}</code></td>" in rendered
