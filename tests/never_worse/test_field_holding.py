"""Field cases, section B: one odd refusal, then a healthy server. No call is held for hours, or in silence."""

import asyncio

import pytest

from .promise import MINUTE, SLACK
from .script import Scripted, answered, call, ends, errors, first, gather, last, play, says

AZURE = (
    '{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded call rate limit '
    'of your current OpenAI S0 pricing tier. Please retry after 86400 seconds."}}'
)
BY_DAY = '{"error":{"code":"RateLimitReached","message":"Rate limit of 50 per 86400s exceeded for UserByModelByDay."}}'
ODD = {
    "Azure's 86400 in words": says(429, AZURE),
    "Azure's 86400 as header": says(429, AZURE, retry_after="86400"),
    "a gateway's page": says(503, "<html>Service Unavailable</html>", "text/html", retry_after="3600"),
    "milliseconds by mistake": says(429, '{"error":{"message":"slow"}}', retry_after="30000"),
    "Cloudflare's 1015": says(429, "error code: 1015", "text/plain", retry_after="54749"),
    "GitHub's day": says(429, BY_DAY, retry_after="42312"),
    "an overload of a day": says(503, '{"error":{"message":"overloaded"}}', retry_after="86400"),
    "a ban by text": says(429, '{"error":{"message":"Please try again in 23h59m0s."}}'),
}


async def one_then_ten(client):
    endings = [await ends(call(client))]
    return endings + await gather(client, 10)


@pytest.mark.parametrize("odd", ODD)
def test_after_one_odd_wait_the_next_calls_go_within_a_minute_or_so(odd):
    stock = play(one_then_ten, Scripted(first(ODD[odd])), ours=False)
    ours = play(one_then_ten, Scripted(first(ODD[odd])))

    assert last(ours.gave) <= stock.took + MINUTE + SLACK
    assert answered(ours.gave) >= answered(stock.gave)
    assert ours.took <= stock.took + SLACK or ours.warnings


def test_the_retry_after_of_a_gateways_page_is_for_the_sdk_to_judge():
    stock = play(one_then_ten, Scripted(first(ODD["a gateway's page"])), ours=False)
    ours = play(one_then_ten, Scripted(first(ODD["a gateway's page"])))

    assert ours.took <= stock.took + SLACK
    assert list(map(str, errors(ours.gave))) == list(map(str, errors(stock.gave)))


@pytest.mark.parametrize("odd", ["milliseconds by mistake", "Cloudflare's 1015", "GitHub's day"])
def test_a_wait_above_two_minutes_is_raised_as_stock_raises_it(odd):
    async def one(client):
        return [await ends(call(client))]

    played = play(one, Scripted(lambda attempt: ODD[odd]))

    assert [error.status for error in errors(played.gave)] == [429]
    assert played.took <= MINUTE + SLACK


def opens_at(instant):
    """Refuses until then, and says for how long."""

    def choose(attempt):
        left = instant - attempt.at
        return says(429, '{"error":{"message":"later"}}', retry_after=f"{left:.0f}") if left >= 1 else None

    return Scripted(choose)


def test_a_longer_max_wait_waits_as_long_as_the_server_refuses():
    async def one(client):
        return [await ends(call(client))]

    played = play(one, opens_at(600.0), max_wait=1000.0)

    assert answered(played.gave) == 1
    assert 599.0 <= played.took <= 660.0 + SLACK


def test_a_wait_of_more_than_a_minute_is_warned_of():
    async def one(client):
        return [await ends(call(client))]

    played = play(one, opens_at(100.0))

    assert answered(played.gave) == 1
    assert played.warnings
    assert played.warned_at <= SLACK


def test_while_an_unexplained_wait_stands_one_call_a_minute_tries():
    async def ten(client):
        return await gather(client, 10)

    server = Scripted(first(says(429, '{"error":{"message":"later"}}', retry_after="3600")))
    played = play(ten, server, max_wait=7200.0)

    assert answered(played.gave) == 10
    assert played.took <= MINUTE + SLACK


def test_probes_of_a_long_wait_are_one_a_minute():
    async def ten(client):
        return await asyncio.gather(*(ends(call(client, number)) for number in range(10)))

    server = opens_at(1800.0)
    played = play(ten, server, max_wait=7200.0)

    assert answered(played.gave) == 10
    asked = [attempt.at for attempt in server.attempts if 60.0 < attempt.at < 1790.0]
    assert len(asked) <= 31
