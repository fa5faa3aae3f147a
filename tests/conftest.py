"""The state of the process before any test."""

import gc
import signal

import pytest

from throttled_openai._clients.shared import shared

# What a script runs in the background ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Tests that wait for the garbage collector wait for their own garbage, not for a look at every module."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clients_of_each_test_share_with_nobody_before():
    """A client and what it made refer to each other: those of the last test may not have been collected yet."""
    shared.forget()
