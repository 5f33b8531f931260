"""The folder for the Hugging Face Hub: what Keras and huggingface_hub make of it, without a network."""

import json
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.runs.load import load_backbone
from keras_moco.runs.results import Results
from tests.evaluation.finished_run import SIZE, digits, refusal, results

FILES = {"README.md", "backbone.keras", "config.json", "metadata.json", "model.weights.h5", "preprocessor_config.json"}


@pytest.fixture
def exported(run, tmp_path):
    """The folder of a run, with two accuracies of this checkpoint and one of an earlier one."""
    (run / "views.png").write_bytes(b"views")
    evaluate("export", EvaluationConfig(workdir=str(run)))  # records which checkpoint this is
    checkpoint = {"step": 0, "weights": weights_of(run)}
    Results(run / "results.json").record(checkpoint, knn_top1_backbone=61.25, linear_top1=70.5, linear_top5=99.0)
    Results(run / "results.json").record({"step": 11, "weights": "0"}, finetune_top1=12.5)
    folder = tmp_path / "My backbone"
    evaluate("export", EvaluationConfig(workdir=str(run), to=f"hf:{folder}"))
    return folder


def weights_of(run):
    """The digest of the weights that the model card of the run gives."""
    card = (run / "export" / "MODEL_CARD.md").read_text()
    return card.partition("| checkpoint | step 0, `")[2].partition("`")[0]


def test_keras_and_this_package_load_the_folder(exported, trained, tmp_path):
    assert {path.name for path in exported.iterdir()} == {*FILES, "views.png"}
    images = digits("test")[0][:8].astype("float32")
    expected = trained.encoder.features(images)
    # The latter is what `keras.saving.load_model("hf://...")` does once it has downloaded the folder.
    for model in (load_backbone(exported), keras.saving.load_model(exported / "backbone.keras")):
        np.testing.assert_allclose(model(images), expected, atol=1e-5)
    np.testing.assert_allclose(keras.saving.load_model(exported)(images), expected, atol=1e-5)
    settings = {"model": str(exported), "output": str(tmp_path / "out"), "dataset": "digits", "image_size": SIZE}
    evaluate("measures", EvaluationConfig(**settings))
    assert "measures_test_backbone" in results(tmp_path / "out")["other_data"]["digits"]


def test_the_facts_say_how_images_are_read(exported):
    facts = json.loads((exported / "preprocessor_config.json").read_text())
    assert facts["size"] == {"height": SIZE, "width": SIZE} and facts["channels"] == 1
    assert facts["values"] == {"low": 0, "high": 255} and not facts["do_rescale"] and not facts["do_normalize"]
    assert facts["scaling_in_model"] == {"image_mean": [pytest.approx(0.3)], "image_std": [pytest.approx(0.38)]}
    assert facts["training"]["method"] == "moco" and facts["keras_moco"] == "0.1.0"


def test_metadata_has_the_accuracies_of_this_checkpoint_alone(exported):
    _, block, text = (exported / "README.md").read_text().split("---\n", 2)
    metadata = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in block.splitlines())}
    assert metadata["library_name"] == "keras" and {"keras", "moco"} <= set(metadata["tags"])
    [index] = metadata["model-index"]
    found = {each["metrics"][0]["name"]: each["metrics"][0]["value"] for each in index["results"]}
    assert index["name"] == "My-backbone"
    assert found == {"knn_top1_backbone, in percent": 61.25, "linear_top1, in percent": 70.5}
    assert 'load_model("hf://USER/My-backbone")' in text and "saved_model" not in text


def test_a_model_with_values_of_its_files_keeps_them(trained, tmp_path):
    from keras_moco.export import export_backbone

    raw = export_backbone(trained.encoder, tmp_path / "raw", (0.0, 4095.0)) / "backbone.keras"
    images = np.random.default_rng(0).uniform(0, 4095, (4, SIZE, SIZE, 1)).astype("float32")
    expected = keras.saving.load_model(raw)(images)
    output = {"model": str(raw), "output": str(tmp_path / "out")}
    evaluate("export", EvaluationConfig(**output, to=f"hf:{tmp_path / 'hub'}"))
    evaluate("export", EvaluationConfig(**output))
    for folder in (tmp_path / "hub", tmp_path / "out"):
        np.testing.assert_allclose(load_backbone(folder)(images), expected, atol=1e-5)
    facts = json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())
    assert facts["values"] == {"low": 0, "high": pytest.approx(4095)}


def test_a_folder_that_holds_anything_is_replaced_only_if_asked_for(run, tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    said = refusal("export", workdir="nowhere", to=f"hf:{folder}")  # before the run is looked for
    assert f"Received: {folder}, which holds other things." in said
    evaluate("export", EvaluationConfig(workdir=str(run), to=f"hf:{folder}", overwrite=True))
    assert {path.name for path in folder.iterdir()} == {*FILES, "notes.txt"}
    assert (folder / "README.md").read_text().startswith("---\n") and (folder / "notes.txt").read_text() == "mine"


def test_other_forms_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for to, received in (
        ("onnx:x", "to='onnx:x'"),
        ("hf:", "to='hf:'"),
        (f"hf:{tmp_path / 'file'}", f"{tmp_path / 'file'}, a file"),
    ):
        assert f"Received: {received}" in refusal("export", workdir="nowhere", to=to)
    assert "Received: overwrite=True without --to" in refusal("export", workdir="nowhere", overwrite=True)
    assert "Omit --to, or choose the mode export." in refusal("knn", workdir="nowhere", to="hf:x")


def test_a_model_of_the_hub_is_downloaded_and_loaded(exported, trained, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(exported)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    images = digits("test")[0][:8].astype("float32")
    np.testing.assert_allclose(load_backbone("hf://user/name")(images), trained.encoder.features(images), atol=1e-5)
    assert asked == [("user/name", ["backbone.keras"])]


def test_without_the_package_or_a_network_one_sentence_says_so(tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("no\nnetwork")

    settings = {"model": "hf://user/name", "dataset": "digits", "output": str(tmp_path)}
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    assert "Received: hf://user/name, and huggingface_hub says: no network." in refusal("knn", **settings)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "Run pip install 'keras_moco[huggingface]'." in refusal("knn", **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of huggingface_hub are not ours
def test_huggingface_hub_reads_the_card_and_uploads_every_file(exported, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    card = hub.ModelCard.load(exported / "README.md")
    assert card.data.library_name == "keras" and card.data.model_name == "My-backbone"
    found = {result.metric_name: (result.metric_value, result.dataset_name) for result in card.data.eval_results}
    assert found["linear_top1, in percent"] == (70.5, "digits")
    assert hub.ModelCardData(**card.data.to_dict()).to_dict() == card.data.to_dict()
    uploaded, validated = [], []

    def create_commit(self, repo_id, operations, **_):
        uploaded.extend(operation.path_in_repo for operation in operations)
        return SimpleNamespace(oid="0", commit_url="https://localhost/user/name", pr_url=None)

    # What would reach the network: the Hub's own check of the metadata, and the commit.
    monkeypatch.setattr(hub.HfApi, "_validate_yaml", lambda _, content, **__: validated.append(content))
    monkeypatch.setattr(hub.HfApi, "create_commit", create_commit)
    monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)  # then it is a single commit
    hub.HfApi(endpoint="http://localhost:9", token="x").upload_folder(repo_id="user/name", folder_path=exported)
    assert sorted(uploaded) == sorted({*FILES, "views.png"})
    assert validated == [(exported / "README.md").read_text()]
