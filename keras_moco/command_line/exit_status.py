"""How a command ends: after a mistake or a signal with one sentence, after a bug with its traceback."""

import os
import sys
import traceback

from keras_moco.command_line import signals
from keras_moco.errors import Stopped, UserError, WorkerLost, one_line, plain_lines

MISTAKE = 2
# Nothing is wrong, and the same command resumes when it is run again: a batch queue can wait for this status.
TEMPORARY_FAILURE = getattr(os, "EX_TEMPFAIL", 75)  # sysexits.h, which Windows lacks
INTERRUPTED = 130  # as in shells after Ctrl-C


def status_of(work, name, advice):
    """Does the work of a command and, where it fails, prints the reason to standard error.

    Args:
        work: function without arguments.
        name: str, the prefix of the sentence on a mistake.
        advice: str, the sentence that follows when a signal ended the work.

    Returns:
        int, the exit status.
    """
    try:
        with signals.ending():
            work()
    except (UserError, OSError) as error:
        return end(f"{name}: {sentence_of(error)}", MISTAKE)
    except KeyboardInterrupt:
        return end(f"{name}: interrupted. {advice}", INTERRUPTED)
    except signals.Ended as error:
        return end(f"stopped by {error}. {advice}", TEMPORARY_FAILURE)
    except Stopped as error:
        return end(f"{error} Run the same command again to resume.", TEMPORARY_FAILURE)
    except WorkerLost as error:
        end(f"{name}: {error}", TEMPORARY_FAILURE)
        # Not `sys.exit`: TensorFlow would wait for the lost worker before it lets the process end.
        os._exit(TEMPORARY_FAILURE)
    except Exception:
        traceback.print_exc()
        return end(
            "error: keras_moco did not expect this, so it is most likely a bug. Please report it with the lines above "
            "and the command that was given.",
            1,
        )
    return 0


def sentence_of(error):
    """The message of a `UserError` or `OSError`; of the latter on one line, whatever its file is called."""
    if isinstance(error, UserError):
        return str(error)
    if not error.strerror:  # raised by a library, with a message of its own
        return one_line(str(error))
    name = error.filename  # may be bytes, or the number of a descriptor
    where = "" if name is None else f"{one_line(os.fsdecode(name) if isinstance(name, bytes) else str(name))}: "
    return (
        "The operating system must let files be read and written. "
        f"Received: {where}{error.strerror}. Correct that, and run the same command again."
    )


def end(sentence, status):
    """Prints why a command ends, after all other output, and returns its exit status."""
    sys.stdout.flush()
    print(plain_lines(sentence), file=sys.stderr, flush=True)
    return status
