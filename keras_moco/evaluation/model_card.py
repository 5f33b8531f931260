"""The model card: architecture, training data and accuracy of a backbone, for its users.

Facts about the training are those recorded then; no data set is opened.
"""

import html
import re

import numpy as np

from keras_moco.evaluation.accuracy import mean_and_std
from keras_moco.evaluation.registry import EVALUATIONS
from keras_moco.export.backbone import KERAS_FILE, SAVED_MODEL
from keras_moco.image_formats.decoding import WINDOW
from keras_moco.methods import settings_of
from keras_moco.networks import Encoder
from keras_moco.networks.by_name import is_ours
from keras_moco.storage.atomic import update_text

# Settings of every recipe; those of its method follow.
_RECIPE = (
    "method",
    "backbone",
    "backbone_width",
    "stem",
    "head",
    "augment",
    "image_size",
    "batch_size",
    "epochs",
    "base_learning_rate",
    "weight_decay",
    "schedule",
    "temperature",
    "precision",
    "seed",
)


def model_card(target, files=None):
    """The model card as Markdown.

    Args:
        target: `EvaluationTarget`, whose metrics so far are listed.
        files: str, what the files beside the card are. Defaults to `None`: those of the export of a run.

    Returns:
        str.
    """
    results = target.output.results.read()
    metrics = _metrics(results, target.checkpoint)
    parts = [f"# {_text(target.path.name)}", _what(target, files), _trained_on(target, results), metrics, _LIMITS]
    return "\n\n".join(parts) + "\n"


def write_card(target):
    """Writes `model_card(target)` to its file, including metrics that other processes have recorded meanwhile."""
    target.output.card.parent.mkdir(parents=True, exist_ok=True)
    update_text(target.output.card, lambda: model_card(target))


def _what(target, files=None):
    encoder = target.encoder
    backbone = encoder.backbone if isinstance(encoder, Encoder) else encoder
    height, width, channels = target.image_shape
    features = encoder.feature_dim if isinstance(encoder, Encoder) else backbone.output_shape[-1]
    trained = target.recipe and target.recipe.image_size
    # The export takes images of any size, even if the trained encoder does not.
    size = f"any; trained at {trained} x {trained}" if trained else f"{height} x {width}" if height else "any"
    ours = target.recipe is None or is_ours(target.recipe.backbone)
    size = size if ours else f"{trained} x {trained}, as in training; others where the network allows it"
    scaling = ""
    if isinstance(encoder, Encoder):
        mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (encoder.mean, encoder.std))
        scaling = f"divided by 255, less {mean}, divided by {std}"
    values = "0..255"
    if target.value_range:
        ends = zip(*map(np.atleast_1d, target.value_range), strict=True)
        listed = ", ".join(f"{low:g}..{high:g}" for low, high in ends)
        values = f"{listed}{' in its channels' if ',' in listed else ''}, as in their files"
        scaling = "; ".join(filter(None, ["mapped to 0..255, with what is beyond clipped", scaling]))
    elif target.recipe and target.recipe.value_range == WINDOW:
        values += ", to which the window in each DICOM file brings its values"
    scaling = f" The model scales them: {scaling}." if scaling else ""
    exported = f"`{KERAS_FILE}` (Keras 3) and `{SAVED_MODEL}` (TensorFlow) hold the backbone, without the head.\n\n"
    if not ours and not (target.output.card.parent / KERAS_FILE).exists():
        exported = f"`{SAVED_MODEL}` (TensorFlow) holds the backbone, without the head.\n\n"
    files = files or (exported if target.recipe else "")
    return (
        f"{files}"
        + "| | |\n| --- | --- |\n"
        + f"| input | float32 images `(n, height, width, {channels})` with values in {values}.{scaling} |\n"
        + f"| checkpoint | {_identified(target.checkpoint, target.checkpoint)} |\n"
        + f"| size of images | {size} |\n"
        + f"| output | `(n, {features})` float32 features |\n"
        + f"| parameters | {sum(int(np.prod(weight.shape)) for weight in backbone.trainable_weights):,} |"
    )


