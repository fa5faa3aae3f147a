"""The token bucket, and what it relies on in aiolimiter."""

import asyncio
import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given, settings
from hypothesis import strategies as st

from support import now, virtual, virtual_run
from throttled_openai._control.bucket import ROUNDING, TokenBucket
from throttled_openai.simulator import VirtualTimeLoop

# --- aiolimiter -----------------------------------------------------------------------------------


def test_the_version_of_aiolimiter_is_bounded_and_is_one_these_tests_have_seen():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = next(line for line in project["dependencies"] if line.startswith("aiolimiter"))

    assert bound == "aiolimiter>=1.2,<1.4"
    assert importlib.metadata.version("aiolimiter").startswith(("1.2.", "1.3."))


@virtual
async def test_async_limiter_counts_what_is_used_in_level_and_drips_when_asked():
    limiter = AsyncLimiter(10, 5)  # 2 a second
    assert (limiter.max_rate, limiter.time_period, limiter._level) == (10, 5, 0)

    limiter.has_capacity()
    limiter._level = 8.0
    await asyncio.sleep(3)
    assert limiter._level == 8.0  # not before it is asked
    assert limiter.has_capacity(8)
    assert limiter._level == 2.0

    await asyncio.sleep(100)
    assert limiter.has_capacity(10)
    assert limiter._level == 0.0  # never below


@virtual
async def test_async_limiter_takes_a_level_above_its_max_rate_as_debt():
    limiter = AsyncLimiter(10, 5)
    limiter.has_capacity()
    limiter._level = 30.0
    await asyncio.sleep(9)
    assert not limiter.has_capacity(0)
    assert limiter._level == 12.0


def test_async_limiter_warns_when_it_is_used_on_a_second_loop_which_is_why_a_bucket_rebinds():
    limiter = AsyncLimiter(10, 5)

    async def use():
        limiter.has_capacity()

    virtual_run(use())
    with pytest.warns(RuntimeWarning, match="re-used across loops"):
        virtual_run(use())


# --- level and delay ------------------------------------------------------------------------------


@virtual
async def test_a_bucket_starts_full_and_refills_at_its_rate():
    bucket = TokenBucket(rate=2, capacity=10)
    assert bucket.level == 10
    bucket.spend(10)
    assert bucket.level == 0
    await asyncio.sleep(3)
    assert bucket.level == 6
    await asyncio.sleep(100)
    assert bucket.level == 10


@virtual
async def test_delay_is_the_time_until_the_amount_has_refilled():
    bucket = TokenBucket(rate=2, capacity=10)
    bucket.spend(9)
    assert bucket.delay(1) == 0
    assert bucket.delay(4) == 1.5
    await asyncio.sleep(1.5)
    assert bucket.delay(4) == 0


@virtual
async def test_asking_for_the_delay_takes_nothing():
    bucket = TokenBucket(rate=1, capacity=10)
    for _ in range(100):
        bucket.delay(10)
    assert bucket.level == 10


@virtual
async def test_debt_is_paid_at_the_rate_before_anything_else_may_go():
    bucket = TokenBucket(rate=2, capacity=10)
    bucket.spend(30)
    assert bucket.level == -20
    assert bucket.delay(1) == 10.5
    assert bucket.delay(0) == 10
    await asyncio.sleep(4)
    assert bucket.level == -12


@virtual
async def test_an_amount_above_the_capacity_may_go_when_the_bucket_is_full():
    bucket = TokenBucket(rate=2, capacity=10)
    assert bucket.delay(1000) == 0
    bucket.spend(4)
    assert bucket.delay(1000) == 2
    await asyncio.sleep(2)
    assert bucket.delay(1000) == 0
    bucket.spend(1000)
    assert bucket.delay(1) == 495.5


@virtual
async def test_giving_back_raises_the_level_but_never_above_the_capacity():
    bucket = TokenBucket(rate=1, capacity=10)
    bucket.spend(8)
    bucket.spend(-5)
    assert bucket.level == 7
    bucket.spend(-5)
    assert bucket.level == 10


@pytest.mark.parametrize("rate", [1 / 86_400, 0.1, 1 / 3, 7, 8_333.3, 5_000_000])
@virtual
async def test_waiting_for_the_delay_is_enough_whatever_the_rounding(rate):
    """A shortfall of 1e-14 units would ask for a delay that does not move the clock."""
    await asyncio.sleep(5_000_000.1)  # a clock that has run for weeks has coarser steps
    bucket = TokenBucket(rate, capacity=max(1.0, rate))
    for _ in range(30):
        bucket.spend(0.7)
        delay = bucket.delay(1)
        assert delay == 0 or delay > ROUNDING
        if delay:
            before = now()
            await asyncio.sleep(delay)
            assert now() > before
        assert bucket.delay(1) == 0


