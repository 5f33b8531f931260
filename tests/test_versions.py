"""The oldest versions that `setup.py` admits are those that are tested; others in constraints.txt pip refuses."""

import re
import runpy
from pathlib import Path

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def test_every_requirement_has_a_lowest_version_and_the_oldest_constraints_have_it(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}
    for requirement in map(Requirement, [*given["install_requires"], *given["extras_require"]["test"]]):
        [lowest] = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        pin = pinned[canonicalize_name(requirement.name)]
        assert Version(pin) == Version(lowest.replace("*", "0")), requirement
