"""Commands whose settings are flags: train.py and evaluate.py."""

import sys

from absl import app, flags, logging

from keras_moco.command_line.exit_status import MISTAKE, end, status_of
from keras_moco.command_line.standard_streams import plain_output
from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.config.flags import define_flags, from_flags, help_of
from keras_moco.errors import UserError

AGAIN = "Run the same command again to resume; partly written files were discarded."


@plain_output()
def run(main, kind):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Nothing heavy is imported before the flags are known to be right: `--help` and mistakes are answered at once.

    Args:
        main: function of the positional arguments, a list of str, and of the settings. It imports what it needs.
        kind: dataclass of settings (`keras_moco.config.settings`), whose fields become flags.
    """
    define_flags(kind, flags.FLAGS)
    # Messages of TensorFlow about a SavedModel that it writes would bury those of the run.
    logging.set_verbosity(logging.WARNING)

    def parse(argv):
        if {"--help", "-help", "--helpshort", "--helpfull"} & {*argv}:  # absl would sort the flags by name
            print(f"{sys.modules[main.__module__].__doc__}\n--flagfile: Read flags from this file.\n{help_of(kind)}")
            sys.exit()
        try:
            return flags.FLAGS(with_flagfiles(argv, flags.FLAGS))
        except UserError as error:
            _refuse(error)
        except flags.Error as error:
            # absl spreads some messages over lines, and ends some with dots.
            reason = " ".join(str(error).split()).rstrip(" .")
            _refuse(f"Flags must exist and have values of their kind. Received: {reason}. See --help for all of them.")

    def work(arguments):
        config = from_flags(kind, flags.FLAGS)
        package = sys.modules["keras_moco"]
        if not hasattr(package, "__version__"):  # train.py and evaluate.py have put off its `__init__.py`
            package.__spec__.loader.exec_module(package)
        main(arguments, config)

    app.run(lambda argv: sys.exit(status_of(lambda: work(argv[1:]), "error", AGAIN)), flags_parser=parse)


def _refuse(reason):
    sys.exit(end(f"error: {reason}", MISTAKE))
