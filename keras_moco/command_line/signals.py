"""Signals by which a person or a batch queue asks a command to end."""

import contextlib
import signal
import threading

# The end of a job, a lost connection, and Slurm's warning (`--signal=USR1@60`); Windows has only the first.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Ended(BaseException):
    """A signal has ended a command outside of training; the message is the name of the signal.

    Like `KeyboardInterrupt` it is not an `Exception`: a library that recovers from errors must not recover from this.
    """


def handle(numbers, handler):
    """Sets a handler for signals, except those that are ignored, for example under `nohup`.

    Args:
        numbers: the signals.
        handler: a handler of `signal.signal`.

    Returns:
        dict of signals to their previous handlers, for `restore`; empty outside of the main thread, the only one that
        receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler_before in before.items():
        if handler_before is not signal.SIG_IGN:
            signal.signal(number, handler)
    return before


def restore(before):
    """Sets the handlers that `handle` returned."""
    for number, handler in before.items():
        # None: the handler was not set by Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def ending():
    """Raises `Ended` in its block at the first signal of each kind; a second one ends the process at once.

    Raises:
        Ended: when a signal arrives.

    Example:

    >>> with ending():
    ...     pass
    """
    asked = []

    def end(number, _):
        signal.signal(number, signal.SIG_DFL)
        asked.append(signal.Signals(number).name)
        raise Ended(asked[0])

    before = handle(ENDING, end)
    try:
        yield
    except Exception as error:
        if asked:  # TensorFlow raises an error of its own when a function that it calls is interrupted
            raise Ended(asked[0]) from error
        raise
    finally:
        restore(before)
