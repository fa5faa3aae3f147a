"""Field cases, section D: several processes on one limit, each configured with all of it or with nothing."""

import asyncio
from random import Random

import pytest

from scripted import URL
from throttled_openai import Throttle, ThrottledAsyncOpenAI

from .calls import KEY, http_client
from .promise import REFUSED_AGAIN
from .script import Scripted, answered, gather, play, says
from .server import Bucket

IDEAL = 23.0


def clients_of_processes(server, rpm, seed):
    """Four clients, each with a throttle of its own, as processes share no memory; `seed`: of their jitter."""
    for number in range(4):
        throttle = Throttle(rpm=rpm)
        throttle._dispatcher.random = Random(f"{seed} {number}").random
        yield ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http_client(server), throttle=throttle)


def kept_to(bucket, *, tells):
    """A server that keeps to `bucket`, and names the wait in milliseconds where it `tells`."""

    def choose(attempt):
        if not bucket.refuses(attempt.at):
            return None
        return says(429, '{"error":{"message":"Rate limit reached"}}', **({"retry_after_ms": "100"} if tells else {}))

    return Scripted(choose)


@pytest.mark.parametrize("tells", [True, False], ids=["wait named", "bare"])
@pytest.mark.parametrize("rpm", [600, None])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_processes_of_sixty_calls_lose_none(rpm, tells, seed):
    server = kept_to(Bucket(10.0, 10), tells=tells)

    async def four(client):
        clients = clients_of_processes(server, rpm, seed)
        endings = await asyncio.gather(*(gather(client, 60) for client in clients))
        return [ending for each in endings for ending in each]

    played = play(four, server)

    assert answered(played.gave) == 240
    assert played.took <= 1.5 * IDEAL
    assert played.attempts <= 240 + 240


def test_a_call_of_four_processes_is_refused_a_few_times_at_most():
    server = kept_to(Bucket(10.0, 10), tells=True)

    async def four(client):
        clients = clients_of_processes(server, 600, 1)
        return await asyncio.gather(*(gather(client, 60) for client in clients))

    played = play(four, server)

    # The four calls of one number are counted together.
    assert max(played.per_call.values()) <= 4 * (1 + REFUSED_AGAIN)
