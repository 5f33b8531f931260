"""Recipes: the flagfiles of the folder `configs`, which the wheel holds as `keras_moco/recipes`."""

import re
from dataclasses import dataclass
from pathlib import Path

from keras_moco.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
# As a recipe names another one, and as `--flagfile` names it in a checkout.
CHECKOUT = "configs"


@dataclass(frozen=True)
class Recipe:
    """What the first lines of a recipe say.

    Attributes:
        name: str, of its file, without the suffix.
        what: str, method, network and images.
        needs: str, images, hardware and time.
        reached: str, accuracies, measured or published.
    """

    name: str
    what: str
    needs: str
    reached: str


def recipe_folder():
    """The folder of the recipes: a path."""
    packed = _PACKAGE / "recipes"
    return packed if packed.is_dir() else _PACKAGE.parent / CHECKOUT


def recipe_names():
    """The names of all recipes, sorted: a list."""
    return sorted(path.stem for path in recipe_folder().glob("*.cfg"))


def recipe_file(name):
    """The flagfile of a recipe: a path.

    Raises:
        ValueError: for an unknown name.
    """
    names = recipe_names()
    if name not in names:
        raise UserError(
            f"`recipe` must be one of {', '.join(names)}. Received: {name or 'none'}. {did_you_mean(name, names)}"
            "Run `keras-moco recipes` to see what each is for."
        )
    return recipe_folder() / f"{name}.cfg"


def recipe_of(path):
    """The recipe that a relative `pathlib.Path` such as `configs/imagenet.cfg` names, a path; `None` for others."""
    found = recipe_folder() / path.name
    return found if path.parent == Path(CHECKOUT) and path.suffix == ".cfg" and found.exists() else None


def describe_recipe(name):
    """A `Recipe`, from the comments in its file: the first line, and those after `Needs:` and `Reached:`."""
    text = recipe_file(name).read_text(encoding="utf-8")
    parts = {"Needs": "", "Reached": "", **dict(re.findall(r"(?m)^# (Needs|Reached): (.*(?:\n#   .*)*)", text))}
    needs, reached = (re.sub(r"\n#\s+", " ", parts[part]) for part in ("Needs", "Reached"))
    return Recipe(name, text.partition("\n")[0].removeprefix("# "), needs, reached)
