"""Limits: configured, announced, changed, shared with neighbours, or none at all; each is reached and kept."""

import asyncio
import importlib

import pytest

from scripted import HI, Says, Script, families, now, say, text_of, throttled, without_jitter
from throttled_openai import Limits, ThrottledAsyncOpenAI
from throttled_openai.simulator import Simulator, serve, virtual_run

# Seconds of a limit that may leave at once: by default, and before the server has accepted anything.
BURST = 0.85


def server(**options):
    """Every answer takes exactly half a second, and a second's worth may arrive at once."""
    return Simulator(**{"latency": 0.5, "latency_sigma": 0.0, "burst": 1.0, **options})


def told(limit, remaining, what="requests", reset="1s"):
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(remaining),
        f"x-ratelimit-reset-{what}": reset,
    }


async def gather(client, calls, text="hi", **more):
    return await asyncio.gather(*(say(client, text, **more) for _ in range(calls)))


def window(client, dimension="requests"):
    return next(window for window in client.throttle.stats().budgets[0].windows if window.dimension == dimension)


def admitted(simulator, start, end=float("inf")):
    return sum(start <= attempt.at < end and attempt.status == 200 for attempt in simulator.log)


# Makespans.


@pytest.mark.parametrize(
    ("limits", "calls", "text", "seconds"),
    [
        ({"rpm": 600}, 100, "hi", 100 / 10 - BURST),
        ({"tpm": 300_000}, 300, text_of(550), 300 * 550 / 5000 - BURST),
        ({"rpm": 600, "tpm": 30_000}, 60, text_of(100), 60 * 100 / 500 - BURST),  # the slower one decides
        ({"rpm": 3}, 8, "hi", 7 / 0.05),
    ],
)
@families
def test_calls_end_exactly_when_the_configured_limits_allow(family, limits, calls, text, seconds):
    async def main():
        simulator = server(**limits, announce=False)
        await gather(throttled(simulator, family, **limits), calls, text)
        # The first answer proves the limit; from then on everything but the burst has had to refill.
        assert now() == pytest.approx(seconds + 0.5)
        assert simulator.refused == 0

    virtual_run(main())