def _trained_on(target, results):
    recipe = target.recipe
    if recipe is None:
        return f"## Training\n\nUnknown: the model was given as {_code(target.path)}."
    facts = target.training_facts
    count = facts.get("train_examples", recipe.train_examples)
    counted = "number of images not recorded" if count is None else f"{count:,} images, without their labels"
    licence = results.get("data_licence") or facts.get("data_licence") or facts.get("train_licence")
    unknown = "not stated by the data set" if "train_licence" in facts else "not recorded"
    converted = facts.get("converted_from")
    rows = [
        ("data", f"{_code(recipe.dataset)}, {counted}"),
        *([("held out for testing", f"{recipe.test_fraction:g} of the images")] if recipe.test_fraction else []),
        ("licence of the data", _text(licence) if licence else f"{unknown}; look it up before you share this model"),
        *([("weights", f"converted from {_code(converted)}")] if converted is not None else []),
        ("steps", f"{target.checkpoint['step']:,}"),
        *((name, _code(getattr(recipe, name))) for name in _settings(recipe)),
        *((f"version of {_text(name)}", _text(number)) for name, number in facts.get("versions", {}).items()),
    ]
    return "## Training\n\n" + _table(rows)


def _settings(recipe):
    """Names of the settings of a recipe."""
    unused = () if is_ours(recipe.backbone) else ("backbone_width", "stem")
    weights = ("backbone_weights",) if recipe.backbone_weights else ()
    return [*(name for name in _RECIPE if name not in unused), *weights, *settings_of(recipe.method)]


def _metrics(results, checkpoint):
    parts = ["## Evaluation"]
    own = {name: value for name, value in results.items() if name.startswith(tuple(EVALUATIONS))}
    if own:
        parts.append(
            "On the training data set, with its labels. Accuracies are in percent, on test images: top-1, then top-5; "
            "those of few labels are the mean and the standard deviation over several label subsets. The last column "
            "identifies the checkpoint by its training step and a digest of the weights of the backbone, which is the "
            "same for every file format."
        )
        parts.append(_table_of(own, results.get("checkpoints", {}), checkpoint))
    for name, found in results.get("other_data", {}).items():
        parts.append(f"On {_code(name)}:")
        parts.append(_table_of(found, found.get("checkpoints", {}), checkpoint))
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "None so far."])


def _table_of(metrics, checkpoints, checkpoint):
    """A table of metrics, each with the checkpoint that it belongs to."""
    rows = []
    for name, value in metrics.items():
        if name != "checkpoints":
            default = _identified(checkpoints.get(name), checkpoint)
            rows += [(_text(label), _text(text), own or default) for label, text, own in _rows(name, value, checkpoint)]
    return _table(rows, ("", "", "checkpoint"))


def _identified(found, checkpoint):
    """A checkpoint by its step and digest, marked if it is not the one of the card."""
    if not found:
        return "not recorded"
    step = [f"step {found['step']:,}"] if "step" in found else []
    where = ", ".join([*step, *(_code(found[name]) for name in ("weights",) if name in found)])
    return where if found == checkpoint else f"{where}, **not this one**"


def _rows(name, value, checkpoint):
    """Yields a row for each number of a metric: its name, its value, and its checkpoint if the value has its own."""
    label = name.replace("_", " ")
    if name == "semi":
        for share, methods in value.items():
            own = _identified(methods.get("settings", {}).get("checkpoint"), checkpoint)
            for method, accuracies in methods.items():
                if method != "settings" and accuracies:
                    yield f"{label}, {share}, {method}", mean_and_std(accuracies), own
    elif isinstance(value, dict):
        for inner, found in value.items():
            yield from ((f"{label}, {name}", *rest) for name, *rest in _rows(inner, found, checkpoint))
    else:
        numbers = value if isinstance(value, list) else [value]
        yield label, ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in numbers), ""


def _table(rows, header=("", "")):
    def line(cells):
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def _text(value):
    """Foreign text, escaped for a cell of a Markdown table: neither mark-up nor HTML."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", plain)


def _code(value):
    """Foreign text as code; as HTML if it contains what would end the code or the cell."""
    text = " ".join(str(value).split())
    return f"<code>{_text(text)}</code>" if re.search(r"[`|]", text) or not text else f"`{text}`"


_LIMITS = """## Limits

Only the metrics above were measured. The training data was not audited for content or bias, nor the effect of the model
on the people in the images, or on decisions about people."""
