"""Counts how the package is built, read from its source: python -m tests.structure

With `--walk batch` or `--walk evaluation` it runs one, and counts the files and rooms on the way.
"""

import argparse
import ast
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "keras_moco"
SOURCES = [
    *sorted((ROOT / PACKAGE).rglob("*.py")),
    *(ROOT / f"{name}.py" for name in ("keras_moco_command", "train", "evaluate")),
]

# The rooms of the package from the ground up. Each imports from those in the lines before its own, and no other.
# Those that come before `config` know nothing of settings, those before `networks` nothing of models.
FLOORS = """
errors former_names
storage checks
image_formats
augment
data
config
command_line
distribution
layers optimizers trust
networks
methods
export
convert
runs
evaluation
callbacks
summaries
loggers
commands
api
keras_moco __main__
keras_moco_command
train evaluate
""".strip().splitlines()  # "keras_moco" is the package's own __init__.py
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def module_name(path):
    """`keras_moco/layers/__init__.py` is `keras_moco.layers`, `train.py` is `train`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """The room that a module belongs to: `keras_moco.layers.feature_queue` to `layers`."""
    names = module.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else names[0]


def imported_modules(source, module, is_package=False):
    """Full names of all that `source` imports, at the top or inside functions, and relative ones resolved.

    `import keras_moco` counts for what is then taken from it: `keras_moco.x` in `keras_moco.x.f()`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != PACKAGE)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE:
            yield f"{PACKAGE}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from keras_moco import layers` names a room, `from keras_moco.layers import X` a class.
            yield from (f"{base}.{alias.name}" if base == PACKAGE else base for alias in node.names)


def imported_rooms(source, module, is_package=False):
    """The other rooms that `source` imports from, a list."""
    found = []
    for imported in imported_modules(source, module, is_package):
        if imported.split(".")[0] != PACKAGE or imported == f"{PACKAGE}.__version__":
            continue
        room = room_of(imported)
        room = room if room in FLOOR else PACKAGE  # a name of the package's own __init__.py
        if room != room_of(module) and room not in found:
            found.append(room)
    return found


def points_up(importer, imported):
    """Whether an import from a room to another one is against the order."""
    return FLOOR[imported] >= FLOOR[importer]


def arrows():
    """Which room imports from which: a set of pairs."""
    return {
        (room_of(module_name(path)), room)
        for path in SOURCES
        for room in imported_rooms(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    }


def circles():
    """Modules that import each other, at the top or inside functions, directly or through others: a list of sets."""
    known = {module_name(path): path for path in SOURCES}
    graph = {}
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = set()
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)):
            base = getattr(node, "module", None) or ""
            for name in (f"{base}.{alias.name}" if base else alias.name for alias in node.names):
                graph[module] |= {found for found in (name, base) if found in known and found != module}
                # What is taken from a module of that name needs the module alone, not the room around it.
                if name in known:
                    graph[module].discard(base)

    def reached(start):
        found, new = set(), {start}
        while new:
            new = set().union(*(graph[each] for each in new)) - found
            found |= new
        return found

    reach = {module: reached(module) for module in graph}
    return [group for group in {frozenset(b for b in reach[a] if a in reach[b]) for a in graph} if group]


