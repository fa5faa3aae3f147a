"""Interrupts for tests: an exception in the main thread, as Ctrl-C raises it."""

import contextlib
import signal

import pytest

unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs a signal to interrupt the main thread with")


class Interrupted(BaseException):
    """Raised in place of KeyboardInterrupt."""


@contextlib.contextmanager
def interrupted_after(seconds, error=Interrupted, *, of_cpu=False):
    """Raise `error` in the main thread after `seconds`, wherever it is. `of_cpu`: seconds in which the process ran."""

    def interrupt(*_):
        raise error

    number, timer = (signal.SIGPROF, signal.ITIMER_PROF) if of_cpu else (signal.SIGALRM, signal.ITIMER_REAL)
    before = signal.signal(number, interrupt)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)