@pytest.mark.parametrize(
    ("limits", "calls", "text", "rate"),
    [
        ({"rpm": 600}, 100, "hi", 10),
        ({"rpm": 3000}, 1000, "hi", 50),
        ({"tpm": 300_000}, 300, text_of(550), 5000 / 550),
        ({"rpm": 600, "tpm": 30_000}, 60, text_of(100), 5),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_announced_limits_are_reached_and_the_burst_grows_to_the_minute_that_is_shown(
    limits, calls, text, rate, configured
):
    async def main():
        simulator = server(**limits, burst=60.0)
        await gather(throttled(simulator, **(limits if configured else {})), calls, text)
        ideal = max(0.5, (calls - 60 * rate) / rate + 0.5)
        assert simulator.succeeded == calls
        assert ideal * 0.999 <= now() <= 1.05 * ideal + 20.0  # the time the burst takes to grow
        assert simulator.refused <= 3

    virtual_run(main())


@pytest.mark.parametrize(
    ("limits", "calls", "text", "rate"),
    [
        ({"rpm": 600}, 100, "hi", 10),
        ({"rpm": 3000}, 1000, "hi", 50),
        ({"tpm": 300_000}, 300, text_of(55), 5000 / 55),
        ({"tpm": 300_000}, 300, text_of(550), 5000 / 550),
    ],
)
def test_a_burst_of_a_second_is_found_although_the_headers_show_a_minute(limits, calls, text, rate):
    async def main():
        simulator = server(**limits, burst=1.0)
        await gather(throttled(simulator), calls, text)
        ideal = (calls - rate) / rate + 0.5
        assert simulator.succeeded == calls
        assert ideal * 0.999 <= now() <= 1.05 * ideal + 3.0
        assert simulator.refused <= 5

    virtual_run(main())


def test_ten_thousand_calls_in_one_gather_all_succeed_without_a_refusal():
    async def main():
        simulator = server(rpm=30_000, announce=False)
        client, body = throttled(simulator, rpm=30_000), {"model": "gpt-4o", "messages": HI}
        # Below `chat.completions`, whose building of model objects is half the time.
        calls = (client.post("/chat/completions", body=body, cast_to=object) for _ in range(10_000))
        answers = await asyncio.gather(*calls)
        assert len({answer["id"] for answer in answers}) == 10_000
        assert simulator.refused == 0
        assert simulator.attempts == 10_000
        # Opening from 16 in flight by doublings of a tenth of a second costs some three tenths of one.
        assert (10_000 - BURST * 500) / 500 + 0.5 <= now() <= (10_000 - BURST * 500) / 500 + 0.8

    virtual_run(main())


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_with_places_rather_than_rates_is_kept_full(status):
    async def main():
        simulator = Simulator(
            max_in_flight=40, announce=False, retry_after=False, overload_status=status, latency=0.5, latency_sigma=0.2
        )
        await gather(throttled(simulator, max_retries=0), 1500)
        assert simulator.succeeded == 1500
        assert simulator.refused <= 0.05 * 1500
        # The mean of a lognormal latency is its median x exp(sigma^2 / 2).
        assert now() <= 1.25 * (1500 * 0.5 * 1.0202 / 40 + 0.5)

    virtual_run(main())


def test_no_second_has_more_than_a_second_allows():
    async def main():
        simulator = server(rpm=600, announce=False)
        await gather(throttled(simulator, rpm=600), 100)
        at = [attempt.at for attempt in simulator.log]
        assert all(sum(start <= instant < start + 1.0 for instant in at) <= 10 * (1.0 + BURST) for start in at)

    virtual_run(main())


@pytest.mark.parametrize("limits", [{}, {"rpm": 6000}])
def test_before_anything_is_answered_attempts_double_every_50_ms(limits):
    async def main():
        simulator = server(rpm=6000)
        await gather(throttled(simulator, **limits), 100)
        early = [attempt.at for attempt in simulator.log if attempt.at < 0.5]
        assert [sum(at <= 0.05 * doublings + 1e-6 for at in early) for doublings in range(5)] == [1, 2, 4, 8, 16]

    virtual_run(main())


@pytest.mark.parametrize("limits", [{"rpm": 3000}, {}])
@pytest.mark.parametrize("announce", [True, False])
def test_an_account_used_up_by_others_costs_a_few_refusals(limits, announce):
    """Whatever else tells it: headers, or only the refusals and their times."""

    async def main():
        simulator = server(rpm=3000, burst=60.0, initial_level=0.0, announce=announce, explain_refusals=announce)
        simulator.drain("gpt-4o", requests=3000)
        await gather(throttled(simulator, **limits), 500)
        assert simulator.succeeded == 500
        assert simulator.refused <= (25 if limits or announce else 60)
        assert now() <= (1.15 if limits or announce else 3.0) * 500 / 50 + 1.5

    virtual_run(main())


def test_a_burst_that_the_provider_allows_may_be_configured():
    async def main():
        simulator = server(rpm=60, burst=60.0)
        client = throttled(simulator, limits={"gpt-4o": Limits(rpm=60, burst=60.0)})
        await gather(client, 60)
        # At first one; answered after half a second. Then the limit opens by silence: all leave in 0.3 s.
        assert now() <= 1.0
        assert simulator.refused == 0

    virtual_run(main())


# Announced limits.


@families
def test_announced_limits_are_adopted(family):
    async def main():
        client = throttled(server(rpm=600, tpm=60_000), family)
        await say(client)
        for dimension, limit in (("requests", 600.0), ("tokens", 60_000.0)):
            assert window(client, dimension).limit == limit
            assert window(client, dimension).period == 60.0
            assert window(client, dimension).announced

    virtual_run(main())


@families
def test_over_sockets_announced_limits_are_adopted(family):
    async def main():
        simulator = Simulator(rpm=6000, latency=0.01)
        async with serve(simulator) as url, importlib.import_module(family).AsyncClient() as mine:
            client = without_jitter(ThrottledAsyncOpenAI(api_key="x", base_url=url, http_client=mine, max_retries=0))
            await gather(client, 50)
            assert window(client).limit == 6000.0
            assert simulator.succeeded == 50

    asyncio.run(main())


@pytest.mark.parametrize(("configured", "announced", "kept"), [(300, 600, 300.0), (900, 600, 600.0)])
def test_a_configured_limit_is_a_ceiling(configured, announced, kept):
    async def main():
        simulator = server(rpm=announced)
        client = throttled(simulator, rpm=configured)
        await say(client)
        assert window(client).limit == kept
        began = now()
        await gather(client, 100)
        assert now() - began >= (100 - kept / 60) / (kept / 60)
        assert simulator.refused <= 1

    virtual_run(main())


@pytest.mark.parametrize(("before", "after"), [(600, 1200), (600, 150)])
def test_a_limit_that_changes_is_followed(before, after):
    async def main():
        simulator = server(rpm=before)
        client = throttled(simulator)
        calls = asyncio.create_task(gather(client, 300))
        await asyncio.sleep(10.0)
        simulator.change(rpm=after)
        # Learnt with the next answers.
        await asyncio.sleep(2.0)
        assert window(client).limit == after
        await asyncio.sleep(8.0)
        assert admitted(simulator, 12.0, 20.0) == pytest.approx(8 * after / 60, abs=0.05 * 8 * after / 60 + 1)
        await calls
        assert simulator.succeeded == 300

    virtual_run(main())


def test_an_older_answer_does_not_bring_back_an_older_limit():
    async def main():
        script = Script(Says(headers=told(600, 599), delay=5.0), Says(headers=told(1200, 1199), delay=1.0))
        client = throttled(script)
        first = asyncio.create_task(say(client))
        await asyncio.sleep(1.0)
        await say(client)
        assert window(client).limit == 1200.0
        await first
        assert window(client).limit == 1200.0

    virtual_run(main())


# Neighbours.


def test_the_remainder_shows_what_a_neighbour_took():
    async def main():
        simulator = server(rpm=600, burst=60.0, latency=0.0)
        client = throttled(simulator, limits=Limits(rpm=600, burst=60.0))
        await say(client)
        reserve = 2
        assert window(client).spendable == 599 - reserve
        simulator.drain("gpt-4o", requests=500)
        for _ in range(4):
            await asyncio.sleep(1.0)
            await say(client)
        # It need not have been a neighbour who stays, so a few answers must say so.
        left = 600 - 500 - 5 + 30 - reserve
        assert left - 5 <= window(client).spendable <= left + 0.15 * 500

    virtual_run(main())


def test_remaining_raises_a_level_that_was_too_low():
    """Where the server had forgiven what it refused, or gave back what was not used."""

    async def main():
        script = Script(Says(headers=told(600, 0)), *[Says(headers=told(600, 400 + 9 * n)) for n in range(9)])
        client = throttled(script, limits=Limits(rpm=600, burst=60.0))
        await say(client)
        began = now()
        for _ in range(6):
            await say(client)
            await asyncio.sleep(1.0)
        assert window(client).spendable > 300 + 10 * (now() - began)

    virtual_run(main())


def test_what_was_sent_since_the_server_looked_is_taken_off():
    async def main():
        script = Script(Says(headers=told(600, 300), delay=5.0))
        client = throttled(script, limits=Limits(rpm=600, burst=60.0))
        # Its answer is 5 s old when it comes: 40 were sent since, 50 refilled since.
        old = asyncio.create_task(say(client))
        await asyncio.sleep(1.0)
        await gather(client, 40)
        await old
        assert window(client).spendable == pytest.approx(300 - 2 + 5 * 10 - 40)

    virtual_run(main())


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_next_to_a_neighbour_calls_take_what_is_left(share):
    async def main():
        simulator = server(rpm=600, burst=60.0)
        client = throttled(simulator, rpm=600)

        async def neighbour():
            while True:
                simulator.drain("gpt-4o", requests=1)
                await asyncio.sleep(1 / (10 * share))

        busy = asyncio.create_task(neighbour())
        await gather(client, 1000)
        busy.cancel()
        # A minute's worth was there at first; from then on the neighbour's share is missing.
        ideal = (1000 - 600) / (10 * (1 - share))
        assert ideal * 0.99 <= now() <= 1.05 * ideal + 3.0
        assert simulator.refused <= 5

    virtual_run(main())


def test_each_model_has_the_limits_announced_for_it():
    async def main():
        client = throttled(Script(Says(headers=told(600, 599)), Says(headers=told(60, 59))))
        await say(client, model="gpt-4o")
        await say(client, model="gpt-4o-mini")
        limits = {budget.name: budget.windows[0].limit for budget in client.throttle.stats().budgets}
        assert limits == {"gpt-4o": 600.0, "gpt-4o-mini": 60.0}

    virtual_run(main())


def test_a_snapshot_draws_on_its_familys_budget():
    async def main():
        simulator = server()
        client = throttled(simulator, limits={"gpt-4o": Limits(rpm=60)})
        await asyncio.gather(*(say(client, model=model) for model in ("gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-latest")))
        assert [attempt.at for attempt in simulator.log] == [0.0, 1.0, 2.0]

    virtual_run(main())


def test_models_given_one_limits_object_share_one_budget():
    async def main():
        simulator = server()
        shared = Limits(rpm=60)
        client = throttled(simulator, limits={"a": shared, "b": shared, "c": Limits(rpm=60)})
        await asyncio.gather(*(say(client, model=model) for model in "abcab"))
        at = {model: [attempt.at for attempt in simulator.log if attempt.model == model] for model in "abc"}
        assert at == {"a": [0.0, 2.0], "b": [1.0, 3.0], "c": [0.0]}

    virtual_run(main())


def test_a_request_larger_than_the_bucket_waits_for_a_full_one_and_leaves_debt():
    async def main():
        simulator = server(tpm=60_000, burst=60.0, announce=False)
        client = throttled(simulator, tpm=60_000)
        await say(client)
        began = now()
        # 850 tokens fit into the bucket, and these are 5,000.
        await say(client, text_of(5000))
        assert window(client, "tokens").spendable < 0
        await say(client, text_of(500))
        sent = [attempt.at - began for attempt in simulator.log]
        assert sent[1] < 1.0
        # Until the bucket holds 500 again: its debt of 4,150, and 500, at 1,000 a second.
        assert sent[2] == pytest.approx(sent[1] + 4.65, abs=0.01)

    virtual_run(main())


def test_where_the_server_shows_a_minute_large_requests_do_not_wait_for_each_others_debt():
    async def main():
        simulator = server(tpm=60_000, burst=60.0)
        client = throttled(simulator)
        await say(client)
        began = now()
        await gather(client, 10, text_of(5000))
        assert now() - began <= 15  # and not 50
        assert simulator.refused == 0

    virtual_run(main())


def test_small_calls_do_not_keep_a_large_one_waiting():
    async def main():
        simulator = server(tpm=60_000, burst=60.0)
        client = throttled(simulator)
        await say(client)
        simulator.drain("gpt-4o", tokens=60_000)
        large = asyncio.create_task(say(client, text_of(20_000)))
        await asyncio.sleep(0)
        small = [asyncio.create_task(say(client, text_of(200))) for _ in range(300)]
        began = now()
        await large
        assert now() - began <= 2 * 20.0 + 3.0
        assert sum(task.done() for task in small) >= 20  # and they have not waited for it
        await asyncio.gather(*small)
        assert simulator.refused <= 10

    virtual_run(main())


@pytest.mark.parametrize("limits", [{}, {"rpm": 3}])
@pytest.mark.parametrize("burst", [20.0, 60.0])
def test_three_requests_a_minute_are_reached_without_a_refusal(limits, burst):
    async def main():
        simulator = server(rpm=3, burst=burst, latency=2.0)
        await gather(throttled(simulator, **limits), 10)
        assert now() <= (10 - burst / 20) * 20 + 2.0 + 2.0
        assert simulator.refused <= 3

    virtual_run(main())


def test_the_statistics_say_what_an_attempt_takes_from_the_token_limit():
    async def main():
        client = throttled(server())
        await say(client)
        budget = client.throttle.stats().budgets[0]
        assert budget.tokens_per_call == client.throttle._dispatcher.limiters.find("gpt-4o").rates.tokens_per_call > 0

    virtual_run(main())
