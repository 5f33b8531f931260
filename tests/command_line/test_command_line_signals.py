"""A signal ends a command outside of training."""

import signal

import pytest

from keras_moco.command_line.signals import ENDING, Ended, ending


@pytest.fixture(params=ENDING)
def number(request):
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_first_signal_raises_and_second_one_has_the_default_handler(number):
    with pytest.raises(Ended, match=f"^{number.name}$"), ending():
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ignored_signal_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with ending():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_signal_that_a_library_turns_into_an_error_is_not_a_bug():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Ended, match="SIGTERM"), ending():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("a function of the graph failed") from error
    with pytest.raises(RuntimeError), ending():
        raise RuntimeError("a bug")
    assert signal.getsignal(signal.SIGTERM) is before
