"""Promises over random attempts, answers and pauses: levels, rates, delays and refunds of a budget."""

import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from budgets import BOTH, accepted
from support import Limits, announcement, now, pass_time, refusal, virtual_run
from throttled_openai._admission.figures import windows_of
from throttled_openai._control.budget import Budget
from throttled_openai._limits import BURST
from throttled_openai._protocol.durations import DAY


class Walk:
    """Any mix of attempts, answers and time, by one seed."""

    STEPS = ("sleep", "send", "send", "send", "succeed", "succeed", "refuse", "unsent", "fail", "tell")

    def __init__(self, seed):
        self.random = Random(seed)
        pick = self.pick = self.random.choice
        self.limits = pick(
            [{}, {"rpm": 60, "tpm": 600}, {"rpm": 3}, {"tpm": 600, "burst": 60}, {"rpd": 100, "tpd": 9e3}]
        )
        self.budget = Budget(Limits(**self.limits))
        self.open = []
        self.kept = {"requests": 0.0, "tokens": 0.0}

    def step(self):
        step = self.pick(self.STEPS)
        if step == "sleep":
            pass_time(self.pick([0.01, 0.3, 5.0, 100.0]))
        elif step == "send":
            self.open.append(self.budget.reserve(self.pick([0, 1, 30, 300, 5000]), now()))
        elif step == "tell":
            self.budget.observe(self.told(), None, now())
        elif self.open:
            self.end(step, self.open.pop(self.random.randrange(len(self.open))))

    def end(self, step, reservation):
        budget = self.budget
        self.kept["requests"] += step != "unsent"
        self.kept["tokens"] += reservation.tokens if step in ("succeed", "fail") else 0
        if step == "unsent":
            budget.refund(reservation, request=True)
        elif step == "succeed":
            budget.observe(self.told(), reservation, now())
            budget.succeeded(reservation, now())
        elif step == "fail":
            pass
        else:
            told = refusal(self.pick([None, *BOTH]), self.pick([None, 0.2, 30.0]), kind=self.pick(["rate", "overload"]))
            budget.refused(told, self.told(), reservation, now(), jitter=self.random.random())

    def told(self):
        rpm, tpm, period = self.pick([None, 3, 60]), self.pick([None, 600, 60_000]), self.pick([60.0, 60.0, DAY])
        left = self.random.random()
        return announcement(
            rpm=rpm, rpm_left=rpm and int(rpm * left), tpm=tpm, tpm_left=tpm and int(tpm * left), period=period
        )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_whatever_happens_levels_fit_their_buckets_rates_their_ceilings_and_the_delay_is_finite(seed):
    async def run():
        walk = Walk(seed)
        budget = walk.budget
        for _ in range(60):
            walk.step()
            for one in budget.windows.values():
                assert one.level <= one.limit - one.reserve + 1e-6
                assert 0 < one.reserve <= one.limit / 4
            for dimension, ceiling in (("requests", walk.limits.get("rpm")), ("tokens", walk.limits.get("tpm"))):
                rate = budget.pacers[dimension].rate
                assert ceiling is None or 0 < rate <= ceiling / 60 * (1 + 1e-9)
            assert 0 <= budget.delay(100, now()) < math.inf
            assert all(window.limit > 0 and math.isfinite(window.limit) for window in windows_of(budget, now()))

    virtual_run(run())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_over_any_mix_of_endings_what_is_reserved_is_used_or_refunded(seed):
    async def run():
        walk = Walk(seed)
        for _ in range(60):
            walk.step()
        walk.kept["requests"] += len(walk.open)
        walk.kept["tokens"] += sum(one.tokens for one in walk.open)
        assert walk.budget.spent == walk.kept

    virtual_run(run())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.02, 1.0, 30.0]), st.integers(0, 200)), min_size=1, max_size=50),
    st.sampled_from([{"rpm": 60, "tpm": 600}, {"rpm": 3, "tpm": 600, "burst": 60}, {"rpd": 20, "tpd": 900}]),
)
def test_without_corrections_no_window_has_more_than_its_burst_and_its_refill(attempts, limits):
    async def run():
        budget, left = accepted(**limits), []
        for pause, tokens in attempts:
            pass_time(pause)
            pass_time(budget.delay(tokens, now()))
            budget.reserve(tokens, now())
            left.append((now(), tokens))
        return left

    left = virtual_run(run())
    seconds = limits.get("burst", BURST)
    bounds = [("rpm", 60.0, lambda tokens: 1), ("tpm", 60.0, lambda tokens: tokens)]
    bounds += [("rpd", DAY, lambda tokens: 1), ("tpd", DAY, lambda tokens: tokens)]
    for name, period, amount in bounds:
        if name not in limits:
            continue
        rate = limits[name] / period
        capacity = limits[name] if period == DAY else max(1.0, seconds * rate)
        for first, (start, _) in enumerate(left):
            spent = oversize = 0.0
            for at, tokens in left[first:]:
                spent += amount(tokens)
                oversize = max(oversize, amount(tokens) - capacity)
                assert spent <= capacity + rate * (at - start) + oversize + 1e-2
