"""What `train.py` and `evaluate.py` share: a mistake of the user's ends in one sentence, not in a traceback."""

import os
import sys

from absl import app, flags, logging

from keras_moco.callbacks import Stopped
from keras_moco.distribution import WorkerLost

# EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on when it is run again. A batch queue can wait
# for it to start the job once more.
TEMPORARY_FAILURE = 75


def run(main, define_flags):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Args:
        main: function of the positional arguments, a list of str.
        define_flags: function that defines flags on an `absl.flags.FlagValues`.
    """
    define_flags(flags.FLAGS)
    # What TensorFlow notes while it writes a SavedModel would bury what the run says.
    logging.set_verbosity(logging.WARNING)

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            # absl spreads some messages over lines, and ends some in dots.
            reason = " ".join(str(error).split()).rstrip(" .")
            _exit(f"Flags must exist and have values of their kind. Received: {reason}. See --help for all of them.")

    def guarded(argv):
        try:
            main(argv[1:])
        except (ValueError, OSError) as error:
            _exit(error)
        except WorkerLost as error:
            # Not `sys.exit`: TensorFlow would wait for the lost worker before it lets go of the process.
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(TEMPORARY_FAILURE)
        except Stopped as stop:
            print(f"{stop} The same command goes on.", file=sys.stderr)
            sys.exit(TEMPORARY_FAILURE)
        except KeyboardInterrupt:
            _exit("interrupted. The same command begins again; a training goes on from its checkpoint.", status=130)

    app.run(guarded, flags_parser=parse)


def _exit(reason, status=2):
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
