"""The client knows the provider: what attempts cost, who shares a limit, what a stream or a bill says."""

import asyncio
import logging

import openai
import pytest

from scripted import HI, Says, Script, now, refuses, say, text_of, throttled
from throttled_openai import AccountBlocked, Limits, ThrottledAsyncOpenAI
from throttled_openai.simulator import Fault, Simulator, virtual_run


def server(**options):
    return Simulator(**{"latency": 0.5, "latency_sigma": 0.0, "network": 0.02, **options})


async def gather(client, calls, text="hi", **more):
    return await asyncio.gather(*(say(client, text, **more) for _ in range(calls)))


# Dialects.


def test_an_unknown_dialect_fails_in_the_constructor():
    with pytest.raises(ValueError, match=r"dialect must be one of 'openai', 'azure'.*got 'opnai'"):
        ThrottledAsyncOpenAI(api_key="x", dialect="opnai")


def test_copies_keep_the_dialect():
    client = ThrottledAsyncOpenAI(api_key="x", dialect="mistral")
    assert client.with_options(timeout=5)._dialect == "mistral"
    assert client.copy(_extra_kwargs={"dialect": "groq"})._dialect == "groq"


# Cost.


def test_that_a_server_reserves_max_tokens_is_learnt_from_its_headers():
    async def main():
        simulator = server(tpm=60_000, charge="reserve")
        client = throttled(simulator, dialect="unknown")
        for _ in range(6):  # one after the other: what each took can be seen
            await say(client, max_tokens=1000)
        assert simulator.refused == 0
        await gather(client, 150, max_tokens=1000)
        # 60 fit into the full bucket; of those sent at once none was one too many.
        assert simulator.refused <= 2
        assert now() == pytest.approx((156 * 1005 - 60_000) / 1000, rel=0.05)

    virtual_run(main())


def test_that_a_server_reserves_max_tokens_is_learnt_from_a_refusal():
    async def main():
        simulator = server(tpm=60_000, charge="reserve", announce=False, initial_level=0.0)
        client = throttled(simulator, dialect="unknown", tpm=60_000)
        await gather(client, 60, max_tokens=1000)
        assert simulator.refused <= 2
        assert now() == pytest.approx(60, rel=0.05)

    virtual_run(main())


@pytest.mark.parametrize("announce", [True, False])
def test_where_usage_is_charged_the_pace_is_that_of_the_usage(announce):
    async def main():
        # Each call is estimated at 1,003 tokens of input and takes about 207 more for its answer.
        simulator = server(tpm=120_000, charge="usage", completion_tokens=200, announce=announce, initial_level=0.2)
        client = throttled(simulator, dialect="mistral", tpm=120_000)
        await gather(client, 200, text_of(1003))
        used = client.throttle.stats().budgets[0].tokens_used
        assert used == 200 * (200 + 1007)
        assert simulator.refused <= 4
        # What is in the bucket at first is used where headers show it.
        assert now() == pytest.approx((used - 24_000 * announce) / 2000, rel=0.05)

    virtual_run(main())


# Shared limits.


def test_models_that_share_a_limit_share_a_budget_once_a_refusal_says_so():
    async def main():
        simulator = server(rpm=600, shared_limit="gpt-4.1", announce=False, initial_level=0.0)
        client = throttled(simulator)
        models = ["gpt-4.1-2025-04-14", "gpt-4.1-mini"]
        await asyncio.gather(*(gather(client, 30, model=model) for model in models))
        first, second = (client.throttle._dispatcher.limiters.find(model) for model in models)
        assert first.budget is second.budget
        assert simulator.refused <= 4
        assert now() == pytest.approx(6.5, abs=1.5)

    virtual_run(main())


