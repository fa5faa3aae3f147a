"""The limit on attempts in flight: where a server's room ends, found from refusals, answers and silence."""

import heapq
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai._control.concurrency import (
    FITS,
    HEADROOM,
    LARGEST_STEP,
    LONG_SILENCE,
    PATIENCE,
    SILENCE,
    SMALL_STEPS,
    START,
    ConcurrencyLimit,
)


class Service:
    """A server and a client that keeps to the limit, as the limiter does. Prints its seed for a test that fails.

    `room`: the server refuses what arrives beyond it. `slots`: it works on as many, and the rest waits in line.
    `noise`: share it refuses whatever is in flight. `broken`: share that fails at once. `lost`: share it never
    answers. `patience`: seconds until the client gives up. `demand`: calls a second; by default more than fit.
    """

    def __init__(self, *, room=math.inf, slots=math.inf, noise=0.0, broken=0.0, lost=0.0, patience=math.inf,
                 demand=math.inf, latency=0.5, sigma=0.2, hop=0.02, seed=1, ceiling=1000, rate=None):  # fmt: skip
        print(f"seed {seed}")
        self.room, self.slots, self.noise, self.broken, self.lost = room, slots, noise, broken, lost
        self.patience, self.demand, self.latency, self.sigma, self.hop = patience, demand, latency, sigma, hop
        self.random, self.limit = Random(seed), ConcurrencyLimit(ceiling)
        self.limit.ignore_latency()
        if rate is not None:
            self.limit.expect(rate)
        self.now = 0.0
        self.asked = math.inf if demand == math.inf else 0.0  # calls that wait
        self.number = self.in_flight = self.serving = self.most = 0
        self.log = []  # (instant, "served" | "refused" | "failed")
        self.limits = []  # (instant, limit)
        self._line, self._events = [], []
        self._looks_at = math.inf

    def run(self, seconds):
        end = self.now + seconds
        self._send()
        while self._events and self._events[0][0] <= end:
            self._pass(self._events[0][0])
            _, _, act, attempt = heapq.heappop(self._events)
            act(attempt)
        self._pass(end)
        return self

    def _pass(self, to):
        if self.demand < math.inf:
            self.asked += self.demand * (to - self.now)
        self.now = to

    def _at(self, delay, act, attempt=None):
        heapq.heappush(self._events, (self.now + delay, self.random.random(), act, attempt))

    def _send(self):
        if self.demand < math.inf and not self.asked >= 1 and self._looks_at == math.inf:
            self._looks_at = self.now + (1 - self.asked) / self.demand
            self._at(self._looks_at - self.now + 1e-9, self._look)
        while self.asked >= 1:
            if self.in_flight >= self.limit.value():
                again = self.limit.look(self.now)
                if self.in_flight >= self.limit.value():
                    if again is not None and self._looks_at == math.inf:
                        self._looks_at = self.now + again
                        self._at(again, self._look)
                    break
            self.asked -= 1
            self.number += 1
            self.in_flight += 1
            binding = self.in_flight >= math.floor(0.9 * self.limit.value())
            attempt = {"number": self.number, "at": self.now, "crowd": self.in_flight, "binding": binding, "open": True}
            self._at(self.hop, self._arrive, attempt)
            if self.patience < math.inf:
                self._at(self.patience, self._give_up, attempt)
        self.limits.append((self.now, self.limit.value()))

    def _look(self, _):
        self._looks_at = math.inf
        self._send()

    def _arrive(self, attempt):
        dice = self.random.random()
        if dice < self.lost:
            return
        if dice < self.lost + self.broken:
            self._at(self.hop, self._fail, attempt)
        elif dice < self.lost + self.broken + self.noise or self.serving >= self.room:
            self._at(self.hop, self._refuse, attempt)
        elif self.serving >= self.slots:
            self._line.append(attempt)
        else:
            self._serve(attempt)

    def _serve(self, attempt):
        self.serving += 1
        self.most = max(self.most, self.serving)
        self._at(self.latency * self.random.lognormvariate(0, self.sigma), self._finish, attempt)

    def _finish(self, attempt):
        self.serving -= 1
        while self._line and self.serving < self.slots:
            self._serve(self._line.pop(0))
        self._at(self.hop, self._answer, attempt)

    def _answer(self, attempt):
        if self._end(attempt, "served"):
            self.limit.succeeded(
                attempt["number"], attempt["at"], self.now - attempt["at"], self.in_flight + 1,
                crowd=attempt["crowd"], binding=attempt["binding"],
            )  # fmt: skip
            self.limit.grow(self.now)
        self._send()

    def _refuse(self, attempt):
        if self._end(attempt, "refused") and not self.limit.in_vain(attempt["number"], self.number):
            took = self.now - attempt["at"]
            self.limit.refused(attempt["number"], self.number, self.in_flight, self.now, took)
        self._send()

    def _fail(self, attempt):
        if self._end(attempt, "failed"):
            self.limit.failed(attempt["number"], self.number, self.now, self.now - attempt["at"])
        self._send()

    def _give_up(self, attempt):
        if attempt in self._line:
            self._line.remove(attempt)
        self._fail(attempt)

    def _end(self, attempt, how):
        if not attempt["open"]:
            return False
        attempt["open"] = False
        self.in_flight -= 1
        self.log.append((self.now, how))
        return True

    def since(self, start, *hows):
        """How many ended in one of these ways since then."""
        return sum(at >= start and how in hows for at, how in self.log)

    def goodput(self, start):
        """Answers a second since then."""
        return self.since(start, "served") / (self.now - start)

    def share(self, start, how):
        return self.since(start, how) / max(1, self.since(start, "served", "refused", "failed"))

    def fits(self, room):
        """Answers a second where `room` are always in flight."""
        return room / (self.latency * math.exp(self.sigma**2 / 2) + 2 * self.hop)


