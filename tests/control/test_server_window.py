"""The server window: snapshots that are old, out of order, or include the traffic of other clients."""

import asyncio
import math
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import Account, now, pass_time, start, virtual, virtual_run
from throttled_openai._control.server_window import LEAST_SHARE, REORDERING, ServerWindow
from throttled_openai._protocol.durations import DAY, MINUTE


def window(limit=600.0, period=MINUTE, *, left=None):
    """A window after one announcement of what is `left`; nothing has been sent since."""
    made = ServerWindow(limit, period)
    if left is not None:
        made.observe(limit, left, None, now(), 1.0)
    return made


def tell(window, left, stamp=None, *, limit=None):
    """A response arrives: `left` is what the server had when the attempt of `stamp` came."""
    window.observe(window.limit if limit is None else limit, left, stamp, now(), 1.0)


def agrees(window, stamp):
    """The snapshot that says exactly what was believed when its attempt left."""
    tell(window, stamp.level + window.reserve, stamp)


# --- the bucket -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "period", "reserve"),
    [
        (60_000, MINUTE, 150),  # 0.15 s of the refill
        (600, MINUTE, 2),  # but two units,
        (60, MINUTE, 1.2),  # or 2 %
        (3, MINUTE, 0.06),
        (1, MINUTE, 0.02),
        (50, DAY, 1),
        (20, 1, 3),
        (1, 0.2, 0.25),  # and never more than a quarter
    ],
)
@virtual
async def test_it_starts_full_but_for_a_reserve(limit, period, reserve):
    made = ServerWindow(limit, period)
    assert made.reserve == pytest.approx(reserve)
    assert made.level == pytest.approx(limit - reserve)


@virtual
async def test_it_is_spent_and_refills_at_the_rate_of_the_limit():
    made = window(left=100)
    assert (made.level, made.rate) == (98, 10)
    made.spend(30, now())
    assert (made.level, made.delay(78), made.delay(68, 5)) == (68, 1, 0.5)
    pass_time(4)
    assert made.level == 108
    pass_time(1000)
    assert made.level == 598


@pytest.mark.parametrize(("limit", "period"), [(1, MINUTE), (3, MINUTE), (1, 1.0), (2, DAY), (1, DAY)])
@virtual
async def test_one_unit_may_leave_however_small_the_limit_and_the_next_in_its_time(limit, period):
    made = ServerWindow(limit, period)
    left = []
    for _ in range(12):
        pass_time(made.delay(1))
        made.spend(1, now())
        left.append(now())
    assert left[-1] - left[limit] == pytest.approx((11 - limit) * period / limit)


# --- what a snapshot says -------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 100, 600])
@virtual
async def test_the_first_snapshot_is_believed_whole(left):
    made = ServerWindow(600, MINUTE)
    stamp = made.spend(10, now())
    pass_time(0.5)
    tell(made, left, stamp)
    assert made.level == pytest.approx(min(598, left - 2 + 5))


@virtual
async def test_what_was_sent_since_is_taken_off_and_what_refilled_since_is_added():
    made = ServerWindow(600, MINUTE)
    stamp = made.spend(1, now())
    for _ in range(5):
        made.spend(20, now())
    pass_time(3)
    tell(made, 300, stamp)
    assert made.level == pytest.approx(300 - 2 - 100 + 30)


@pytest.mark.parametrize(("told", "goes"), [(400, -1), (560, +1)])
@virtual
async def test_a_later_snapshot_moves_the_level_towards_it_either_way_but_not_past_it(told, goes):
    made = window(left=500)
    pass_time(1)
    stamp = made.spend(1, now())
    before = made.level
    tell(made, told, stamp)
    error = told - 2 - before
    assert 0 < goes * (made.level - before) < goes * error


@virtual
async def test_a_snapshot_is_believed_more_the_longer_the_last_one_is_ago():
    steps = []
    for silence in (0.1, 1, 10, 100):
        made = window(left=100)
        pass_time(silence)
        before = made.level
        tell(made, 0, made.spend(0, now()))
        steps.append((before - made.level) / (before + 2))
    assert steps == sorted(steps)
    assert steps[0] < 0.6
    assert steps[-1] > 0.9


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (0.5, 0.5)])
@virtual
async def test_a_snapshot_is_believed_less_the_more_of_our_own_left_just_before_or_after(before, after):
    """The server may have seen those in another order."""
    steps = []
    for own in (0, 3, 10, 100):
        made = window(left=500)
        pass_time(10)
        made.spend(own * before, now())
        pass_time(0.05)
        stamp = made.spend(0, now())
        pass_time(0.05)
        made.spend(own * after, now())
        level = made.level
        tell(made, 0, stamp)
        steps.append((level - made.level) / (stamp.level + 2))
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 0.6
    assert steps[-1] < 0.01


