"""The budget: what one model, or one shared group, may spend now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from throttled_openai._limits import Limits
from throttled_openai._protocol.durations import DAY, MINUTE
from throttled_openai._stats import WindowStats

from .bucket import ROUNDING
from .pacer import Pacer
from .periods import Periods
from .server_window import Checkpoint, ServerWindow
from .sightings import DOUBTED, Sightings

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Announcement, Dimension, Window
    from throttled_openai._protocol.refusals import Refusal

# A pause the server asks for is stretched by up to this share, so that clients refused in one
# instant do not return in one; doubled for those that go on being refused.
PAUSE_JITTER: Final = 0.1
# Seconds of the first pause the server gives no length for; doubled per event up to the longest.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_OVERLOAD_PAUSE: Final = 8.0

# Before the server has answered anything, so many seconds double the attempts that may have left: a
# refusal comes back within a round trip, so silence is the first good sign. A thousand may leave
# in half a second; were its bucket empty, one or two of them would be refused.
DOUBLING: Final = 0.05

# A bucket with less than this share of what it holds (or, of the server's, of a second's refill) is what
# holds calls back.
PRESSED: Final = 0.5

# The paces change no more often than this (seconds).
STEP: Final = 0.05

_DIMENSIONS: Final[tuple[Dimension, Dimension]] = ("requests", "tokens")


@dataclass(slots=True, eq=False)
class Reservation:
    """What one attempt took from a budget, and what each mirror believed then.

    `number`: attempts of a budget are numbered as they leave; instants would be equal where a
    clock is coarse.
    """

    number: int
    tokens: float
    at: float
    stamps: tuple[tuple[Dimension, Checkpoint], ...]
    requests_spent: float
    tokens_spent: float
    against: tuple[tuple[Dimension, float], ...] = ()
    """Doubtful limits that would have held it."""

    def amount(self, dimension: Dimension) -> float:
        return 1.0 if dimension == "requests" else self.tokens


class Budget:
    """What one model, or a group of models that shares its limits, may spend now.

    Per dimension a pace, and per announced window a mirror of the server's bucket. An attempt goes
    when all have room for it, and takes from all of them in one step. The budget decides; waiting
    is the throttle's. Instants are the running loop's clock.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.paused_until = -math.inf
        self.newest = 0  # number of the newest attempt
        self._began_at: float | None = None  # when the first attempt left, until the server has answered one
        self._event_at = 0  # number of the newest attempt at the last congestion event
        self._at = -math.inf  # when the paces last changed
        self._streak = 0  # congestion events since the last sign that the server accepts what it is sent
        self._overloaded = False  # whether it was for lack of room that it refused last
        self._spent = {"requests": 0.0, "tokens": 0.0}
        per_minute = {"requests": self.limits.rpm, "tokens": self.limits.tpm}
        self.paces: dict[Dimension, Pacer] = {
            dimension: Pacer(None if (limit := per_minute[dimension]) is None else limit / MINUTE, self.limits.burst)
            for dimension in _DIMENSIONS
        }
        # A day's worth is not enforced by the second: a bucket that may be spent at any pace.
        self.mirrors: dict[tuple[Dimension, float], ServerWindow] = {}
        self._per_day: dict[Dimension, float | None] = {"requests": self.limits.rpd, "tokens": self.limits.tpd}
        self._periods = {dimension: Periods() for dimension in _DIMENSIONS}
        self._announced = Sightings()
        self._doubtful_paces: set[Dimension] = set()  # those whose rate was announced once
        self._left_at = -math.inf  # when the newest attempt left
        for dimension, limit in self._per_day.items():
            if limit is not None:
                self.mirrors[dimension, DAY] = ServerWindow(limit, DAY)

    @property
    def request_rate(self) -> float | None:
        """Requests per second that may leave in the long run; None: not known."""
        return self.paces["requests"].rate

    @property
    def token_rate(self) -> float | None:
        """Tokens per second that may leave in the long run; None: not known."""
        return self.paces["tokens"].rate

    @property
    def learning(self) -> bool:
        """Whether the rates change with time, so that a delay is true for a while only."""
        return any(pace.learning for pace in self.paces.values())

    @property
    def largest_announced(self) -> float:
        """Tokens of the largest attempt the server could admit, as far as it has told its limit more than once."""
        if not self._announced:
            return math.inf
        doubtful = self._announced.doubtful
        limits = [self.mirrors[key].limit for key in self._announced if key[0] == "tokens" and key not in doubtful]
        return min(limits, default=math.inf)

    def delay(self, tokens: float, now: float, held: float = 0.0) -> float:
        """Seconds until an attempt of `tokens` may go, leaving `held` tokens to another; 0 if it may now.

        An attempt larger than a bucket goes when that bucket is full, and leaves it in debt.
        """
        if now - self._at >= STEP:
            self._pass_time(now)
        by_requests, by_tokens = self.paces["requests"].delay(1.0), self.paces["tokens"].delay(tokens, held)
        doubted = 0.0
        if self._announced.doubtful:
            doubted = self._left_at + DOUBTED - now
            doubted = doubted if doubted > ROUNDING else 0.0
        if self._doubtful_paces:
            by_requests = min(by_requests, doubted) if "requests" in self._doubtful_paces else by_requests
            by_tokens = min(by_tokens, doubted) if "tokens" in self._doubtful_paces else by_tokens
        delay = max(self.paused_until - now, self._probing(now), by_requests, by_tokens)
        for key, mirror in self.mirrors.items():
            missing = mirror.delay(1.0) if key[0] == "requests" else mirror.delay(tokens, held)
            if missing > delay and key in self._announced.doubtful:
                missing = min(missing, doubted)
            delay = max(delay, missing)
        return max(0.0, delay)

    def used_up(self, tokens: float) -> WindowStats | None:
        """The limit of more than a minute that an attempt of `tokens` has to wait for longest, if there is one."""
        short = [
            (mirror.delay(1.0 if key[0] == "requests" else tokens), key)
            for key, mirror in self.mirrors.items()
            if key[1] > MINUTE and key not in self._announced.doubtful
        ]
        delay, key = max(short, default=(0.0, None))
        return None if key is None or delay <= 0 else self._window_stats(key, self.mirrors[key])

    def _pass_time(self, now: float) -> None:
        whole = now - self._at
        elapsed = now - max(self._at, min(now, self.paused_until))
        paused = whole - elapsed
        self._at = now
        if whole < math.inf:
            pressed = max(pace.pressed(elapsed) for pace in self.paces.values())
            for pace in self.paces.values():
                pace.learner.pause(paused)
                pace.pass_time(elapsed, pressed, now)

    def _probing(self, now: float) -> float:
        """Seconds until a server that has not answered yet is sent one more attempt."""
        if self._began_at is None or self.limits.burst is not None:
            return 0.0
        delay = self._began_at + DOUBLING * math.log2(self.newest + 1) - now
        return delay if delay > ROUNDING else 0.0

    @property
    def token_refill(self) -> float:
        """Tokens per second that come back; 0 where no limit is known."""
        rates = [mirror.refill for (dimension, _), mirror in self.mirrors.items() if dimension == "tokens"]
        if self.token_rate is not None:
            rates.append(self.token_rate)
        return min(rates, default=0.0)

    def token_level(self) -> float:
        """Tokens that may leave now; infinite where no token limit is known."""
        mirrors = [mirror.level for (dimension, _), mirror in self.mirrors.items() if dimension == "tokens"]
        return min([self.paces["tokens"].level, *mirrors])

    def reserve(self, tokens: float, now: float) -> Reservation:
        """Take one request and `tokens` from everything."""
        self.newest += 1
        self._left_at = now
        if self.newest == 1:
            self._began_at = now
        spent = self._spent
        spent["requests"] += 1.0
        spent["tokens"] += tokens
        self.paces["requests"].spend(1.0, now, mirrored=self._is_mirrored("requests"))
        self.paces["tokens"].spend(tokens, now, mirrored=self._is_mirrored("tokens"))
        stamps: list[tuple[Dimension, Checkpoint]] = []
        against = self._forbidden(tokens) if self._announced.doubtful else ()
        for (dimension, _), mirror in self.mirrors.items():
            stamps.append((dimension, mirror.spend(1.0 if dimension == "requests" else tokens, now)))
        return Reservation(self.newest, tokens, now, tuple(stamps), spent["requests"], spent["tokens"], against)

    def _forbidden(self, tokens: float) -> tuple[tuple[Dimension, float], ...]:
        """The doubtful limits that leave no room for an attempt of `tokens`."""
        mirrors = [(key, self.mirrors[key]) for key in self._announced.doubtful]
        return tuple(key for key, mirror in mirrors if mirror.delay(1.0 if key[0] == "requests" else tokens) > 0)

    def refund(self, reservation: Reservation, *, request: bool) -> None:
        """Give back the tokens of an attempt the server did not take, and its request if never sent."""
        for dimension in _DIMENSIONS:
            amount = reservation.amount(dimension)
            # The request of a refused attempt counts against the limit, as OpenAI has it.
            charged = dimension == "requests" and not request
            mirrored = self._is_mirrored(dimension)
            self.paces[dimension].give_back(amount, reservation.at, charged=charged, mirrored=mirrored)
            if not charged:
                self._give_back(reservation, dimension, amount)

    def _give_back(self, reservation: Reservation, dimension: Dimension, amount: float) -> None:
        self._spent[dimension] -= amount
        for other, stamp in reservation.stamps:
            if other == dimension:
                stamp.mirror.give_back(amount, stamp)

    def _is_mirrored(self, dimension: Dimension) -> bool:
        return self.paces[dimension].is_mirrored

    def succeeded(self, reservation: Reservation, now: float) -> None:
        """The server accepted an attempt."""
        self._began_at = None
        if reservation.against:
            self._forget([key for key in reservation.against if key in self._announced.doubtful])
        if self._overloaded:
            # Refusals come back sooner than answers: where room is what lacks, that an older attempt was
            # answered tells that there is some again. Of a rate it tells nothing.
            self._streak = 0
        if reservation.number > self._event_at:
            self._streak = 0
            for pace in self.paces.values():
                pace.succeeded(now)

    def settle(self, reservation: Reservation, tokens: float) -> None:
        """The server has taken `tokens` for an attempt, whatever was reserved."""
        change = tokens - reservation.tokens
        if change:
            reservation.tokens = tokens
            self.paces["tokens"].adjust(change, mirrored=self._is_mirrored("tokens"))
            self._give_back(reservation, "tokens", -change)

    def observe(
        self,
        announcement: Announcement,
        reservation: Reservation | None,
        now: float,
        *,
        refused: bool = False,
        later: float | None = None,
    ) -> None:
        """Adopt announced limits, and correct the levels by what the server says it has left.

        `remaining` is a snapshot from when the server decided on that attempt; `refused`: it did
        not take its tokens. `later`: tokens it takes only when attempts end, and has yet to take;
        then `remaining` is as of now. A configured limit is a ceiling: the user may want less than
        there is.
        """
        for dimension in _DIMENSIONS:
            windows = announcement.of(dimension)
            if not refused and self._announced:
                self._forget(self._announced.missed(dimension, {window.period for window in windows}))
            if not windows:
                continue
            windows, wrong = self._periods[dimension].settle(windows)
            self._forget([(dimension, period) for period in wrong])
            for window in windows:
                if later is not None and dimension == "tokens" and window.remaining is not None:
                    left = window._replace(remaining=window.remaining - later)
                    self._observe(dimension, left, None, now, refused=refused)
                else:
                    self._observe(dimension, window, reservation, now, refused=refused)
            self._forget(self._announced.surplus(dimension))
            self._set_pace(dimension)

    @property
    def doubts(self) -> bool:
        """Whether a response that announces nothing tells something: that a limit is not announced again."""
        return bool(self._announced.doubtful)

    def _forget(self, keys: list[tuple[Dimension, float]]) -> None:
        """These limits do not exist."""
        for key in keys:
            self._announced.discard(key)
            if key[1] != DAY or self._per_day[key[0]] is None:
                self.mirrors.pop(key, None)
        named = {dimension for dimension, _ in keys}
        for dimension in _DIMENSIONS:
            if dimension in named:
                self._set_pace(dimension)

    def _observe(
        self, dimension: Dimension, window: Window, reservation: Reservation | None, now: float, *, refused: bool
    ) -> None:
        key = dimension, window.period
        limit, remaining = window.limit, window.remaining
        if window.period == DAY and (self._per_day[dimension] or math.inf) < limit:
            # The user wants less than there is, and what the server has left is of something larger.
            limit, remaining = self._per_day[dimension] or limit, None
        self._announced.add(key, refused=refused)
        mirror = self.mirrors.get(key)
        if mirror is None:
            mirror = self.mirrors[key] = ServerWindow(limit, window.period)
        if remaining is not None:
            mirror.holds(window.size, remaining, now, self.paces[dimension].learner.unit)
        if reservation is None:
            mirror.observe(limit, remaining, None, now, self.paces[dimension].learner.unit)
            return
        stamp = next((stamp for _, stamp in reservation.stamps if stamp.mirror is mirror), None)
        if stamp is None or not math.isclose(limit, mirror.limit):
            # The first snapshot of this limit: what was believed when the attempt left was of none, or of another.
            since = self._spent[dimension] - (
                reservation.requests_spent if dimension == "requests" else reservation.tokens_spent
            )
            level = mirror.level + max(0.0, since) - mirror.rate * (now - reservation.at)
            stamp = mirror.stamp(reservation.at, level)
        elif refused and dimension == "tokens":
            stamp = stamp._replace(level=stamp.level + reservation.tokens)
        mirror.observe(limit, remaining, stamp, now, self.paces[dimension].learner.unit)

    def _set_pace(self, dimension: Dimension) -> None:
        pace, announced = self.paces[dimension], self._announced
        rates = [(self.mirrors[key].rate, key) for key in announced if key[0] == dimension and key[1] <= MINUTE]
        rate, key = min(rates, default=(None, None))
        pace.announced(rate)
        self._doubtful_paces.discard(dimension)
        if key in announced.doubtful and rate is not None and rate < (pace.ceiling or math.inf):
            self._doubtful_paces.add(dimension)

    def refused(
        self,
        refusal: Refusal,
        told: Announcement,
        reservation: Reservation,
        now: float,
        *,
        jitter: float,
        sure: bool = True,
    ) -> bool:
        """The server refused an attempt; whether it is a new congestion event.

        `told`: what the response announced. `jitter`: uniform in [0, 1). Attempts that left before
        the last event are its echoes: they correct levels, but nothing is cut twice.
        """
        self._began_at = None
        for pace in self.paces.values():
            pace.found_empty()
        self.observe(told, reservation, now, refused=True)
        self.observe(refusal.announcement, reservation, now, refused=True)
        self.refund(reservation, request=False)
        event = reservation.number > self._event_at
        if event:
            self._event_at = self.newest
        if event and refusal.slow_down:
            self.paces["requests"].slow_down(now)
        explained = kept = False
        if refusal.kind == "rate":
            explained, kept = self._explain(refusal, told, reservation, now, event=event, sure=sure)
        wait = refusal.retry_after
        if wait is not None:
            # A token bucket in debt holds back large attempts and lets small ones through, as the
            # server does; a pause would stop both.
            if not (kept and refusal.dimension == "tokens"):
                self._pause(now + wait * (1 + PAUSE_JITTER * 2.0 ** min(self._streak, 5) * jitter))
        elif event and not explained:
            # Refusals that say nothing are answered by fewer attempts in flight or a slower pace; a
            # pause is for those that go on being refused.
            longest = LONGEST_PAUSE if refusal.kind == "rate" else LONGEST_OVERLOAD_PAUSE
            self._pause_again(self._streak, longest, now, jitter)
        if event:
            self._streak += 1
            self._overloaded = refusal.kind == "overload" and not refusal.slow_down
        return event

    def _explain(
        self, refusal: Refusal, told: Announcement, reservation: Reservation, now: float, *, event: bool, sure: bool
    ) -> tuple[bool, bool]:
        """Correct what the refusal contradicts; whether an empty mirror explains it, and a bucket keeps its wait.

        The named dimensions (both, if none is named) fall to where the server's must be: short of
        this attempt by what refills in `retry_after`. So they reopen at their rate, not as a herd.
        """
        explained = kept = False
        for dimension in self._blamed(refusal):
            amount, wait = reservation.amount(dimension), refusal.retry_after
            mirrors = {
                key: mirror
                for key, mirror in self.mirrors.items()
                if key[0] == dimension and refusal.period in (None, key[1])
            }
            if not _has_room(dimension, amount, told, refusal):
                for mirror in mirrors.values():
                    cost = min(amount, mirror.limit - mirror.reserve)
                    level = 0.0 if wait is None else cost - mirror.refill * wait
                    mirror.emptied(level, reservation.at, self.paces[dimension].learner.unit)
                if mirrors.keys() - self._announced.doubtful:
                    explained = kept = True
                if mirrors:
                    continue
            # A window the server does not tell of, or a rate that nobody told.
            if refusal.period is None or refusal.period <= MINUTE:
                self.paces[dimension].refused(amount, wait, now, event=event, sure=sure)
                kept = True
        return explained, kept

    def _blamed(self, refusal: Refusal) -> tuple[Dimension, ...]:
        """The named dimension; else the one with a known limit, of two the emptier; else both."""
        if refusal.dimension is not None:
            return (refusal.dimension,)
        known: list[Dimension] = [dimension for dimension in _DIMENSIONS if self.paces[dimension].known is not None]
        if not known:
            return _DIMENSIONS
        return (min(known, key=self._seconds_left),)

    def _seconds_left(self, dimension: Dimension) -> float:
        """Seconds of the rate that are left in the emptiest bucket of `dimension`."""
        pace = self.paces[dimension]
        levels = [mirror.level / mirror.rate for (other, _), mirror in self.mirrors.items() if other == dimension]
        return min([pace.level / (pace.rate or 1.0), *levels])

    def suspects(self, refusal: Refusal, *, binding: bool, calm: bool) -> tuple[bool, bool]:
        """What a refusal may be for: lack of room, and a rate. `binding`: the concurrency limit was in use.

        A refusal without a reason counts against the one of our own limits that held calls back, as that may be the
        one that is too high; where none did, to the concurrency limit, and where no rate is known yet to
        both.
        """
        if refusal.kind == "overload":
            return True, False
        if refusal.says_which:
            return False, True
        known = self.request_rate is not None or self.token_rate is not None
        if binding and calm:  # one more than the server had long served
            return True, False
        pressed = self._is_pressed()
        return binding or not pressed, pressed or not known

    def _is_pressed(self) -> bool:
        """Whether a rate is what holds calls back: one of its buckets is nearly empty."""
        if any(pace.level < PRESSED * pace.capacity for pace in self.paces.values()):
            return True
        return any(mirror.level < PRESSED * mirror.refill for mirror in self.mirrors.values())

    def lacked_room(
        self, refusal: Refusal, told: Announcement, reservation: Reservation, now: float, *, idle: bool, jitter: float
    ) -> None:
        """The server refused an attempt for lack of room: its levels are as they were.

        `idle`: nothing else is in flight. While others are being served, the end of one of them is a
        better clock than any pause.
        """
        self._began_at = None
        self.observe(told, reservation, now, refused=True)
        self.refund(reservation, request=False)
        event = reservation.number > self._event_at
        if event:
            self._event_at = self.newest
            self._streak += 1
        if idle:
            wait = refusal.retry_after
            if wait is not None:
                self._pause(now + wait * (1 + PAUSE_JITTER * jitter))
            else:
                self._pause_again(self._streak - 1, LONGEST_OVERLOAD_PAUSE, now, jitter)
        self._overloaded = True

    def tighten(self, now: float) -> None:
        """A refusal that said nothing came while no pace held calls back: perhaps their bursts are too large."""
        for pace in self.paces.values():
            pace.tighten(now)

    @property
    def configured(self) -> dict[Dimension, float | None]:
        """Units per second by the limits that the user configured."""
        return {dimension: pace.ceiling for dimension, pace in self.paces.items()}

    def is_configured(self, refusal: Refusal) -> bool:
        """Whether a limit per day that the user configured is what was refused for."""
        return any(
            self._per_day[dimension] is not None and (refusal.period == DAY or self.mirrors[dimension, DAY].level < 1.0)
            for dimension in _DIMENSIONS
            if refusal.dimension in (None, dimension) and refusal.period in (None, DAY)
        )

    def explains(self, refusal: Refusal) -> bool:
        """Whether an announced limit of more than a minute is used up, so that the server means its long wait."""
        if refusal.period is not None and refusal.period > MINUTE and refusal.used is not None:
            return True
        return any(
            mirror.level < 1.0
            for (dimension, period), mirror in self.mirrors.items()
            if period > MINUTE and refusal.dimension in (None, dimension) and refusal.period in (None, period)
            if (dimension, period) not in self._announced.doubtful
        )

    def forget(self) -> None:
        """Keep only what was configured."""
        self.paused_until = -math.inf
        self._streak = 0
        self._forget(list(self._announced))
        for pace in self.paces.values():
            pace.forget()

    def _pause_again(self, before: int, longest: float, now: float, jitter: float) -> None:
        """Pause after a refusal that names no wait; `before`: events since the last answer; of none, no pause."""
        if before > 0:
            pause = min(longest, FIRST_PAUSE * 2.0 ** min(before - 1, 10))
            self._pause(now + pause * (1 + jitter) / 2)

    def _pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop, forgetting instants of another clock."""
        if not same_clock:
            self.paused_until = -math.inf
            self._began_at = None
            self._at = self._left_at = -math.inf
        for pace in self.paces.values():
            pace.rebind(same_clock=same_clock)
        for mirror in self.mirrors.values():
            mirror.rebind(same_clock=same_clock)

    def _window_stats(self, key: tuple[Dimension, float], mirror: ServerWindow) -> WindowStats:
        return WindowStats(*key, mirror.limit, mirror.last_level, announced=key in self._announced)

    def stats(self) -> tuple[WindowStats, ...]:
        windows = []
        mirrors = dict(self.mirrors)  # of a budget that may be another thread's
        for dimension, pace in self.paces.items():
            per_minute = mirrors.get((dimension, MINUTE))
            if pace.rate is not None:
                level = pace.last_level if per_minute is None else min(pace.last_level, per_minute.last_level)
                windows.append(
                    WindowStats(dimension, MINUTE, pace.rate * MINUTE, level, announced=per_minute is not None)
                )
            windows += [
                self._window_stats(key, mirror)
                for key, mirror in mirrors.items()
                if key[0] == dimension and key[1] != MINUTE
            ]
        return tuple(windows)


def _has_room(dimension: Dimension, amount: float, told: Announcement, refusal: Refusal) -> bool:
    """Whether the server says that its bucket of `dimension` had room for what it refused."""
    left = [
        window.remaining
        for announcement in (told, refusal.announcement)
        for window in announcement.of(dimension)
        if window.remaining is not None and refusal.period in (None, window.period)
    ]
    return bool(left) and min(left) >= amount
