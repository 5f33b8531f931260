"""The time of each test file in each tier: a Markdown table from pytest's reports.

    python -m tests.times default=default.xml slow=slow.xml

Seconds of all test processes together, set-up included. `make test-times` makes the reports; docs/tests.md keeps the
table.
"""

import collections
import sys
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def file_of(classname):
    """The test file of a case: `tests.data.test_x` or, of a case in a class, `tests.data.test_x.TestClass`."""
    parts = classname.split(".")
    while parts and not (ROOT / "/".join(parts)).with_suffix(".py").exists():
        parts.pop()
    return "/".join(parts or classname.split(".")) + ".py"


def cases(report):
    """`(file, name, seconds)` of every case of a report."""
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        # A file that is skipped as a whole has its own name, and no class.
        yield file_of(case.get("classname") or case.get("name")), case.get("name"), float(case.get("time"))


def main(arguments):
    table, totals = collections.defaultdict(dict), {}
    slowest = collections.defaultdict(lambda: (0.0, ""))
    tiers = [argument.partition("=")[0] for argument in arguments]
    for argument in arguments:
        tier, _, report = argument.partition("=")
        for file, name, seconds in cases(report):
            count, total = table[file].get(tier, (0, 0.0))
            table[file][tier] = count + 1, total + seconds
            slowest[file] = max(slowest[file], (seconds, name))
            count, total = totals.get(tier, (0, 0.0))
            totals[tier] = count + 1, total + seconds

    def row(name, found, last):
        numbers = [f"{found[tier][0]} | {found[tier][1]:.1f}" if tier in found else " | " for tier in tiers]
        print(f"| {name} | {' | '.join(numbers)} | {last} |")

    print(f"| file | {' | '.join(f'{tier} cases | s' for tier in tiers)} | slowest case |")
    print(f"| --- |{' --: |' * 2 * len(tiers)} --- |")
    for file in sorted(table, key=lambda file: -sum(seconds for _, seconds in table[file].values())):
        seconds, name = slowest[file]
        row(f"`{file}`", table[file], f"`{name[:70]}`, {seconds:.1f} s")
    row("all", totals, "")


if __name__ == "__main__":
    main(sys.argv[1:])
