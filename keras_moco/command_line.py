"""What train.py and evaluate.py share: settings as flags, and how they end."""

import dataclasses
import os
import sys

from absl import app, flags, logging

from keras_moco import settings, signals
from keras_moco.commands import INTERRUPTED, TEMPORARY_FAILURE
from keras_moco.errors import MISTAKES, UserError, plain_lines, tell_bug
from keras_moco.flagfiles import with_flagfiles
from keras_moco.standard_streams import plain_output

AGAIN = "Run the same command again: what takes long resumes, what was being written is not there."


@plain_output()
def run(main, kind):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Nothing heavy is imported before the flags are known to be right: `--help` and mistakes are answered at once.

    Args:
        main: function of the positional arguments, a list of str, and of the settings. It imports what it needs.
        kind: dataclass of settings (`keras_moco.settings`), whose fields become flags.
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
        try:
            with signals.ending():
                main(argv[1:], settings.from_flags(kind, flags.FLAGS))
        except MISTAKES as error:
            _refuse(error)
        except KeyboardInterrupt:
            _end(f"error: interrupted. {AGAIN}", INTERRUPTED)
        except signals.Ended as error:
            _end(f"stopped by {error}. {AGAIN}", TEMPORARY_FAILURE)
        except Exception as error:
            _exit_from_training(error)
            sys.exit(tell_bug())

    app.run(guarded, flags_parser=parse)


def _exit_from_training(error):
    """Ends the process if it is only for a while that training cannot go on."""
    from keras_moco.callbacks import Stopped
    from keras_moco.distribution import WorkerLost

    if isinstance(error, WorkerLost):
        # Not `sys.exit`: TensorFlow would wait for the lost worker before it lets go of the process.
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(TEMPORARY_FAILURE)
    if isinstance(error, Stopped):
        _end(f"{error} Run the same command again to resume.", TEMPORARY_FAILURE)


def _refuse(reason):
    _end(f"error: {reason}", 2)


def _end(sentence, status):
    print(plain_lines(sentence), file=sys.stderr)  # an `OSError` may hold any name
    sys.exit(status)
