"""Signals: recorded before they raise, shared by blocks within each other, raised again if lost."""

import gc
import os
import signal
import threading

import pytest

from jaxgen.training.signals import ENDING, Interrupted, handled, held


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in ENDING]
    yield
    assert [signal.getsignal(number) for number in ENDING] == before


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_raises_and_is_recorded(number):
    with handled() as signals:
        with pytest.raises(Interrupted) as stopped:
            tell(number)
        assert stopped.value.code == 128 + number
        assert signals.received == [number]
        with pytest.raises(Interrupted):
            signals.check()


def test_an_exception_that_was_swallowed_is_raised_again(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)
    callback = lambda phase, info: tell() if phase == "start" else None  # noqa: E731
    with handled() as signals:
        gc.callbacks.append(callback)
        gc.collect()
        gc.callbacks.remove(callback)
        assert signals.received == [signal.SIGTERM]  # and nothing was raised
        with pytest.raises(Interrupted):
            signals.remind()
        assert signals.received == [signal.SIGTERM]


def test_an_exception_on_its_way_is_left_alone():
    def clean_up_after(signals, done):
        try:
            tell()
        finally:
            signals.remind()
            done.append("cleaned up")

    done = []
    with handled() as signals:
        signals.remind()  # nothing has come
        with pytest.raises(Interrupted):
            clean_up_after(signals, done)
    assert done == ["cleaned up"]


def test_a_block_that_holds_shares_its_record():
    def hold(*numbers):
        with held() as inner:
            for number in numbers:
                tell(number)
            inner.remind()
            received.append([*inner.received])
            assert inner is outer

    received = []
    with handled() as outer, pytest.raises(Interrupted):
        hold(signal.SIGTERM)  # raised at the end of the block
    with handled() as outer, pytest.raises(Interrupted) as stopped:
        hold(signal.SIGINT, signal.SIGTERM)  # raised by the second signal
    assert stopped.value.code == 128 + signal.SIGINT
    assert received == [[signal.SIGTERM]]


def test_other_threads_receive_nothing():
    found = []

    def block():
        with held() as signals:
            found.append(signals.received)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert found == [[]]
