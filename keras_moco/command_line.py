"""What `train.py` and `evaluate.py` share: a mistake of the user's ends in one sentence, not in a traceback."""

import os
import sys

from absl import app, flags, logging

from keras_moco.distribution import WorkerLost

TEMPORARY_FAILURE = 75  # of sysexits.h: the same command may succeed when it is run again


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
        except KeyboardInterrupt:
            _exit("interrupted. The same train.py command goes on from the last whole epoch.", status=130)

    app.run(guarded, flags_parser=parse)


def _exit(reason, status=2):
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