@virtual
async def test_our_own_traffic_that_cannot_have_been_reordered_takes_nothing_from_the_belief():
    steps = []
    for own in (0, 100):
        made = window(left=500)
        pass_time(10)
        made.spend(own, now())
        pass_time(3 * REORDERING)
        stamp = made.spend(0, now())
        pass_time(3 * REORDERING)
        made.spend(own, now())
        before = made.level
        tell(made, 0, stamp)
        steps.append((before - made.level) / (stamp.level + 2))
    assert steps[0] == pytest.approx(steps[1])


@virtual
async def test_an_older_snapshot_counts_less_than_a_newer_one():
    made = window(left=500)
    old = made.spend(1, now())
    pass_time(20)
    agrees(made, made.spend(1, now()))
    before = made.level
    tell(made, 0, old)
    assert before - made.level < 0.1 * before


@virtual
async def test_a_snapshot_from_nowhere_is_as_of_now():
    made = window(left=500)
    pass_time(1000)
    tell(made, 0)
    assert made.level < 100


@virtual
async def test_a_limit_without_a_remainder_says_nothing_about_the_level():
    made = window(left=300)
    stamp = made.spend(10, now())
    tell(made, None, stamp)
    assert made.level == 288


@virtual
async def test_a_correction_that_did_not_fit_into_the_bucket_is_not_counted():
    """Or every later comparison would be wrong by what was clipped."""
    made = window(left=500)
    first, second = made.spend(1, now()), made.spend(1, now())
    pass_time(1000)
    tell(made, 590, first)
    assert made.level == 598
    agrees(made, second)
    assert made.level == 598


# --- changed limits -------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "level"), [(1200, 398), (300, 298)])
@virtual
async def test_a_changed_limit_is_adopted_at_once_and_the_level_stays_as_far_as_it_fits(limit, level):
    made = window(left=400)
    tell(made, None, limit=limit)
    assert (made.limit, made.rate, made.level) == (limit, limit / 60, level)


@virtual
async def test_what_refilled_since_is_counted_at_the_new_rate():
    made = window(left=400)
    stamp = made.spend(1, now())
    pass_time(10)
    tell(made, 300, stamp, limit=1200)
    assert made.level == pytest.approx(300 - made.reserve + 10 * 20)


@virtual
async def test_an_older_snapshot_never_brings_back_an_older_limit_nor_what_was_left_of_it():
    made = window(left=400)
    old = made.spend(1, now())
    pass_time(1)
    new = made.spend(1, now())
    tell(made, 900, new, limit=1200)
    level = made.level
    tell(made, 5, old, limit=600)
    assert (made.limit, made.level) == (1200, level)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "level"), [(50, 50), (-30, -30), (498, 498), (590, 498)])
@virtual
async def test_a_refusal_lowers_the_level_and_never_raises_it(told, level):
    made = window(left=500)
    made.emptied(told, now(), 1.0)
    assert made.level == level


@pytest.mark.parametrize("silence", [0.0, 1000.0])
@pytest.mark.parametrize(("older_by", "share"), [(0.0, 0.51), (0.5, 0.2), (2.0, 0.02)])
@virtual
async def test_an_older_snapshot_does_not_undo_what_a_refusal_has_just_taught(older_by, share, silence):
    """By its gain at most: half of it even when it is of the same instant, and next to nothing when it is older."""
    made = window(left=500)
    pass_time(silence)
    old = made.spend(1, now())
    pass_time(older_by)
    refused = made.spend(1, now())
    before = made.level
    made.emptied(0.0, refused.at, 1.0)
    agrees(made, old)
    assert 0 <= made.level <= share * before


# --- neighbours -----------------------------------------------------------------------------------


async def beside(share, seconds, *, every=0.5, limit=600.0):
    """A window whose limit a neighbour uses too; the server announces the remainder once in `every` seconds."""
    made, account = window(limit, left=limit), Account(limit / 60, limit, 0.0)
    asked = 0.0
    while now() < seconds:
        pass_time(every)
        asked = min(account.level(now()), share * account.rate * every)
        account.take(asked, now())
        mine = min(1.0, account.level(now()))
        stamp = made.spend(mine, now())
        account.take(mine, now())
        tell(made, account.level(now()), stamp)
    return made


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@virtual
async def test_a_neighbour_is_expected_to_go_on(share):
    made = await beside(share, 60)
    level = made.level
    if level > 500:
        made.spend(level, now())
        level = 0.0
    pass_time(1)
    assert made.level - level == pytest.approx(10 * (1 - share), abs=1.0)


