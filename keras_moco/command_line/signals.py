"""The signals by which somebody, or a batch queue, asks a command to end."""

import contextlib
import signal
import threading

# The end of a job, a lost connection, and Slurm's warning (`--signal=USR1@60`); Windows has the first alone.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Ended(BaseException):
    """A signal has ended a command where no training had to be saved; the message is the name of the signal.

    No `Exception`, as `KeyboardInterrupt` is none: a library that tries something else after an error must not go on.
    """


def handle(numbers, handler):
    """Sets a handler for signals, but for those that are ignored: `nohup` and shells have their reasons.

    Args:
        numbers: the signals.
        handler: as `signal.signal` takes it.

    Returns:
        dict of signals to their handlers before, for `restore`; empty in another thread than the main one, to which
        alone Python hands signals.
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
        # None: it was not Python that had set it.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def ending():
    """Has the first signal of a kind raise `Ended` in its block; a second one ends the process at once.

    Raises:
        Ended: when a signal comes.

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
        if asked:  # a function that TensorFlow calls was interrupted, of which it makes an error of its own
            raise Ended(asked[0]) from error
        raise
    finally:
        restore(before)
