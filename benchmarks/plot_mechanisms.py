"""Figures and tables of docs/mechanisms.md from the cells that benchmarks/mechanisms.py has stored.

    python benchmarks/plot_mechanisms.py [--json PATH] [--out DIR]

Writes mechanisms_accuracy.png and mechanisms_cost.png into DIR (docs), prints the tables as Markdown, and replaces
those that stand between their marks in DIR/mechanisms.md.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure

NAMES = {"moco": "MoCo", "end_to_end": "end-to-end", "memory_bank": "memory bank", "simclr": "SimCLR"}
MARKERS = {"moco": "o", "end_to_end": "s", "memory_bank": "^", "simclr": "D"}
ACCURACIES = {"knn_embedding": "kNN, embedding", "knn_backbone": "kNN, backbone", "linear": "linear, backbone"}
# MoCo, Fig. 3: linear top-1 on ImageNet, ResNet-50, 200 epochs.
PAPER = {
    "moco": {256: 54.7, 512: 56.4, 1024: 57.5, 4096: 59.0, 16384: 60.4, 65536: 60.6},
    "end_to_end": {256: 54.9, 512: 56.3, 1024: 57.3},
    "memory_bank": {256: 50.0, 512: 52.0, 1024: 54.1, 4096: 56.5, 16384: 57.8, 65536: 58.0},
}
# MoCo, sec. 4.1: the same at K = 4096.
PAPER_MOMENTUM = {0.0: "fails", 0.9: "55.2", 0.99: "57.8", 0.999: "59.0"}


def read_cells(path):
    """The stored cells: a list of dicts."""
    if not Path(path).exists():
        raise ValueError(
            f"`json` must be a file of cells. Received: {path}, which is not there. Run benchmarks/mechanisms.py first."
        )
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def selected(cells, **wanted):
    return [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]


def sizes_of(cells, **wanted):
    return sorted({cell["K"] for cell in selected(cells, **wanted)})


def summary(cells, name):
    """Mean and standard deviation over seeds of a figure, `None` where there is none."""
    values = [cell[name] for cell in cells]
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def text(cells, name, digits=1):
    found = summary(cells, name)
    if found is None:
        return ""
    mean, deviation = found
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if len(cells) > 1 else f"{mean:.{digits}f}"


def dictionary_cells(cells, method, epochs=8):
    """Those of the comparison, without the ablations."""
    usual = {"momentum": 0.99, "batch_norm": "split"} if method == "moco" else {}
    return selected(cells, study="accuracy", method=method, epochs=epochs, **usual)


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def accuracy_table(cells):
    rows = []
    untrained = selected(cells, study="accuracy", method="untrained")
    rows.append(["untrained", "", len(untrained), *(text(untrained, name) for name in ACCURACIES), ""])
    for method in NAMES:
        ours = dictionary_cells(cells, method)
        for size in sizes_of(ours):
            here = selected(ours, K=size)
            k = f"{2 * size - 2:,}" if method == "simclr" else f"{size:,}"
            figures = (text(here, name) for name in ACCURACIES)
            rows.append([NAMES[method], k, len(here), *figures, PAPER.get(method, {}).get(size, "")])
    return table(["mechanism", "K", "seeds", *ACCURACIES.values(), "paper: ImageNet, linear"], rows)


def momentum_table(cells):
    rows = []
    for momentum, paper in PAPER_MOMENTUM.items():
        here = selected(cells, study="accuracy", K=4096, epochs=8, momentum=momentum, batch_norm="split")
        figures = (text(here, name) for name in ACCURACIES)
        losses = [{**cell, "last": cell["loss"][-1], "top1": 100 * cell["contrast_top1"][-1]} for cell in here]
        rows.append([momentum, len(here), *figures, text(losses, "last", 2), text(losses, "top1"), paper])
    header = ["m", "seeds", *ACCURACIES.values(), "last loss", "contrast top-1", "paper: ImageNet, linear"]
    return table(header, rows)


def batch_norm_table(cells):
    rows = []
    for mode, words in (
        ("split", "split: groups of 32, keys shuffled"),
        ("unshuffled", "groups of 32, not shuffled"),
        ("plain", "plain: one group of 256"),
    ):
        here = selected(cells, study="accuracy", K=4096, epochs=8, momentum=0.99, batch_norm=mode)
        last = [{**cell, "top1": 100 * cell["contrast_top1"][-1]} for cell in here]
        rows.append([words, len(here), text(last, "top1"), *(text(here, name) for name in ACCURACIES)])
    return table(["BatchNorm", "seeds", "contrast top-1", *ACCURACIES.values()], rows)


def longer_table(cells):
    """Longer trainings, beside those of the same seed that were not."""
    rows = []
    for method in NAMES:
        for longer in dictionary_cells(cells, method, epochs=32):
            [shorter] = selected(dictionary_cells(cells, method), K=longer["K"], seed=longer["seed"])
            figures = (f"{shorter[name]:.1f} → {longer[name]:.1f}" for name in ACCURACIES)
            accuracy = " → ".join(f"{100 * cell['contrast_top1'][-1]:.1f}" for cell in (shorter, longer))
            rows.append([NAMES[method], f"{longer['K']:,}", *figures, accuracy])
    return table(["mechanism", "K", *ACCURACIES.values(), "contrast top-1"], rows)


def cost_table(cells):
    """Medians over rounds, as shares of MoCo's at K = 256 in the same round."""
    cost = selected(cells, study="cost")
    base = {cell["seed"]: cell for cell in selected(cost, method="moco", K=256)}
    rows = []
    for method in ("moco", "memory_bank", "end_to_end"):
        for size in sizes_of(cost, method=method):
            here = [cell for cell in selected(cost, method=method, K=size) if cell["seed"] in base]
            ratios = [
                f"{statistics.median(cell[name] / base[cell['seed']][name] for cell in here):.2f}"
                for name in ("step_seconds", "peak_mebibytes")
            ]
            batch = here[0]["batch_size"]
            medians = [statistics.median(cell[name] for cell in here) for name in ("step_seconds", "peak_mebibytes")]
            figures = [f"{medians[0]:.2f}", f"{medians[1]:,.0f}"]
            rows.append([NAMES[method], f"{size:,}", f"{batch:,}", len(here), *figures, *ratios])
    header = ["mechanism", "K", "images per step", "rounds", "s per step", "MiB at the peak", "time", "memory"]
    return table(header, rows)


