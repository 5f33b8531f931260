"""What the pages refer to is there: other pages and their headings, flags, files, and names in the code."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import keras
import pytest

import keras_moco
from keras_moco.config import Config
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.models import ContrastiveModel
from keras_moco.run_directory import RunDirectory
from tests.test_import_direction import FLOOR

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)


def name_of(page):
    return str(page.relative_to(ROOT))


def each_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=name_of)(test)


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


@each_page
def test_links_lead_somewhere(page):
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


def test_a_broken_link_is_found():
    text = "# A `b` c\n[x](nowhere.md) [y](#a-b-c) [z](#a-b) ![p](docs/p.png) [w](https://w.org)\n```\n[q](q.md)\n```\n"
    assert list(broken_links(ROOT / "README.md", text)) == ["nowhere.md", "#a-b", "docs/p.png"]


# Flags


def flags_of(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    switches = [f"no{field.name}" for field in dataclasses.fields(kind) if field.type is bool]
    return {f"--{name}" for name in [*names, *switches, "flagfile", "help"]}


def arguments_of(path):
    return set(re.findall(r'"(--\w+)"', path.read_text(encoding="utf-8"))) | {"--help"}


# What is said after `python` to the flags that it takes.
COMMANDS = {
    "train.py": flags_of(Config),
    "evaluate.py": flags_of(EvaluationConfig),
    "-m keras_moco.augment.preview": arguments_of(ROOT / "keras_moco" / "augment" / "preview.py"),
    "-m keras_moco.data.import_idx": arguments_of(ROOT / "keras_moco" / "data" / "import_idx.py"),
    "-m keras_moco.convert": arguments_of(ROOT / "keras_moco" / "convert" / "__main__.py"),
    **{f"benchmarks/{path.name}": arguments_of(path) for path in (ROOT / "benchmarks").glob("*.py")},
}
OURS = set().union(*COMMANDS.values())
# Flags of other programs that pages show, by the program.
OTHERS = {
    "--nodes --ntasks-per-node --gpus-per-node --requeue --kill-on-bad-exit": "Slurm",
    "--index-url": "pip",
    "--logdir": "TensorBoard",
    "--pretrained --resume --aug-plus": "the authors' main_lincls.py and main_moco.py",
}


def unknown_flags(text):
    """Flags that no command takes, and those of a command line that this command does not take."""
    text = re.sub(r"\\\n *", "", text)
    known = OURS | {flag for flags in OTHERS for flag in flags.split()}
    found = re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)
    yield from (flag for flag in found if flag not in known)
    for command, rest in re.findall(r"python ((?:-m )?[\w./]+)([^\n;|&#`]*)", text):
        if command in COMMANDS:
            given = re.findall(r"(?<![\w-])--\w+", rest)
            yield from (f"{command} {flag}" for flag in given if flag not in COMMANDS[command])


@each_page
def test_flags_exist(page):
    assert list(unknown_flags(page.read_text(encoding="utf-8"))) == []


def test_an_unknown_flag_is_found():
    text = "`--epoch=3`\npython train.py --fractions=1 \\\n  --nosymmetric\npython evaluate.py knn --epochs=1\n"
    assert list(unknown_flags(text)) == ["--epoch", "train.py --fractions"]


# Names, of the pages that are about the code


def modules():
    names = [module.name for module in pkgutil.walk_packages(keras_moco.__path__, "keras_moco.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def is_name(text):
    """Whether the package has such a module, name, or attribute of a name: `momentum.momentum_update`."""
    first, *rest = text.split(".")
    holders = [keras] if first == "keras" else []
    holders += [vars(module)[first] for module in modules() if first in vars(module)]
    holders += [module for module in modules() if module.__name__ == f"keras_moco.{first}"]
    return any(resolves(holder, rest) for holder in holders)


def resolves(holder, names):
    for number, name in enumerate(names):
        if not hasattr(holder, name):
            # What is set when an object is made, a class does not have yet.
            if name in getattr(holder, "__annotations__", ()):
                return number == len(names) - 1
            source = importlib.import_module(holder.__module__) if isinstance(holder, type) else None
            text = Path(source.__file__).read_text(encoding="utf-8") if source else ""
            return number == len(names) - 1 and f"self.{name} = " in text
        holder = getattr(holder, name)
    return True


def is_file(text):
    run = RunDirectory("run")
    of_a_run = {path.name for path in vars(run).values()} | {"evaluation"}
    return any((folder / text).exists() for folder in (ROOT, ROOT / "keras_moco")) or text in of_a_run


def unknown_names(text):
    """Code words of a page that are neither file nor name nor flag; shapes, formulas and placeholders do not count."""
    hooks = {name for name in vars(ContrastiveModel) if not name.startswith("_")}
    others = {"keras_cv", "tensorflow_datasets", "torch", "tensorflow", "fit", "make", "slow", "utils", "num_draws"}
    for word in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text)):
        plain = re.fullmatch(r"[\w./]+", word)
        if not plain or "NAME" in word or word.startswith("."):
            continue
        if not (is_file(word) or is_name(word) or word in hooks | others):
            yield word


@pytest.mark.parametrize("name", ["docs/design.md", "CONTRIBUTING.md"])
def test_files_and_names_exist(name):
    assert list(unknown_names((ROOT / name).read_text(encoding="utf-8"))) == []


def test_an_unknown_name_is_found():
    known = "`models/moco.py` `MoCo.contrast` `Encoder.pool` `(n, D)` `keras.ops`"
    text = f"{known} `MoCo.contrasts` `models/mocco.py` `momentum.update`"
    assert list(unknown_names(text)) == ["MoCo.contrasts", "models/mocco.py", "momentum.update"]


def test_every_part_of_the_package_has_its_place_in_the_house():
    house = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## A run")[0]
    parts = FLOOR.keys() - {"keras_moco", "train", "evaluate", "__main__"}
    assert {part for part in parts if f"`{part}`" not in house} == set()


def test_examples_of_style_are_lines_of_this_package():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = {line.strip() for path in (ROOT / "keras_moco").rglob("*.py") for line in path.read_text().splitlines()}
    examples = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    assert [line for block in examples for line in block.splitlines() if line.strip() not in lines] == []
