"""The mutations of `tests/mutations` fit the package and the tests as they are; `make mutations` runs them."""

from pathlib import Path

from tests.mutations.places import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]


def test_every_mutation_changes_one_place_and_names_its_tests():
    for mutation in MUTATIONS:
        source = (ROOT / mutation.file).read_text(encoding="utf-8")
        assert mutation.applied_to(source) != source
        assert all((ROOT / test).exists() for test in mutation.tests), mutation.tests
