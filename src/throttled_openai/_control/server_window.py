"""The server window: our picture of one bucket that the server announces, and of what it has left."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from .bucket import TokenBucket
from .sightings import MOST_LIMITS

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Window

# Seconds of refill that are never used, as calls may reach the server closer together than they left. This costs no
# throughput; keeping back a share of the limit would.
RESERVE: Final = 0.15
# Attempts sent within this many seconds of each other may reach the server in another order.
REORDERING: Final = 0.15
# How fast the level becomes uncertain, as others may use the same limit: the standard deviation after one second, in
# seconds of refill. It grows with the square root of time.
DRIFT: Final = 0.05
# What others use is measured by the corrections within this many seconds, and corrected by this share of the
# difference: two looks, or 4 s, for 84 %.
NEIGHBOUR_SECONDS: Final = 2.0
NEIGHBOUR_GAIN: Final = 0.6
# The share of the limit that we go on using, however much others use.
LEAST_SHARE: Final = 0.1
# Spans of our traffic, and refunds, that are remembered: some 75 s of traffic.
KEPT: Final = 512
# An announced size of the full bucket is believed once all responses within this many seconds agree, to within this
# share. In a fixed window, what is left and the time to its end give another size each time.
AGREEING_SECONDS: Final = 1.0
AGREEING: Final = 0.01
# A snapshot older than the newest one used is uncertain by this share of what refilled in between.
STALENESS: Final = 0.5


class Checkpoint(NamedTuple):
    """What was believed of a window when an attempt left, to compare with the snapshot that it brings back."""

    window: ServerWindow
    at: float
    number: int  # attempts of this window until then
    refunds: int  # refunds until then
    level: float  # after the attempt was taken off
    corrected: float  # sum of all corrections made until then


class ServerWindow:
    """A server's bucket of `limit` units per `period` seconds, as seen from here.

    A snapshot says what was left when the server admitted *that* attempt. It arrives a service time later, out of
    order. So it is compared with what was believed when that attempt left (a Smith predictor), and the level is
    corrected by a part of the difference: a smaller part if we sent much at that time, as the server may have seen that
    in another order; a larger part if the last snapshot is long ago (a scalar Kalman filter). Corrections that all go
    one way are the traffic of other clients, which is then expected to go on.

    With one constant gain instead, a burst of 100 attempts left the level wrong by 35 to 47 of them, instead of at most
    10 (tests/control/test_server_window.py).
    """

    __slots__ = (
        "_agreed_since",
        "_agreeing",
        "_at",
        "_bucket",
        "_limit_at",
        "_neighbours",
        "_number",
        "_refunded",
        "_refunds",
        "_reviewed",
        "_reviewed_at",
        "_size",
        "_snapshot_at",
        "_traffic",
        "_variance",
        "corrected",
        "limit",
        "period",
    )

    def __init__(self, limit: float, period: float) -> None:
        self.limit = limit
        self.period = period
        self._bucket = TokenBucket(limit / period, _capacity(limit, limit / period))
        self._size = limit  # units it holds when it is full
        self._agreeing = 0.0  # the same by the latest responses, until it is believed
        self._agreed_since = math.inf
        self.corrected = 0.0  # sum of all corrections
        self._variance = math.inf  # of the level, units squared
        self._at = -math.inf  # of the variance
        self._traffic: dict[int, float] = {}  # units that left, by multiples of `REORDERING`
        self._number = 0
        self._refunds = 0
        self._refunded: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        self._snapshot_at = -math.inf  # when the attempt of the newest used snapshot was sent
        self._limit_at = -math.inf  # the same, for the limit
        self._neighbours = 0.0  # units per second that others take
        self._reviewed_at = -math.inf  # when that was last measured
        self._reviewed = 0.0  # the corrections until then

    @property
    def rate(self) -> float:
        """Units per second that the limit refills."""
        return self.limit / self.period

    @property
    def refill(self) -> float:
        """Units per second that come back to us: others take the rest."""
        return self._bucket.rate

    @property
    def level(self) -> float:
        """Units that may be sent now; negative: debt."""
        return self._bucket.level

    @property
    def last_level(self) -> float:
        return self._bucket.last_level

    @property
    def reserve(self) -> float:
        """Units the server may have and we do not use."""
        return self._size - self._bucket.capacity

    def delay(self, amount: float, held: float = 0.0) -> float:
        """Seconds until `amount` may be sent, leaving `held` for another attempt."""
        return self._bucket.delay(amount, held)

    def spend(self, amount: float, now: float) -> Checkpoint:
        """Take `amount` for an attempt that leaves now."""
        self._pass_time(now)
        moment = int(now / REORDERING)
        if moment not in self._traffic and len(self._traffic) >= KEPT:
            del self._traffic[next(iter(self._traffic))]
        self._traffic[moment] = self._traffic.get(moment, 0.0) + amount
        self._number += 1
        self._bucket.spend(amount)
        return Checkpoint(self, now, self._number, self._refunds, self._bucket.last_level, self.corrected)

    def checkpoint(self, at: float, level: float) -> Checkpoint:
        """As if an attempt had left at that instant with that level: for the first snapshot."""
        return Checkpoint(self, at, self._number, self._refunds, level, self.corrected)

    def give_back(self, amount: float, then: Checkpoint) -> None:
        """The attempt of `then` was not charged `amount`."""
        self._bucket.spend(-amount)
        self._refunds += 1
        self._refunded.append((self._refunds, then.number, amount))

    def _refunded_since(self, then: Checkpoint) -> float:
        """Units given back since then for attempts that left before it: the server never counted them."""
        if self._refunds == then.refunds:
            return 0.0
        return sum(
            amount for refund, number, amount in self._refunded if refund > then.refunds and number < then.number
        )

    def _reordering(self, then: Checkpoint) -> float:
        """How far a snapshot may be off because the server saw attempts in another order: half of those around it."""
        moment = int(then.at / REORDERING)
        around = sum(self._traffic.get(moment + step, 0.0) for step in (-1, 0, 1))
        return 0.5 * around

    def _pass_time(self, now: float) -> None:
        elapsed = max(0.0, now - self._at)
        self._at = now
        if elapsed < math.inf:
            self._variance += max(DRIFT * self.rate, 0.3) ** 2 * elapsed

    def observe(
        self, limit: float, remaining: float | None, then: Checkpoint | None, now: float, mean_cost: float
    ) -> None:
        """Correct level and limit by a snapshot of the attempt that left with `then`.

        `mean_cost`: units of an average attempt. Without `then` the snapshot is as of now.
        """
        self._pass_time(now)
        sent_at = now if then is None else then.at
        change = 0.0
        changed = not math.isclose(limit, self.limit)
        # Responses overtake each other: an older one must not bring back an older limit.
        if changed and sent_at >= self._limit_at:
            change = (limit / self.period - self.rate) * (now - sent_at)
            self._resize(limit)
        elif changed:
            return  # a snapshot of another limit
        self._limit_at = max(self._limit_at, sent_at)
        if remaining is None:
            return
        left = remaining - self.reserve
        level = self.level
        error = left - level
        if then is not None:
            error = left - then.level - (self.corrected - then.corrected) - self._refunded_since(then) + change
        if changed or self._variance == math.inf:
            gain = 1.0
        else:
            stale = STALENESS * self.rate * max(0.0, self._snapshot_at - sent_at)
            noise = 0.0 if then is None else self._reordering(then) ** 2
            gain = self._variance / (self._variance + noise + mean_cost**2 + stale**2)
        self._variance = mean_cost**2 if gain == 1.0 else self._variance * (1.0 - gain)
        self._snapshot_at = max(self._snapshot_at, sent_at)
        self._correct(level + gain * error)
        if now - self._reviewed_at >= NEIGHBOUR_SECONDS:
            self._review(now)

    def _review(self, now: float) -> None:
        taken = self._reviewed - self.corrected
        elapsed = now - self._reviewed_at
        self._reviewed, self._reviewed_at = self.corrected, now
        if elapsed > 10 * NEIGHBOUR_SECONDS:  # the first time, or the first after a long silence
            return
        neighbours = self._neighbours + NEIGHBOUR_GAIN * taken / elapsed
        neighbours = min(max(0.0, neighbours), (1 - LEAST_SHARE) * self.rate)
        if abs(neighbours - self._neighbours) > 1e-3 * self.rate:
            self._neighbours = neighbours
            self._bucket.resize(self.rate - neighbours, self._bucket.capacity)

    def holds(self, size: float | None, remaining: float, now: float, mean_cost: float) -> None:
        """A response announced that the full bucket holds `size` units; None: the whole limit."""
        if remaining > self._size:  # it holds more than was believed
            self._set_size(self.limit)
        if size is None:
            self._agreed_since = math.inf
        elif self._agreed_since == math.inf or abs(size - self._agreeing) > max(mean_cost, AGREEING * self._agreeing):
            self._agreeing, self._agreed_since = size, now
        elif now - self._agreed_since >= AGREEING_SECONDS and not math.isclose(size, self._size, rel_tol=0.02):
            self._set_size(size)

    def _set_size(self, size: float) -> None:
        self._size = size
        self._hold(self._bucket.rate, _capacity(size, self.rate))

    def _hold(self, rate: float, capacity: float) -> None:
        """Change the bucket; the level stays, as far as it fits."""
        level = self.level
        self._bucket.resize(rate, capacity)
        self._bucket.set_level(level)
        self.corrected += self._bucket.last_level - level

    def emptied(self, level: float, sent_at: float, mean_cost: float) -> None:
        """An attempt was refused: the server had at most `level`."""
        if level < self.level:
            self._correct(level)
        self._variance = min(self._variance, mean_cost**2)
        self._snapshot_at = max(self._snapshot_at, sent_at)

    def _correct(self, level: float) -> None:
        before = self.level
        self._bucket.set_level(level)
        # Only what was really applied: if the capacity clipped a correction, counting all of it would make every later
        # comparison wrong.
        self.corrected += self._bucket.last_level - before

    def _resize(self, limit: float) -> None:
        self.limit = self._size = limit
        self._agreed_since = math.inf
        self._neighbours, self._reviewed_at = 0.0, -math.inf
        self._hold(self.rate, _capacity(limit, self.rate))

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop; instants of another clock are forgotten."""
        self._bucket.rebind(same_clock=same_clock)
        if not same_clock:
            self._at = self._snapshot_at = self._limit_at = self._reviewed_at = -math.inf
            self._agreed_since = math.inf
            self._traffic.clear()


