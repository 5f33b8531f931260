"""Figures and tables of docs/reading_the_curves.md from the logs of our own runs.

    python benchmarks/plot_curves.py [--out DIR]

Reads docs/fashion_mnist_log.csv and what benchmarks/curves.py has left in docs/curves. Writes curves_reference.png,
curves_first_steps.png and curves_short_runs.png into DIR (docs), and replaces the tables between their marks in
DIR/reading_the_curves.md.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
# Negatives of each log: what chance is follows from them.
KEYS = {"reference": 4096, "first_steps": 1024, "runs": 512}
NAMES = {
    "healthy": "healthy",
    "rate_too_high": "learning rate too high",
    "rate_too_low": "learning rate too low",
    "larger_crops": "larger crops",
    "no_crops": "no crops",
    "batch_norm_plain": "BatchNorm of one group",
    "no_key_momentum": "no key momentum",
    "wrong_scaling": "wrong scaling",
}
SHOWN = (1, 2, 3, 5, 10, 15, 20, 26)  # epochs of the reference run
LEVELS = {  # name in the logs: (title, digits, factor)
    "loss": ("loss", 2, 1),
    "contrast_top1": ("contrast top-1, %", 1, 100),
    "positive_similarity": ("positive similarity", 2, 1),
    "negative_similarity": ("negative similarity", 3, 1),
    "feature_std": ("`feature_std`", 2, 1),
    "alignment": ("alignment", 2, 1),
    "uniformity": ("uniformity", 2, 1),
    "effective_rank": ("effective rank", 0, 1),
    "knn_top1": ("kNN, %", 1, 1),
}


def chance(name):
    return math.log(1 + KEYS[name])


def read_log(path):
    """The rows of a log: dicts of float, without what was not measured."""
    with open(path, newline="") as file:
        return [{name: float(text) for name, text in row.items() if text != "NA"} for row in csv.DictReader(file)]


def read_all(folder=DOCS):
    """`(reference, first_steps, runs, said)`: rows, rows, dict of name to rows, dict of name to what the run said."""
    runs = {name: read_log(folder / "curves" / f"{name}.csv") for name in NAMES}
    said = json.loads((folder / "curves" / "runs.json").read_text())
    return read_log(folder / "fashion_mnist_log.csv"), read_log(folder / "curves" / "first_steps.csv"), runs, said


def figure_of(row, name):
    title, digits, factor = LEVELS[name]
    return f"{factor * row[name]:.{digits}f}" if name in row else ""


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def reference_table(reference, first_steps, runs, said):
    names = ("loss", "contrast_top1", "positive_similarity", "negative_similarity", "feature_std", "knn_top1")
    rows = [[epoch, *(figure_of(reference[epoch - 1], name) for name in names)] for epoch in SHOWN]
    return table(["epoch", *(LEVELS[name][0] for name in names)], rows)


def runs_table(reference, first_steps, runs, said):
    rows = []
    for name, words in NAMES.items():
        flags = " ".join(f"`{flag}`" for flag in said[name]["flags"])
        knn = f"{said[name]['knn_top1_initial']:.1f} → {figure_of(runs[name][-1], 'knn_top1')}"
        figures = [figure_of(runs[name][-1], level) for level in LEVELS if level != "knn_top1"]
        rows.append([words, flags, *figures, knn])
    return table(["run", "flags", *(title for title, *_ in LEVELS.values())], rows)


def warnings_table(reference, first_steps, runs, said):
    rows = [
        [NAMES[name], warning.removeprefix("warning: ").removesuffix(" Look at")]
        for name in NAMES
        for warning in said[name]["warnings"]
    ]
    return table(["run", "warning"], rows)


TABLES = {"reference": reference_table, "runs": runs_table, "warnings": warnings_table}


def with_tables(page, logs):
    """The text of a page, its tables replaced by those of the logs."""
    for name, make in TABLES.items():
        before, mark, rest = page.partition(f"<!-- table: {name} -->\n")
        if mark:
            page = f"{before}{mark}{make(*logs)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


def _draw(axes, rows, names, title, start=1):
    for name in names:
        points = [(start + place, row[name]) for place, row in enumerate(rows) if name in row]
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
    axes.set(title=title)
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()


def draw_reference(logs, path):
    """The whole Fashion-MNIST run."""
    rows = logs[0]
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = {
        "loss": ["loss"],
        "contrast accuracy": ["contrast_top1", "contrast_top5"],
        "similarities": ["positive_similarity", "negative_similarity"],
        "spread of the embeddings": ["feature_std"],
        "kNN accuracy of the features, %": ["knn_top1"],
        "learning rate": ["learning_rate"],
    }
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        _draw(axes, rows, names, title)
        axes.set(xlabel="epoch")
        if names == ["loss"]:
            axes.axhline(chance("reference"), color="gray", linestyle="--", label=f"chance {chance('reference'):.2f}")
            axes.legend()
    figure.savefig(path, dpi=80)


def draw_first_steps(logs, path):
    """While the queue fills."""
    rows = logs[1]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    panels = {"loss": ["loss"], "contrast accuracy": ["contrast_top1"], "queue": ["queue_fill"]}
    for axes, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        _draw(axes, rows, names, title)
        axes.set(xlabel="step")
        if names == ["loss"]:
            axes.axhline(chance("first_steps"), color="gray", linestyle="--", label="chance")
            axes.legend()
    figure.savefig(path, dpi=80)


def draw_short_runs(logs, path):
    """The short runs, a line each."""
    runs = logs[2]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = {
        "loss": "loss",
        "contrast_top1": "contrast accuracy",
        "feature_std": "feature_std",
        "alignment": "alignment",
        "effective_rank": "effective rank",
        "knn_top1": "kNN accuracy, %",
    }
    for axes, (level, title) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for name, words in NAMES.items():
            values = [row[level] for row in runs[name]]
            width = 2.5 if name == "healthy" else 1.2
            axes.plot(range(1, len(values) + 1), values, label=words, linewidth=width)
        if level == "loss":
            axes.axhline(chance("runs"), color="gray", linestyle="--", label=f"chance {chance('runs'):.2f}")
            lines, labels = axes.get_legend_handles_labels()
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.legend(lines, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=80)


FIGURES = {
    "curves_reference": draw_reference,
    "curves_first_steps": draw_first_steps,
    "curves_short_runs": draw_short_runs,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR", default=DOCS, type=Path, help="where the figures go")
    out, logs = parser.parse_args().out, read_all()
    for name, draw in FIGURES.items():
        draw(logs, out / f"{name}.png")
    page = out / "reading_the_curves.md"
    if page.exists():
        page.write_text(with_tables(page.read_text(), logs))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
