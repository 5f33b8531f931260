"""What `setup.py` admits is what is tested: its oldest versions on Python 3.10, pinned ones on newer Pythons."""

import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def metadata():
    """What `setup.py` gives to `setup`."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def pins(name):
    """The versions of a file of constraints: a dict of name to `Version`."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def requirements(metadata, *extras):
    lines = [*metadata["install_requires"], *(line for extra in extras for line in metadata["extras_require"][extra])]
    return [Requirement(line) for line in lines]


def lowest(specifiers):
    """Of `>=1.2,<2` 1.2, of `==0.9.*` 0.9.0."""
    [version] = [found.version for found in specifiers if found.operator in (">=", "==")]
    return Version(version.replace("*", "0"))


def test_every_requirement_has_a_lowest_version_and_the_oldest_constraints_have_it(metadata):
    pinned = pins("constraints-oldest.txt")
    for requirement in requirements(metadata, "test"):
        assert pinned[canonicalize_name(requirement.name)] == lowest(requirement.specifier), requirement


def test_the_newest_constraints_are_admitted(metadata):
    pinned = pins("constraints.txt")
    for requirement in requirements(metadata, "test", "torch", "dev"):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
