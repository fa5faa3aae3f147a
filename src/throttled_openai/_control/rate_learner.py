"""The rate learner: finds the rate of a limit that is not announced, from the refusals it causes."""

from __future__ import annotations

import math
from typing import Any, Final

# After a refusal the rate starts at this share of what was found; then it returns to it and goes beyond.
BETA: Final = 0.9
# Seconds until it has returned: the time in which that rate sends this many attempts, within these bounds.
ATTEMPTS_BACK: Final = 200.0
SHORTEST_BACK: Final = 6.0
LONGEST_BACK: Final = 90.0
# And at least the time of this many attempts: at three attempts a minute, 90 s are too few to judge by.
FEWEST_BACK: Final = 10.0
# A guess doubles in this many seconds, and in no less than the time of this many attempts.
DOUBLING: Final = 4.0
FEWEST_TO_DOUBLE: Final = 2.0
# Seconds of the way back after the server asked to slow down: OpenAI wants the former rate held for 15 minutes.
SLOWED: Final = 900.0
# Seconds in which such a refusal is not heard again: the server still judges by what was sent before.
SETTLING: Final = 10.0
# Average attempts per second below which it does not slow down: the server objects to growth, not to the rate itself.
SLOWEST: Final = 1.0
# Where other clients share the limit, their demand comes and goes. So a found rate is held for this many seconds, and
# then doubles like a guess.
PLATEAU: Final = 3.0
# Where the same rate was found twice, it is held for the time of this many attempts: about 1 % of them are refused.
STEADY_PLATEAU: Final = 80.0
# Two rates are the same if the lower one is at least this share of the higher one.
STEADY: Final = 0.8
# Average attempts accepted between two refusals that determine the rate, and those that give an upper bound of it.
EXACT: Final = 20.0
BOUND: Final = 4.0
# Others share a known limit if it refuses this many times in a row, within one second and within the time in which the
# limit would have allowed this many attempts.
SHARED: Final = 3
MISSING: Final = 5.0
# A few refusals do not prove that they leave less than this share of the limit.
LEAST_SHARE: Final = 0.1
# Seconds after which a bucket may have overflowed since the last event, so that nothing can be measured from it.
FORGOTTEN: Final = 120.0
# The rate is measured only if it held calls back for this share of the time; otherwise demand was low.
PRESSING: Final = 0.8
# A measured rate is at least BETA times the rate in force at the refusal, but that counts for no more than this many
# times the last measured one.
MOST_ABOVE: Final = 1.2
# Seconds over which the rate of sending is smoothed.
METER: Final = 2.0
# A measured rate of more than this share of the known limit is that limit.
SAME: Final = 0.97
# The lowest rate: this share of a known limit; or, without one, this many average attempts per second.
FLOOR_SHARE: Final = 0.02
FLOOR: Final = 0.05


_LESSONS: Final = (
    "_accepted",
    "_base",
    "_events",
    "_events_since",
    "_exact",
    "_held",
    "_paused_since_event",
    "_pressed",
    "_pressed_since_event",
    "_shared",
    "_steady",
)


