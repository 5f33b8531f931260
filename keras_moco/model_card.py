"""The model card: what a backbone is, what it was trained on, and how well it does, for whoever is handed it.

Of the training it says what was recorded then; no data set is opened for it.
"""

import numpy as np

from keras_moco.durable import write_text
from keras_moco.evaluation.accuracy import told_together
from keras_moco.export import KERAS_FILE, SAVED_MODEL
from keras_moco.methods import METHODS
from keras_moco.models import Encoder

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
    parts = [f"# {subject.path.name}", _what(subject), _trained_on(subject, results), _figures(results), _LIMITS]
    return "\n\n".join(parts) + "\n"


def write_card(subject):
    """Writes `model_card(subject)` to where it belongs."""
    subject.card.parent.mkdir(parents=True, exist_ok=True)
    write_text(subject.card, model_card(subject))


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
        + f"| size of images | {size} |\n"
        + f"| output | `(n, {features})` float32 features |\n"
        + f"| parameters | {sum(int(np.prod(weight.shape)) for weight in backbone.trainable_weights):,} |"
    )


def _trained_on(subject, results):
    recipe = subject.recipe
    if recipe is None:
        return f"## Training\n\nNot known to this card: the model was given as `{subject.path}`."
    facts = subject.training_facts
    count = facts.get("train_examples", recipe.train_examples)
    counted = "how many images is not recorded" if count is None else f"{count:,} images, without their labels"
    licence = results.get("data_licence") or facts.get("data_licence") or facts.get("train_licence")
    unknown = "not said by the data set" if "train_licence" in facts else "not recorded"
    converted = facts.get("converted_from")
    is_newest = subject.config.checkpoint == "newest"
    rows = [
        ("data", f"`{recipe.dataset}`, {counted}"),
        ("licence of the data", licence or f"{unknown}; look it up before you pass this on"),
        *(("weights", f"converted from `{converted}`") for _ in range(converted is not None)),
        ("steps", f"{facts['steps']:,}" if "steps" in facts and is_newest else "not recorded"),
        *((name, f"`{getattr(recipe, name)}`") for name in (*_RECIPE, *METHODS[recipe.method].settings)),
        *((f"version of {name}", number) for name, number in facts.get("versions", {}).items()),
    ]
    return "## Training\n\n" + _table(rows)


def _figures(results):
    parts = ["## Evaluation"]
    own = {name: value for name, value in results.items() if name.startswith(_MODES) and name != "knn_k"}
    if own:
        parts.append(
            "On the data that it was trained on, now with labels. Accuracies are in percent, on test images: top-1, "
            "and top-5 behind it; those of few labels are means of several draws, with the standard deviation of the "
            "sample."
        )
        parts.append(_table(_rows(own)))
    for name, found in results.get("other_data", {}).items():
        parts.append(f"On `{name}`:")
        parts.append(_table(_rows(found)))
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "None so far."])


def _rows(figures):
    """Figures, also those within others, a row each."""
    for name, value in figures.items():
        if name == "settings":
            continue  # in `results.json`
        told = name.replace("_", " ")
        if name == "semi":
            yield from (
                (f"{told}, {share}, {way}", told_together(accuracies))
                for share, ways in value.items()
                for way, accuracies in ways.items()
                if way != "settings" and accuracies
            )
        elif isinstance(value, dict):
            yield from ((f"{told}, {inner}", text) for inner, text in _rows(value))
        else:
            numbers = value if isinstance(value, list) else [value]
            yield told, ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in numbers)


def _table(rows):
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


_LIMITS = """## Limits

Features are worth what they do on images like those it was trained on; nothing else was measured. Nobody has looked at
what these images show or leave out, and what that means for people in them or for decisions about people."""
