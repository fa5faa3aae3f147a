"""Portals for the tests: one whose loop the test turns by hand, and one with a thread."""

import pytest

from throttled_openai._admission.portal import Portal
from throttled_openai.simulator import VirtualTimeLoop


class HandTurned(Portal):
    """A portal without a thread: the test turns its loop, whose time is virtual."""

    def __init__(self):
        super().__init__()
        self._loop = VirtualTimeLoop()

    here = True


@pytest.fixture
def portal():
    portal = HandTurned()
    yield portal
    portal.loop.close()


@pytest.fixture
def threaded():
    """A portal with a thread, which ends with the test."""
    portal = Portal()
    yield portal
    if portal._loop is not None:
        portal._loop.call_soon_threadsafe(portal._loop.stop)
        portal._thread.join(10)
        portal._loop.close()
