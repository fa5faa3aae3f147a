"""How long a refused call is sent again, and how long other calls wait because of its refusal."""

import asyncio
import logging
import math
import time

import openai
import pytest

from scripted import Says, Script, now, refuses, say, throttled
from throttled_openai import AccountBlocked, RequestTooLarge
from throttled_openai.simulator import virtual_run

BARE = Says(429, {"error": {"message": "no"}})


class Server(Script):
    """Answers each request by what `decide` makes of its number, from 0 on."""

    def __init__(self, decide, delay=0.0):
        super().__init__()
        numbers = iter(range(10**6))
        self._responses = (decide(number) or Says(delay=delay) for number in numbers)


async def ends(client, calls, **more):
    """How each call ends, and when."""

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
def test_one_odd_refusal_costs_at_most_one_call_and_holds_no_other(odd, before):
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
        assert kinds(results) in (kinds(expected), {"done": 1})
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


def test_calls_that_asked_to_wait_for_hours_do_and_one_a_minute_tries():
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


def test_without_sdk_retries_a_warning_says_why_a_call_is_not_answered(caplog):
    async def main():
        client = throttled(Server(lambda number: BARE), max_retries=0)
        assert kinds(await ends(client, 1)) == {"RateLimitError": 1}
        assert now() < 100

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert "attempts was answered in" in caplog.records[0].getMessage()


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


def test_calls_take_turns_where_the_server_only_refuses():
    async def main():
        server = Server(lambda number: Says(429, {"error": {"message": "no"}}, {"retry-after-ms": "500"}))
        results = await ends(throttled(server, max_retries=0), 12)
        assert kinds(results) == {"RateLimitError": 12}
        assert now() < 65
        assert len(server.seen) <= 12 * 10  # the first in line alone would have made a hundred attempts

    virtual_run(main())


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_beside_the_word_not_to_send_it_again_holds_no_other_call(status):
    async def main():
        said = Says(status, {"error": {"message": "no"}}, {"retry-after": "30", "x-should-retry": "false"})
        server = Server(lambda number: said if number == 0 else None)
        assert kinds(await ends(throttled(server), 12))["done"] == 11
        assert (len(server.seen), now() < 1) == (12, True)

    virtual_run(main())


def test_a_503_that_names_hours_is_the_sdks_server_error_for_those_that_wait_too():
    async def main():
        server = Server(lambda number: Says(503, {"error": {"message": "no"}}, {"retry-after": "7200"}))
        client = throttled(server, max_concurrency=1)
        results = await ends(client, 5)
        assert kinds(results) == {"InternalServerError": 2, "ServerPaused": 3}
        with pytest.raises(openai.InternalServerError, match="for 2 h"):
            await say(client)

    virtual_run(main())


# --- a server that does not answer ----------------------------------------------------------------


class Deaf(Script):
    """Answers the first requests after `delay`, and none after them; httpx's timeout is the caller's."""

    def __init__(self, answered=0, delay=0.1, until=math.inf, error=None):
        super().__init__()
        self._answered, self._delay, self._until, self._error = answered, delay, until, error

    async def answer(self, request, module):
        self._responses = iter([Says(delay=self._delay)])
        if len(self.seen) < self._answered or now() >= self._until:
            return await super().answer(request, module)
        self.seen.append(None)
        if self._error is not None:
            raise getattr(module, self._error)("down", request=request)
        await asyncio.sleep(request.extensions["timeout"]["read"])
        raise module.ReadTimeout("read timed out", request=request)


@pytest.mark.parametrize(("calls", "timeout", "most"), [(60, 0.5, 5.5), (100, 30.0, 130.0)])
def test_an_endpoint_that_never_answers_fails_its_calls_about_as_soon_as_the_sdk_alone(calls, timeout, most):
    async def main():
        client = throttled(Deaf(), timeout=timeout)
        assert kinds(await ends(client, calls)) == {"APITimeoutError": calls}
        assert now() < most

    virtual_run(main())


def test_a_server_that_is_not_there_fails_its_calls_about_as_soon_as_the_sdk_alone():
    async def main():
        assert kinds(await ends(throttled(Deaf(error="ConnectError")), 100)) == {"APIConnectionError": 100}
        assert now() < 5

    virtual_run(main())


@pytest.mark.parametrize("error", [None, "ConnectError"])
def test_a_server_that_dies_fails_those_that_wait_in_about_a_minute_more(error, caplog):
    async def main():
        client = throttled(Deaf(answered=40, error=error), timeout=10.0)
        results = await ends(client, 100)
        assert kinds(results)["done"] == 40
        assert now() < 130

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert error or any("was answered in" in record.getMessage() for record in caplog.records)


# --- a limit that is a mistake --------------------------------------------------------------------


def limited(limit, **more):
    return Says(
        headers={
            "x-ratelimit-limit-tokens": f"{limit}",
            "x-ratelimit-remaining-tokens": f"{limit - 1}",
            "x-ratelimit-reset-tokens": "1ms",
        },
        **more,
    )


@pytest.mark.parametrize("options", [{}, {"tpm": 450_000}])
@pytest.mark.parametrize("later", [limited(450_000), Says()])
def test_a_limit_announced_once_refuses_no_call_and_the_server_decides(options, later):
    async def main():
        client = throttled(Server(lambda number: limited(1000) if number == 0 else later), **options)
        await say(client)
        for _ in range(20):
            await say(client, "a" * 8000)
        assert now() < 10

    virtual_run(main())