TABLES = {
    "accuracy": accuracy_table,
    "longer": longer_table,
    "momentum": momentum_table,
    "batch_norm": batch_norm_table,
    "cost": cost_table,
}


def with_tables(page, cells):
    """The text of a page, its tables replaced by those of the cells."""
    for name, make in TABLES.items():
        before, mark, rest = page.partition(f"<!-- table: {name} -->\n")
        if mark:
            page = f"{before}{mark}{make(cells)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


def _axes(axes, title, unit):
    axes.set(title=title, xlabel="K, negatives", ylabel=unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks([256, 512, 1024, 4096, 16384], ["256", "512", "1024", "4096", "16384"])
    axes.grid(alpha=0.3)
    axes.legend()


def draw_accuracy(cells, path):
    """Accuracy over K, a line per mechanism, bars of one standard deviation over seeds: the form of MoCo's Fig. 3."""
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    panels = list(ACCURACIES.items())
    *ours, paper = figure.subplots(1, len(panels) + 1)
    for axes, (name, title) in zip(ours, panels, strict=True):
        for method in NAMES:
            here = dictionary_cells(cells, method)
            sizes = sizes_of(here)
            if sizes:
                means, deviations = zip(*(summary(selected(here, K=size), name) for size in sizes), strict=True)
                places = [2 * size - 2 if method == "simclr" else size for size in sizes]
                axes.errorbar(places, means, deviations, marker=MARKERS[method], capsize=3, label=NAMES[method])
        untrained = summary(selected(cells, study="accuracy", method="untrained"), name)
        if untrained:
            axes.axhline(untrained[0], color="gray", linestyle="--", label="untrained")
        _axes(axes, f"Fashion-MNIST: {title}", "%")
    for method, points in PAPER.items():
        points = {size: value for size, value in points.items() if size <= 16384}
        paper.plot(points.keys(), points.values(), marker=MARKERS[method], label=NAMES[method])
    _axes(paper, "MoCo, Fig. 3: ImageNet, linear", "%")
    figure.savefig(path, dpi=90)


def draw_cost(cells, path):
    """Time and memory of a step over K, relative to MoCo's at K = 256."""
    cost = selected(cells, study="cost")
    base = {cell["seed"]: cell for cell in selected(cost, method="moco", K=256)}
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = {"step_seconds": "Time of a step", "peak_mebibytes": "Memory at its peak"}
    for axes, (name, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for method in ("moco", "end_to_end", "memory_bank"):
            sizes = sizes_of(cost, method=method)
            ratios = [
                statistics.median(cell[name] / base[cell["seed"]][name] for cell in selected(cost, method=method, K=k))
                for k in sizes
            ]
            axes.plot(sizes, ratios, marker=MARKERS[method], label=NAMES[method])
        axes.set_yscale("log", base=2)
        axes.set_yticks([0.5, 1, 2, 4, 8, 16, 32], ["0.5", "1", "2", "4", "8", "16", "32"])
        _axes(axes, title, "times MoCo's at K = 256")
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="PATH", default="docs/mechanisms.jsonl", help="the stored cells")
    parser.add_argument("--out", metavar="DIR", default="docs", help="where the figures go")
    arguments = parser.parse_args()
    cells, out = read_cells(arguments.json), Path(arguments.out)
    draw_accuracy(cells, out / "mechanisms_accuracy.png")
    draw_cost(cells, out / "mechanisms_cost.png")
    for make in TABLES.values():
        print(make(cells), end="\n\n")
    page = out / "mechanisms.md"
    if page.exists():
        page.write_text(with_tables(page.read_text(), cells))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
