"""Commands whose arguments `argparse` reads: check, preview, convert and the other small ones."""

import argparse
import contextlib
import dataclasses
import pkgutil
import re
import sys
from collections.abc import Callable

from keras_moco.command_line import load_package
from keras_moco.command_line.exit_status import status_of
from keras_moco.command_line.quiet_start import quiet_start
from keras_moco.command_line.standard_streams import plain_output, reader_may_leave
from keras_moco.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest flag for an unknown one, before it asks for those that are missing."""

    def parse_known_args(self, args=None, namespace=None):
        known = [name for name in self._option_string_actions if name.startswith("--")]
        names = [each.partition("=")[0] for each in args or () if each.startswith("--") and each != "--"]
        for name in names if self._subparsers is None else ():
            if not any(each.startswith(name) for each in known):  # argparse completes beginnings
                self.error(f"unknown flag {name}. {did_you_mean(name, known)}See --help for all.")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(
                action,
                f"must be one of {', '.join(action.choices)}. Received: {value}. "
                f"{did_you_mean(value, action.choices)}Give one of them.",
            )

    def print_help(self, file=None):
        reader_may_leave()
        super().print_help(file)


@dataclasses.dataclass(frozen=True)
class ArgumentsCommand:
    """A command whose arguments a parser reads.

    Args:
        name: str, the name of the command.
        what: str, what it does, in one line.
        parser: function without arguments that returns a `Parser`.
        work: `"module:function"`, a function of the parsed arguments, which prints its results. It is imported once the
            arguments are known to be right: `--help` and mistakes are answered at once.
        check: function of the parsed arguments that refuses wrong ones. Defaults to none.
        needs_package: bool, whether the work needs TensorFlow and what comes with `import keras_moco`. Defaults to
            `True`.
    """

    name: str
    what: str
    parser: Callable[[], argparse.ArgumentParser]
    work: str
    check: Callable[[argparse.Namespace], None] | None = None
    needs_package: bool = True

    @plain_output()
    def main(self, argv=None):
        """Runs the command with these arguments, by default those of the process: the exit status."""
        args = self.parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
        return status_of(lambda: self._run(args), self.name, "Partly written files were discarded.")

    def help(self):
        """What `--help` prints: a text."""
        return self.parser().format_help()

    def _run(self, args):
        if self.check:
            self.check(args)
        with quiet_start() if self.needs_package else contextlib.nullcontext():
            if self.needs_package:
                load_package()
            work = pkgutil.resolve_name(self.work)
        work(args)


def _joined(argv):
    """The arguments, with values that begin with a minus sign joined to their flags, as argparse takes them.

    Example:

    >>> _joined(["--value_range", "-160,240", "--split", "train"])
    ['--value_range=-160,240', '--split', 'train']
    """
    joined = []
    for argument in argv:
        flag = joined[-1] if joined else ""
        if re.match(r"-[\d.]", argument) and flag.startswith("--") and "=" not in flag:
            joined[-1] = f"{flag}={argument}"
        else:
            joined.append(argument)
    return joined


def check_out(path, overwrite):
    """Refuses a picture that could not be written, before it is made.

    Args:
        path: `pathlib.Path`, what `--out` names.
        overwrite: bool, whether it may exist, as `--overwrite` says.

    Raises:
        ValueError: if it is no PNG file, has no folder, or exists.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"`out` must be the name of a PNG file. Received: {path}. Give it the suffix .png.")
    if not path.parent.is_dir():
        raise UserError(f"`out` must be in an existing folder. Received: {path}. Create {path.parent} first.")
    if path.is_dir():
        raise UserError(f"`out` must be a file. Received: {path}, a folder. Choose another --out.")
    if path.exists() and not overwrite:
        raise UserError(
            f"`out` must not exist yet. Received: {path}, which exists. Choose another --out, or give --overwrite."
        )
