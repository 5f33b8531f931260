"""A signal ends a command where no training has to be saved."""

import signal

import pytest

from keras_moco.command_line.signals import ENDING, Ended, ending


@pytest.fixture(params=ENDING)
def number(request):
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_the_first_signal_raises_and_a_second_one_is_of_the_system(number):
    with pytest.raises(Ended, match=f"^{number.name}$"), ending():
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_that_was_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with ending():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_what_a_library_makes_of_it_is_no_bug():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Ended, match="SIGTERM"), ending():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("a function of the graph failed") from error
    with pytest.raises(RuntimeError), ending():
        raise RuntimeError("a bug")
    assert signal.getsignal(signal.SIGTERM) is before
