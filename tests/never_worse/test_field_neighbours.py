"""Field cases, section D: several processes on one limit, each configured with all of it or with nothing."""

import asyncio

import pytest

from clients import URL
from throttled_openai import Throttle, ThrottledAsyncOpenAI

from .calls import KEY, http_client
from .promise import REFUSED_AGAIN
from .script import Scripted, answered, gather, play, says
from .server import Bucket

IDEAL = 23.0


def kept_to(bucket, *, tells):
    """A server that keeps to `bucket`, and names the wait in milliseconds where it `tells`."""

    def choose(attempt):
        if not bucket.refuses(attempt.at):
            return None
        return says(429, '{"error":{"message":"Rate limit reached"}}', **({"retry_after_ms": "100"} if tells else {}))

    return Scripted(choose)


@pytest.mark.parametrize("tells", [True, False], ids=["wait named", "bare"])
@pytest.mark.parametrize("rpm", [600, None])
def test_four_processes_of_sixty_calls_lose_none(rpm, tells):
    server = kept_to(Bucket(10.0, 10), tells=tells)

    async def four(client):
        # Each process has a throttle of its own, as it shares no memory with the others.
        clients = [
            ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http_client(server), throttle=Throttle(rpm=rpm))
            for _ in range(4)
        ]
        endings = await asyncio.gather(*(gather(client, 60) for client in clients))
        return [ending for each in endings for ending in each]

    played = play(four, server)

    assert answered(played.gave) == 240
    assert played.took <= 1.5 * IDEAL
    assert played.attempts <= 240 + 240


def test_a_call_of_four_processes_is_refused_a_few_times_at_most():
    server = kept_to(Bucket(10.0, 10), tells=True)

    async def four(client):
        clients = [
            ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http_client(server), throttle=Throttle(rpm=600))
            for _ in range(4)
        ]
        return await asyncio.gather(*(gather(client, 60) for client in clients))

    played = play(four, server)

    # The four calls of one number are counted together.
    assert max(played.per_call.values()) <= 4 * (1 + REFUSED_AGAIN)
