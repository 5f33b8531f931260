"""Completion of commands, flags and their values by the Tab key: keras-moco completion bash

The script of a shell calls this command with the line before the cursor, and gets what its last word may become.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Callable

from keras_moco.command_line.standard_streams import reader_may_leave
from keras_moco.commands.registry import COMMANDS
from keras_moco.config import Config
from keras_moco.config.recipes import CHECKOUT, recipe_names
from keras_moco.config.settings import choices_of
from keras_moco.config.training import FILES

# `-o nospace`, since a flag is followed by its value: what is complete ends with a blank of its own.
SCRIPTS = {
    "bash": r"""
_keras_moco() {
  mapfile -t COMPREPLY < <(keras-moco completion bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _keras_moco keras-moco
""",
    "zsh": r"""
_keras_moco() {
  local -a found
  found=("${(@f)$(keras-moco completion zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
  [[ -n $found ]] && compadd -Q -S '' -a found
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _keras_moco keras-moco
""",
}
Completer = Callable[[str], list[str]]  # from the beginning of a value to whole values


def work(args):
    """Prints the script of a shell or, of a line, what its last word may become: one a line."""
    reader_may_leave()
    if args.line is None:
        print(SCRIPTS[args.shell].strip())
        return
    word = (re.findall(r"(?:\\.|\S)*$", args.line) or [""])[0]
    # Bash replaces only what comes after the last of these characters.
    cut = max((word.rfind(each) + 1 for each in set("=:") & {*args.breaks}), default=0)
    for found in complete(args.line):
        end = " " if found.endswith(" ") else ""
        text = found.removesuffix(" ")
        if text.isprintable():  # a name with a line end would be two
            # All but plain characters: the shell must not run what a file is called.
            print(re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)[cut:] + end)


def complete(line):
    """What the last word of a line may become.

    Args:
        line: str, the line before the cursor.

    Returns:
        list of str; those after which nothing can follow in the same word end with a blank.

    Example:

    >>> complete("keras-moco pretrain --sched")
    ['--schedule=', '--schedule_per_step ']
    >>> complete("keras-moco pretrain --schedule=co")
    ['--schedule=cosine ', '--schedule=constant ']
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|\S)+", line)][1:]
    word = words.pop() if words and not re.search(r"(?<!\\)\s$", line) else ""
    if not words:
        return _one_of(COMMANDS)(word)
    name, *given = words
    command = COMMANDS.get(name.replace("_", "-"))
    if command is None:
        return []
    flags, places = _of_settings(command) if hasattr(command, "kind") else _of_parser(command.parser(), given)
    flag, equals, value = word.partition("=")
    if equals:
        values = flags.get(flag)
        return [f"{flag}={each}" for each in values(value)] if values else []
    if given and (values := flags.get(given[-1])):  # `--name value`
        return values(word)
    before = dict(enumerate(given, 1))  # the word before each
    number = sum(not (each.startswith("-") or flags.get(before.get(place, ""))) for place, each in enumerate(given))
    found = places[number](word) if number < len(places) and not word.startswith("-") else []
    return found or [f"{name}=" if values else f"{name} " for name, values in flags.items() if name.startswith(word)]


def _of_settings(command):
    """The flags of a `SettingsCommand`, a dict to the completers of their values or `None`, and those of its places."""
    flags: dict[str, Completer | None] = {"--recipe": _one_of(recipe_names())} if command.kind.has_recipes else {}
    flags["--flagfile"] = _flagfiles
    for field in dataclasses.fields(command.kind):
        flags[f"--{field.name}"] = None if field.type is bool else _values(field.name, choices_of(field))
        if field.type is bool:
            flags[f"--no{field.name}"] = None
    return {**flags, "--help": None}, [_one_of(command.modes)] if command.modes else []


def _of_parser(parser, given):
    """Likewise, of a parser, or of the one of its sub-command that is given."""
    actions = parser._actions
    for action in actions:
        if isinstance(action.choices, dict):  # sub-commands
            below = action.choices.get(given[0]) if given else None
            if below is None:
                return {"--help": None}, [_one_of(action.choices)]
            flags, places = _of_parser(below, given[1:])
            return flags, [_one_of(action.choices), *places]
    command = parser.prog.split()[1]
    flags, places = {}, []
    for action in actions:
        values = _values(f"{command} {action.dest}", action.choices)
        for name in action.option_strings:
            if name.startswith("--"):
                flags[name] = None if action.nargs == 0 else values
        places += [] if action.option_strings else [values]
    return flags, places


def _values(name, choices):
    """The completer of a setting or of an argument, `COMMAND NAME`; of numbers and other texts one without results."""
    return _one_of(choices) if choices else _KINDS.get(name) or _KINDS.get(name.rpartition(" ")[2], lambda word: [])


def _one_of(choices):
    return lambda word: [f"{choice} " for choice in choices if choice.startswith(word)]


def _files(word):
    """Paths that begin so; folders end with a slash."""
    found = sorted(glob.glob(f"{glob.escape(os.path.expanduser(word))}*"))
    home = os.path.expanduser("~")
    found = [path.replace(home, "~", 1) for path in found] if word.startswith("~/") else found
    return [f"{path}/" if os.path.isdir(os.path.expanduser(path)) else f"{path} " for path in found]


def _flagfiles(word):
    """Files, and the recipes as they are called in a checkout."""
    recipes = _one_of(f"{CHECKOUT}/{name}.cfg" for name in recipe_names())
    return _files(word) or recipes(word)


def _dataset(word):
    """Forms of data sources, and the paths after them."""
    form, colon, path = word.partition(":")
    if not colon:
        return _one_of(["digits"])(word) + [f"{each}:" for each in ("tfds", *FILES) if each.startswith(word)]
    return [f"{form}:{each}" for each in _files(path)] if form in FILES else []


_KINDS = {
    **dict.fromkeys(
        "workdir data_dir flagfile init_from model output out file folder source_dir queries".split(), _files
    ),
    **dict.fromkeys(("dataset", "source"), _dataset),
    "preview recipe": _one_of(choices_of(Config.__dataclass_fields__["augment"])),
    "recipes name": _one_of(recipe_names()),
}
