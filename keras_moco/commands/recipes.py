"""Lists the recipes that travel with the package: keras-moco recipes"""

import textwrap

from keras_moco.command_line.standard_streams import reader_may_leave
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.config.recipes import describe_recipe, recipe_file, recipe_names

WIDTH = 100


def work(args):
    """Prints what each recipe is, needs and has reached; or the file of one."""
    reader_may_leave()
    if args.name:
        print(recipe_file(args.name).read_text(encoding="utf-8"), end="")
        return
    for name in sorted(recipe_names(), key=_images):
        recipe = describe_recipe(name)
        parts = {"": recipe.what, "needs": recipe.needs, "reached": recipe.reached}
        print(name, *(_block(label, text) for label, text in parts.items()), "", sep="\n")
    print(
        "Train with one: keras-moco pretrain --recipe=NAME; any flag changes it. `keras-moco recipes NAME` prints it."
    )


def _images(name):
    """How many images a recipe is for, then its name: those for images of your own come first."""
    return read_flagfile(recipe_file(name)).train_examples or 0, name


def _block(label, text):
    begin, indent = (f"  {label:9}", " " * 11) if label else ("  ", "  ")
    return textwrap.fill(text, WIDTH, initial_indent=begin, subsequent_indent=indent, break_on_hyphens=False)
