"""What was found in a set of images, as a picture."""

import collections
from pathlib import Path

import numpy as np

from keras_moco.data.survey import Survey
from keras_moco.errors import UserError
from keras_moco.evaluation.plot_names import fit_names
from keras_moco.evaluation.plots import new_figure, save_figure
from keras_moco.storage.paths import StrPath

COLOURS = {1: ["black"], 3: ["tab:red", "tab:green", "tab:blue"]}
NAMED = 20  # classes up to which bars have names


def draw_survey(path: StrPath, survey: Survey, narrow: tuple[float, float]) -> Path:
    """Draws values per channel, sizes, aspect ratios, and the number of images of each class (or format).

    Args:
        path: path of the PNG file; its folder exists.
        survey: `Survey`.
        narrow: as for `keras_moco.summaries.survey_text.describe_survey`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if no image can be read.
        OSError: if the file cannot be written.
    """
    if not survey.read:
        raise UserError(f"Images must be readable to be drawn. Received: none of {survey.source.name}. Repair them.")
    figure = new_figure(11, 8)
    values, sizes, ratios, counts = figure.subplots(2, 2).ravel()
    _draw_values(values, survey)
    if len(survey.sizes()):
        _draw_sizes(sizes, survey)
        _draw_ratios(ratios, survey, narrow)
    _draw_counts(counts, survey)
    [name] = fit_names([survey.source.name], 400, {10: 1}).texts
    figure.suptitle(f"{name} ({survey.source.split}): {len(survey.read):,} of {len(survey.entries):,} images")
    return save_figure(path, figure)


def _draw_values(axes, survey):
    axes.set_title(f"Values of {len(survey.decoded):,} decoded images")
    if not survey.decoded:
        return
    channels = len(survey.histogram)
    colours = COLOURS.get(channels, [f"C{number % 10}" for number in range(channels)])
    for number, shares in enumerate(survey.histogram):
        axes.stairs(100 * shares, np.arange(257) - 0.5, color=colours[number], label=f"channel {number + 1}", lw=1.2)
    # A few levels, such as a white background, would hide all others.
    axes.set_ylim(0, min(100, 1.2 * np.percentile(100 * survey.histogram, 98)) or None)
    axes.set(xlim=(-0.5, 255.5), xlabel="level, 0..255", ylabel="% of the pixels")
    if 1 < channels <= NAMED:
        axes.legend()


def _draw_sizes(axes, survey):
    from matplotlib.ticker import LogLocator, NullFormatter

    height, width = survey.sizes().T
    axes.scatter(width, height, s=12, alpha=np.clip(500 / len(width), 0.1, 0.8), edgecolors="none")
    axes.set(title="Sizes", xlabel="width, pixels", ylabel="height, pixels", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    low, high = 0.8 * min(width.min(), height.min()), 1.25 * max(width.max(), height.max())
    axes.plot([low, high], [low, high], color="gray", lw=0.8, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.grid(alpha=0.3)


def _draw_ratios(axes, survey, narrow):
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = survey.sizes()
    ratios = sizes.max(axis=1) / sizes.min(axis=1)
    edges = np.geomspace(1, max(10, 1.05 * ratios.max()), 41)
    axes.hist(ratios, edges, color="tab:blue")
    for limit, style, share in zip(narrow, ("--", "-"), ("half of the crops are", "all crops are"), strict=True):
        axes.axvline(limit, color="tab:red", ls=style, label=f"{limit:.1f}: {share} the same box")
    ticks = [each for each in (1, 1.5, 2, 3, 4, 6, 10, 20, 50, 100, 1000) if each <= edges[-1]]
    axes.set(xscale="log", yscale="symlog", title="Longer side / shorter side", ylabel="images")
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0)
    axes.legend(loc="center right")


def _draw_counts(axes, survey):
    names = survey.source.class_names
    if names:
        labels = survey.labels()
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        found = [(names[number], counts[number]) for number in order]
        title = f"Images of {len(names):,} classes"
    else:
        found = collections.Counter(entry.format for entry in survey.read).most_common()
        title = "Images by format (no labels)"
    names = [name for name, _ in found]
    axes.bar(range(len(names)), [count for _, count in found], width=0.9 if len(names) <= NAMED else 1.0)
    if len(names) <= NAMED:
        texts = fit_names(names, 110, {8: 1}).texts
        axes.set_xticks(range(len(names)), texts, rotation=90 if sum(map(len, texts)) > 60 else 0)
    else:
        axes.set_xlabel("classes, the largest first")
    axes.set(title=title, ylabel="images")
    axes.yaxis.get_major_locator().set_params(integer=True)
