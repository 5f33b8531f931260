"""The settings of a run in TensorBoard: as text, and as hyperparameters to compare runs by."""

import dataclasses

import tensorflow as tf

from keras_moco.callbacks.event_log import tag, write_events
from keras_moco.config import Config
from keras_moco.config.settings import to_text
from keras_moco.runs.versions import versions_line

# The title of each chart with several lines, and the metrics that it shows.
CHARTS = {
    "loss, and loss at chance level": ("loss", "chance_loss"),
    "contrast accuracy": ("contrast_top1", "contrast_top5"),
    "similarity of views": ("positive_similarity", "negative_similarity"),
}


def write_settings(log_dir, plan):
    """Writes the configuration of a run for TensorBoard; an earlier one is replaced.

    Args:
        log_dir: path of the folder in which the run's events are.
        plan: `Plan` of the run.

    Returns:
        `pathlib.Path` of the file.
    """
    from tensorboard.plugins.custom_scalar import summary
    from tensorboard.plugins.hparams import api

    values = hyper_parameters(plan)

    def write():
        tf.summary.text("configuration", as_table(plan.config))
        tf.summary.text("plan", "\n".join(f"    {line}" for line in [*plan.describe().splitlines(), versions_line()]))
        # Without `hparams_config`: TensorBoard finds metrics and settings itself, those first that differ between runs.
        api.hparams(values, trial_id=plan.config.workdir)
        tf.summary.experimental.write_raw_pb(summary.pb(_charts()).SerializeToString())

    return write_events(log_dir, "settings", write)


def hyper_parameters(plan):
    """The settings that decide the result of a run: a dict of names to numbers, bools and texts for TensorBoard."""
    fields = [field for field in dataclasses.fields(Config) if not field.metadata["resumable"]]
    values = {field.name: getattr(plan.config, field.name) for field in fields}
    values |= {"train_examples": plan.train_examples, "channels": plan.channels}
    plain = (bool, int, float, str)
    return {name: value if isinstance(value, plain) else to_text(value) or "" for name, value in values.items()}


def as_table(config):
    """A configuration as a table in Markdown; values other than the defaults are in bold."""
    changed = config.changed()
    rows = ["| setting | value | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(config):
        value = _escaped(to_text(getattr(config, field.name)) or "")
        value = f"**{value}**" if field.name in changed and value else value
        rows.append(f"| {field.name} | {value} | {_escaped(field.metadata['help'])} |")
    return "\n".join(rows)


def _escaped(text):
    """Text without Markdown: a `*` in the names of files, or a `|` that would end the cell."""
    return "".join(f"&#{ord(letter)};" if letter in "|*_`<>[]\\" else letter for letter in text)


def _charts():
    from tensorboard.plugins.custom_scalar import layout_pb2

    charts = [
        layout_pb2.Chart(
            title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag(name)}$" for name in names])
        )
        for title, names in CHARTS.items()
    ]
    return layout_pb2.Layout(category=[layout_pb2.Category(title="contrast", chart=charts)])
