"""The rate learner: finds the rate of a limit that is not announced, from the refusals it causes."""

import asyncio
import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripted import say, throttled
from support import Account, Limits, goodput, now, refused, saturate, start, throttle, virtual_run
from throttled_openai._control.rate_learner import BETA, FLOOR, FLOOR_SHARE, FORGOTTEN, MOST_ABOVE, RateLearner
from throttled_openai.simulator import Simulator


def drive(learner, at, rate, seconds, *, unit=1.0, pressed=True):
    """Attempts that are accepted at an even pace; the instant of the last one."""
    count = round(rate * seconds / unit)
    for _ in range(count):
        at += unit / rate
        learner.sent(unit, at)
        if pressed:
            learner.press(unit / rate)
    return at


def fails(learner, at, known=None, *, unit=1.0):
    """One more attempt, which the server refuses."""
    learner.sent(unit, at)
    learner.not_accepted(unit, at)
    learner.event(at, known)


def knows(rate, at=0.0, unit=1.0):
    """A learner that has just found `rate` exactly, at `at`."""
    learner, seconds = RateLearner(), max(1.0, 30 * unit / rate)
    fails(learner, at - seconds, unit=unit)
    drive(learner, at - seconds, rate, seconds, unit=unit)
    fails(learner, at, unit=unit)
    return learner


# --- from one refusal to the next ----------------------------------------------------------------


def test_at_first_there_is_nothing_to_learn():
    learner = RateLearner()
    drive(learner, 0.0, 100, 60)
    assert learner.rate is None


@pytest.mark.parametrize("rate", [4.0, 10.0, 400.0])
def test_after_the_first_refusal_it_guesses_half_of_what_was_sent_lately(rate):
    """The burst came out of a full bucket."""
    learner = RateLearner()
    fails(learner, drive(learner, 0.0, rate, 20 / rate + 10))
    assert learner.rate == pytest.approx(BETA * rate / 2, rel=0.3)


def test_where_a_limit_is_known_the_first_refusal_teaches_nothing():
    """Others had used up the announced limit."""
    learner = RateLearner()
    fails(learner, drive(learner, 0.0, 10, 10), known=10.0)
    assert learner.rate is None
    fails(learner, drive(learner, 10.0, 10, 1) + 2 * FORGOTTEN, known=10.0)  # nor another one much later
    assert learner.rate is None


@pytest.mark.parametrize("unit", [1.0, 500.0])
@pytest.mark.parametrize("rate", [0.05, 1.0, 10.0, 1000.0])
def test_what_was_accepted_from_empty_to_empty_is_the_rate_exactly(rate, unit):
    rate *= unit
    learner = knows(rate, 1e6, unit)
    assert learner.rate == pytest.approx(BETA * rate)


def test_attempts_from_before_the_last_refusal_are_not_among_what_was_accepted_since():
    learner = RateLearner()
    for tick in range(50):
        learner.sent(1, tick / 10)
    fails(learner, 5.0)
    for tick in range(50):  # their refusals come back now
        learner.not_accepted(1, tick / 10)
    fails(learner, drive(learner, 5.0, 10, 5))
    assert learner.rate == pytest.approx(BETA * 10)


@pytest.mark.parametrize("accepted", [0, 3, 4, 10, 19])
def test_a_refusal_never_raises_the_rate(accepted):
    """Of few attempts only an upper bound of the rate is known, and it may be above what was found before."""
    learner = knows(10.0)
    before = learner.rate
    fails(learner, drive(learner, 0.0, 30.0, accepted / 30.0) + 0.01)
    assert learner.rate <= before


@pytest.mark.parametrize("accepted", [0, 3, 4, 10, 19, 20, 100])
@pytest.mark.parametrize("known", [None, 10.0])
def test_it_never_falls_below_its_floor(accepted, known):
    learner = RateLearner()
    floor = FLOOR if known is None else FLOOR_SHARE * known
    at = 0.0
    for _ in range(60):
        at = drive(learner, at, accepted / 100, 100.0)
        fails(learner, at, known)
        assert learner.rate is None or learner.rate >= BETA * floor


def test_a_rate_close_to_the_known_limit_is_the_known_limit():
    learner = RateLearner()
    for at, rate in ((0.0, 5.0), (10.0, 5.0), (20.0, 9.8)):
        fails(learner, drive(learner, at, rate, 10.0), known=10.0)
        assert (learner.rate is None) == (at != 10.0)


def test_a_quiet_spell_does_not_make_the_rate_small():
    """Demand was small, not the limit."""
    learner = knows(10.0)
    drive(learner, 0.0, 0.5, 600.0, pressed=False)
    fails(learner, drive(learner, 600.0, 30.0, 1.0))
    assert learner.rate >= 8


# --- between refusals -----------------------------------------------------------------------------


def test_it_comes_back_to_what_was_found_levels_off_there_and_goes_on_beyond():
    learner = knows(10.0)
    rates = []
    for _ in range(60):
        learner.press(1.0)
        rates.append(learner.rate)
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert rates == sorted(rates)
    assert rates[19] == pytest.approx(10.0)  # 200 attempts
    assert 18 <= steps.index(min(steps)) <= 20
    assert rates[39] == pytest.approx(11.0)


