"""What all commands share: a mistake of the user's ends in one sentence, a bug in its traceback."""

import dataclasses
import os
import sys

from absl import app, flags, logging

from keras_moco import settings
from keras_moco.errors import MISTAKES, tell_bug

# EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on when it is run again. A batch queue can wait
# for it to start the job once more.
TEMPORARY_FAILURE = 75


def run(main, kind, complete=list):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Nothing heavy is imported before the flags are known to be right: `--help` and mistakes are answered at once.

    Args:
        main: function of the positional arguments, a list of str, and of the settings. It imports what it needs.
        kind: dataclass of settings (`keras_moco.settings`), whose fields become flags.
        complete: function of the arguments to those that are parsed. Defaults to themselves.
    """
    settings.define_flags(kind, flags.FLAGS)
    for field in dataclasses.fields(kind):  # or --help would not list them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field.name])
    # What TensorFlow notes while it writes a SavedModel would bury what the run says.
    logging.set_verbosity(logging.WARNING)

    def parse(argv):
        try:
            return flags.FLAGS(complete(argv))
        except flags.Error as error:
            # absl spreads some messages over lines, and ends some in dots.
            reason = " ".join(str(error).split()).rstrip(" .")
            _exit(f"Flags must exist and have values of their kind. Received: {reason}. See --help for all of them.")

    def guarded(argv):
        try:
            main(argv[1:], settings.from_flags(kind, flags.FLAGS))
        except MISTAKES as error:
            _exit(error)
        except KeyboardInterrupt:
            _exit("interrupted. The same command begins again; a training goes on from its checkpoint.", status=130)
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
        print(f"{error} The same command goes on.", file=sys.stderr)
        sys.exit(TEMPORARY_FAILURE)


def _exit(reason, status=2):
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
