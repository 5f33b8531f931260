"""Commands whose flags are settings, which absl reads: pretrain, evaluate and export."""

import dataclasses
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Mapping

from absl import app, flags, logging

from keras_moco.command_line import load_package
from keras_moco.command_line.exit_status import MISTAKE, end, status_of
from keras_moco.command_line.quiet_start import quiet_start
from keras_moco.command_line.standard_streams import plain_output, reader_may_leave
from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.config.flags import define_flags, from_flags, help_of
from keras_moco.config.settings import Settings
from keras_moco.errors import UserError, did_you_mean

AGAIN = "Run the same command again to resume; partly written files were discarded."
HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
RECIPE = "--recipe: Settings of a recipe, below all other flags wherever it stands; `keras-moco recipes` lists them."
FLAGFILE = "--flagfile: Read flags from this file. Flags after it count more, flags before it less."


@dataclasses.dataclass(frozen=True)
class SettingsCommand:
    """A command whose flags are the fields of a dataclass of settings.

    Args:
        name: str, the name of the command.
        what: str, what it does, in one line.
        kind: dataclass of settings (`keras_moco.config.settings`), whose fields become flags.
        work: `"module:function"`, a function of the settings, or of a mode and the settings. It is imported once the
            flags are known to be right: `--help` and mistakes are answered at once.
        modes: dict of the modes, one of which is the first argument, to what each does. Defaults to none.
        check_mode: function of a mode that refuses an unknown one.
        mode: str, the only mode, which is then no argument.
        groups: tuple of the groups of settings that `--help` shows. Defaults to all.
    """

    name: str
    what: str
    kind: type[Settings]
    work: str
    modes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    check_mode: Callable[[str], None] = lambda mode: None
    mode: str | None = None
    groups: tuple[str, ...] | None = None

    @plain_output()
    def main(self, argv):
        """Runs the command with these arguments and exits; on bad input with one sentence and status 2."""
        # Messages of TensorFlow about a SavedModel that it writes would bury those of the run.
        logging.set_verbosity(logging.WARNING)
        app.run(
            lambda settings: sys.exit(status_of(lambda: self._run(*settings), "error", AGAIN)),
            argv=[f"keras-moco {self.name}", *argv],
            flags_parser=self._parse,
        )

    def help(self):
        """What `--help` prints: a text."""
        first = " MODE" if self.modes else ""
        lines = [
            f"usage: keras-moco {self.name}{first} [--name=value ...]",
            "",
            f"{self.what[0].upper()}{self.what[1:]}.",
            "",
        ]
        if self.modes:
            width = max(map(len, self.modes))
            lines += ["modes:", *(f"  {mode:{width}}  {what}" for mode, what in self.modes.items()), ""]
        files = [RECIPE, FLAGFILE] if self.kind.has_recipes else [FLAGFILE]
        lines += ["settings from elsewhere:", *(line for text in files for line in _wrapped(text))]
        return "\n".join([*lines, help_of(self.kind, self.groups)])

    def _parse(self, argv):
        if HELP & {*argv}:  # absl would sort the flags by name
            reader_may_leave()
            print(self.help())
            sys.exit()
        define_flags(self.kind, flags.FLAGS)
        try:
            arguments = flags.FLAGS(with_flagfiles(argv, flags.FLAGS, recipes=self.kind.has_recipes))[1:]
            return self._mode_of(arguments), from_flags(self.kind, flags.FLAGS)
        except UserError as error:
            _refuse(error)
        except flags.UnrecognizedFlagError as error:
            near = did_you_mean(error.flagname, self._names(), "--")
            _refuse_flag(f"Unknown command line flag {error.flagname!r}", near)
        except flags.Error as error:
            # absl spreads some messages over lines, and ends some with dots.
            _refuse_flag(" ".join(str(error).split()).rstrip(" ."), "")

    def _names(self):
        """The names of all flags: a list."""
        fields = dataclasses.fields(self.kind)
        switches = [f"no{field.name}" for field in fields if field.type is bool]
        return [
            *(field.name for field in fields),
            *switches,
            "flagfile",
            *(["recipe"] if self.kind.has_recipes else []),
        ]

    def _mode_of(self, arguments):
        """The mode, a list of one or none, before the settings are checked: a wrong mode is named first."""
        if self.modes:
            self.check_mode(" ".join(arguments))
            return arguments
        if arguments:
            raise UserError(
                f"{self.name} must be given flags only. Received: {' '.join(arguments)}. Write --name=value."
            )
        return [] if self.mode is None else [self.mode]

    def _run(self, mode, settings):
        with quiet_start():
            load_package()
            work = pkgutil.resolve_name(self.work)
        work(*mode, settings)


def _wrapped(text):
    return textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _refuse_flag(received, suggestion):
    _refuse(f"Flags must exist and have values of their kind. Received: {received}. {suggestion}See --help for all.")


def _refuse(reason):
    sys.exit(end(f"error: {reason}", MISTAKE))
