"""A start without the lines that TensorFlow's libraries print while they are loaded, whatever their log level."""

import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# What is printed before the level is known: that a processor has certain instructions, and that there is no GPU. The
# first line of a run says which devices it has.
KNOWN = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|I\d{4} .*|To enable the following instructions: .*"
)


@contextlib.contextmanager
def quiet_start():
    """Within it TensorFlow is imported: what is printed then is held back, without the lines that are `KNOWN`.

    Of later messages of its libraries only fatal ones are shown. With another `TF_CPP_MIN_LOG_LEVEL` than 3, given to
    see why a GPU is not found for example, everything is shown; also where there are libraries of a TPU, which may end
    the process, with a message.
    """
    if os.environ.get(LEVEL, "3") != "3" or importlib.util.find_spec("libtpu"):
        yield
        return
    os.environ[LEVEL] = "3"
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not KNOWN.fullmatch(line.rstrip(b"\n")):
                    os.write(2, line)


def _is_no_retracing(record):
    """Each new model is traced, such as those that an evaluation trains: no reason for a warning."""
    return "triggered tf.function retracing" not in record.getMessage()
