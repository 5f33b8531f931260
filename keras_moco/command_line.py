"""What `train.py` and `evaluate.py` share: a mistake of the user's ends in one sentence, not in a traceback."""

import sys

from absl import app, flags


def run(main, define_flags):
    """Parses the command line and runs `main`; on bad input prints the reason and exits with status 2.

    Args:
        main: function of the positional arguments, a list of str.
        define_flags: function that defines flags on an `absl.flags.FlagValues`.
    """
    define_flags(flags.FLAGS)

    def guarded(argv):
        try:
            main(argv[1:])
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(guarded)