class RateLearner:
    """The rate of a server's limit in units per second, measured by its refusals.

    At a refusal the server's bucket is empty. So what it accepted between two refusals, divided by the time between
    them, is its refill rate, exactly. Around it the rate follows a cubic, as TCP CUBIC's window does: below it after a
    refusal, levelling off at it, then probing beyond. A rate that is only a guess or an upper bound doubles instead.

    Only time in which the rate held calls back counts: time without demand teaches nothing.
    """

    __slots__ = (
        "_accepted",
        "_base",
        "_event_at",
        "_events",
        "_events_since",
        "_exact",
        "_held",
        "_meter",
        "_meter_at",
        "_meter_since",
        "_paused_since_event",
        "_pressed",
        "_pressed_since_event",
        "_shared",
        "_steady",
        "lessons",
        "mean_cost",
    )

    def __init__(self) -> None:
        self.lessons = 0  # how often the base was set, or forgotten
        self.mean_cost = 1.0  # units of an average attempt (smoothed)
        self._base: float | None = None
        self._exact = False
        self._held = False  # whether the server asked us to slow down
        self._shared = False  # whether others seem to draw on the same limit
        self._steady = False  # whether the same rate was found again
        self._pressed = 0.0  # seconds since the base was set in which this rate was what held calls back
        self._event_at = -math.inf
        self._events = 0
        self._events_since = 0  # since the event
        self._accepted = 0.0  # units since the event
        self._pressed_since_event = self._paused_since_event = 0.0
        self._meter = 0.0
        self._meter_at = self._meter_since = -math.inf

    @property
    def rate(self) -> float | None:
        """Units per second; None: nothing has been learnt."""
        base, unit = self._base, self.mean_cost
        if base is None:
            return None
        pressed, doubling = self._pressed, self._doubling(base)
        if self._exact and self._shared and not self._held:
            plateau = max(PLATEAU, (STEADY_PLATEAU if self._steady else FEWEST_BACK) * unit / base)
            pressed = max(0.0, pressed - plateau)
            if self._steady:
                doubling = max(doubling, plateau)
        elif self._exact:
            back = max(SHORTEST_BACK, min(LONGEST_BACK, ATTEMPTS_BACK * unit / base), FEWEST_BACK * unit / base)
            if self._held:
                back = SLOWED
            if self._held or pressed < 2 * back or back > LONGEST_BACK:
                return base * (1 + (1 - BETA) * ((pressed - back) / back) ** 3)
            # The server has accepted as much beyond the found rate as was held back below it: its rate has changed.
            return (2 - BETA) * base * math.exp2(min(20.0, (pressed - 2 * back) / max(doubling, back / 2)))
        return BETA * base * math.exp2(min(20.0, pressed / doubling))

    def _doubling(self, base: float) -> float:
        return max(DOUBLING, FEWEST_TO_DOUBLE * self.mean_cost / base)

    def sent(self, amount: float, now: float) -> None:
        """An attempt of `amount` units leaves."""
        if self._meter_at == -math.inf:
            self._meter_since = now
            self.mean_cost = max(1.0, amount)
        else:
            self._meter *= math.exp(-max(0.0, now - self._meter_at) / METER)
            self.mean_cost += 0.05 * (max(1.0, amount) - self.mean_cost)
        self._meter_at = now
        self._meter += amount
        self._accepted += amount

    def not_accepted(self, amount: float, sent_at: float) -> None:
        """The server did not take an attempt that left at `sent_at`."""
        # Those sent before the event are not among what was accepted since.
        if sent_at > self._event_at:
            self._accepted -= amount

    def press(self, seconds: float) -> None:
        """For this many seconds the rate held calls back."""
        self._pressed += seconds
        self._pressed_since_event += seconds
        base = self._base
        if base is not None and not self._exact and self._pressed >= self._doubling(base):
            # At twice the rate, the time of the same number of attempts is half as long.
            self._pressed -= self._doubling(base)
            self._base = 2 * base

    def pause(self, seconds: float) -> None:
        """For this many seconds a pause stopped everything, which says nothing about the rate."""
        self._paused_since_event += seconds

    def event(self, now: float, known: float | None, *, sure: bool = True) -> None:
        """The server refused an attempt for its rate. `known`: the rate of announced or configured limits, if any.

        `sure`: it can have been for nothing else. Otherwise the rate is only guessed, and soon tried again.
        """
        since, accepted, unit = now - self._event_at, self._accepted, self.mean_cost
        allowed = min(self.rate or math.inf, known or math.inf)
        guess = 0.5 * min(allowed, self._measured(now))
        self._events += 1
        self._events_since += 1
        if since > FORGOTTEN and self._base is None:
            self._restart(now)
            self._events = 1
            if known is None:
                self._set(guess, known, exact=False)
            # Otherwise others had used up the known limit: an empty bucket, not a lower rate.
        elif not sure:
            if known is None and (since >= 0.25 or accepted >= BOUND * unit):
                self._set(guess, known, exact=False)
                self._restart(now)
        elif accepted >= EXACT * unit and since >= 0.5:
            rate = self._refilled(since)
            self._restart(now)
            if rate is not None and (known is None or rate <= SAME * known):
                # The rest of a known limit is what others use.
                was = self._base if self._exact else None
                self._steady = was is not None and STEADY * was <= rate <= was / STEADY
                self._shared = known is not None
                self._set(rate, known, exact=True)
            else:
                self.forget()
        else:
            self._bound(since, allowed, guess, known)

    def _bound(self, since: float, allowed: float, guess: float, known: float | None) -> None:
        """Too few attempts were accepted since the last refusal to measure the rate: take an upper bound of it."""
        accepted, unit = self._accepted, self.mean_cost
        if accepted >= BOUND * unit and since >= 0.25:
            if known is None or self._events > 2:
                # A refusal never raises the rate.
                self._set(min(allowed, self._most(since)), known, exact=False)
        elif known is None:
            self._set(min(allowed, max(guess, 0.5 * self._most(since))), known, exact=False)
        elif self._events_since >= SHARED and since >= max(1.0, MISSING * unit / known):
            bound = max(LEAST_SHARE * known, self._most(since))
            if bound < SAME * known:
                self._shared = True
                self._set(min(allowed, bound), known, exact=False)
        # Otherwise the bucket is still empty from the last event.

    def _most(self, since: float) -> float:
        """Upper bound of the rate, by the few attempts accepted since the event."""
        accepted, unit = max(0.0, self._accepted), self.mean_cost
        # During a pause nothing could be accepted.
        return (accepted + unit * (1 + math.sqrt(accepted / unit))) / max(0.05, since - self._paused_since_event)

    def _refilled(self, since: float) -> float | None:
        """Units per second that came back between two refusals; None: that cannot be measured."""
        rate: float | None = self._accepted / since
        base, now = self._base, self.rate
        if self._pressed_since_event < PRESSING * (since - self._paused_since_event):
            # Demand was low, not the limit.
            rate = None if base is None else max(self._accepted / since, BETA * base)
        if rate is not None and self._exact and base is not None and now is not None:
            # What refilled while the bucket was full was lost: all of it where a short window is enforced, some of it
            # after a pause in demand.
            rate = max(rate, BETA * min(now, MOST_ABOVE * base))
        return rate

    def slow_down(self, now: float, known: float | None) -> None:
        """The rate grew too fast for the server: half of what it was, held for a long while, then slowly up again."""
        if self._held and now - self._event_at < SETTLING:
            return  # the server still judges by what was sent before
        usual = self._accepted / max(1.0, now - max(self._event_at, self._meter_since))
        rate = 0.5 * min(self.rate or math.inf, usual)
        self._restart(now)
        self._set(max(SLOWEST * self.mean_cost, rate), known, exact=True)
        self._held = True

    def forget(self) -> None:
        """Rely on the known limit again, if there is one."""
        self.lessons += self._base is not None
        self._base, self._shared, self._events_since = None, False, 0

    def _set(self, rate: float, known: float | None, *, exact: bool) -> None:
        self.lessons += 1
        floor = FLOOR * self.mean_cost if known is None else FLOOR_SHARE * known
        self._base = max(floor, rate)
        self._exact = exact
        self._held = False
        self._pressed = 0.0

    def _restart(self, now: float) -> None:
        self._event_at = now
        self._events_since = 0
        self._accepted = 0.0
        self._pressed_since_event = self._paused_since_event = 0.0

    def _measured(self, now: float) -> float:
        """Units per second that were sent recently."""
        if self._meter_at == -math.inf:
            return 0.0
        meter = self._meter * math.exp(-max(0.0, now - self._meter_at) / METER)
        seen = METER * -math.expm1(-max(0.05, now - self._meter_since) / METER)
        return meter / seen

    # For processes that share the limit

    def others_sent(self, amount: float, now: float) -> None:
        """Other processes have sent `amount` units since the last time."""
        self._accepted += amount
        if self._meter_at > -math.inf:
            self._meter *= math.exp(-max(0.0, now - self._meter_at) / METER)
            self._meter_at = now
            self._meter += amount

    def write(self, now: float) -> dict[str, Any]:
        """What was learnt, for others; instants as seconds ago."""
        state = {name: getattr(self, name) for name in _LESSONS}
        return state | {"ago": min(1e9, now - self._event_at)}

    def read(self, state: dict[str, Any], age: float, now: float) -> None:
        """Go by what another process has learnt, `age` seconds ago."""
        found = {name: state[name] for name in _LESSONS}
        base, ago = found["_base"], float(state["ago"])
        numbers = [float(value) for name, value in found.items() if name != "_base"]
        if not all(map(math.isfinite, (*numbers, ago, age))) or (base is not None and not 0 < float(base) < math.inf):
            raise ValueError("no lessons of a rate learner")
        for name, value in found.items():
            setattr(self, name, value)
        self._event_at = now - age - ago

    def rebind(self) -> None:
        """Forget instants: the clock is another one."""
        self._event_at = self._meter_at = self._meter_since = -math.inf
        self._meter = self._accepted = self._pressed_since_event = 0.0