def test_a_rate_that_accepted_as_much_beyond_as_it_was_spared_below_is_another_one_and_doubles():
    learner = knows(10.0)
    learner.press(40.0)
    assert learner.rate == pytest.approx(11.0)
    learner.press(10.0)
    assert learner.rate == pytest.approx(22.0)


@pytest.mark.parametrize(("rate", "seconds"), [(1000.0, 6), (10.0, 20), (0.5, 90)])
def test_it_is_back_after_200_attempts_within_bounds(rate, seconds):
    learner = knows(rate, 1e5)
    learner.press(seconds)
    assert learner.rate == pytest.approx(rate)


@pytest.mark.parametrize(("rate", "seconds"), [(1000.0, 4), (4.0, 10), (0.5, 20)])
def test_a_guess_doubles_within_20_attempts_within_bounds(rate, seconds):
    learner = RateLearner()
    fails(learner, drive(learner, 0.0, rate, 60.0 + 60 / rate))
    before = learner.rate
    learner.press(seconds)
    assert learner.rate == pytest.approx(2 * before, rel=0.01) or learner.rate > 2 * before


def test_without_pressing_it_does_not_change():
    for learner in (knows(10.0), RateLearner()):
        if learner.rate is None:
            fails(learner, drive(learner, 0.0, 10.0, 10.0))
        before = learner.rate
        drive(learner, 10.0, 0.1, 10_000.0, pressed=False)
        assert learner.rate == pytest.approx(before)


def test_forget_drops_the_learnt_rate():
    learner = knows(10.0)
    learner.forget()
    assert learner.rate is None


def test_instants_of_another_clock_do_not_spoil_the_next_estimate():
    learner = knows(10.0, 5000.0)
    learner.rebind()
    fails(learner, drive(learner, 0.0, 10.0, 5.0))
    assert 8 <= learner.rate <= 10
    fails(learner, drive(learner, 5.0, 10.0, 5.0))
    assert learner.rate == pytest.approx(BETA * 10)


# --- promises -------------------------------------------------------------------------------------

