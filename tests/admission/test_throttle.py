"""The throttle: which call goes when, by limits, priority, concurrency and refusals. Time is virtual and exact."""

import asyncio
import logging

import pytest

from support import (
    Call,
    Limits,
    Outcome,
    QueueOptions,
    admit,
    announcement,
    call,
    gather,
    lane,
    now,
    proven,
    refusal,
    refuse,
    start,
    throttle,
    ticks,
    virtual,
)
from throttled_openai import AdmissionError, AdmissionTimeout, RequestTooLarge, ThrottledAsyncOpenAI
from throttled_openai._protocol.refusals import Refusal
from throttled_openai._protocol.usage import Usage
from throttled_openai.simulator import Simulator

# --- pace -----------------------------------------------------------------------------------------


@virtual
async def test_calls_go_at_the_pace_of_the_limit_of_requests():
    t = throttle(rpm=60)
    assert await gather(*(call(t, seconds=0.25) for _ in range(200))) == list(range(200))


@virtual
async def test_calls_go_at_the_pace_of_the_limit_of_tokens():
    t = throttle(tpm=600)  # 10 tokens a second
    # Each is larger than 0.85 s of the limit: it goes when the bucket is full, and leaves it in debt.
    assert await gather(*(call(t, 20) for _ in range(50))) == [2.0 * i for i in range(50)]


@virtual
async def test_calls_go_at_the_pace_of_the_tighter_limit():
    t = throttle(rpm=60, tpm=600)
    assert await gather(*(call(t, 5) for _ in range(50))) == list(range(50))
    t = throttle(rpm=60, tpm=600)
    assert await gather(*(call(t, 40) for _ in range(5))) == [now() + 4 * i for i in range(-4, 1)]


@virtual
async def test_the_burst_leaves_at_once_and_the_rest_at_the_pace():
    t = await proven(Limits(rpm=60, burst=10))
    assert await gather(*(call(t) for _ in range(13))) == 10 * [100] + [101, 102, 103]


@virtual
async def test_no_call_waits_where_no_limit_is_known_up_to_the_concurrency_limit():
    t = await proven()
    assert await gather(*(call(t, 10**6, seconds=1) for _ in range(17))) == 16 * [100] + [101]


@virtual
async def test_while_a_call_waits_for_tokens_nothing_is_taken_from_the_requests():
    t = await proven(Limits(rpm=60, tpm=600, burst=10))
    await call(t, 100)
    waiting = start(call(t, 50))
    await asyncio.sleep(4)
    assert [lane(t).budget.pacers[dimension].level for dimension in ("requests", "tokens")] == [10, 40]
    assert await waiting == 105
    assert lane(t).budget.pacers["requests"].level == 9


# --- order ----------------------------------------------------------------------------------------


@virtual
async def test_calls_go_in_the_order_of_their_arrival():
    t, order = throttle(rpm=6000), []

    async def one(number):
        await call(t, number % 7, seconds=number % 3)
        order.append((number, now() - number % 3))

    await gather(*(one(number) for number in range(100)))
    admitted = [at for _, at in sorted(order)]
    assert admitted == pytest.approx(sorted(admitted), abs=1e-9)


@virtual
async def test_higher_priority_goes_first_and_equals_go_by_arrival():
    t = throttle(rpm=60)
    await call(t)
    tasks = [start(call(t, priority=priority)) for priority in (0, -1, 0, 7, 7)]
    assert await gather(*tasks) == [3, 5, 4, 1, 2]


@virtual
async def test_an_urgent_small_call_goes_at_once_while_a_large_one_saves_up():
    t = await proven(Limits(tpm=600, burst=10))
    await call(t, 50)
    large = start(call(t, 100))
    await ticks()
    assert await call(t, 10, priority=1) == 100
    assert await large == 106


@virtual
async def test_a_refused_call_keeps_its_place():
    t = throttle(rpm=60)
    refused = Call("m", 1, QueueOptions())
    permit = await t._dispatcher.admit(refused)
    later = [start(call(t)) for _ in range(3)]
    await ticks()
    permit.settle(Outcome.REFUSED, refusal("requests", 2.0))
    again = await t._dispatcher.admit(refused)
    assert again.admitted_at == 2
    again.settle(Outcome.SUCCESS)
    assert await gather(*later) == [3, 4, 5]


# --- budgets --------------------------------------------------------------------------------------


@virtual
async def test_each_model_has_the_shortcut_limits_for_itself():
    t = throttle(rpm=60)
    assert await gather(*(call(t, model=model) for model in "abab")) == [0, 0, 1, 1]
    assert len(t.stats().budgets) == 2


@virtual
async def test_one_limits_object_is_one_budget_for_all_models():
    t = throttle(Limits(rpm=60))
    assert await gather(*(call(t, model=model) for model in "abab")) == [0, 1, 2, 3]
    assert [budget.name for budget in t.stats().budgets] == ["all models"]


