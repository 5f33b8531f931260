"""A folder that can be uploaded to the Hugging Face Hub as it is, and loaded from there by Keras."""

import json
import re
import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePath

from keras_moco.data.value_range import FULL
from keras_moco.errors import UserError
from keras_moco.evaluation.model_card import model_card
from keras_moco.export import standalone_backbone
from keras_moco.export.backbone import KERAS_FILE
from keras_moco.export.standalone import NotStockError, foreign_part
from keras_moco.networks import Encoder
from keras_moco.networks.raw_values import takes_raw_values
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.versions import versions
from keras_moco.storage.paths import check_folder, user_path
from keras_moco.trust.keras_file import CONFIG, METADATA, WEIGHTS

CARD = "README.md"
IMAGES = "preprocessor_config.json"  # `config.json` is Keras's description of the model
TAGS = ("keras", "self-supervised-learning", "contrastive-learning", "image-feature-extraction")
USE = """## Use

```python
import keras

backbone = keras.saving.load_model("hf://USER/{name}")  # needs huggingface_hub
features = backbone(images)  # (n, {features}) of images (n, height, width, {channels})
```

The model scales the images itself. `{images}` says how they were read in training."""
FILES = (
    f"`{KERAS_FILE}` holds the backbone, without the head, as one file of Keras 3. `{CONFIG}`, `{METADATA}` and "
    f"`{WEIGHTS}` are the same, as Keras loads it from the Hub.\n\n"
)


def check(path, overwrite):
    """Refuses a folder that holds anything, unless it may be overwritten."""
    folder = user_path(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`to` must name a folder. Received: {folder}, a file. Choose another one.")
    check_folder(folder, "`to` must name a folder that can be read.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"`to` must name a new or empty folder. Received: {folder}, which holds other things. "
            "Choose another one, or add --overwrite, which replaces the files of the same names."
        )


def write(target, path):
    """Writes model card, backbone and the facts about its images; each file is replaced when it is complete.

    Raises:
        ValueError: if the backbone does not consist of stock Keras layers.
    """
    folder = user_path(path)
    model = _stock_model(target)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        new = Path(temporary)
        model.save(new / KERAS_FILE)
        with zipfile.ZipFile(new / KERAS_FILE) as archive:
            for name in (CONFIG, METADATA, WEIGHTS):
                archive.extract(name, new)
        facts = image_facts(target, model)
        (new / IMAGES).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(card_text(target, repository_name(folder), facts), encoding="utf-8")
        views = RunDirectory(target.path).views
        if target.recipe and views.is_file():
            shutil.copyfile(views, new / views.name)
        for file in sorted(new.iterdir()):
            file.replace(folder / file.name)
    name, quoted = repository_name(folder), shlex.quote(str(folder))
    print(f"exported to {folder}\nupload:    hf upload USER/{name} {quoted}")


def repository_name(folder):
    """A name for the model that the Hub admits, from that of its folder.

    Example:

    >>> repository_name(Path("runs/My backbone, v2"))
    'My-backbone-v2'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", folder.resolve().name).strip("-.") or "backbone"


def _stock_model(target):
    if isinstance(target.encoder, Encoder):
        return standalone_backbone(target.encoder, target.value_range)
    model = takes_raw_values(target.encoder, target.value_range)
    if foreign := foreign_part(model):
        raise NotStockError(foreign)
    return model


def image_facts(target, model):
    """How the images of training were read, and what the model takes: a dict for JSON.

    `do_rescale` and `do_normalize` are the words of the Hub for what is done before the model: nothing.
    """
    recipe, encoder = target.recipe, target.encoder
    side = recipe.image_size if recipe else model.input_shape[1]
    low, high = target.value_range or (0.0, 255.0)
    scaling = {}
    if isinstance(encoder, Encoder):
        mean, std = ([float(number) for number in numbers] for numbers in (encoder.mean, encoder.std))
        scaling = {"image_mean": mean, "image_std": std}
    training = {}
    if recipe:
        value_range = recipe.value_range if target.value_range else FULL
        training = {"value_range": value_range, "background": recipe.background, "method": recipe.method}
    return {
        "size": {"height": side, "width": side} if side else None,
        "channels": model.input_shape[-1],
        "values": {"low": low, "high": high},
        "do_rescale": False,
        "do_normalize": False,
        "scaling_in_model": scaling,
        "training": training,
        "features": model.output_shape[-1],
        "keras_moco": versions()["keras_moco"],
    }


def card_text(target, name, facts):
    """The model card, with the metadata that the Hub reads, and how to load the model: Markdown."""
    metadata = {"library_name": "keras", "tags": [*TAGS, *([target.recipe.method] if target.recipe else [])]}
    metadata |= {"pipeline_tag": "image-feature-extraction"}
    if target.recipe and (dataset := _on_the_hub(target.recipe.dataset)):
        metadata["datasets"] = [dataset]
    if results := _results(target):
        metadata["model-index"] = [{"name": name, "results": results}]
    # JSON is YAML, and no package is needed for it.
    block = "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items())
    use = USE.format(name=name, images=IMAGES, features=facts["features"], channels=facts["channels"])
    return f"---\n{block}\n---\n{model_card(target, FILES)}\n{use}\n"


def _on_the_hub(dataset):
    """The name of a data set that others can find; empty for images of one's own."""
    kind, _, rest = dataset.partition(":")
    return rest.partition("/")[0] if kind == "tfds" else ""


def _results(target):
    """The top-1 accuracies of this checkpoint, in the form of the Hub's `model-index`: a list."""
    results = target.output.results.read()
    # On the images of training, and on others; without a recipe the former are not known.
    found = {target.recipe.dataset: results} if target.recipe else {}
    return [
        _result(dataset, name, value)
        for dataset, metrics in {**found, **results.get("other_data", {})}.items()
        for name, value in metrics.items()
        if "_top1" in name and metrics.get("checkpoints", {}).get(name) == target.checkpoint
    ]


def _result(dataset, name, value):
    kind, _, rest = dataset.partition(":")
    names = {"type": _on_the_hub(dataset) or ("imagefolder" if rest else kind), "name": PurePath(rest or kind).name}
    return {
        "task": {"type": "image-classification"},
        "dataset": {**names, "split": "test"},
        "metrics": [{"type": "accuracy", "name": f"{name}, in percent", "value": value}],
    }
