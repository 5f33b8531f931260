"""Imports point one way, and each large dependency enters by one door; read from the source with `ast`."""

import os

from tests.structure import (
    FLOOR,
    FLOORS,
    PACKAGE,
    ROOT,
    SOURCES,
    circles,
    imported_modules,
    imported_rooms,
    module_name,
    points_up,
    room_of,
)

# The files that may import an outside package: paths relative to the package, or folders.
DOORS = {
    "keras_cv": "augment/",
    "tensorflow_datasets": "commands/import_idx.py data/",
    "torch": "convert/torch_files.py",
    "safetensors": "convert/torch_files.py",
    "tensorflow": "augment/ callbacks/ checks/graph.py checks/pixel_range.py commands/import_idx.py "
    "commands/preview.py data/ distribution/ export/ image_formats/png.py layers/feature_bank.py "
    "layers/feature_queue.py layers/split_batch_normalization.py methods/inputs.py methods/trainer.py "
    "summaries/ trust/graph.py trust/saved_model.py",
    "keras_hub": "networks/from_keras_hub.py",
    "h5py": "trust/hdf5.py",
    "wandb": "loggers/wandb.py",
    "mlflow": "loggers/mlflow.py",
    "huggingface_hub": "runs/hub.py",
    "tifffile": "image_formats/tiff.py",
    "pydicom": "image_formats/dicom.py",
    "pillow_heif": "image_formats/heic.py",
}


def wrong_directions(source, module, is_package=False):
    """The rooms that a source must not import from."""
    return [room for room in imported_rooms(source, module, is_package) if points_up(room_of(module), room)]


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
    assert {room_of(module_name(path)) for path in SOURCES} == FLOOR.keys(), "FLOORS lists the rooms"
    assert {} == found_in_sources(
        lambda path, source: wrong_directions(source, module_name(path), path.name == "__init__.py")
    )
    assert circles() == []


def test_outside_packages_are_imported_only_by_their_doors():
    assert {} == found_in_sources(lambda path, source: wrong_doors(source, os.path.relpath(path, ROOT / PACKAGE)))


def test_design_lists_every_room():
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## One run")[0]
    assert {room for room in FLOOR.keys() - {*" ".join(FLOORS[-3:]).split()} if f"`{room}`" not in design} == set()


def test_the_checks_find_wrong_imports():
    for module, source, expected in [
        ("keras_moco.layers.x", "from keras_moco import distribution", []),
        ("keras_moco.layers.x", "def f():\n    import keras_moco.commands.pretrain", ["commands"]),
        ("keras_moco.layers.x", "from ..networks import Encoder", ["networks"]),
        ("keras_moco.layers.x", "from . import feature_queue", []),
        ("keras_moco.layers.x", "from keras_moco import MoCo", ["keras_moco"]),
        ("keras_moco.layers.x", "import keras_moco\nkeras_moco.methods.MoCo", ["methods"]),
        ("keras_moco.data.x", "from keras_moco.augment import central_view", []),
        ("keras_moco.data.x", "from keras_moco import networks", ["networks"]),
    ]:
        assert wrong_directions(source, module) == expected, (module, source)
    assert list(wrong_doors("import keras_cv, numpy", "augment/crop.py")) == []
    assert list(wrong_doors("def f():\n    import torch", "export/backbone.py")) == ["torch"]
    assert list(wrong_doors("from keras_cv.layers import Blur", "../train.py")) == ["keras_cv.layers"]
