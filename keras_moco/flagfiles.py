"""Flagfiles among the arguments of a command, read as UTF-8 whatever the locale says."""

from keras_moco.errors import UserError
from keras_moco.paths import check_file, user_path

RULE = "A flagfile must be a text file in UTF-8 that can be read."
NAMES = ("--flagfile", "-flagfile")


def with_flagfiles(arguments, known):
    """Puts the lines of flagfiles in the places of their names, as absl itself does.

    absl reads them in the encoding of the locale, and waits for ever at a named pipe.

    Args:
        arguments: list of str, as of `sys.argv`.
        known: `absl.flags.FlagValues`, the flags that there are.

    Returns:
        list of str, without `--flagfile` before the first argument that is no flag.

    Raises:
        ValueError: if a flagfile cannot be read, or includes itself.
    """
    first, *rest = arguments
    found = [first]
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name in NAMES and (equals or rest):
            found += _lines(value if equals else rest.pop(0), ())
            continue
        found.append(argument)
        if argument == "--" or not argument.startswith("-"):
            break
        takes_next = not equals and rest and not rest[0].startswith("-")
        if takes_next and (name := name.lstrip("-")) in known and not known[name].boolean:
            found.append(rest.pop(0))
    return found + rest


def _lines(name, outer):
    """The flags of a flagfile, and of those that it names itself."""
    path = user_path(name.strip())
    if path in outer:
        raise UserError(f"A flagfile must not include itself. Received: {path}. Delete that line of it.")
    check_file(path, RULE, "Correct its path.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
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
    return found
