"""Field cases, sections E and F: what one odd announcement says is not believed for good."""

import json

import pytest

from scripted import CHAT

from .promise import MINUTE, SLACK
from .script import Scripted, answered, call, ends, errors, gather, play, says
from .server import good


def announced(limit, remaining, reset, what):
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(remaining),
        f"x-ratelimit-reset-{what}": reset,
    }


PLENTY = announced(450_000, 449_000, "1s", "tokens")


def prompt(tokens):
    return [{"role": "user", "content": "word " * tokens + "0"}]


@pytest.mark.parametrize("options", [{}, {"tpm": 450_000}], ids=["nothing configured", "tpm configured"])
@pytest.mark.parametrize("later", [PLENTY, {}], ids=["plenty later", "nothing later"])
def test_one_small_limit_refuses_no_call_that_the_server_would_take(options, later):
    few = announced(1000, 1000, "0s", "tokens")

    async def calls(client):
        await ends(call(client))
        return [await ends(call(client, messages=prompt(2000))) for _ in range(5)]

    server = Scripted(announce=lambda attempt: few if attempt.number == 0 else later)
    played = play(calls, server, **options)

    assert answered(played.gave) == 5
    assert played.took <= MINUTE + SLACK


def test_a_prompt_that_was_cached_is_not_too_large():
    usage = {"prompt_tokens": 100_000, "completion_tokens": 1, "total_tokens": 100_001}
    usage["prompt_tokens_details"] = {"cached_tokens": 96_000}
    told = {
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "26000",
        "anthropic-ratelimit-input-tokens-reset": "2099-01-01T00:00:00Z",
    }
    body = json.dumps({**good(0), "usage": usage})

    async def calls(client):
        return [await ends(call(client, messages=prompt(100_000))) for _ in range(4)]

    played = play(calls, Scripted(lambda attempt: says(200, body, **told)), dialect="anthropic")

    assert errors(played.gave) == []
    assert played.took <= MINUTE


@pytest.mark.parametrize(
    "odd",
    [
        announced(1, 0, "720h", "requests-month"),
        announced(1000, 3, "24h", "requests-day"),
        announced(1, 0, "60s", "requests"),
        announced(10, 0, "24h", "tokens-day"),
    ],
    ids=["one a month", "a thousand a day", "one a minute", "ten tokens a day"],
)
def test_a_window_that_is_not_repeated_is_forgotten(odd):
    usual = announced(6000, 5990, "1s", "requests")

    async def calls(client):
        await gather(client, 5)
        return await gather(client, 200)

    server = Scripted(announce=lambda attempt: {**usual, **odd} if attempt.number == 3 else usual)
    played = play(calls, server)

    assert answered(played.gave) == 200
    assert played.took <= MINUTE + 2 * SLACK


def test_windows_that_differ_in_every_answer_are_bounded():
    server = Scripted(announce=lambda attempt: announced(9000, 8999, "1s", f"req-{attempt.number + 1}-second"))

    async def calls(client):
        endings = await gather(client, 500)
        return endings, max(len(budget.windows) for budget in client.throttle.stats().budgets)

    played = play(calls, server)
    endings, windows = played.gave

    assert answered(endings) == 500
    assert windows <= 32


def test_kongs_minute_is_read():
    """60 calls a minute, in minutes of the clock."""

    def used(at, number):
        return sum(1 for attempt in server.attempts[:number] if attempt.at // 60 == at // 60 and not attempt.refused)

    def choose(attempt):
        attempt.refused = used(attempt.at, attempt.number) >= 60
        return says(429, '{"message":"API rate limit exceeded"}', **left(attempt)) if attempt.refused else None

    def left(attempt):
        remaining = max(0, 60 - used(attempt.at, attempt.number) - 1)
        return {"X-RateLimit-Limit-Minute": "60", "X-RateLimit-Remaining-Minute": str(remaining)}

    server = Scripted(choose, announce=left)

    async def calls(client):
        endings = await gather(client, 120)
        return endings, [window.limit for budget in client.throttle.stats().budgets for window in budget.windows]

    played = play(calls, server)
    endings, limits = played.gave

    assert answered(endings) == 120
    assert limits == [60]
    assert played.attempts <= 120 + 12


@pytest.mark.parametrize("text", ["try again in about 2 hours", "Please try again in 4 days 20 hours."])
def test_a_wait_in_words_of_hours_is_a_long_wait(text):
    said = says(429, json.dumps({"error": {"message": f"Limit reached, {text}"}}))

    async def calls(client):
        return await gather(client, 3)

    played = play(calls, Scripted(lambda attempt: said))

    assert [error.status for error in errors(played.gave)] == [429] * 3
    assert played.took <= MINUTE + SLACK
    assert max(played.per_call.values()) <= 3


def test_an_answer_that_grows_slower_is_no_overload():
    """150 answers of 0.2 s, then 450 of 2 s with ten times the tokens: nothing here depends on load."""
    small = json.dumps(CHAT)
    usage = {"prompt_tokens": 8, "completion_tokens": 400, "total_tokens": 408}
    long = json.dumps({**CHAT, "usage": usage})

    class Slower(Scripted):
        async def answer(self, request, module):
            self.latency = 0.2 if len(self.attempts) < 150 else 2.0
            return await super().answer(request, module)

    async def calls(client):
        return await gather(client, 600)

    chosen = Slower(lambda attempt: says(200, small if attempt.number < 150 else long))
    played = play(calls, chosen)

    assert answered(played.gave) == 600
    assert played.took <= 3.6 + SLACK
