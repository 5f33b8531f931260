"""Imports point one way, and each large dependency enters by one door; read from the source with `ast`."""

import ast
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "keras_moco"
SOURCES = [*sorted((ROOT / PACKAGE).rglob("*.py")), ROOT / "train.py", ROOT / "evaluate.py"]

# The parts of the package from the ground up. A part imports from those of lower floors, never from its own
# floor; `data` alone also imports from `augment`, beside it.
FLOORS = [
    {"errors", "signals", "standard_streams"},
    {"commands", "paths", "ranges"},
    {"locks"},
    {"contrast", "momentum", "schedules", "optimizers", "distribution", "versions", "step_checks", "durable", "trust"},
    {"settings", "results", "picture_grid", "pixel_range", "flagfiles"},
    {"config", "evaluation_config"},
    {"run_directory", "determinism", "layers"},
    {"batch_norm", "backbones"},
    {"models"},
    {"methods", "presets"},
    {"plan"},
    {"augment"},
    {"data"},
    {"evaluation", "convert", "export"},
    {"callbacks"},
    {"building", "command_line", "display", "resuming"},
    {"dry_run", "trained_run"},
    {"loading"},
    {"initial_weights", "subject"},
    {"model_card", "modes"},
    {"training", "evaluating"},
    {"keras_moco", "__main__", "train", "evaluate"},  # "keras_moco" is the package's own __init__.py
]
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
# These know nothing of models, so that either can be used, and understood, without them.
APART = {"augment", "data"}
# What they too stand on: mistakes, checks of values, and how a command ends.
BASICS = {"errors", "commands", "paths", "step_checks", "pixel_range"}
# Commands, and the parts above their own that each runs. A command lies with what it is about, but is no piece that
# others build on: no source file imports it, so what it imports closes no circle.
COMMANDS = {
    f"{PACKAGE}.augment.preview": {"data", "picture_grid"},
    f"{PACKAGE}.convert.__main__": {"building", "callbacks", "export", "trained_run"},
}

# Who may import what from outside: paths relative to the package, a folder with everything in it.
DOORS = {
    "keras_cv": "augment/",
    "tensorflow_datasets": "data/",
    "torch": "convert/files.py",
    "safetensors": "convert/files.py",
    "tensorflow": "augment/ callbacks/ data/ determinism.py display/ distribution/ export.py layers/feature_bank.py "
    "layers/feature_queue.py layers/split_batch_normalization.py models/contrastive.py models/inputs.py "
    "models/trainer.py pixel_range.py step_checks.py trust/graph.py trust/saved_model.py",
    "h5py": "trust/hdf5.py",
}


def module_name(path):
    """`keras_moco/layers/__init__.py` is `keras_moco.layers`, `train.py` is `train`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    """The part that a module belongs to: `keras_moco.layers.feature_queue` to `layers`."""
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
            # `from keras_moco import layers` names a part, `from keras_moco.layers import X` a class.
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if base == PACKAGE or name in COMMANDS else base for name in names)


def wrong_directions(source, module, is_package=False):
    """The imports within the package that point up or sideways, or to a command."""
    importer = part_of(module)
    for imported in imported_modules(source, module, is_package):
        part = part_of(imported)
        if imported in COMMANDS:
            yield imported
            continue
        if part in COMMANDS.get(module, ()):
            continue
        if imported.split(".")[0] != PACKAGE or part in (importer, "__version__"):
            continue
        if part not in FLOOR:
            part = PACKAGE  # a name of the package's own __init__.py
        allowed = APART | BASICS if importer in APART else FLOOR.keys()
        if part not in allowed or FLOOR[part] >= FLOOR[importer]:
            yield imported


def wrong_doors(source, path):
    """The imports of outside packages that do not belong into the file at `path`, relative to the package."""
    for imported in imported_modules(source, "x"):
        doors = DOORS.get(imported.split(".")[0], path).split()
        if not any(path.startswith(door) if door.endswith("/") else path == door for door in doors):
            yield imported


def found_in_sources(check):
    """What `check(path, source)` finds in each file of the package: `{name of the module: [...]}`."""
    found = {module_name(path): list(check(path, path.read_text(encoding="utf-8"))) for path in SOURCES}
    return {name: things for name, things in found.items() if things}


def test_imports_point_down():
    assert {part_of(module_name(path)) for path in SOURCES} == FLOOR.keys(), "FLOORS lists the parts"
    assert {} == found_in_sources(
        lambda path, source: wrong_directions(source, module_name(path), path.name == "__init__.py")
    )


def test_outside_packages_enter_by_their_doors():
    assert {} == found_in_sources(lambda path, source: wrong_doors(source, os.path.relpath(path, ROOT / PACKAGE)))


def test_the_design_has_a_place_for_every_part():
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## A run")[0]
    assert {part for part in FLOOR.keys() - FLOORS[-1] if f"`{part}`" not in design} == set()


def test_the_checks_find_what_they_should():
    for module, source, expected in [
        ("keras_moco.layers.x", "from keras_moco import distribution", []),
        ("keras_moco.layers.x", "def f():\n    import keras_moco.training", ["keras_moco.training"]),
        ("keras_moco.layers.x", "from ..models import MoCo", ["keras_moco.models"]),
        ("keras_moco.layers.x", "from . import feature_queue", []),
        ("keras_moco.layers.x", "from keras_moco import MoCo", ["keras_moco.MoCo"]),
        ("keras_moco.layers.x", "import keras_moco\nkeras_moco.models.MoCo", ["keras_moco.models"]),
        ("keras_moco.data.x", "from keras_moco.augment import central_view", []),
        ("keras_moco.data.x", "from keras_moco import models", ["keras_moco.models"]),
        ("keras_moco.augment.preview", "from keras_moco.data import open_source", []),
        ("keras_moco.augment.x", "from . import preview", ["keras_moco.augment.preview"]),
    ]:
        assert list(wrong_directions(source, module)) == expected, (module, source)
    assert list(wrong_doors("import keras_cv, numpy", "augment/crop.py")) == []
    assert list(wrong_doors("def f():\n    import torch", "export.py")) == ["torch"]
    assert list(wrong_doors("from keras_cv.layers import Blur", "../train.py")) == ["keras_cv.layers"]
