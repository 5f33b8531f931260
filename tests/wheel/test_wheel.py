"""The wheel holds only the package with its command and recipes, and works without a checkout."""

import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import keras_moco

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["LICENSE", "README.md", "configs", "keras_moco", "keras_moco_command.py", "pyproject.toml", "setup.py"]
# Tests of a command and of numbers.
TESTS = ["command_line/test_command_line_arguments.py", "methods/test_methods_losses.py"]
OUTSIDE = """
import importlib
import pkgutil
import sys
from pathlib import Path

import keras_moco


def test_the_installed_package_is_tested():
    assert Path(keras_moco.__file__).is_relative_to(sys.prefix)


def test_every_module_is_there():
    modules = [module.name for module in pkgutil.walk_packages(keras_moco.__path__, "keras_moco.")]
    assert len(modules) > 100
    for name in modules:
        importlib.import_module(name)


def test_block_of_the_readme_runs(tmp_path, monkeypatch):
    block = Path("README.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
"""


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built by the installed setuptools from a copy, so that the checkout stays clean."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    [path] = out.iterdir()
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a fresh environment with the wheel; it also finds the packages of this one, after its own."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--ignore-installed", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    # A line of a .pth file is a folder of packages. The .pth files in it, such as that of a checkout, are not read.
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return python


def test_the_wheel_holds_the_package_and_its_requirements(wheel):
    version = keras_moco.__version__
    assert wheel.name == f"keras_moco-{version}-py3-none-any.whl"
    files = [path for path in (ROOT / "keras_moco").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT).as_posix() for path in files} | {"keras_moco_command.py"}
    recipes = [path.name for path in (ROOT / "configs").iterdir()]
    expected |= {f"keras_moco/recipes/{name}" for name in recipes}
    assert "keras_moco/py.typed" in expected
    about = {f"keras_moco-{version}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    about.add(f"keras_moco-{version}.dist-info/top_level.txt")
    with zipfile.ZipFile(wheel) as file:
        found = set(file.namelist())
        [licence] = [name for name in found if name.endswith("/LICENSE")]
        metadata = Parser().parsestr(file.read(f"keras_moco-{version}.dist-info/METADATA").decode())
    assert found == expected | about | {licence}
    assert metadata["Requires-Python"] == ">=3.10" and "Apache-2.0" in (
        metadata["License-Expression"] or metadata["License"]
    )
    needed = metadata.get_all("Requires-Dist")
    assert any(line.startswith("tensorflow") for line in needed)
    assert not [line for line in needed if "torch" in line and "extra" not in line]
    assert metadata.get_payload().startswith((ROOT / "README.md").read_text(encoding="utf-8")[:50])


def test_the_first_commands_of_a_user_work(python, tmp_path):
    """Installed, in an empty folder: the recipe of a minute, an evaluation, the export, the recipes."""
    command = python.with_name("keras-moco")
    assert "handwritten digits" in run(command, "--help", cwd=tmp_path)
    listed = run(command, "recipes", cwd=tmp_path)
    assert {path.stem for path in (ROOT / "configs").iterdir()} <= {*listed.splitlines()}
    trained = run(command, "pretrain", "--recipe=quickstart", cwd=tmp_path)
    before, after = map(float, re.search(r"kNN top-1: ([\d.]+) % before, ([\d.]+) % after", trained).groups())
    assert after > before + 5  # 81 and 92 %, as in configs/quickstart.cfg
    # The command that it prints, as it stands.
    [evaluate] = re.findall(r"^evaluate: +(keras-moco .*)$", trained, re.M)
    assert re.search(r"top-1 [\d.]+ %", run(command, *evaluate.split()[1:], cwd=tmp_path))
    exported = tmp_path / "runs" / "quickstart" / "export" / "backbone.keras"
    exported.unlink()
    run(command, "export", "--workdir=runs/quickstart", cwd=tmp_path)
    assert exported.exists()
    planned = run(command, "pretrain", "--flagfile=configs/imagenet_v2.cfg", "--dry_run", cwd=tmp_path)
    assert "steps: 5,004 per epoch of 256 images" in planned


def test_the_wheel_works_outside_of_the_checkout(python, tmp_path):
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "wheel"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_outside.py").write_text(OUTSIDE)
    tests = [f"tests/{name}" for name in ("test_outside.py", *TESTS)]
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=tmp_path)
    assert " passed" in said and "failed" not in said