def test_a_server_that_serves_what_its_limit_forbids_is_believed():
    async def main():
        client = throttled(Server(lambda number: limited(30_000)))
        await ends(client, 2)
        with pytest.raises(RequestTooLarge):
            await say(client, "a" * 200_000)
        await asyncio.sleep(10)
        began = now()
        for _ in range(3):
            await say(client, "a" * 200_000)
        assert now() - began < 300

    virtual_run(main())


ODD_WINDOWS = [
    {"x-ratelimit-limit-requests-month": "1", "x-ratelimit-remaining-requests-month": "0"},
    {"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "0"},
    {"x-ratelimit-limit-tokens-day": "5", "x-ratelimit-remaining-tokens-day": "0"},
]
NORMAL = {
    "x-ratelimit-limit-requests": "60000",
    "x-ratelimit-remaining-requests": "59999",
    "x-ratelimit-reset-requests": "1ms",
}


@pytest.mark.parametrize("odd", ODD_WINDOWS)
@pytest.mark.parametrize("normal", [{}, NORMAL])
@pytest.mark.parametrize("before", [0, 20])
def test_a_limit_that_is_announced_once_is_forgotten(odd, normal, before):
    async def main():
        def decide(number):
            return Says(headers={**normal, **odd} if number == before else normal, delay=0.2)

        client = throttled(Server(decide))
        assert kinds(await ends(client, before + 100)) == {"done": before + 100}
        assert now() < 200
        assert not any(window.period > 60 for budget in client.throttle.stats().budgets for window in budget.windows)

    virtual_run(main())


def test_two_limits_in_turn_leave_no_debt_behind():
    """Nodes of a gateway with different configured limits."""

    async def main():
        few, many = [
            {
                "x-ratelimit-limit-requests": f"{limit}",
                "x-ratelimit-remaining-requests": f"{limit - 1}",
                "x-ratelimit-reset-requests": wait,
            }
            for limit, wait in ((60, "1s"), (100_000, "1ms"))
        ]
        client = throttled(Server(lambda number: Says(headers=few if number % 2 else many, delay=0.1)))
        for _ in range(20):
            await say(client)
        assert now() < 25

    virtual_run(main())


def test_five_hundred_different_limits_cost_no_time():
    async def main():
        def decide(number):
            names = [f"x-ratelimit-limit-requests-{number % 300 + 1}-{unit}" for unit in ("second", "minute", "hour")]
            return Says(headers=dict.fromkeys(names, "1000000"))

        client = throttled(Server(decide))
        await ends(client, 500)
        budget = client.throttle._dispatcher.limiters.find("gpt-4o").budget
        assert len(budget.windows) <= 16
        began = time.perf_counter()
        for _ in range(100):
            budget.delay(1, now())
        assert time.perf_counter() - began < 0.1

    virtual_run(main())


def test_calls_that_asked_to_wait_are_sent_again_for_that_long_where_nothing_is_answered_and_not_in_a_rush():
    async def main():
        server = Server(lambda number: BARE)
        results = await ends(throttled(server, max_wait=600.0), 3)
        assert kinds(results) == {"RateLimitError": 3}
        assert 400 < min(at for _, at in results) < max(at for _, at in results) < 700
        assert len(server.seen) < 200

    virtual_run(main())


# --- a day's limit that is used up ----------------------------------------------------------------


def used_up(number):
    text = (
        "Rate limit reached for gpt-4o in organization org-x on requests per day (RPD): Limit 50, Used 50, "
        f"Requested 1. Please try again in {600 - now():.0f}s."
    )
    return refuses(text, headers={"retry-after": f"{600 - now():.0f}"}) if now() < 600 else None


@pytest.mark.parametrize("options", [{"rpd": 50}, {"max_wait": 3600.0}])
def test_calls_wait_for_a_day_s_limit_that_was_configured_or_for_as_long_as_they_were_asked_to(options, caplog):
    async def main():
        assert kinds(await ends(throttled(Server(used_up), **options), 1)) == {"done": 1}
        assert 600 <= now() < 3000

    virtual_run(main())


def test_a_refusal_for_an_unconfigured_daily_limit_is_raised_as_by_the_plain_sdk():
    async def main():
        server = Server(used_up)
        assert kinds(await ends(throttled(server), 1)) == {"RateLimitError": 1}
        assert now() < 5

    virtual_run(main())


def test_calls_behind_a_used_up_limit_wait_with_a_warning_that_says_until_when(caplog):
    async def main():
        client = throttled(Server(lambda number: None, delay=0.1), rpd=10)
        tasks = [asyncio.create_task(say(client)) for _ in range(15)]
        await asyncio.sleep(1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert 1 <= len(caplog.records) <= 2
    assert "10 requests/day are used up; the next call goes in 28 min 48 s (" in caplog.records[0].getMessage()
    assert "with max_wait= they fail instead" in caplog.records[0].getMessage()


def test_a_wait_of_more_than_a_minute_is_logged_once_in_ten_minutes(caplog):
    async def main():
        client = throttled(Script(refuses(headers={"retry-after": "100"}), refuses(headers={"retry-after": "100"})))
        assert kinds(await ends(client, 5)) == {"done": 5}

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    told = [record.getMessage() for record in caplog.records if "the next call goes in" in record.getMessage()]
    assert len(told) == 1
    assert "the next call goes in 1 min 40 s" in told[0]
    assert "the server asked for that; 1 wait; with max_wait= they fail instead" in told[0]
