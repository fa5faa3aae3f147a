"""The pacer: how fast units of one dimension may leave, however much the server may have left."""

from __future__ import annotations

import math
from typing import Final, Literal

from throttled_openai._limits import BURST, GROWTH, WHOLE_BURST

from .bucket import TokenBucket
from .rate_learner import RateLearner

# Seconds of the limit below which refusals do not shrink the burst: at 3,000 RPM, five calls.
LEAST_BURST: Final = 0.1
# Seconds after a refusal that shrinks the burst in which the burst does not grow; twice as many after each further one.
HELD: Final = 60.0


class Pacer:
    """A bucket in front of the server's: a small burst, refilled at the rate of the limit.

    `ceiling`: units per second the user allows. `burst`: seconds of the limit that may leave at once, as configured by
    the user. If that is not configured, the burst is under a second. It grows to a whole minute while the server
    announces a bucket of one and refuses nothing. It shrinks when the server refuses what it should have had room for.
    Where no limit is known, there is no bucket until a refusal teaches a rate.
    """

    def __init__(self, ceiling: float | None, burst: float | None) -> None:
        self.ceiling = ceiling
        self._fixed = burst is not None
        self._burst = BURST if burst is None else burst
        self._announced: float | None = None
        self._full_minute = False  # whether announcements show a bucket of a whole minute
        self._held_until = -math.inf
        self._hold = HELD
        self._bucket: TokenBucket | None = None
        self.learner = RateLearner()
        self._rebuild()

    @property
    def known(self) -> float | None:
        """Units per second by the configured and announced limits; None: there are none."""
        return _lower(self.ceiling, self._announced)

    @property
    def _window_is_all(self) -> bool:
        """Whether the server window alone limits calls: no lower ceiling is configured, and no window is hidden."""
        return self._full_minute and self._held_until == -math.inf

    @property
    def rate(self) -> float | None:
        """Units per second that may leave in the long run; None: not known."""
        return _lower(self.known, self.learner.rate)

    @property
    def source(self) -> Literal["configured", "announced", "learnt"]:
        """Where the rate comes from."""
        if self.learner.rate is not None and self.learner.rate == self.rate:
            return "learnt"
        return "configured" if self._announced is None or self._announced != self.rate else "announced"

    @property
    def opens_in(self) -> float | None:
        """Seconds of holding calls back after which it holds none back; None: never."""
        if self._bucket is None:
            return 0.0
        if self._fixed or not self._full_minute or self.learning or self._held_until > -math.inf:
            return None
        return math.log(WHOLE_BURST / self._burst) / GROWTH

    @property
    def level(self) -> float:
        """Units that may leave now; infinite where nothing is held back."""
        return math.inf if self._bucket is None else self._bucket.level

    @property
    def last_level(self) -> float:
        return math.inf if self._bucket is None else self._bucket.last_level

    @property
    def capacity(self) -> float:
        """Units that may leave at once; infinite where nothing is held back."""
        return math.inf if self._bucket is None else self._bucket.capacity

    @property
    def learning(self) -> bool:
        """Whether the rate changes with time."""
        return self.learner.rate is not None

    def delay(self, amount: float, held: float = 0.0) -> float:
        """Seconds until `amount` may leave, leaving `held` for another attempt."""
        return 0.0 if self._bucket is None else self._bucket.delay(amount, held)

    def spend(self, amount: float, now: float) -> None:
        """Take `amount`."""
        self.learner.sent(amount, now)
        if self._bucket is not None:
            self._bucket.spend(self._kept_here(amount, self._bucket))

    def _kept_here(self, amount: float, bucket: TokenBucket) -> float:
        """The part of `amount` that this bucket takes. Where a server window keeps the debt, this bucket has none."""
        return min(amount, bucket.capacity) if self._window_is_all else amount

    def give_back(self, amount: float, sent_at: float, *, charged: bool) -> None:
        """The server did not accept what left at `sent_at`; `charged`: it counts against a known limit even so."""
        self.learner.not_accepted(amount, sent_at)
        if self._bucket is not None and not (charged and self.known is not None):
            self._bucket.spend(-self._kept_here(amount, self._bucket))

    def adjust(self, amount: float) -> None:
        """Take `amount` more for what has left before, or give it back."""
        if self._bucket is not None and not self._window_is_all:
            self._bucket.spend(amount)

    def slow_down(self, now: float) -> None:
        """The server asks for the rate it received before."""
        self.learner.slow_down(now, self.known)
        self._rebuild()

    def announced(self, rate: float | None) -> None:
        """The server announced limits that come to `rate`, and what is left of them."""
        self._full_minute = rate is not None and (self.ceiling is None or self.ceiling >= 0.999 * rate)
        if rate != self._announced:
            if self._announced is None and self._bucket is not None:
                self._bucket.set_level(max(0.0, self._bucket.level))  # from now on the server window keeps the debt
            self._announced = rate
            if not (self._full_minute or self._fixed):
                self._burst = min(self._burst, BURST)
            self.learner.forget()  # that was another limit
            self._rebuild()

    def configure(self, ceiling: float | None) -> None:
        """The user allows other units per second from now on."""
        self.ceiling = ceiling
        self._full_minute = self._full_minute and (ceiling is None or ceiling >= 0.999 * (self._announced or 0.0))
        if not (self._full_minute or self._fixed):
            self._burst = min(self._burst, BURST)
        self._rebuild()

    def forget(self) -> None:
        """Forget what refusals taught."""
        self.learner.forget()
        self._rebuild()

    def refused(self, amount: float, retry_after: float | None, now: float, *, event: bool, sure: bool = True) -> None:
        """The server refused `amount` for its rate, and no window explains it."""
        if self.rate is None and not self._fixed:
            self._burst = LEAST_BURST  # nothing is known of the server's window: grow from the least
        if event:
            self.learner.event(now, self.known, sure=sure)
            self._shrink(now)
        bucket = self._bucket
        if bucket is None:
            return
        if retry_after is None:
            bucket.set_level(min(bucket.level, 0.0))
            return
        bucket.set_level(min(bucket.level, min(amount, bucket.capacity) - bucket.rate * retry_after))

    def tighten(self, now: float) -> None:
        """Let less leave at once, for a while: the server may hold less than it announces."""
        if self.known is not None:
            self._shrink(now)

    def _shrink(self, now: float) -> None:
        if not self._fixed:
            # Half of the burst at which it was refused. If that had grown to a minute, it says nothing about the
            # size of the window: start from the first burst.
            self._burst = max(LEAST_BURST, 0.5 * min(self._burst, BURST if self._grown else WHOLE_BURST))
            if self._held_until > -math.inf:
                self._hold *= 2
            self._held_until = now + self._hold
        self._rebuild()

    @property
    def _grown(self) -> bool:
        return self._burst >= WHOLE_BURST

    def pressed(self, elapsed: float) -> float:
        """Seconds of the last `elapsed` in which this pacer held calls back: its bucket was not full."""
        bucket = self._bucket
        if bucket is None:
            return 0.0
        return min(elapsed, max(0.0, bucket.capacity - bucket.last_level) / bucket.rate)

    def pass_time(self, elapsed: float, pressed: float, now: float) -> None:
        """Change with time. `pressed`: seconds in which this pacer or another held calls back."""
        self.learner.press(pressed)
        if self.learning:
            if self.known is not None and (self.learner.rate or 0.0) > 1.5 * self.known:
                self.learner.forget()
            self._rebuild()
        elif not self._fixed and now >= self._held_until:
            most = WHOLE_BURST if self._full_minute else BURST
            own = self.pressed(elapsed)
            if own > 0.0 and self._burst < most:
                self._burst = min(most, self._burst * math.exp(GROWTH * own))
                self._rebuild()

    def _rebuild(self) -> None:
        rate = self.rate
        if rate is None or (self._grown and not self._fixed and not self.learning):
            self._bucket = None
            return
        capacity = max(1.0, self._burst * rate)
        if self._bucket is None:
            self._bucket = TokenBucket(rate, capacity)
        elif not (math.isclose(self._bucket.rate, rate) and math.isclose(self._bucket.capacity, capacity)):
            level, before = self._bucket.level, self._bucket.rate
            self._bucket.resize(rate, capacity)
            if level < 0.0 and rate < before:  # a wait does not become longer
                level *= rate / before
            if self._bucket.last_level < level:  # a smaller bucket is no debt
                self._bucket.set_level(level)

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop; instants of another clock are forgotten."""
        if self._bucket is not None:
            self._bucket.rebind(same_clock=same_clock)
        if not same_clock:
            self._held_until = -math.inf
            self.learner.rebind()


def _lower(one: float | None, other: float | None) -> float | None:
    """The lower of two rates; None: not known."""
    return other if one is None else one if other is None else min(one, other)
