"""Python functions within pipelines of `tf.data`, which must not keep a program from ending."""

import atexit
import threading
import time

import tensorflow as tf

QUIET = 1.0  # seconds without a call after which none is expected any more
LIMIT = 10.0  # seconds that the end of a program waits at most


class ProgramEndsError(Exception):
    """Python is not called any more, since the program ends."""


class _Gate:
    """Counts calls, and refuses them once the program ends.

    The threads of a pipeline that is still alive work ahead. A thread that asks for Python's lock while the interpreter
    is taken down never gets it, and the pipeline, which is deleted then, would wait for that thread for ever. So at the
    end of a program calls fail at once, which stops the threads, and the end waits until there was none for `QUIET`
    seconds. That is not certain on a machine that is so busy that a thread does not get its turn for longer.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._running, self._last, self._closed = 0, None, False

    def __enter__(self):
        with self._lock:
            self._last = time.monotonic()
            if self._closed:
                raise ProgramEndsError
            self._running += 1

    def __exit__(self, *_):
        with self._lock:
            self._running -= 1

    def close(self):
        """Refuses further calls, and returns when no thread makes any."""
        with self._lock:
            self._closed = True
            if self._last is None:
                return
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            with self._lock:
                if not self._running and time.monotonic() - self._last > QUIET:
                    return
            time.sleep(0.02)


_gate = _Gate()
atexit.register(_gate.close)


def call_python(function, inputs, types):
    """`tf.numpy_function` for pipelines: the same arguments and results."""

    def call(*args):
        with _gate:
            return function(*args)

    return tf.numpy_function(call, inputs, types)