@virtual
async def test_however_much_others_take_we_go_on_asking_for_a_share():
    made = await beside(5.0, 60)
    before = made.level
    pass_time(1)
    assert made.level - before == pytest.approx(LEAST_SHARE * 10)


# --- another loop ---------------------------------------------------------------------------------


def test_on_another_loop_the_level_stays_and_instants_are_forgotten():
    made = ServerWindow(600, MINUTE)

    async def first():
        pass_time(5000)
        tell(made, 100, made.spend(1, now()))

    async def second():
        made.rebind(same_clock=False)
        assert made.level == 98
        tell(made, 40, made.spend(1, now()), limit=60)  # not older than the announcement at 5000 on the first loop
        assert made.limit == 60
        assert made.level == pytest.approx(38.8)

    virtual_run(first())
    virtual_run(second())


# --- promises -------------------------------------------------------------------------------------

pauses = st.sampled_from([0.0, 0.0, 0.01, 0.1, 1.0, 7.0])
traffic = st.lists(st.tuples(pauses, st.integers(0, 60)), min_size=1, max_size=25)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(traffic, st.permutations(range(25)), st.floats(0, 600), st.integers(0, 2))
def test_snapshots_equal_to_the_prediction_change_nothing_in_whatever_order_they_come(traffic, order, left, copies):
    async def walk():
        made = window(left=left)
        stamps = []
        for pause, amount in traffic:
            pass_time(pause)
            stamps.append(made.spend(amount, now()))
        before = made.level
        for number in order:
            for stamp in stamps[number : number + 1] * (1 + copies):
                agrees(made, stamp)
        assert made.level == pytest.approx(before, abs=1e-6)

    virtual_run(walk())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.5, 3.0, 200.0])),
        st.tuples(st.just("spend"), st.integers(0, 300)),
        st.tuples(st.just("give back"), st.integers(0, 300)),
        st.tuples(st.just("tell"), st.tuples(st.sampled_from([1, 60, 600, 1200]), st.floats(0, 1200))),
        st.tuples(st.just("empty"), st.floats(-300, 300)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps, st.integers(0, 1000))
def test_no_level_is_ever_above_its_capacity_nor_a_reserve_above_a_quarter(steps, seed):
    async def walk():
        made, pick = ServerWindow(600, MINUTE), Random(seed).choice
        stamps = [None, made.spend(1, now())]
        for step, what in steps:
            if step == "sleep":
                pass_time(what)
            elif step == "spend":
                stamps.append(made.spend(what, now()))
            elif step == "give back":
                made.give_back(what, pick(stamps[1:]))
            elif step == "tell":
                tell(made, min(what), pick(stamps), limit=what[0])
            else:
                made.emptied(what, now(), 1.0)
            assert made.level <= made.limit - made.reserve + 1e-9
            assert 0 < made.reserve <= made.limit / 4
            assert made.delay(1) >= 0
            assert math.isfinite(made.level)

    virtual_run(walk())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(pauses, st.integers(1, 60)), min_size=1, max_size=40), st.sampled_from([60.0, 600.0]))
def test_without_corrections_no_window_has_more_than_the_capacity_and_its_refill(traffic, limit):
    async def walk():
        made, left = ServerWindow(limit, MINUTE), []
        for pause, amount in traffic:
            pass_time(pause)
            pass_time(made.delay(amount))
            made.spend(amount, now())
            left.append((now(), amount))
        capacity, rate = made.limit - made.reserve, made.rate
        for first, (began, _) in enumerate(left):
            spent = oversize = 0.0
            for at, amount in left[first:]:
                spent += amount
                oversize = max(oversize, amount - capacity)
                assert spent <= capacity + rate * (at - began) + oversize + 1e-3

    virtual_run(walk())


