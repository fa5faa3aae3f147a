"""What must be so before any test: nothing but the state of the process."""

import gc
import signal

# What a script runs in the background ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Tests that wait for the garbage collector wait for their own garbage, not for a look at every module."""
    gc.collect()
    gc.freeze()
