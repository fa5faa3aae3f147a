"""Interrupts for tests: an exception in the main thread, as Ctrl-C raises it."""

import contextlib
import signal

import pytest

unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs a signal to interrupt the main thread with")


class Interrupted(BaseException):
    """Raised in place of KeyboardInterrupt."""


@contextlib.contextmanager
def interrupted_after(seconds):
    """Raise `Interrupted` in the main thread after `seconds`, wherever it is."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