def longest_function():
    """`(lines, name)` of the longest function, without its docstring."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                found.append((lines, f"{module_name(path)}.{node.name}"))
    return max(found)


def lines_of(paths):
    return {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


class Walk:
    """Records which files of a package the main thread enters during a `with` block, by a call or a return.

    Attributes:
        path: list of paths relative to the package, each another one than the one before. Code that runs while a module
            is imported does not count.
    """

    def __init__(self, package=ROOT / PACKAGE):
        self.path, self._package, self._imports = [], f"{package}{os.sep}", 0

    def __enter__(self):
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _record(self, frame, event, _):
        if event not in ("call", "return"):  # of functions in C
            return
        if frame.f_code.co_name == "<module>":
            self._imports += 1 if event == "call" else -1
        entered = frame if event == "call" else frame.f_back
        # The file of its globals, since AutoGraph runs copies of functions in files of its own.
        file = entered.f_globals.get("__file__") or "" if entered and not self._imports else ""
        if file.startswith(self._package) and self.path[-1:] != [file.removeprefix(self._package)]:
            self.path.append(file.removeprefix(self._package))


def walk_batch(folder):
    """`{what: path}` of one training step up to its loss, from the data set on and from the settings on."""
    from keras_moco import data, distribution
    from keras_moco.runs.build import build_augmentation, build_model, open_split
    from keras_moco.runs.plan import Plan
    from tests.tiny import tiny_config

    with Walk() as walk:
        config = tiny_config(folder)
        source = open_split(config, "train")
        model = build_model(Plan.of(config, source, replicas=1), distribution.make_strategy("one"))
        augmentation, start = build_augmentation(config), len(walk.path)
        batches = data.pretrain_dataset(source, augmentation, config.batch_size, config.seed)
        model.fit(batches, steps_per_epoch=1, verbose=0, shuffle=False)
    end = walk.path.index("methods/losses.py", start) + 2
    return {"batch, from data set to loss": walk.path[start:end], "batch, from settings to loss": walk.path[:end]}


def walk_evaluation(folder):
    """`{what: path}` of `evaluate.py knn` of a finished run, until results.json and until the model card is written."""
    from keras_moco.commands.evaluate import evaluate
    from keras_moco.commands.pretrain import pretrain
    from keras_moco.config import EvaluationConfig
    from tests.tiny import tiny_config

    written, replace = [0], os.replace

    def note(old, new):
        replace(old, new)
        if Path(new).name == "results.json":
            written.append(len(walk.path))

    pretrain(tiny_config(folder, epochs=1))
    with mock.patch.object(os, "replace", note), Walk() as walk:
        evaluate("knn", EvaluationConfig(workdir=str(folder)))
    return {"evaluation, to results.json": walk.path[: written[-1]], "evaluation, with model card": walk.path}


def show_walk(walks):
    """Prints the counts of each walk as a table, and its files in the order of the first visit."""
    rows, files = ["| | files | rooms | moves | moves between rooms |", "| --- | --- | --- | --- | --- |"], []
    for what, path in walks.items():
        rooms = [file.removesuffix(".py").split("/")[0] for file in path]
        between = sum(before != after for before, after in zip(rooms, rooms[1:], strict=False))
        rows.append(f"| {what} | {len(set(path))} | {len(set(rooms))} | {len(path) - 1} | {between} |")
        files.append(f"{what}: {', '.join(dict.fromkeys(path))}")
    print(*rows, "", *files, sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk", choices=("batch", "evaluation"))
    if what := parser.parse_args().walk:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            walks = {"batch": walk_batch, "evaluation": walk_evaluation}[what](Path(folder, "run"))
        show_walk(walks)
        return
    package, tests = lines_of(SOURCES), lines_of((ROOT / "tests").rglob("*.py"))
    longest = max(package, key=package.get)
    length, function = longest_function()
    found = arrows()
    rows = {
        "Python files at the root of the package": len(list((ROOT / PACKAGE).glob("*.py"))),
        "files": len(SOURCES),
        "rooms": len(FLOOR) - 3,  # without the scripts
        "arrows between rooms": len(found),
        "arrows against the order": sum(points_up(*arrow) for arrow in found),
        "circles of files": len(circles()),
        "longest file": f"{package[longest]} lines, {longest.relative_to(ROOT)}",
        "longest function": f"{length} lines, {function}",
        "lines of the package": sum(package.values()),
        "lines of tests": sum(tests.values()),
    }
    print("| | |\n| --- | --- |")
    for name, value in rows.items():
        print(f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |")


if __name__ == "__main__":
    main()
