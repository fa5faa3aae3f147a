"""Field cases, section E: what a client owes its caller, whatever the server does."""

import asyncio
import contextlib
import resource

import openai
import pytest

from scripted import HI
from throttled_openai import ThrottledAsyncOpenAI, wrap_http_client

from .promise import MINUTE, SLACK
from .script import Scripted, always, answered, call, ends, errors, gather, last, play, says
from .server import Answer

PATHS = [
    "/v1",
    "/openai/v1",
    "/api/v1",
    "/v1beta/openai",
    "/compatible-mode/v1",
    "/api/projects/P/openai/v1",
    "/chat/v1",
    "/files/v1",
    "/models/v1",
    "/batches/v1",
    "/threads/v1",
    "/api/paas/v4",
    "/v1/projects/p/locations/l/endpoints/openapi",
    "/openai/deployments/gpt-4o",
]


@pytest.mark.parametrize("path", PATHS)
def test_an_http_client_is_throttled_whatever_the_base_path(path):
    def make(http_client, **options):
        view = wrap_http_client(http_client)
        views.append(view)
        return openai.AsyncOpenAI(http_client=view, **options)

    async def calls(client):
        return await gather(client, 3)

    views = []
    played = play(calls, make=make, base_url=f"http://server{path}")

    assert answered(played.gave) == 3
    assert views[0].throttle.stats().succeeded == 3


def test_an_endpoint_that_never_answers_fails_all_calls_as_soon_as_with_stock():
    async def calls(client):
        return await gather(client, 60)

    stock = play(calls, Scripted(always(Answer(fault="hang"))), ours=False, timeout=0.5)
    ours = play(calls, Scripted(always(Answer(fault="hang"))), timeout=0.5)

    assert ours.took <= stock.took + SLACK
    assert {error.name for error in errors(ours.gave)} == {"APITimeoutError"}


@pytest.mark.parametrize(
    "dead",
    [Answer(fault="hang"), says(503, '{"error":{"message":"down"}}'), says(429), says(503, "down", "text/plain")],
)
def test_a_server_that_is_dead_for_good_fails_all_calls_soon_or_with_a_warning(dead):
    async def calls(client):
        return await gather(client, 300)

    stock = play(calls, Scripted(always(dead)), ours=False, timeout=30.0)
    ours = play(calls, Scripted(always(dead)), timeout=30.0)

    assert len(errors(ours.gave)) == 300
    assert ours.took <= stock.took + MINUTE + SLACK


def test_closing_fails_the_calls_that_wait_at_once():
    async def calls(client):
        tasks = [asyncio.create_task(ends(call(client, number))) for number in range(100)]
        await asyncio.sleep(10.0)
        await client.close()
        return await asyncio.gather(*tasks)

    played = play(calls, rpm=60)

    assert last(played.gave) <= 10.5
    assert all(isinstance(error.error, openai.APIConnectionError) for error in errors(played.gave))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", ".example"])
def test_a_host_that_cannot_be_looked_up_is_a_connection_error(host):
    async def one():
        async with ThrottledAsyncOpenAI(api_key="k", base_url=f"http://{host}/v1", max_retries=0) as client:
            with pytest.raises(openai.APIConnectionError):
                await client.chat.completions.create(model="m", messages=HI)

    asyncio.run(one())


def test_a_call_that_gave_up_says_its_real_place_in_line():
    async def calls(client):
        return await gather(client, 200)

    played = play(calls, rpm=60, max_wait=2)
    gone = [error.error for error in errors(played.gave)]

    assert {type(error).__name__ for error in gone} == {"AdmissionTimeout"}
    assert len({error.ahead for error in gone}) > len(gone) // 2
    assert max(error.ahead for error in gone) >= len(gone) // 2


def test_without_retries_a_bare_429_for_good_is_heard_of_soon():
    async def one(client):
        return await gather(client, 1)

    played = play(one, Scripted(always(says(429))), max_retries=0)

    assert played.took <= MINUTE + SLACK
    assert played.took <= SLACK or played.warned_at <= 2 * SLACK


@contextlib.contextmanager
def files(limit):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_few_files_are_warned_of_once_with_the_remedy():
    async def calls(client):
        return await gather(client, 300)

    with files(256):
        played = play(calls, Scripted(latency=1.0))

    assert answered(played.gave) == 300
    assert len(played.warnings) == 1
    assert "ulimit" in played.warnings[0]