class Hand:
    """A limit and its attempts, one by one."""

    def __init__(self, ceiling=1000, *, found=None):
        self.limit = ConcurrencyLimit(ceiling)
        self.limit.ignore_latency()
        self.now, self.newest = 0.0, 0
        if found is not None:
            self.limit.look(0.0)
            self.refuse(found)
            assert self.limit.value() == found

    def send(self, count=1):
        self.newest += count
        return self.newest

    def answer(self, times=1, *, seconds=1.0, binding=True, crowd=1):
        for _ in range(times):
            self.send()
            self.now += seconds
            self.limit.succeeded(self.newest, self.now - seconds, seconds, 1.0, crowd=crowd, binding=binding)
            self.limit.grow(self.now)
        return self.limit.value()

    def refuse(self, in_flight, number=None, *, took=0.04):
        number = self.send() if number is None else number
        self.limit.refused(number, self.newest, in_flight, self.now, took)
        return self.limit.value()

    def use(self):
        """As the limiter does when calls wait at the limit: what was tried is under way."""
        self.limit.look(self.now)
        return self.limit.value()


def test_it_starts_at_16_or_at_its_ceiling():
    assert START == 16
    assert Hand().limit.value() == 16
    assert Hand(5).limit.value() == 5


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [8, 11, 15])
def test_a_refusal_puts_it_at_what_is_in_flight_without_the_refused_attempt(in_flight):
    assert Hand().refuse(in_flight) == in_flight


@pytest.mark.parametrize("in_flight", [16, 500])
def test_a_refusal_never_raises_it(in_flight):
    hand = Hand()
    assert hand.refuse(in_flight) == 16
    hand = Hand(found=10)
    hand.answer(PATIENCE)  # one more is tried
    assert hand.refuse(in_flight) == 10


def test_one_event_never_takes_it_below_half():
    hand = Hand()
    first = hand.send(16)
    for number in range(first - 15, first + 1):
        hand.refuse(first - number, number)
    assert hand.limit.value() == 8
    assert hand.refuse(1) == 4
    assert hand.refuse(1) == 2


@pytest.mark.parametrize("room", [9, 12, 15])
def test_the_refusals_of_one_overshoot_find_the_room_in_one_round_trip(room):
    service = Service(room=room).run(0.05)
    assert service.since(0, "refused") == 16 - room
    assert service.limit.value() == room


def test_refusals_in_a_row_without_an_answer_cut_deeper():
    """While a room shrinks, each freed place is asked for, and refused with as many in flight as before."""
    hand = Hand(found=15)
    cuts, before = [], 15.0
    for _ in range(4):
        hand.refuse(15)
        cuts.append(1 - hand.limit._limit / before)
        before = hand.limit._limit
    assert cuts == sorted(cuts)
    assert cuts[0] > 0
    assert hand.limit.value() <= 8


def test_no_rate_overrides_what_a_refusal_has_found():
    service = Service(room=10, rate=1000.0).run(5)
    assert 9 <= service.limit.value() <= 12
    service.limit.expect(5000.0)
    assert service.limit.value() <= 12
    service.run(10)
    assert max(limit for at, limit in service.limits if at > 5) <= 13


# --- growth by answers ----------------------------------------------------------------------------


