"""The budget: request and token buckets and a pause, for one model or one shared group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .bucket import TokenBucket
from .durations import DAY, MINUTE
from .limits import BURST, Limits
from .stats import WindowStats

if TYPE_CHECKING:
    from .headers import Announcement, Dimension, Window
    from .refusals import Refusal

# Seconds of the limits that may leave before the server has accepted anything: what it may cost
# when somebody else has emptied the server's bucket.
UNPROVEN_BURST: Final = 0.1
# A pause the server asks for is stretched by up to this share, so that clients refused in one
# instant do not return in one.
PAUSE_JITTER: Final = 0.1
# Seconds of the first pause the server gives no length for; doubled per event up to the longest.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_OVERLOAD_PAUSE: Final = 8.0


@dataclass(slots=True, eq=False)
class Reservation:
    """What one attempt took from a budget, and what the budget had spent by then.

    Later attempts that were given back are taken off what was spent since.
    """

    tokens: float
    at: float
    requests_spent: float
    tokens_spent: float
    requests_refunded: float = 0.0
    tokens_refunded: float = 0.0


class Budget:
    """What one model, or a group of models that shares its limits, may spend now.

    One bucket per configured or announced window: requests and tokens, per minute, per day. An
    attempt goes when every bucket has room for it, and takes from all of them in one step. The
    budget decides; waiting is the throttle's. Instants are the running loop's clock.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.paused_until = -math.inf
        self._proven = False  # has the server accepted anything yet
        self._streak = 0  # congestion events since the last success
        self._requests_spent = 0.0
        self._tokens_spent = 0.0
        self._open: set[Reservation] = set()
        self._configured: dict[tuple[Dimension, float], float] = {}
        self._announced: dict[tuple[Dimension, float], float] = {}
        self._announced_at: dict[tuple[Dimension, float], float] = {}
        self.buckets: dict[tuple[Dimension, float], TokenBucket] = {}
        self.request_rate: float | None = None
        """Requests per second by the limits per minute or shorter; None: not known."""
        self.token_rate: float | None = None
        """Tokens per second by the limits per minute or shorter; None: not known."""
        self._configure("requests", MINUTE, self.limits.rpm)
        self._configure("requests", DAY, self.limits.rpd)
        self._configure("tokens", MINUTE, self.limits.tpm)
        self._configure("tokens", DAY, self.limits.tpd)

    def _configure(self, dimension: Dimension, period: float, limit: float | None) -> None:
        if limit is not None:
            self._configured[dimension, period] = limit
            self._set_limit(dimension, period, limit)

    def _set_limit(self, dimension: Dimension, period: float, limit: float) -> None:
        rate, capacity = limit / period, self._capacity(period, limit)
        bucket = self.buckets.get((dimension, period))
        if bucket is None:
            self.buckets[dimension, period] = TokenBucket(rate, capacity)
        elif not math.isclose(bucket.rate, rate):
            bucket.resize(rate, capacity)
        self.request_rate = self._slowest("requests")
        self.token_rate = self._slowest("tokens")

    def _slowest(self, dimension: Dimension) -> float | None:
        # A daily limit may be spent at any pace.
        rates = [
            bucket.rate for (other, period), bucket in self.buckets.items() if other == dimension and period <= MINUTE
        ]
        return min(rates, default=None)

    def _capacity(self, period: float, limit: float) -> float:
        if period > MINUTE:
            return limit  # a day's worth is not enforced by the second
        seconds = self.limits.burst
        if seconds is None:
            seconds = BURST if self._proven else UNPROVEN_BURST
        return min(limit, max(1.0, seconds * limit / period))

    @property
    def largest_announced(self) -> float:
        """Tokens of the largest attempt the server could admit, as far as it has told its limit."""
        limits = [limit for (dimension, _), limit in self._announced.items() if dimension == "tokens"]
        return min(limits, default=math.inf)

    def delay(self, tokens: float, now: float) -> float:
        """Seconds until an attempt of `tokens` may go; 0 if it may now.

        An attempt larger than a bucket goes when that bucket is full, and leaves it in debt.
        """
        delay = self.paused_until - now
        for (dimension, _), bucket in self.buckets.items():
            delay = max(delay, bucket.delay(1.0 if dimension == "requests" else tokens))
        return max(0.0, delay)

    def reserve(self, tokens: float, now: float) -> Reservation:
        """Take one request and `tokens` from every bucket."""
        self._spend(1.0, tokens)
        self._requests_spent += 1.0
        self._tokens_spent += tokens
        reservation = Reservation(tokens, now, self._requests_spent, self._tokens_spent)
        self._open.add(reservation)
        return reservation

    def close(self, reservation: Reservation) -> None:
        """The attempt has ended and will not be observed any more."""
        self._open.discard(reservation)

    def refund(self, reservation: Reservation, *, request: bool) -> None:
        """Give back the tokens of an attempt the server did not take, and its request if never sent."""
        requests = 1.0 if request else 0.0
        self._spend(-requests, -reservation.tokens)
        # For attempts admitted before this one, it was never sent.
        number = reservation.requests_spent
        for other in self._open:
            if other.requests_spent < number:
                other.requests_refunded += requests
                other.tokens_refunded += reservation.tokens

    def _spend(self, requests: float, tokens: float) -> None:
        for (dimension, _), bucket in self.buckets.items():
            bucket.spend(requests if dimension == "requests" else tokens)

    def succeeded(self) -> None:
        """The server accepted an attempt made after the last congestion event."""
        self._streak = 0
        if not self._proven:
            self._proven = True
            for (_, period), bucket in self.buckets.items():
                limit = bucket.rate * period
                bucket.resize(bucket.rate, self._capacity(period, limit))

    def observe(self, announcement: Announcement, reservation: Reservation | None, now: float) -> None:
        """Adopt announced limits, and lower the levels to what others have left over.

        `remaining` is a snapshot from when the server admitted that attempt: what was sent since
        is taken off, what was refilled since is added. It never raises a level, so it cannot cause
        a burst. A configured limit is a ceiling: the user may want less than the account has.
        """
        for window in announcement.requests:
            self._observe("requests", window, reservation, now)
        for window in announcement.tokens:
            self._observe("tokens", window, reservation, now)

    def _observe(self, dimension: Dimension, window: Window, reservation: Reservation | None, now: float) -> None:
        key = dimension, window.period
        sent_at = now if reservation is None else reservation.at
        # Responses overtake each other: an older one must not bring back an older limit.
        if sent_at >= self._announced_at.get(key, -math.inf):
            self._announced_at[key] = sent_at
            self._announced[key] = window.limit
            self._set_limit(dimension, window.period, min(window.limit, self._configured.get(key, math.inf)))
        if window.remaining is None:
            return
        bucket = self.buckets[key]
        left = window.remaining
        if reservation is not None:
            left = min(window.limit, left + window.rate * (now - sent_at)) - self._spent_since(reservation, dimension)
        if left < bucket.level:
            bucket.set_level(left)

    def _spent_since(self, reservation: Reservation, dimension: Dimension) -> float:
        """Units reserved after `reservation`, less those of them that were given back."""
        if dimension == "requests":
            return self._requests_spent - reservation.requests_spent - reservation.requests_refunded
        return self._tokens_spent - reservation.tokens_spent - reservation.tokens_refunded

    def refused(self, refusal: Refusal, reservation: Reservation, now: float, *, event: bool, jitter: float) -> None:
        """The server refused an attempt whose tokens have been given back.

        The named buckets (all, if none is named) fall to where the server's must be: short of this
        attempt by what refills in `retry_after`. So they reopen at their rate, not as a herd.
        `event`: not the echo of an event already answered. `jitter`: uniform in [0, 1).
        """
        levelled = False
        if refusal.kind == "rate":
            for (dimension, period), bucket in self.buckets.items():
                if refusal.dimension not in (None, dimension) or period != (refusal.period or MINUTE):
                    continue
                levelled = True
                cost = min(1.0 if dimension == "requests" else reservation.tokens, bucket.capacity)
                level = cost - bucket.rate * refusal.retry_after if refusal.retry_after is not None else 0.0
                bucket.set_level(min(bucket.level, level))
        if refusal.retry_after is not None:
            # A token bucket in debt holds back large attempts and lets small ones through, as the
            # server does; a pause would stop both.
            if not (levelled and refusal.dimension == "tokens"):
                self._pause(now + refusal.retry_after * (1 + PAUSE_JITTER * jitter))
        elif event and not levelled:
            # One refusal that says nothing is answered by fewer attempts in flight; a pause is for
            # those that go on being refused.
            doublings = self._streak - (0 if refusal.dimension else 1)
            if doublings >= 0:
                longest = LONGEST_PAUSE if refusal.kind == "rate" else LONGEST_OVERLOAD_PAUSE
                pause = min(longest, FIRST_PAUSE * 2.0 ** min(doublings, 10))
                self._pause(now + pause * (1 + jitter) / 2)
        if event:
            self._streak += 1

    def _pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop, forgetting instants of another clock."""
        if not same_clock:
            self.paused_until = -math.inf
            self._announced_at.clear()
        self._open.clear()
        for bucket in self.buckets.values():
            bucket.rebind(same_clock=same_clock)

    def stats(self) -> tuple[WindowStats, ...]:
        return tuple(
            WindowStats(
                dimension=dimension,
                period=period,
                limit=bucket.rate * period,
                spendable=bucket.last_level,
                announced=(dimension, period) in self._announced,
            )
            for (dimension, period), bucket in self.buckets.items()
        )
