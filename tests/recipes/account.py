"""What the recipes share: an account with limits, served on a real port, and the reckoning at the end."""

import asyncio
import contextlib
import json
import urllib.request

from throttled_openai._clients.options import OPTIONS
from throttled_openai.simulator import Simulator, serve

# Calls a minute, of each model; and how many of them a new throttle lets go at once.
RPM = 600
BURST = 0.85 * RPM / 60


class Account(Simulator):
    """`url` is where it is served, `opened_at` since when."""

    url = ""
    opened_at = 0.0

    def settles(self, throttle, *, calls):
        """Each of `calls` was admitted once, when it was due, and answered; none is left over."""
        known, seen = throttle.stats(), self.stats()
        assert known.admitted == known.succeeded == calls, (calls, known, seen)
        assert seen["attempts"] == seen["succeeded"] == calls, (calls, known, seen)
        assert known.refused == seen["refused"] == 0, (known, seen)
        assert known.waiting == known.in_flight == seen["in_flight"] == 0, (known, seen)
        for model in {attempt.model for attempt in self.log}:
            arrived = [attempt.at - self.opened_at for attempt in self.log if attempt.model == model]
            assert len(arrived) <= BURST + max(arrived) * RPM / 60 + 1e-3, (model, arrived)


@contextlib.asynccontextmanager
async def account():
    # Nothing is announced: the only limits that a client knows are those it was given.
    server = Account(rpm=RPM, latency=0.1, announce=False)
    async with serve(server) as server.url:
        server.opened_at = asyncio.get_running_loop().time()
        yield server


def options_of(*, rpm, processes):
    """Options for each of several processes that have `rpm` together."""
    return {"rpm": rpm, "shared": "local"} if "shared" in OPTIONS else {"rpm": rpm / processes}


def counted(url):
    """What a simulator in another process has counted."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/simulator/stats") as response:
        return json.load(response)
