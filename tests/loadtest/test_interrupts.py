"""Signals end a program in order, even where an event loop would swallow them."""

import os
import signal

import pytest

from loadtest.interrupts import ENDING, ended_in_order, held


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_program_through_every_finally(number):
    done = []
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, ended_in_order():
        try:
            signal.raise_signal(number)
        finally:
            done.append(True)
    assert end.value.code == 128 + number
    assert done
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ENDING)
def test_a_held_signal_waits_until_the_end_and_is_not_lost(number):
    done = []
    with pytest.raises(SystemExit) as end, ended_in_order():
        with held():
            os.kill(os.getpid(), number)
            done.append("inside")
        done.append("after")
    assert end.value.code == 128 + number
    assert done == ["inside"]


def test_without_a_signal_nothing_happens():
    with ended_in_order(), held():
        pass


def test_a_signal_of_an_earlier_run_is_forgotten():
    with pytest.raises(SystemExit), ended_in_order():
        signal.raise_signal(signal.SIGTERM)
    with ended_in_order(), held():
        pass
