"""Commands whose settings are flags: train.py and evaluate.py."""

import dataclasses
import sys

from absl import app, flags, logging

from keras_moco.command_line.exit_status import MISTAKE, end, status_of
from keras_moco.command_line.standard_streams import plain_output
from keras_moco.config import settings
from keras_moco.config.flagfiles import with_flagfiles
from keras_moco.errors import UserError

AGAIN = "Run the same command again: what takes long resumes, what was being written is not there."


@plain_output()
def run(main, kind):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Nothing heavy is imported before the flags are known to be right: `--help` and mistakes are answered at once.

    Args:
        main: function of the positional arguments, a list of str, and of the settings. It imports what it needs.
        kind: dataclass of settings (`keras_moco.config.settings`), whose fields become flags.
    """
    settings.define_flags(kind, flags.FLAGS)
    for field in dataclasses.fields(kind):  # or --help would not list them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field.name])
    # What TensorFlow notes while it writes a SavedModel would bury what the run says.
    logging.set_verbosity(logging.WARNING)

    def parse(argv):
        try:
            return flags.FLAGS(with_flagfiles(argv, flags.FLAGS))
        except UserError as error:
            _refuse(error)
        except flags.Error as error:
            # absl spreads some messages over lines, and ends some in dots.
            reason = " ".join(str(error).split()).rstrip(" .")
            _refuse(f"Flags must exist and have values of their kind. Received: {reason}. See --help for all of them.")

    def guarded(argv):
        sys.exit(status_of(lambda: main(argv[1:], settings.from_flags(kind, flags.FLAGS)), "error", AGAIN))

    app.run(guarded, flags_parser=parse)


def _refuse(reason):
    sys.exit(end(f"error: {reason}", MISTAKE))