def test_after_patience_one_more_is_tried_and_no_sooner():
    hand = Hand(found=10)
    assert hand.answer(PATIENCE - 1) == 10
    assert hand.answer() == 11


def test_answers_tell_nothing_while_the_limit_is_not_in_use():
    hand = Hand(found=10)
    assert hand.answer(10 * PATIENCE, binding=False) == 10


def test_only_one_try_is_under_way_at_a_time():
    hand = Hand(found=10)
    hand.answer(PATIENCE)
    assert hand.use() == 10
    assert hand.refuse(10) == 10
    assert hand.answer(PATIENCE - 1) == 10
    assert hand.answer() == 11


def test_the_first_steps_are_of_one_and_then_each_is_twice_the_last_up_to_a_share():
    hand = Hand(found=12)
    hand.answer(PATIENCE)
    proven, steps = 12, []
    for _ in range(12):
        steps.append(hand.limit.value() - proven)
        proven = hand.limit.value()
        hand.use()
        hand.answer()  # after a second, bad news would have come
    assert steps[: SMALL_STEPS + 3] == [1] * SMALL_STEPS + [2, 3, 4]
    assert all(step <= LARGEST_STEP * sum(steps[:n], 12) + 1 for n, step in enumerate(steps))
    assert sum(steps) > 30


def test_a_try_that_was_not_under_way_is_not_taken_for_served():
    hand = Hand(found=12)
    hand.answer(PATIENCE)
    assert hand.answer(100) == 13  # calls never waited, so the limiter never looked


def test_the_next_step_waits_until_bad_news_would_have_come():
    hand = Hand(found=12)
    hand.answer(PATIENCE)
    hand.use()
    assert hand.answer(5, seconds=0.01) == 12
    assert hand.answer(6, seconds=0.01) == 14


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("room", [5, 20, 100])
def test_in_the_long_run_one_attempt_in_patience_is_refused_and_the_room_is_used(room, seed):
    service = Service(room=room, seed=seed).run(300)
    assert 0.3 / PATIENCE <= service.share(30, "refused") <= 1.5 / PATIENCE
    assert service.goodput(30) >= 0.95 * service.fits(room)
    assert service.most == room  # every place is used


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("room", [20, 100])
def test_a_room_that_halves_is_found_in_2_s_and_one_that_doubles_in_10_s(room, seed):
    service = Service(room=room, seed=seed).run(30)
    service.room = room // 2
    service.run(2)
    assert service.limit.value() <= room // 2 + 2
    service.run(18)
    assert service.goodput(40) >= 0.95 * service.fits(room / 2)
    service.room = room
    service.run(10)
    assert service.limit.value() >= 0.9 * room


# --- growth by silence ----------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "doubling"), [(1000.0, SILENCE), (None, LONG_SILENCE)])
def test_it_doubles_in_a_tenth_of_a_second_of_silence_where_a_rate_is_known_and_in_a_second_elsewhere(rate, doubling):
    service = Service(latency=60.0, sigma=0.0, rate=rate)
    for doublings in (1, 2, 3):
        service.run(doublings * 1.05 * doubling - service.now)
        assert service.limit.value() == pytest.approx(START * 2**doublings, rel=0.2)


@pytest.mark.parametrize("rate", [1000.0, None])
def test_opening_by_silence_stops_at_the_first_refusal(rate):
    service = Service(room=100, latency=60.0, sigma=0.0, rate=rate).run(20)
    assert service.limit.value() == 100
    assert service.since(0, "refused") <= 64


@pytest.mark.parametrize("rate", [1000.0, None])
def test_it_never_opens_beyond_its_ceiling(rate):
    service = Service(latency=60.0, ceiling=50, rate=rate).run(20)
    assert service.limit.value() == service.in_flight == 50


def test_before_the_first_refusal_it_doubles_in_a_round_trip_of_answers():
    hand = Hand()
    assert hand.answer(16) == 32


def test_a_known_rate_may_need_more_than_the_ceiling_up_to_what_all_may_have():
    limit = ConcurrencyLimit(100, 500)
    limit.ignore_latency()
    limit.succeeded(1, 0.0, 2.0, 1.0, crowd=1, binding=False)
    for rate, top in ((100.0, HEADROOM * 100 * 2 + 2), (1e6, 500)):
        limit.expect(rate)
        now = 10.0
        while limit.look(now) is not None:
            now += SILENCE
        assert limit.value() == top