def _capacity(size: float, rate: float) -> float:
    reserve = max(RESERVE * rate, min(2.0, 0.02 * size))
    return size - min(reserve, size / 4)


class Periods:
    """Decides by majority what the period of each announced limit is.

    A period that no header names is inferred from the time the bucket needs to fill. For a bucket that refills steadily
    that is exact. For a limit that is counted in fixed windows, the time to the end of the window sometimes looks like
    the refill of an hour or a day. Without the vote, 3 % of such a limit was used (control.py, fixed-60).
    """

    def __init__(self) -> None:
        self._votes: dict[float, Counter[float]] = {}

    def settle(self, windows: tuple[Window, ...]) -> tuple[tuple[Window, ...], list[float]]:
        """Returns the windows of one response with their periods, and the periods that these limits do not have."""
        if len(windows) == 1:  # as usual, a limit that never had another period
            votes = self._votes.get(windows[0].limit)
            if votes is not None and len(votes) == 1 and windows[0].period in votes:
                votes[windows[0].period] += 1
                return windows, []
        limits = Counter(window.limit for window in windows)
        settled, wrong = [], []
        for window in windows:
            if limits[window.limit] > 1:  # announced twice in one response: the headers named the periods
                settled.append(window)
                continue
            if len(self._votes) > MOST_LIMITS:
                self._votes.clear()
            cast = self._votes.setdefault(window.limit, Counter())
            cast[window.period] += 1
            # Of two with the same number of votes, the longer: too slow is soon corrected, too fast is refused.
            period, _ = max(cast.items(), key=lambda vote: (vote[1], vote[0]))
            wrong += [other for other in cast if other != period]
            settled.append(window._replace(period=period))
        return tuple(settled), wrong