@virtual
async def test_what_is_held_for_another_is_left_there_but_a_bucket_cannot_be_more_than_full():
    bucket = TokenBucket(rate=2, capacity=10)
    assert bucket.delay(4, held=6) == 0
    assert bucket.delay(4, held=600) == 0
    bucket.spend(3)
    assert (bucket.delay(4, held=2), bucket.delay(4, held=5), bucket.delay(4, held=600)) == (0, 1, 1.5)


@virtual
async def test_a_level_that_is_set_is_the_level_from_now_on():
    """What refilled since the last look was before, and does not come on top."""
    bucket = TokenBucket(rate=2, capacity=10)
    bucket.spend(10)
    await asyncio.sleep(3)
    bucket.set_level(1)
    assert bucket.level == 1
    bucket.set_level(11)
    assert bucket.level == 10
    bucket.set_level(-4)
    await asyncio.sleep(1)
    assert bucket.level == -2


# --- resize, rebind -------------------------------------------------------------------------------


@virtual
async def test_resizing_keeps_what_was_used():
    bucket = TokenBucket(rate=1, capacity=10)
    bucket.spend(4)
    bucket.resize(rate=5, capacity=100)
    assert (bucket.level, bucket.capacity, bucket.rate) == (96, 100, 5)
    bucket.resize(rate=1, capacity=3)
    assert bucket.level == -1
    await asyncio.sleep(2)
    assert bucket.level == 1


@virtual
async def test_resizing_counts_the_time_before_it_at_the_old_rate_and_after_it_at_the_new():
    bucket = TokenBucket(rate=1, capacity=100)
    bucket.spend(100)
    await asyncio.sleep(10)
    bucket.resize(rate=5, capacity=100)
    assert bucket.level == 10
    await asyncio.sleep(10)
    assert bucket.level == 60


def test_a_bucket_rebinds_to_another_loop_with_its_level_and_without_a_warning():
    bucket = TokenBucket(rate=1, capacity=10)

    async def first():
        await asyncio.sleep(500)
        bucket.spend(15)

    async def second():
        await asyncio.sleep(3)
        bucket.rebind(same_clock=False)
        assert bucket.level == -5
        await asyncio.sleep(7)
        assert bucket.level == 2

    virtual_run(first())
    assert bucket.last_level == -5  # needs no loop
    virtual_run(second())


def test_the_time_between_two_loops_of_one_clock_refills():
    """Real loops share one clock: a script that runs once an hour must find its day's budget refilled."""
    bucket = TokenBucket(rate=1, capacity=10)

    async def first():
        await asyncio.sleep(500)
        bucket.spend(15)

    async def second():
        bucket.rebind(same_clock=True)
        assert bucket.level == 7

    virtual_run(first())
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.get_loop().jump(512)
        runner.run(second())


# --- promises -------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.floats(0, 20, allow_nan=False).map(lambda seconds: round(seconds, 3)),
        st.integers(0, 12),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(steps, st.integers(1, 10), st.sampled_from([0.1, 1 / 3, 1.0, 7.0]))
def test_in_any_window_no_more_than_capacity_and_refill_leave_and_one_oversize_amount(steps, capacity, rate):
    async def spend():
        bucket = TokenBucket(rate, capacity)
        spends = []
        for pause, amount in steps:
            await asyncio.sleep(pause)
            await asyncio.sleep(bucket.delay(amount))
            bucket.spend(amount)
            spends.append((now(), amount))
        return spends

    spends = virtual_run(spend())
    for first, (start, _) in enumerate(spends):
        left, over = 0.0, 0.0
        for at, amount in spends[first:]:
            left += amount
            over = max(over, amount - capacity)
            assert left <= capacity + rate * (at - start) + over + 1e-4


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(-20, 40)), max_size=40))
def test_the_level_is_never_above_the_capacity_and_nothing_gets_lost(steps):
    """Level = what it was + refill - spent, stopped at the capacity."""

    async def spend():
        bucket = TokenBucket(rate=2, capacity=10)
        expected = 10.0
        for pause, amount in steps:
            await asyncio.sleep(pause)
            expected = min(10.0, expected + 2 * pause)
            assert bucket.level == pytest.approx(expected)
            bucket.spend(amount)
            expected = min(10.0, expected - amount)
            assert bucket.level == pytest.approx(expected)

    virtual_run(spend())
