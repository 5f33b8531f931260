"""Flagfiles and recipes among the arguments of a command: UTF-8 in any locale, and those of runs know their folder."""

from absl import flags

from keras_moco.config.flags import define_flags, from_flags
from keras_moco.config.recipes import recipe_file, recipe_folder, recipe_of
from keras_moco.config.training import Config
from keras_moco.errors import UserError
from keras_moco.storage.paths import check_file, user_path

# The flagfile in the folder of a run, and how it begins: it stays the run's when the folder is moved or copied.
FLAGFILE = "flags.cfg"
RUN_HEADER = "# Resume this run, wherever its folder is"
_RUN_HEADERS = ("# Resume this run", "# Go on with this run")  # the second of earlier versions

RULE = "A flagfile must be a text file in UTF-8 that can be read."
NAMES = ("--flagfile", "-flagfile")
RECIPE_NAMES = ("--recipe", "-recipe")
_RECIPE = tuple(f"{name}=" for name in RECIPE_NAMES)


def read_flagfile(path):
    """The configuration that `Config.to_flagfile` wrote to `path`.

    Args:
        path: path of a recipe, or of the flagfile of a run, whose folder then is the `workdir`.

    Raises:
        ValueError: if a line is not a flag, or its value is not of the flag's kind or range.
    """
    values = flags.FlagValues()
    define_flags(Config, values)
    try:
        values(with_flagfiles(["flagfile", f"--flagfile={user_path(path)}"], values, recipes=True))
    except flags.Error as error:
        raise UserError(
            f"A flagfile must hold flags of pretrain. Received: {path} with {error}. Correct that line."
        ) from error
    return from_flags(Config, values)


def with_flagfiles(arguments, known, recipes=False):
    """Replaces `--flagfile=NAME` by the flags of that file, as absl does, and `--recipe=NAME` by those of that recipe.

    absl itself reads flagfiles in the encoding of the locale, and waits forever at a named pipe. The flagfile of a run
    also stands for `--workdir`, its folder, unless that is among the arguments. `configs/NAME.cfg` is a recipe wherever
    there is no such file. The flags of a recipe come first: all others count more.

    Args:
        arguments: list of str, such as `sys.argv`.
        known: `absl.flags.FlagValues`, the flags that are defined.
        recipes: bool, whether there may be a `--recipe`. Defaults to `False`.

    Returns:
        list of str, without `--flagfile` before the first argument that is not a flag.

    Raises:
        ValueError: if a flagfile cannot be read, or includes itself; if there are two recipes, or an unknown one.
    """
    first, *rest = arguments
    found, workdir = [first], None
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name in NAMES and (equals or rest):
            found += _lines(value if equals else rest.pop(0), ())
            continue
        if recipes and name in RECIPE_NAMES:
            found.append(f"--recipe={value if equals or not rest else rest.pop(0)}")
            continue
        if argument == "--" or not argument.startswith("-"):
            rest.insert(0, argument)
            break
        found.append(argument)
        takes_next = not equals and rest and not rest[0].startswith("-")
        if takes_next and (name := name.lstrip("-")) in known and not known[name].boolean:
            found.append(rest.pop(0))
        if name.lstrip("-") == "workdir":
            workdir = value if equals else found[-1]
    if workdir is not None and any(flag.startswith(_OF_RUN) for flag in found):
        found.append(f"--workdir={workdir}")
    found = _with_recipe(found) if recipes else found
    return [flag.removeprefix(_OF_RUN) for flag in found] + rest


_OF_RUN = "\0"  # prefix of a flag that the flagfile of a run stands for; no argument can have it


def _with_recipe(arguments):
    """The arguments with the flags of their recipe, if any, before all others."""
    first, *flags = arguments
    others = [flag for flag in flags if not flag.startswith(_RECIPE)]
    names = list(dict.fromkeys(flag.partition("=")[2].strip() for flag in flags if flag.startswith(_RECIPE)))
    if not names:
        return arguments
    if len(names) > 1:
        raise UserError(
            f"`recipe` must be a single one. Received: {' and '.join(names)}. Omit one, here or in the flagfile."
        )
    [name] = names
    flags = [*_lines(recipe_file(name), ()), *others]
    if not any(flag.lstrip("-").partition("=")[0] == "dataset" for flag in flags):
        raise UserError(
            f"`dataset` must be given with the recipe {name}, which is for images of your own. Received: none. "
            "Add for example --dataset=folder:photos."
        )
    return [first, *flags]


def _found(name, outer):
    """The path of a flagfile; `configs/NAME.cfg` is a recipe, within recipes and wherever there is no such file."""
    path = user_path(str(name).strip())
    within = bool(outer) and outer[-1].resolve().parent == recipe_folder()
    return (recipe_of(path) if within or not path.exists() else None) or path


def _lines(name, outer):
    """The flags of a flagfile, and of those that it includes."""
    path = _found(name, outer)
    if path in outer:
        raise UserError(f"A flagfile must not include itself. Received: {path}. Delete that line of it.")
    check_file(path, RULE, "Correct its path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{RULE} Received: {path}, {reason}. Correct or replace it.") from error
    found = []
    for line in lines:
        flag, equals, value = line.partition("=")
        if flag in NAMES and equals:
            found += _lines(value, (*outer, path))
        elif line.strip() and not line.startswith(("#", "//")):
            found.append(line.strip())
    if folder := _folder_of_run(path, lines):
        found.append(f"{_OF_RUN}--workdir={folder}")  # last, to override what earlier versions wrote
    return found


def _folder_of_run(path, lines):
    """The folder of the run whose flagfile this is, or `None` where it is a recipe."""
    path = path.resolve() if path.is_symlink() else path
    is_of_run = any(line.startswith(_RUN_HEADERS) for line in lines) or (path.parent / "checkpoints").exists()
    return path.parent if path.name == FLAGFILE and is_of_run else None