@virtual
async def test_models_that_are_given_one_limits_object_draw_on_it_together():
    shared = Limits(rpm=60)
    t = throttle({"a": shared, "b": shared, "c": Limits(rpm=60)})
    assert await gather(*(call(t, model=model) for model in "abc")) == [0, 1, 0]
    assert [budget.name for budget in t.stats().budgets] == ["a, b", "c"]


@virtual
async def test_a_snapshot_draws_on_the_budget_of_its_family():
    t = throttle({"gpt-4o": Limits(rpm=60)})
    models = ["gpt-4o-2024-08-06", "gpt-4o", "ft:gpt-4o-2024-08-06:org::id"]
    assert await gather(*(call(t, model=model) for model in models)) == [0, 1, 2]


# --- concurrency ----------------------------------------------------------------------------------


@virtual
async def test_no_more_calls_are_in_flight_than_the_ceiling_over_all_models():
    t, most = throttle(max_concurrency=3), 0

    async def one(model):
        nonlocal most
        permit = await admit(t, model=model)
        most = max(most, t.in_flight)
        await asyncio.sleep(1)
        permit.settle(Outcome.SUCCESS)

    await gather(*(one(model) for model in "abcd" * 10))
    assert most == 3
    assert now() == 14  # 40 calls, 3 at a time


@virtual
async def test_under_the_ceiling_no_model_starves_another():
    t = throttle(max_concurrency=2)
    await gather(*(call(t, model=model) for model in ("busy", "late")))
    busy = [start(call(t, seconds=1, model="busy")) for _ in range(20)]
    await ticks()
    assert await call(t, seconds=1, model="late") == 10  # after the 20 that came before it
    more = [start(call(t, seconds=1, model=model)) for model in ("busy", "late") * 4]
    assert sorted(await gather(*more)) == sorted(at for at in await gather(*more))
    await gather(*busy)


@virtual
async def test_under_the_ceiling_models_go_in_the_order_of_arrival():
    t = throttle(max_concurrency=1)
    models = ["a", "a", "b", "a", "c", "b"]
    assert await gather(*(call(t, seconds=1, model=model) for model in models)) == [0, 1, 2, 3, 4, 5]


@virtual
async def test_under_the_ceiling_every_tenth_is_the_one_that_has_waited_longest_whatever_its_model():
    t = throttle(max_concurrency=1)
    await gather(*(call(t, model=model) for model in ("urgent", "patient")))
    began, first = now(), start(call(t, seconds=1, model="urgent"))
    await ticks()
    patient = [start(call(t, seconds=1, model="patient")) for _ in range(3)]
    await ticks()
    urgent = [start(call(t, seconds=1, model="urgent", priority=5)) for _ in range(40)]
    assert [at - began for at in await gather(*patient)] == [10, 20, 30]
    await gather(first, *urgent)


@virtual
async def test_a_model_that_waits_for_its_budget_leaves_the_ceiling_to_the_others():
    t = throttle({"slow": Limits(rpm=1)}, max_concurrency=1)
    await call(t, model="slow")
    slow = start(call(t, model="slow"))
    await ticks()
    assert await gather(*(call(t, seconds=1, model="fast") for _ in range(5))) == [0, 1, 2, 3, 4]
    assert await slow == pytest.approx(60)


@virtual
async def test_ten_refusals_of_one_overload_halve_the_limit_once():
    t = throttle()
    permits = [await admit(t) for _ in range(10)]
    await asyncio.sleep(1)
    for permit in permits:
        permit.settle(Outcome.REFUSED, refusal(kind="overload"))
    assert t.stats().budgets[0].concurrency_limit == 8  # of 16, though all ten were refused


@pytest.mark.parametrize("kind", ["too_large", "billing"])
@virtual
async def test_a_final_refusal_says_nothing_about_the_pace(kind):
    t = throttle(tpm=600_000)
    permits = [await admit(t, 10) for _ in range(10)]
    limit = t.stats().budgets[0].concurrency_limit
    for permit in permits:
        refuse(permit, refusal(kind=kind, retry_after=1000.0))
    assert t.stats().budgets[0].concurrency_limit == limit
    assert lane(t).budget.token_rate == 10_000
    await asyncio.sleep(10)
    assert await call(t) == now()


# --- refusals and announcements -------------------------------------------------------------------


@virtual
async def test_a_refusal_pauses_all_waiting_calls_which_then_go_at_the_pace():
    t = await proven(Limits(rpm=60, burst=10))
    permit = await admit(t)
    tasks = [start(call(t)) for _ in range(12)]
    await ticks()
    assert t.waiting == 3
    permit.settle(Outcome.REFUSED, refusal("requests", 5.0))
    assert (await gather(*tasks))[-3:] == [105, 106, 107]