class Race:
    """Attempts that reach the server up to `jitter` late, and answers that come back in any order."""

    def __init__(self, seed, *, left, jitter, rate=10.0):
        self.random = Random(seed)
        self.account = Account(rate, 60 * rate, left)
        self.jitter = jitter
        self.arrivals = []

    def send(self, window, amount):
        stamp = window.spend(amount, now())
        self.arrivals.append((now() + self.random.uniform(0, self.jitter), amount, stamp))

    def snapshots(self):
        """What the server had after each attempt, by their order there."""
        told = []
        for at, amount, stamp in sorted(self.arrivals, key=lambda arrival: arrival[0]):
            self.account.take(amount, at)
            told.append((self.account.level(at), stamp))
        return told


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0.05, 0.3, 1.0]), min_size=3, max_size=20))
@example(1, [0.05] * 20)
def test_the_order_in_which_snapshots_arrive_matters_less_than_their_noise(seed, pauses):
    """The noise: our own traffic that the server may have seen in another order, and a unit."""

    async def walk(shuffle):
        race, made = Race(seed, left=300, jitter=REORDERING / 3), window(left=300)
        for pause in pauses:
            pass_time(pause)
            race.send(made, 1)
        pass_time(1)
        told = race.snapshots()
        if shuffle:
            Random(shuffle).shuffle(told)
        for left, stamp in told:
            tell(made, left, stamp)
        return made.level

    levels = [virtual_run(walk(shuffle)) for shuffle in range(4)]
    assert max(levels) - min(levels) <= 3.0


async def errors(seed, *, rate, neighbour=0.3, latency=1.0, bursts=False, seconds=120.0):
    """How far the window is above the truth, every half second from the 15th on.

    It starts full, the server a fifth full; a neighbour takes a share of the rate at random instants; attempts reach
    the server in another order and their answers come later still; the remainder is announced in whole units.
    """
    random, loop = Random(seed), asyncio.get_running_loop()
    account, made = Account(rate, 60 * rate, 12 * rate), ServerWindow(60 * rate, MINUTE)
    under_way, found = 0, []

    def arrives(stamp):
        nonlocal under_way
        under_way -= 1
        account.take(1, now())
        left = math.floor(max(0.0, account.level(now())))
        loop.call_later(latency * random.lognormvariate(0, 0.5), tell, made, left, stamp)

    async def others():
        while True:
            await asyncio.sleep(random.expovariate(neighbour * rate))
            account.take(1, now())

    taking = start(others())
    while now() < seconds:
        pause = random.choice([0.0, 0.0, random.expovariate(rate / 5)]) if bursts else random.expovariate(2 * rate)
        await asyncio.sleep(pause)
        await asyncio.sleep(made.delay(1))
        under_way += 1
        loop.call_later(0.02 * random.lognormvariate(0, 0.5), arrives, made.spend(1, now()))
        if now() >= 15.0 + 0.5 * len(found):
            found.append(made.level + made.reserve - account.level(now()) + under_way)
    taking.cancel()
    return sorted(found)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "case",
    [
        {"rate": 10.0},
        {"rate": 10.0, "bursts": True},
        {"rate": 10.0, "neighbour": 0.9},
        {"rate": 10.0, "latency": 10.0},
        {"rate": 100.0, "seconds": 40.0},
        {"rate": 0.05, "seconds": 3600.0},
    ],
    ids=str,
)
def test_it_finds_and_follows_the_level_of_a_server_it_knows_nothing_of(case, seed):
    found = virtual_run(errors(seed, **case))
    rate = case["rate"]
    assert abs(found[len(found) // 2]) <= 2 + 0.05 * rate
    assert found[int(0.95 * len(found))] <= 5 + 0.1 * rate  # too high costs refusals,
    assert found[int(0.05 * len(found))] >= -15 - 0.1 * rate  # too low only waits


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_burst_that_arrives_in_another_order_is_not_taken_for_a_neighbour(seed):
    async def walk():
        race, made = Race(seed, left=300, jitter=REORDERING / 3), window(left=300)
        pass_time(10)
        for _ in range(100):
            race.send(made, 1)
        pass_time(1)
        for left, stamp in race.snapshots():
            tell(made, left, stamp)
        return made.level + made.reserve - race.account.level(now())

    assert abs(virtual_run(walk())) <= 10


@virtual
async def test_a_bucket_found_to_be_smaller_does_not_shift_what_older_snapshots_say():
    made = window(6000.0, left=50.0)
    old = made.spend(1.0, now())
    pass_time(0.5)
    made.holds(1.0, 0.0, now(), 1.0)
    pass_time(1.5)
    made.holds(1.0, 0.0, now(), 1.0)
    tell(made, 0.0, old)
    assert made.delay(1.0) < 2.0
