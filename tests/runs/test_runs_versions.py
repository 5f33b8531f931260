"""What is imported is declared, and what is declared was tested: its oldest version, and that of constraints.txt."""

import ast
import re
import runpy
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import PIL
import pytest
import setuptools
import tensorflow
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from keras_moco.runs import versions

ROOT = Path(__file__).resolve().parents[2]
OURS = {"keras_moco", "train", "evaluate", "tests", "notebooks", "steps"}  # `steps` is a folder of benchmarks
# Who else may bring a module that bears another name than its distribution.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "faiss": "faiss-cpu",
    "google": "protobuf",
    "markdown_it": "markdown-it-py",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
}
# A call of these with a name imports it.
IMPORTERS = {"import_module", "importorskip", "_extra"}


@pytest.fixture
def given(monkeypatch):
    """What `setup` is called with."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def pins(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}


def names(requirements):
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def imported(source):
    """The modules that a source imports, wherever in it, without their submodules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
            yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))


def undeclared(paths, requirements):
    """Distributions that files import without their being among requirements: a dict to the files."""
    found = {}
    for path in paths:
        for module in {name.partition(".")[0] for name in imported(path.read_text(encoding="utf-8"))}:
            if module not in sys.stdlib_module_names | OURS:
                found.setdefault(canonicalize_name(DISTRIBUTIONS.get(module, module)), []).append(path.name)
    return {name: files for name, files in found.items() if name not in names(requirements)}


def test_every_import_is_declared(given):
    needed, extras = given["install_requires"], given["extras_require"]
    package = [*(ROOT / "keras_moco").rglob("*.py"), ROOT / "keras_moco_command.py"]
    chosen = [each for extra in ("torch", "formats", "hub", "wandb", "mlflow", "huggingface") for each in extras[extra]]
    assert undeclared(package, [*needed, *chosen]) == {}
    others = [*needed, *extras["test"], *extras["bench"], *extras["services"]]
    assert undeclared((ROOT / "tests").rglob("*.py"), others) == {}
    assert undeclared((ROOT / "benchmarks").rglob("*.py"), others) == {}


def test_modules_come_from_the_distributions_that_are_declared():
    found = packages_distributions()
    for module, distribution in DISTRIBUTIONS.items():
        # Python 3.10 does not know what a namespace such as `google` is made of.
        assert distribution in map(canonicalize_name, found.get(module, [distribution]))


def test_an_undeclared_import_is_found(tmp_path):
    source = "import os, numpy.linalg\ndef f():\n    from sklearn.svm import SVC\n    pytest.importorskip('torch.nn')\n"
    (tmp_path / "a.py").write_text(source)
    assert undeclared([tmp_path / "a.py"], ["NumPy>=1"]) == {"scikit-learn": ["a.py"], "torch": ["a.py"]}


def test_every_requirement_has_a_lowest_version_and_the_oldest_constraints_have_it(given):
    pinned = pins("constraints-oldest.txt")
    for requirement in map(Requirement, [*given["install_requires"], *given["extras_require"]["test"]]):
        [lowest] = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.10"}):
            continue  # not on the oldest Python
        pin = pinned[canonicalize_name(requirement.name)]
        assert Version(pin) == Version(lowest.replace("*", "0")), requirement


def test_every_requirement_admits_the_version_that_is_tested(given):
    pinned, extras = pins("constraints.txt"), given["extras_require"]
    for requirement in map(
        Requirement,
        [*given["install_requires"], *extras["test"], *extras["bench"], *extras["services"], *extras["dev"]],
    ):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_tensorflow_for_tpu_is_the_version_of_the_pages_and_an_admitted_one(given):
    for_tpu, libtpu = map(Requirement, given["extras_require"]["tpu"])
    page = (ROOT / "docs" / "multi_gpu_and_multi_machine.md").read_text(encoding="utf-8")
    assert " ".join(f'"{requirement}"' for requirement in given["extras_require"]["tpu"]) in page
    # It takes the place of the tensorflow that the package asks for, which alone is in install_requires.
    [plain] = [Requirement(each) for each in given["install_requires"] if each.startswith("tensorflow>")]
    [series] = [each.version for each in for_tpu.specifier]
    assert series.replace("*", "0") in plain.specifier
    assert "0.0.31" in libtpu.specifier and "0.0.32" not in libtpu.specifier


def test_version_is_found_whatever_distribution_brings_the_package():
    """As where tensorflow-tpu is installed."""
    assert versions.version_of("tensorflow") == tensorflow.__version__
    assert versions.version_of("PIL") == PIL.__version__  # of pillow