@virtual
async def test_a_refusal_that_names_a_limit_admits_no_call_before_its_pause():
    t = throttle()
    permits = [await admit(t) for _ in range(16)]
    waiting = [start(call(t)) for _ in range(100)]
    await asyncio.sleep(0.5)  # after a second of silence more would be in flight
    permits[0].settle(Outcome.REFUSED, Refusal("rate", "requests", 10.0, period=60.0, limit=60_000.0))
    assert t.in_flight == 15
    for permit in permits[1:]:
        permit.settle(Outcome.IGNORED)
    assert min(await gather(*waiting)) >= 10.5


@virtual
async def test_announced_limits_set_the_pace():
    t = throttle()
    permit = await admit(t)
    for _ in range(2):  # announced once, it would be doubtful
        permit.observe(announcement(rpm=60, rpm_left=0))
    permit.settle(Outcome.SUCCESS)
    reserve = 1.2  # 2 % of the limit
    assert await gather(*(call(t) for _ in range(5))) == pytest.approx([reserve + n for n in range(1, 6)])


@virtual
async def test_a_higher_announced_limit_admits_waiting_calls_at_once():
    t = throttle()
    permit = await admit(t)
    permit.observe(announcement(rpm=1, rpm_left=0))
    waiting = start(call(t))
    await asyncio.sleep(1)
    permit.observe(announcement(rpm=60_000))
    permit.started()
    assert await waiting == pytest.approx(1, abs=0.01)
    permit.settle(Outcome.SUCCESS)


@virtual
async def test_a_call_that_cannot_fit_the_announced_limit_fails_at_once_with_the_numbers():
    t = throttle()
    permit = await admit(t)
    for _ in range(2):  # announced once, it would be doubtful
        permit.observe(announcement(tpm=10_000))
    permit.settle(Outcome.SUCCESS)
    with pytest.raises(RequestTooLarge, match=r"estimated at 15,001 tokens but m admits at most 10,000") as failed:
        await admit(t, 15_001)
    assert (failed.value.tokens, failed.value.limit) == (15_001, 10_000)
    assert t.waiting == t.in_flight == 0
    await call(t, 15_000)  # estimates are within 30 %: the server shall say


@virtual
async def test_a_call_larger_than_a_configured_limit_is_sent():
    t = throttle(tpm=600)
    assert await call(t, 100_000) == 0


# --- what it tells --------------------------------------------------------------------------------


@virtual
async def test_stats_count_calls_and_attempts():
    t = throttle(Limits(rpm=60, tpm=6000))
    await call(t, 10)
    await call(t, 10, outcome=Outcome.REFUSED, refusal=refusal("requests", 1.0))
    permit = await admit(t, 10)
    permit.used(Usage(600, 100))
    permit.used(Usage(600, 200))  # the newest report counts
    waiting = start(call(t, 10))
    await ticks()
    stats = t.stats()
    assert (stats.waiting, stats.in_flight, stats.admitted, stats.succeeded, stats.refused) == (1, 1, 3, 1, 1)
    assert stats.budgets[0].tokens_used == 800
    assert [str(window) for window in stats.budgets[0].windows] == ["60 requests/min", "6,000 tokens/min"]
    permit.settle(Outcome.SUCCESS)
    await waiting


@virtual
async def test_the_repr_is_a_status_line():
    t = throttle(Limits(rpm=60))
    permit = await admit(t)
    waiting = [start(call(t)) for _ in range(2)]
    await ticks()
    limit = t.stats().budgets[0].concurrency_limit
    assert repr(t) == (
        "<Throttle [2 waiting, 1 in flight, 0 succeeded | "
        f"all models: 2 waiting, 1 in flight of {limit}, 0 succeeded, 0 refused | 60 requests/min]>"
    )
    permit.settle(Outcome.SUCCESS)
    await gather(*waiting)


def test_no_log_repr_or_error_contains_prompts_or_keys(caplog):
    caplog.set_level(logging.DEBUG, logger="throttled_openai")
    httpx2 = pytest.importorskip("httpx2")

    @virtual
    async def run():
        http_client = httpx2.AsyncClient(transport=Simulator(rpm=60, burst=1).transport2())
        client = ThrottledAsyncOpenAI(
            api_key="sk-SECRET-KEY",
            http_client=http_client,
            max_wait=2.0,
            base_url="http://simulator/v1",
            max_retries=0,
        )
        ask = client.chat.completions.create
        told = await asyncio.gather(
            *(ask(model="gpt-4o", messages=[{"role": "user", "content": f"SECRET {i}"}]) for i in range(20)),
            return_exceptions=True,
        )
        assert any(isinstance(error, AdmissionTimeout) for error in told)
        texts = [repr(client.throttle), str(client.throttle.stats())]
        texts += [f"{error} {error!r} {vars(error)}" for error in told if isinstance(error, AdmissionError)]
        await client.close()
        return texts

    texts = run()
    lines = [record.getMessage() for record in caplog.records if record.name == "throttled_openai"]
    assert lines
    assert not [text for text in texts + lines if "SECRET" in text]
