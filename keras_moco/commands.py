"""How a command ends: a mistake in one sentence, a signal in another, a bug in its traceback."""

import sys

from keras_moco import signals
from keras_moco.errors import MISTAKES, plain_lines, tell_bug
from keras_moco.standard_streams import plain_output

# EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on when it is run again. A batch queue can wait
# for it to start the job once more.
TEMPORARY_FAILURE = 75
INTERRUPTED = 130  # as shells have it after Ctrl-C


def run_command(parser, work, argv=None):
    """Parses the arguments of a command and does its work.

    Args:
        parser: `argparse.ArgumentParser`, whose `prog` ends in the name of the command.
        work: function of the arguments, which prints what it did.
        argv: list of str. Defaults to `None`: those of the process.

    Returns:
        int, the exit status.
    """
    with plain_output():
        args = parser.parse_args(argv)
        name = parser.prog.rpartition(".")[2]
        try:
            with signals.ending():
                work(args)
        except MISTAKES as error:
            return _end(f"{name}: {error}", 2)
        except KeyboardInterrupt:
            return _end(f"{name}: interrupted. What was being written is not there.", INTERRUPTED)
        except signals.Ended as error:
            return _end(f"{name}: stopped by {error}. What was being written is not there.", TEMPORARY_FAILURE)
        except Exception:
            return tell_bug()
        return 0


def _end(sentence, status):
    print(plain_lines(sentence), file=sys.stderr)  # an `OSError` may hold any name
    return status