events = st.lists(
    st.tuples(
        st.sampled_from([0.01, 0.3, 3.0, 40.0, 500.0]),  # seconds until the next refusal
        st.integers(0, 60),  # attempts that were accepted in them
        st.floats(0, 1),  # the share of the time they were held back
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(events, st.sampled_from([None, 0.05, 10.0]))
def test_whatever_is_refused_the_rate_stays_above_its_floor_and_below_what_it_was_or_what_was_accepted(events, known):
    learner, at = RateLearner(), 0.0
    floor = FLOOR if known is None else FLOOR_SHARE * known
    for seconds, accepted, share in events:
        for number in range(accepted):
            learner.sent(1, at + seconds * (number + 1) / (accepted + 1))
        learner.press(share * seconds)
        at += seconds
        before, fastest = learner.rate or known, learner._accepted / (at - learner._event_at)
        fails(learner, at, known)
        if learner.rate is not None:
            assert learner.rate >= BETA * floor
            if before is not None:
                assert learner.rate <= max(before, fastest, floor) * (1 + 1e-9)


# --- against a server that tells nothing ----------------------------------------------------------


def run(rate, seconds, *, limits=None, changes=(), neighbour=None, size=60.0, tokens=0, **server):
    """Ask a server for more than the `rate` it allows, which it does not announce; its log, and the learnt rate."""

    async def main():
        account, loop = Account(rate, max(1.0, size * rate, 2.0 * tokens)), asyncio.get_running_loop()
        for at, to in changes:
            loop.call_at(at, lambda to=to: account.change(to, loop.time()))
        t, taking = throttle(limits), neighbour and start(takes(account, *neighbour))
        log = await saturate(t, account, seconds, tokens=tokens, **server)
        if taking:
            taking.cancel()
        budget = t._dispatcher.limiters.find("m").budget
        return log, account, budget.token_rate if tokens else budget.request_rate

    return virtual_run(main())


async def takes(account, since, until, share):
    """A neighbour that asks for `share` of the limit, for a while."""
    random = Random(1)
    await asyncio.sleep(since)
    while now() < until:
        await asyncio.sleep(random.expovariate(share * account.rate))
        account.take(1, now())


@pytest.mark.parametrize(
    ("rate", "seconds", "more"),
    [
        (1.0, 900, {}),
        (4.0, 600, {}),
        (4.0, 600, {"size": 1.0}),
        (4.0, 600, {"latency": 8.0}),
        (4.0, 600, {"retry_after": True}),
        (4.0, 600, {"limits": Limits(rpm=2400)}),
        (50.0, 150, {}),
        (5000.0, 600, {"tokens": 500}),
        (5000.0, 600, {"tokens": 500, "limits": Limits(tpm=3_000_000)}),
    ],
    ids=str,
)
def test_it_finds_the_rate_and_keeps_to_it(rate, seconds, more):
    log, account, learnt = run(rate, seconds, **more)
    tokens = more.get("tokens", 0)
    assert goodput(log, seconds / 2, seconds, account, tokens) >= 0.96
    assert refused(log, seconds / 2) <= 0.015
    assert 0.85 * rate <= learnt <= 1.25 * rate


@pytest.mark.parametrize("more", [{}, {"retry_after": True}], ids=str)
def test_it_finds_a_rate_of_three_a_minute(more):
    log, account, _ = run(0.05, 7200, **more)
    assert goodput(log, 3600, 7200, account) >= 0.9
    assert refused(log, 3600) <= 0.15


@pytest.mark.parametrize(
    ("before", "after", "limits"),
    [
        (10.0, 20.0, None),
        (5.0, 10.0, Limits(rpm=600)),
        (10.0, 20.0, Limits(rpm=600)),  # the user allows no more
        (10.0, 5.0, None),
        (10.0, 5.0, Limits(rpm=600)),
    ],
)
def test_it_follows_a_limit_that_changes(before, after, limits):
    log, account, learnt = run(before, 300, changes=[(100, after)], limits=limits)
    allowed = after if limits is None else min(after, 10.0)
    assert goodput(log, 180, 300, account) >= 0.96 * allowed / after
    assert learnt <= 1.25 * allowed
    assert refused(log, 180) <= 0.02


@pytest.mark.parametrize(("share", "by", "limits"), [(0.5, 700, None), (0.5, 700, Limits(rpm=240))])
def test_it_comes_back_when_a_neighbour_leaves(share, by, limits):
    """In as many minutes as it stayed, or twice as many where it had left us nothing."""
    log, account, _ = run(4.0, by + 200, neighbour=(100, 400, share), limits=limits)
    assert sum(not accepted for at, accepted in log if 150 <= at < 400) <= 60
    assert goodput(log, by, by + 200, account) >= 0.9
    assert refused(log, by) <= 0.02


def test_what_is_found_after_a_refusal_is_close_to_what_the_server_allows():
    found, event = [], RateLearner.event

    def watched(learner, at, known, **sure):
        event(learner, at, known, **sure)
        found.append((at, learner.rate))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RateLearner, "event", watched)
        run(4.0, 900)
    rates = [rate for at, rate in found if at > 120]
    assert len(rates) >= 5
    assert 0.8 * 4 <= min(rates) <= max(rates) <= MOST_ABOVE * 4


# --- others that draw on the same limit -----------------------------------------------------------


def shared():
    """A learner that others leave hardly anything of a known limit: refused five times in two seconds."""
    learner = RateLearner()
    for at in (0.0, 0.4, 0.8, 1.2, 1.6, 2.0):
        fails(learner, at, known=10.0)
        learner.press(0.4)
    return learner


def test_refused_again_and_again_at_a_known_limit_it_takes_others_for_what_they_are():
    """Too little was accepted to tell a rate; yet a limit that ought to allow ten a second allows none."""
    assert 0.05 * 10.0 <= shared().rate <= 0.15 * 10.0


def test_a_few_refusals_within_a_moment_are_one_emptiness():
    learner = RateLearner()
    for at in (0.0, 0.1, 0.2, 0.3):
        fails(learner, at, known=10.0)
    assert learner.rate is None


def test_a_guess_that_was_too_low_doubles_the_sooner_the_higher_it_is():
    learner = RateLearner()
    learner._set(0.05, None, exact=False)
    doublings, last, at = [], learner.rate, 0.0
    while learner.rate < 1.0:
        learner.press(0.1)
        at += 0.1
        if learner.rate >= 2 * last:
            doublings.append(at - sum(doublings))
            last = learner.rate
    assert doublings == sorted(doublings, reverse=True)
    assert doublings[-1] < doublings[0] / 2


def test_a_share_of_a_limit_is_held_for_a_while_and_grows_fast_when_others_leave():
    learner = shared()
    at = drive(learner, 2.0, 2.5, 20)
    fails(learner, at, known=10.0)
    found = learner.rate
    assert found == pytest.approx(BETA * 2.5, rel=0.2)
    learner.press(2.5)
    assert learner.rate == found
    learner.press(20.0)
    assert learner.rate > 2 * found


# --- several clients of one account ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ({"rpm": 600}, {"announce": False}),
        ({}, {}),
        ({}, {"announce": False, "explain_refusals": False}),
        ({}, {"announce": False, "explain_refusals": False, "retry_after": False}),
    ],
    ids=["configured", "announced", "nothing", "bare"],
)
def test_four_clients_that_know_nothing_of_each_other_share_a_limit_and_lose_no_call(options, server):
    """600 RPM in a bucket of one second; one client that knows everything would take 23 s."""

    async def main():
        simulator = Simulator(rpm=600, burst=1.0, latency=0.5, network=0.01, seed=1, **server)
        clients = [throttled(simulator, **options) for _ in range(4)]
        for seed, client in enumerate(clients):
            client.throttle._dispatcher.random = Random(seed).random
        await asyncio.gather(*(say(client) for _ in range(60) for client in clients))
        assert now() < 45
        assert sum(attempt.status != 200 for attempt in simulator.log) < 120

    virtual_run(main())
