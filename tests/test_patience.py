"""How long a refused call is sent again, and how long others wait for what it met: never longer than is worth it."""

import asyncio
import logging

import openai
import pytest

from clients import Says, Script, now, refuses, say, throttled
from throttled_openai import AccountBlocked
from throttled_openai.simulator import virtual_run

BARE = Says(429, {"error": {"message": "no"}})


class Server(Script):
    """Answers each request by what `decide` makes of its number, from 0 on."""

    def __init__(self, decide, delay=0.0):
        super().__init__()
        numbers = iter(range(10**6))
        self._responses = (decide(number) or Says(delay=delay) for number in numbers)


async def ends(client, calls, **more):
    """How each of so many calls ends, and when."""

    async def one(number):
        try:
            await say(client, f"call {number}", **more)
        except openai.OpenAIError as error:
            return type(error).__name__, now()
        return "done", now()

    return await asyncio.gather(*(one(number) for number in range(calls)))


def kinds(results):
    return {kind: sum(other == kind for other, _ in results) for kind, _ in results}


# --- one odd refusal, then a healthy server -------------------------------------------------------

AZURE = "Requests to the API have exceeded call rate limit of your tier. Please retry after 86400 seconds."
ODD = [
    refuses(AZURE, code="429", headers={"retry-after": "86400"}),
    Says(503, b"<html>Service Unavailable</html>", {"retry-after": "3600", "content-type": "text/html"}),
    Says(503, b"", {"retry-after": "3600"}),
    Says(429, {"error": {"message": "slow"}}, {"retry-after": "30000"}),
    Says(429, b"error code: 1015", {"retry-after": "54749"}),
    Says(503, {"error": {"message": "overloaded"}}, {"retry-after": "7200"}),
    refuses("Rate limit of 50 per 86400s exceeded for UserByModelByDay", headers={"retry-after": "42312"}),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", [0, 20])
def test_one_odd_refusal_costs_one_call_at_most_and_holds_nobody(odd, before):
    async def main():
        client = throttled(Server(lambda number: odd if number == before else None, delay=0.2))
        await ends(client, before)
        results = await ends(client, 50)
        assert kinds(results).get("done", 0) >= 49
        assert now() < 65
        assert kinds(await ends(client, 50)) == {"done": 50}
        assert now() < 65

    virtual_run(main())


@pytest.mark.parametrize("odd", ODD)
def test_the_refused_call_does_no_worse_than_with_the_sdk_alone(odd):
    async def main():
        script = Script(odd)
        stock = openai.AsyncOpenAI(api_key="x", base_url="http://server/v1", http_client=throttled(script)._client)
        expected = await ends(stock, 1)
        began = now()
        results = await ends(throttled(Script(odd)), 1)
        assert kinds(results) == kinds(expected)
        assert now() - began <= 1 + 1.5 * (expected[0][1] + 0.5)

    virtual_run(main())


@pytest.mark.parametrize("every", [7, 20])
def test_odd_refusals_again_and_again_cost_those_calls_and_no_others(every):
    """One node of a gateway names a wait of a day; the others serve."""

    async def main():
        odd = Says(429, {"error": {"message": "slow"}}, {"retry-after": "86400"})
        client = throttled(Server(lambda number: odd if number % every == every - 1 else None, delay=0.2))
        results = await ends(client, 400)
        assert kinds(results)["done"] >= 400 * (1 - 1.5 / every) - 5
        assert now() < 60

    virtual_run(main())


def test_a_long_wait_that_a_second_call_meets_too_fails_those_that_wait_and_one_a_minute_tries():
    async def main():
        until = 600.0

        def decide(number):
            return Says(429, {"error": {"message": "no"}}, {"retry-after": "54749"}) if now() < until else None

        server = Server(decide)
        client = throttled(server, max_retries=0)
        results = await ends(client, 300)
        assert set(kinds(results)) <= {"RateLimitError", "AccountPaused"}
        assert max(at for _, at in results) < 65
        assert len(server.seen) < 40
        sent = len(server.seen)
        with pytest.raises(AccountBlocked, match=r"asked to send nothing more to gpt-4o for 15 h .*max_wait="):
            await say(client)
        assert len(server.seen) == sent
        while now() < until:
            await asyncio.sleep(5)
            await ends(client, 2)
        assert len(server.seen) - sent <= 12
        await asyncio.sleep(61)
        assert kinds(await ends(client, 20)) == {"done": 20}

    virtual_run(main())


def test_who_asked_to_wait_so_long_does_and_one_a_minute_tries():
    async def main():
        def decide(number):
            return (
                Says(429, {"error": {"message": "no"}}, {"retry-after": f"{3000 - now():.0f}"}) if now() < 600 else None
            )

        server = Server(decide)
        client = throttled(server, max_wait=7200.0)
        assert kinds(await ends(client, 30)) == {"done": 30}
        assert 600 <= now() < 700
        assert len(server.seen) < 30 + 32

    virtual_run(main())


# --- nothing is answered any more -----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("before", [0, 20])
@pytest.mark.parametrize("calls", [1, 60])
def test_where_the_server_only_refuses_every_call_hears_of_it_in_about_a_minute(status, before, calls, caplog):
    async def main():
        bare = Says(status, {"error": {"message": "no"}}, delay=0.05)
        client = throttled(Server(lambda number: bare if number >= before else None, delay=0.2))
        await ends(client, before)
        began = now()
        results = await ends(client, calls)
        assert set(kinds(results)) == {"RateLimitError" if status == 429 else "InternalServerError"}
        assert max(at for _, at in results) - began < 100

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert any("was answered in" in record.getMessage() for record in caplog.records)


def test_without_retries_of_the_sdk_it_is_told_why_a_call_is_not_answered(caplog):
    async def main():
        client = throttled(Server(lambda number: BARE), max_retries=0)
        assert kinds(await ends(client, 1)) == {"RateLimitError": 1}
        assert now() < 100

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert "attempts was answered in 1" in caplog.records[0].getMessage()


def test_an_outage_of_half_a_minute_costs_no_call():
    async def main():
        down = Says(503, {"error": {"message": "down"}})
        client = throttled(Server(lambda number: down if 5 < now() < 35 else None, delay=0.5), max_concurrency=5)
        assert kinds(await ends(client, 100)) == {"done": 100}

    virtual_run(main())


def test_a_call_refused_again_and_again_while_others_are_answered_is_not_given_up_soon():
    async def main():
        def decide(number):
            return None if number % 2 else Says(429, {"error": {"message": "no"}}, {"retry-after-ms": "100"})

        client = throttled(Server(decide, delay=0.5))
        assert kinds(await ends(client, 200)) == {"done": 200}

    virtual_run(main())


def test_a_call_too_large_for_the_limit_that_its_refusal_names_fails_at_once():
    async def main():
        message = "This request would exceed the rate limit for your organization of 20,000 input tokens per minute."
        server = Server(lambda number: refuses(message, headers={"retry-after": "60"}))
        client = throttled(server)
        with pytest.raises(openai.RateLimitError, match="20,000 input tokens"):
            await say(client, "a" * 160_000)
        assert now() < 5
        assert len(server.seen) == 1

    virtual_run(main())


def test_a_wait_of_a_minute_named_again_and_again_is_taken_as_often_as_the_sdk_takes_it():
    async def main():
        server = Server(lambda number: Says(429, {"error": {"message": "no"}}, {"retry-after": "60"}))
        assert kinds(await ends(throttled(server, max_retries=0), 1)) == {"RateLimitError": 1}
        assert 120 <= now() < 150
        assert len(server.seen) == 3

    virtual_run(main())
