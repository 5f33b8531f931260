"""The model card: what a backbone is, what it was trained on, and how well it does, for whoever is handed it.

Of the training it says what was recorded then; no data set is opened for it.
"""

import html
import re

import numpy as np

from keras_moco.evaluation.accuracy import told_together
from keras_moco.export.backbone import KERAS_FILE, SAVED_MODEL
from keras_moco.methods import settings_of
from keras_moco.networks import Encoder
from keras_moco.storage.atomic import update_text

# Of every recipe; what is its method's own comes behind.
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
# Where the figures of `results.json` come from.
_MODES = ("knn", "linear", "logistic", "semi", "finetune", "measures")


def model_card(subject):
    """The card of what was evaluated, as Markdown.

    Args:
        subject: `Subject`, whose figures so far are listed.

    Returns:
        str.
    """
    results = subject.results.read()
    figures = _figures(results, subject.checkpoint)
    parts = [f"# {_text(subject.path.name)}", _what(subject), _trained_on(subject, results), figures, _LIMITS]
    return "\n\n".join(parts) + "\n"


def write_card(subject):
    """Writes `model_card(subject)` to where it belongs, with what other processes have recorded meanwhile."""
    subject.card.parent.mkdir(parents=True, exist_ok=True)
    update_text(subject.card, lambda: model_card(subject))


def _what(subject):
    encoder = subject.encoder
    backbone = encoder.backbone if isinstance(encoder, Encoder) else encoder
    height, width, channels = subject.image_shape
    features = encoder.feature_dim if isinstance(encoder, Encoder) else backbone.output_shape[-1]
    trained = subject.recipe and subject.recipe.image_size
    # What is exported takes any size, also where the encoder that was trained does not.
    size = f"any; trained at {trained} x {trained}" if trained else f"{height} x {width}" if height else "any"
    scaling = ""
    if isinstance(encoder, Encoder):
        mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (encoder.mean, encoder.std))
        scaling = f" Scaled inside: divided by 255, less {mean}, divided by {std}."
    files = f"`{KERAS_FILE}` (Keras 3) and `{SAVED_MODEL}` (TensorFlow) hold it without its projection head.\n\n"
    return (
        (files if subject.recipe else "")
        + "| | |\n| --- | --- |\n"
        + f"| input | float32 images `(n, height, width, {channels})` with values in 0..255.{scaling} |\n"
        + f"| checkpoint | {_told(subject.checkpoint, subject.checkpoint)} |\n"
        + f"| size of images | {size} |\n"
        + f"| output | `(n, {features})` float32 features |\n"
        + f"| parameters | {sum(int(np.prod(weight.shape)) for weight in backbone.trainable_weights):,} |"
    )


def _trained_on(subject, results):
    recipe = subject.recipe
    if recipe is None:
        return f"## Training\n\nNot known to this card: the model was given as {_code(subject.path)}."
    facts = subject.training_facts
    count = facts.get("train_examples", recipe.train_examples)
    counted = "how many images is not recorded" if count is None else f"{count:,} images, without their labels"
    licence = results.get("data_licence") or facts.get("data_licence") or facts.get("train_licence")
    unknown = "not said by the data set" if "train_licence" in facts else "not recorded"
    converted = facts.get("converted_from")
    rows = [
        ("data", f"{_code(recipe.dataset)}, {counted}"),
        ("licence of the data", _text(licence) if licence else f"{unknown}; look it up before you pass this on"),
        *(("weights", f"converted from {_code(converted)}") for _ in range(converted is not None)),
        ("steps", f"{subject.checkpoint['step']:,}"),
        *((name, _code(getattr(recipe, name))) for name in (*_RECIPE, *settings_of(recipe.method))),
        *((f"version of {_text(name)}", _text(number)) for name, number in facts.get("versions", {}).items()),
    ]
    return "## Training\n\n" + _table(rows)


def _figures(results, checkpoint):
    parts = ["## Evaluation"]
    own = {name: value for name, value in results.items() if name.startswith(_MODES) and name != "knn_k"}
    if own:
        parts.append(
            "On the data that it was trained on, now with labels. Accuracies are in percent, on test images: top-1, "
            "and top-5 behind it; those of few labels are means of several draws, with the standard deviation of the "
            "sample. The last column says of which checkpoint they are: the steps trained, and a digest of the weights "
            "of the backbone, the same in whatever file they lie."
        )
        parts.append(_rows_of(own, results.get("checkpoints", {}), checkpoint))
    for name, found in results.get("other_data", {}).items():
        parts.append(f"On {_code(name)}:")
        parts.append(_rows_of(found, found.get("checkpoints", {}), checkpoint))
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "None so far."])


def _rows_of(figures, checkpoints, checkpoint):
    """A table of figures, each with the checkpoint that it is of."""
    figures = {name: value for name, value in figures.items() if name != "checkpoints"}
    rows = []
    for name, value in figures.items():
        whose = _told(checkpoints.get(name), checkpoint)
        rows += [(_text(told), _text(text), own or whose) for told, text, own in _rows(name, value, checkpoint)]
    return _table(rows, ("", "", "checkpoint"))


def _told(found, checkpoint):
    """Whose figures these are, in words."""
    if not found:
        return "not recorded"
    step = [f"step {found['step']:,}"] if "step" in found else []
    where = ", ".join([*step, *(_code(found[name]) for name in ("weights",) if name in found)])
    return where if found == checkpoint else f"{where}, **not this one**"


def _rows(name, value, checkpoint):
    """A figure, or those within it, a row each: its name, its value, and whose it is where that is its own."""
    told = name.replace("_", " ")
    if name == "semi":
        for share, ways in value.items():
            whose = _told(ways.get("settings", {}).get("checkpoint"), checkpoint)
            for way, accuracies in ways.items():
                if way != "settings" and accuracies:
                    yield f"{told}, {share}, {way}", told_together(accuracies), whose
    elif isinstance(value, dict):
        for inner, found in value.items():
            yield from ((f"{told}, {name}", *rest) for name, *rest in _rows(inner, found, checkpoint))
    else:
        numbers = value if isinstance(value, list) else [value]
        yield told, ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in numbers), ""


def _table(rows, header=("", "")):
    def line(cells):
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def _text(value):
    """Text of others in a line of Markdown that says what it says: neither mark-up nor HTML, and no end of a cell."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", plain)


def _code(value):
    """The same as code; where it has what ends code or a cell, by HTML."""
    text = " ".join(str(value).split())
    return f"<code>{_text(text)}</code>" if re.search(r"[`|]", text) or not text else f"`{text}`"


_LIMITS = """## Limits

Features are worth what they do on images like those it was trained on; nothing else was measured. Nobody has looked at
what these images show or leave out, and what that means for people in them or for decisions about people."""
