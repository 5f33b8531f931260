"""The links, files and flags that the pages name exist."""

import dataclasses
import re
from pathlib import Path

from keras_moco.commands import registry
from keras_moco.config import Config, EvaluationConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)


def found_on(pages, check):
    """What `check` finds in the text of each page: `{name of the page: [...]}`."""
    found = {page.name: list(check(page, page.read_text(encoding="utf-8"))) for page in pages}
    return {name: things for name, things in found.items() if things}


# Links


def anchors(text):
    """The names that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page, text):
    """Relative links to files or headings that are not there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"\w+:", link):
            continue  # of the web
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield link
        elif anchor and anchor not in anchors(text if target == page else target.read_text(encoding="utf-8")):
            yield link


def test_links_lead_somewhere():
    assert found_on(PAGES, broken_links) == {}


# Files


def missing_files(page, text):
    """Files named in `code` that are neither in the checkout nor in the package."""
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|cfg))`", text):
        if "NAME" not in path and not any((folder / path).exists() for folder in (ROOT, ROOT / "keras_moco")):
            yield path


def test_files_exist():
    # docs/api.md repeats docstrings, which name files of other repositories.
    assert found_on([page for page in PAGES if page.name != "api.md"], missing_files) == {}


# Flags


def flags_of(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    switches = [f"no{field.name}" for field in dataclasses.fields(kind) if field.type is bool]
    return {f"--{name}" for name in [*names, *switches, "flagfile", "help"]}


def arguments_of(path):
    return set(re.findall(r'"(--\w+)"', (ROOT / path).read_text(encoding="utf-8"))) | {"--help"}


def options_of(command):
    """The flags of a command, and of those below it."""
    if hasattr(command, "kind"):
        return flags_of(command.kind) | ({"--recipe"} if command.kind is Config else set())
    parser = command.parser()
    below = parser._subparsers._group_actions if parser._subparsers else []
    inner = [each for action in below for each in action.choices.values()]
    return {name for each in [parser, *inner] for name in each._option_string_actions if name.startswith("--")}


# What is said after `python`, or by itself, to the flags that it takes.
COMMANDS = {
    "train.py": options_of(registry.COMMANDS["pretrain"]),
    "evaluate.py": flags_of(EvaluationConfig),
    "keras-moco": {"--help", "--version"},
    **{f"keras-moco {name}": options_of(command) for name, command in registry.COMMANDS.items()},
    **{f"-m keras_moco {name.replace('-', '_')}": options_of(each) for name, each in registry.COMMANDS.items()},
    **{f"benchmarks/{path.name}": arguments_of(path) for path in (ROOT / "benchmarks").glob("*.py")},
}
# Those of Slurm, pip, uv, TensorBoard, and the authors' main_lincls.py and main_moco.py, which pages show too.
OTHERS = "nodes ntasks-per-node gpus-per-node requeue kill-on-bad-exit index-url logdir pretrained resume aug-plus"
OTHERS += " yes override signal time"
KNOWN = {f"--{name}" for name in OTHERS.split()}.union(*COMMANDS.values())


def unknown_flags(page, text):
    """Flags that no command takes, and those of a command line that this command does not take."""
    text = re.sub(r"\\\n *", "", text)
    yield from (flag for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text) if flag not in KNOWN)
    written = r"(?:python |(?=keras-moco))((?:(?:-m )?keras[-_]moco |-m )?[\w./-]+)([^\n;|&#`]*)"
    for command, rest in re.findall(written, text):
        if command in COMMANDS:
            given = re.findall(r"(?<![\w-])--\w+", rest)
            yield from (f"{command} {flag}" for flag in given if flag not in COMMANDS[command])


def test_flags_exist():
    assert found_on(PAGES, unknown_flags) == {}


def test_broken_links_and_unknown_flags_are_found():
    links = "[x](nowhere.md) [y](#a-b-c) [z](#a-b) ![p](docs/p.png) [w](https://w.org)\n```\n[q](q.md)\n```\n"
    assert [*broken_links(ROOT / "README.md", f"# A `b` c\n{links}")] == ["nowhere.md", "#a-b", "docs/p.png"]
    flags = "`--epoch=3`\npython train.py --fractions=1 \\\n  --nosymmetric\npython evaluate.py knn --epochs=1\n"
    flags += "keras-moco preview --epochs=1 --out=x.png\nkeras-moco pretrain --recipe=x --rates=1\n"
    assert [*unknown_flags(None, flags)] == [
        *("--epoch", "train.py --fractions", "keras-moco preview --epochs", "keras-moco pretrain --rates")
    ]


def test_readme_links_every_page_and_repeats_its_numbers():
    readme, results, pins = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md", "constraints.txt")
    )
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name}" not in readme]
    section = readme.partition("\n## Results\n")[2].partition("\n## ")[0]
    numbers = re.findall(r"\d[\d.]*(?: \+- [\d.]+)? %", section)
    assert len(numbers) > 10 and not [number for number in numbers if number not in results]
    pins = dict(re.findall(r"^(\w+)==(\S+)$", pins, re.MULTILINE))
    assert f"| 3.11 | {pins['tensorflow']} | {pins['keras']} |" in readme