def test_a_limit_written_down_for_a_model_stays_its_own():
    async def main():
        text = "Rate limit reached for gpt-4.1-mini (for limit gpt-4.1) in organization org-x on requests per min (RPM)"
        script = Script(refuses(text, headers={"retry-after-ms": "100"}))
        client = throttled(script, limits={"gpt-4.1-mini": Limits(rpm=600)})
        await say(client, model="gpt-4.1-mini")
        await say(client, model="gpt-4.1")
        assert (
            client.throttle._dispatcher.limiters.find("gpt-4.1-mini").budget
            is not client.throttle._dispatcher.limiters.find("gpt-4.1").budget
        )

    virtual_run(main())


# Streams.


@pytest.mark.parametrize("shape", ["wrapped", "flat", "failed"])
def test_a_rate_limit_error_inside_a_stream_counts_as_a_refusal(shape):
    async def main():
        fault = Fault("stream_error", shape=shape, last=0, retry_after=3.0)
        simulator = server(faults=[fault])
        client = throttled(simulator)

        async def read():
            events = []
            stream = await client.responses.create(model="gpt-4o", input="hi", stream=True)
            try:
                async for event in stream:
                    events.append(event)
            except openai.APIError as error:
                return error.code
            return events[-1].type

        assert await read() in {"rate_limit_exceeded", "error", "response.failed"}
        seen = now()
        stats = client.throttle.stats()
        assert (stats.refused, stats.succeeded, stats.in_flight) == (1, 0, 0)
        await say(client)
        assert simulator.log[-1].at - seen >= 2.9  # the budget is paused as the error asked

    virtual_run(main())


# Bills and days.


@pytest.mark.parametrize(("status", "code"), [(429, "insufficient_quota"), (402, "insufficient_balance")])
def test_a_billing_refusal_fails_all_waiting_calls_with_the_servers_response(status, code):
    async def main():
        bill = refuses("Pay first.", code=code, kind=code, status=status)
        script = Script(Says(), bill, bill)  # one call confirms what another was refused for
        client = throttled(script, rpm=60, max_retries=0)
        await say(client)
        results = await asyncio.gather(*(say(client, str(number)) for number in range(50)), return_exceptions=True)
        blocked = [result for result in results if isinstance(result, AccountBlocked)]
        assert len(script.seen) == 3
        assert len(blocked) == 48
        assert all(isinstance(error, openai.RateLimitError) and error.code == code for error in blocked)
        assert all(error.response.status_code == status for error in blocked)
        with pytest.raises(AccountBlocked, match=r"settle the account; one call tries again in \d+ s"):
            await say(client)
        assert len(script.seen) == 3
        await asyncio.sleep(10.1)
        assert (await say(client)).choices  # the account has been settled
        assert (await say(client)).choices

    virtual_run(main())


def test_a_used_up_day_says_how_long_it_will_take(caplog):
    async def main():
        simulator = server(rpm=500, rpd=20)
        client = throttled(simulator)
        with caplog.at_level(logging.WARNING, logger="throttled_openai"):
            tasks = [asyncio.create_task(say(client)) for _ in range(30)]
            await asyncio.sleep(60)
        assert simulator.succeeded >= 18
        [record] = caplog.records
        assert "20 requests/day are used up; the next call goes in 28 min" in record.getMessage()
        assert "all 11 waiting in 12 h" in record.getMessage()
        late = client.with_throttle(max_wait=5.0)
        with pytest.raises(openai.APITimeoutError, match="20 requests/day are used up"):
            await say(late)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual_run(main())


def test_nothing_of_a_prompt_or_an_error_text_is_logged(caplog):
    async def main():
        secret = "the secret text"
        script = Script(
            refuses(f"{secret} Rate limit reached", headers={"retry-after-ms": "10"}),
            refuses(secret, code="insufficient_quota"),
        )
        client = throttled(script, max_retries=0)
        with caplog.at_level(logging.DEBUG, logger="throttled_openai"), pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o", messages=[*HI, {"role": "user", "content": secret}])
        assert caplog.records
        assert secret not in caplog.text
        assert "sk-test" not in caplog.text

    virtual_run(main())
