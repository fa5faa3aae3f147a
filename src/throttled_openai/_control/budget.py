"""The budget: what one model, or one group of models that shares its limits, may spend now."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from throttled_openai._limits import Limits
from throttled_openai._protocol.durations import DAY, MINUTE
from throttled_openai._stats import WindowStats

from .announced_limits import AnnouncedLimits
from .backoff import LONGEST_AMID_ANSWERS, LONGEST_OVERLOAD_PAUSE, LONGEST_PAUSE, Backoff
from .bucket import ROUNDING
from .diagnosis import Diagnosis
from .pacer import Pacer
from .reservation import Reservation
from .server_window import Checkpoint, ServerWindow
from .sightings import DOUBTED
from .slow_start import SlowStart

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Announcement, Dimension
    from throttled_openai._protocol.refusals import Refusal

# Seconds between two changes of the pacers with time. In this time a burst grows by about 1 %, which is fine enough.
STEP: Final = 0.05
# Sums of what has left that are kept, one a second, to say how much left within a minute.
SAMPLES: Final = 61

_DIMENSIONS: Final[tuple[Dimension, Dimension]] = ("requests", "tokens")


class Budget:
    """What one model, or a group of models that shares its limits, may spend now.

    Each dimension has a pacer, and each announced limit a server window. An attempt may go when all of them have room
    for it, and takes from all of them in one step. The budget decides; it does not wait. Instants are of the running
    loop's clock.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.newest = 0  # number of the newest attempt
        self._event_at = 0  # number of the newest attempt at the last congestion event
        self._changed_at = -math.inf  # when the pacers last changed with time
        self._left_at = -math.inf  # when the newest attempt left
        self.spent: dict[Dimension, float] = {"requests": 0.0, "tokens": 0.0}
        self.spent_before: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)  # instant, requests, tokens
        self._slow_start = SlowStart()
        self._backoff = Backoff()
        per_minute = {"requests": self.limits.rpm, "tokens": self.limits.tpm}
        self.pacers: dict[Dimension, Pacer] = {
            dimension: Pacer(None if (limit := per_minute[dimension]) is None else limit / MINUTE, self.limits.burst)
            for dimension in _DIMENSIONS
        }
        self.windows: dict[tuple[Dimension, float], ServerWindow] = {}
        self._per_day: dict[Dimension, float | None] = {"requests": self.limits.rpd, "tokens": self.limits.tpd}
        self._announced = AnnouncedLimits(self.pacers, self.windows, self._per_day, self.spent)
        self.diagnosis = Diagnosis(self.pacers, self.windows, self._announced.doubtful, self._per_day)
        for dimension, limit in self._per_day.items():
            if limit is not None:  # a day's worth may be spent at any pace: no pacer, only a window
                self.windows[dimension, DAY] = ServerWindow(limit, DAY)

    @property
    def paused_until(self) -> float:
        """The instant before which nothing is sent."""
        return self._backoff.until

    @property
    def request_rate(self) -> float | None:
        """Requests per second that may leave in the long run; None: not known."""
        return self.pacers["requests"].rate

    @property
    def token_rate(self) -> float | None:
        """Tokens per second that may leave in the long run; None: not known."""
        return self.pacers["tokens"].rate

    @property
    def learning(self) -> bool:
        """Whether the rates change with time, so that a delay holds only for a while."""
        return any(pacer.learning for pacer in self.pacers.values())

    @property
    def largest_announced(self) -> float:
        """Tokens of the largest attempt the server could admit, by the limits it has announced more than once."""
        return self._announced.largest_attempt

    @property
    def configured(self) -> dict[Dimension, float | None]:
        """Units per second by the limits that the user configured."""
        return {dimension: pacer.ceiling for dimension, pacer in self.pacers.items()}

    @property
    def knows_a_rate(self) -> bool:
        """Whether a limit per minute was configured or announced."""
        return any(pacer.known is not None for pacer in self.pacers.values())

    # Spending

    def delay(self, tokens: float, now: float, held: float = 0.0) -> float:
        """Seconds until an attempt of `tokens` may go, leaving `held` tokens for another; 0 if it may now.

        An attempt larger than a bucket goes when that bucket is full, and leaves it in debt.
        """
        if now - self._changed_at >= STEP:
            self._pass_time(now)
        by_requests, by_tokens = self.pacers["requests"].delay(1.0), self.pacers["tokens"].delay(tokens, held)
        doubted = 0.0
        if self._announced.doubtful:
            doubted = self._left_at + DOUBTED - now
            doubted = doubted if doubted > ROUNDING else 0.0
        if self._announced.doubtful_pacers:
            by_requests = min(by_requests, doubted) if "requests" in self._announced.doubtful_pacers else by_requests
            by_tokens = min(by_tokens, doubted) if "tokens" in self._announced.doubtful_pacers else by_tokens
        starting = 0.0 if self.limits.burst is not None else self._slow_start.delay(self.newest, now)
        delay = max(self._backoff.until - now, starting, by_requests, by_tokens)
        for key, window in self.windows.items():
            missing = window.delay(1.0) if key[0] == "requests" else window.delay(tokens, held)
            if missing > delay and key in self._announced.doubtful:
                missing = min(missing, doubted)
            delay = max(delay, missing)
        return max(0.0, delay)

    def used_up(self, tokens: float) -> WindowStats | None:
        """The limit of more than a minute that an attempt of `tokens` has to wait for longest, if there is one."""
        short = [
            (window.delay(1.0 if key[0] == "requests" else tokens), key)
            for key, window in self.windows.items()
            if key[1] > MINUTE and key not in self._announced.doubtful
        ]
        delay, key = max(short, default=(0.0, None))
        return None if key is None or delay <= 0 else self.window_stats(key, self.windows[key])

    def _pass_time(self, now: float) -> None:
        whole = now - self._changed_at
        elapsed = now - max(self._changed_at, min(now, self._backoff.until))
        self._changed_at = now
        if whole < math.inf:
            pressed = max(pacer.pressed(elapsed) for pacer in self.pacers.values())
            for pacer in self.pacers.values():
                pacer.learner.pause(whole - elapsed)
                pacer.pass_time(elapsed, pressed, now)

    @property
    def token_refill(self) -> float:
        """Tokens per second that come back; 0 where no limit is known."""
        rates = [window.refill for (dimension, _), window in self.windows.items() if dimension == "tokens"]
        if self.token_rate is not None:
            rates.append(self.token_rate)
        return min(rates, default=0.0)

    def token_level(self) -> float:
        """Tokens that may leave now; infinite where no token limit is known."""
        levels = [window.level for (dimension, _), window in self.windows.items() if dimension == "tokens"]
        return min([self.pacers["tokens"].level, *levels])

    def reserve(self, tokens: float, now: float) -> Reservation:
        """Take one request and `tokens` from everything."""
        self.newest += 1
        self._left_at = now
        self._slow_start.sent(self.newest, now)
        spent = self.spent
        before = self.spent_before
        if not before or now - before[-1][0] >= 1.0:
            before.append((now, spent["requests"], spent["tokens"]))
        spent["requests"] += 1.0
        spent["tokens"] += tokens
        self.pacers["requests"].spend(1.0, now)
        self.pacers["tokens"].spend(tokens, now)
        against = self._announced.forbidding(tokens) if self._announced.doubtful else ()
        checkpoints: list[tuple[Dimension, Checkpoint]] = []
        for (dimension, _), window in self.windows.items():
            checkpoints.append((dimension, window.spend(1.0 if dimension == "requests" else tokens, now)))
        return Reservation(self.newest, tokens, now, tuple(checkpoints), spent["requests"], spent["tokens"], against)

    def refund(self, reservation: Reservation, *, request: bool) -> None:
        """Give back the tokens of an attempt the server did not take, and its request if it was never sent."""
        for dimension in _DIMENSIONS:
            amount = reservation.amount(dimension)
            # The request of a refused attempt counts against the limit, as it does at OpenAI.
            charged = dimension == "requests" and not request
            self.pacers[dimension].give_back(amount, reservation.at, charged=charged)
            if not charged:
                self._give_back(reservation, dimension, amount)

    def _give_back(self, reservation: Reservation, dimension: Dimension, amount: float) -> None:
        self.spent[dimension] -= amount
        for other, checkpoint in reservation.checkpoints:
            if other == dimension:
                checkpoint.window.give_back(amount, checkpoint)

    def settle(self, reservation: Reservation, tokens: float) -> None:
        """The server has taken `tokens` for an attempt, instead of what was reserved."""
        change = tokens - reservation.tokens
        if change:
            reservation.tokens = tokens
            self.pacers["tokens"].adjust(change)
            self._give_back(reservation, "tokens", -change)

    # Evidence

    def succeeded(self, reservation: Reservation, now: float) -> None:
        """The server accepted an attempt."""
        self._slow_start.end()
        if reservation.against:
            self._announced.forget([key for key in reservation.against if key in self._announced.doubtful])
        self._backoff.succeeded(now, newer=reservation.number > self._event_at)

    def observe(
        self,
        announcement: Announcement,
        reservation: Reservation | None,
        now: float,
        *,
        refused: bool = False,
        deferred_charge: float | None = None,
    ) -> None:
        """Adopt the limits and levels that a response announced; see `AnnouncedLimits`."""
        self._announced.observe(announcement, reservation, now, refused=refused, deferred_charge=deferred_charge)

    @property
    def doubts(self) -> bool:
        """Whether a response without announcements says something: that a doubtful limit is not announced again."""
        return bool(self._announced.doubtful)

    # Refusals

    def refused(
        self,
        refusal: Refusal,
        announced: Announcement,
        reservation: Reservation,
        now: float,
        *,
        jitter: float,
        sure: bool = True,
    ) -> bool:
        """The server refused an attempt for a rate; returns whether it is a new congestion event.

        `announced`: the limits in the response's headers. `jitter`: uniform in [0, 1). `sure`: it can have been for
        nothing else. Attempts that left before the last event are its echoes: they correct levels, but nothing is cut
        twice.
        """
        event = self._refused(refusal, announced, reservation, now)
        self._backoff.refused(for_room=refusal.kind == "overload" and not refusal.slow_down, event=event)
        if event and refusal.slow_down:
            self.pacers["requests"].slow_down(now)
        window_is_empty = bucket_holds = False
        if refusal.kind == "rate":
            window_is_empty, bucket_holds = self._apply_refusal(
                refusal, announced, reservation, now, event=event, sure=sure
            )
        wait = refusal.retry_after
        if wait is not None:
            # A token bucket in debt holds back large attempts and lets small ones through, as the
            # server does; a pause would stop both.
            if not (bucket_holds and refusal.dimension == "tokens"):
                self._backoff.pause_for(wait, now, jitter)
        elif event and not window_is_empty:
            # A refusal without a reason is answered by fewer attempts in flight or a slower pacer; pauses are for a
            # server that goes on refusing.
            longest = LONGEST_PAUSE if refusal.kind == "rate" else LONGEST_OVERLOAD_PAUSE
            if self._backoff.answered_lately(now):
                longest = LONGEST_AMID_ANSWERS
            self._backoff.pause_again(now, jitter, longest=longest)
        return event

    def lacked_room(
        self,
        refusal: Refusal,
        announced: Announcement,
        reservation: Reservation,
        now: float,
        *,
        idle: bool,
        jitter: float,
    ) -> None:
        """The server refused an attempt for lack of capacity: its levels are as they were.

        `idle`: nothing else is in flight. While others are being served, the end of one of them is a
        better clock than any pause.
        """
        event = self._refused(refusal, announced, reservation, now)
        self._backoff.refused(for_room=True, event=event)
        if not idle:
            return
        if refusal.retry_after is not None:
            self._backoff.pause_for(refusal.retry_after, now, jitter)
        else:
            self._backoff.pause_again(now, jitter, longest=LONGEST_OVERLOAD_PAUSE)

    def _refused(self, refusal: Refusal, announced: Announcement, reservation: Reservation, now: float) -> bool:
        """What every refusal means: a snapshot, and a refund. Returns whether it is a new congestion event."""
        self._slow_start.end()
        self.observe(announced, reservation, now, refused=True)
        self.observe(refusal.announcement, reservation, now, refused=True)
        self.refund(reservation, request=False)
        event = reservation.number > self._event_at
        if event:
            self._event_at = self.newest
        return event

    def _apply_refusal(
        self,
        refusal: Refusal,
        announced: Announcement,
        reservation: Reservation,
        now: float,
        *,
        event: bool,
        sure: bool,
    ) -> tuple[bool, bool]:
        """Correct what the refusal contradicts: empty a window, or else slow the pacer.

        Their levels fall to where the server's must be: short of this attempt by what refills in `retry_after`. So
        they reopen at their rate, not all at once. Returns whether a window was emptied, and whether a bucket of ours
        now holds calls back for that long.
        """
        window_is_empty = bucket_holds = False
        for dimension in self.diagnosis.dimensions_at_fault(refusal):
            amount, wait = reservation.amount(dimension), refusal.retry_after
            windows = self.diagnosis.windows_at_fault(dimension, amount, refusal, announced)
            for window in windows.values():
                cost = min(amount, window.limit - window.reserve)
                level = 0.0 if wait is None else cost - window.refill * wait
                window.emptied(level, reservation.at, self.pacers[dimension].learner.mean_cost)
            if windows.keys() - self._announced.doubtful:
                window_is_empty = bucket_holds = True
            if not windows and (refusal.period is None or refusal.period <= MINUTE):
                # A window that the server does not announce, or a rate that is not known.
                self.pacers[dimension].refused(amount, wait, now, event=event, sure=sure)
                bucket_holds = True
        return window_is_empty, bucket_holds

    def tighten(self, now: float) -> None:
        """A refusal without a reason came while no pacer held calls back: perhaps their bursts are too large."""
        for pacer in self.pacers.values():
            pacer.tighten(now)

    def forget(self) -> None:
        """Keep only what was configured."""
        self._backoff.reset()
        self._announced.forget_all()
        for pacer in self.pacers.values():
            pacer.forget()

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop, forgetting instants of another clock."""
        if not same_clock:
            self._backoff.forget_instants()
            self.spent_before.clear()
            self._slow_start.end()
            self._changed_at = self._left_at = -math.inf
        for pacer in self.pacers.values():
            pacer.rebind(same_clock=same_clock)
        for window in self.windows.values():
            window.rebind(same_clock=same_clock)

    # The user's changes

    def configure(self, dimension: Dimension, per_minute: float | None) -> None:
        """The user allows another rate from now on; None: the server's."""
        self.pacers[dimension].configure(None if per_minute is None else per_minute / MINUTE)

    # Statistics

    def window_stats(self, key: tuple[Dimension, float], window: ServerWindow) -> WindowStats:
        left = window.last_level
        return WindowStats(
            *(*key, window.limit, left),
            source="announced" if key in self._announced else "configured",
            used=max(0.0, window.limit - window.reserve - left),
            left=left,
            refill=window.refill,
            opens_in=0.0,
        )