# --- refusals that are not about room -------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rate", [None, 1000.0])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.2])
def test_refusals_at_random_do_not_shut_it(noise, rate, seed):
    service = Service(noise=noise, demand=60, seed=seed, rate=rate).run(60)
    assert service.goodput(15) >= 0.9 * 60 * (1 - noise)


@pytest.mark.parametrize("seed", [5, 6])
def test_refusals_at_random_of_calls_that_are_alone_do_not_hold_it_at_one_call(seed):
    """At two answers a second six refusals of 5 % would take a minute; one of a call that was alone is enough."""
    service = Service(noise=0.05, demand=60, seed=seed).run(60)
    assert service.goodput(15) >= 0.9 * 60 * 0.95


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_room_of_one_to_three_is_kept_to(room):
    service = Service(room=40).run(20)
    service.room = room
    service.run(60)
    assert service.goodput(40) >= 0.85 * service.fits(room)
    assert service.share(40, "refused") <= 0.03


@pytest.mark.parametrize("seconds", [60, 300, 900])
def test_refusals_that_are_not_heard_are_heard_again_when_they_are_three_times_as_many(seconds):
    """However long they had been no more than that."""
    service = Service(noise=0.05, demand=60).run(seconds)
    service.room = 10
    service.run(20)
    assert service.share(service.now - 5, "refused") <= 0.2


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_timeouts_of_a_server_that_queues_cut_to_what_is_answered_meanwhile(seed):
    service = Service(slots=20, patience=3.0, seed=seed).run(60)
    assert service.goodput(20) >= 0.9 * service.fits(20)
    assert service.share(20, "failed") <= 0.05
    assert 20 <= service.limit.value() <= 2 * FITS * 3.0 * service.fits(20)


@pytest.mark.parametrize("lost", [0.02, 0.05])
def test_timeouts_at_random_cut_nothing(lost):
    service = Service(lost=lost, patience=30.0, demand=60).run(200)
    assert service.goodput(60) >= 0.9 * 60 * (1 - lost)


@pytest.mark.parametrize("broken", [0.2, 0.5])
def test_a_gateway_that_fails_at_random_does_not_shut_it(broken):
    service = Service(broken=broken, demand=60).run(60)
    assert service.goodput(20) >= 0.9 * 60 * (1 - broken)


def test_where_nothing_has_ever_succeeded_failures_open_it():
    hand = Hand()
    for _ in range(100):
        hand.limit.failed(hand.send(), hand.newest, hand.now, 60.0)
    assert hand.limit.value() == 116


# --- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1000.0, None])
def test_after_an_outage_it_begins_anew_at_1_and_is_back_within_seconds(rate):
    service = Service(room=40, rate=rate).run(30)
    service.noise, service.demand, service.asked = 1.0, 1.0, 0.0  # the budget's pauses let one a second through
    service.run(20)
    assert service.limit.value() == 1
    service.noise, service.demand, service.asked = 0.0, math.inf, math.inf
    service.run(8)
    assert service.limit.value() >= 30


# --- promises -------------------------------------------------------------------------------------

happenings = st.lists(
    st.tuples(st.sampled_from(["answer", "refuse", "echo", "fail", "slow", "look"]), st.integers(0, 200)), max_size=200
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(happenings, st.integers(1, 100), st.booleans(), st.sampled_from([None, 0.05, 1e6]))
def test_after_anything_it_is_between_1_and_its_ceiling_and_comes_back(happenings, ceiling, hosted, rate):
    limit = ConcurrencyLimit(ceiling)
    if hosted:
        limit.ignore_latency()
    limit.expect(rate)
    now, newest = 0.0, 0
    for what, value in happenings:
        now += value / 100
        newest += 1
        number = max(1, newest - value) if what == "echo" else newest
        before = limit.value()
        if what == "answer":
            limit.succeeded(number, now - value / 100, value / 100, value, crowd=value, binding=value % 3 > 0)
            limit.grow(now)
        elif what == "look":
            limit.look(now)
        elif what in ("fail", "slow"):
            limit.failed(number, newest, now, 60.0 if what == "slow" else 0.01)
        elif not limit.in_vain(number, newest):
            limit.refused(number, newest, value, now, 0.04)
            assert limit.value() <= before
        assert 1 <= limit.value() <= ceiling
    hosted or limit.ignore_latency()
    for _ in range(20_000):
        newest, now = newest + 1, now + 1.0
        limit.succeeded(newest, now - 1.0, 1.0, 1.0, crowd=limit.value(), binding=True)
        limit.grow(now)
        limit.look(now)
        if limit.value() == ceiling:
            break
    assert limit.value() == ceiling
