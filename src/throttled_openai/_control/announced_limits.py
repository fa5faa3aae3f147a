"""The announced limits: which limits the server has, by what its responses say, and what is left of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from throttled_openai._protocol.durations import DAY, MINUTE

from .server_window import Periods, ServerWindow
from .sightings import Sightings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from throttled_openai._protocol.headers import Announcement, Dimension, Window

    from .pacer import Pacer
    from .reservation import Reservation


class AnnouncedLimits:
    """Keeps the server windows of one budget, and the rates of its pacers, as the server announces them.

    `per_day`: limits that the user configured. `spent`: units that have left until now.
    """

    __slots__ = ("_pacers", "_per_day", "_periods", "_sightings", "_spent", "_windows", "doubtful", "doubtful_pacers")

    def __init__(
        self,
        pacers: Mapping[Dimension, Pacer],
        windows: dict[tuple[Dimension, float], ServerWindow],
        per_day: Mapping[Dimension, float | None],
        spent: Mapping[Dimension, float],
    ) -> None:
        self._pacers = pacers
        self._windows = windows
        self._per_day = per_day
        self._spent = spent
        self._sightings = Sightings()
        self._periods = {dimension: Periods() for dimension in pacers}
        self.doubtful = self._sightings.doubtful
        """Limits that were announced only once."""
        self.doubtful_pacers: set[Dimension] = set()
        """Dimensions whose rate is that of a doubtful limit."""

    def __contains__(self, key: tuple[Dimension, float]) -> bool:
        return key in self._sightings

    @property
    def largest_attempt(self) -> float:
        """Tokens of the largest attempt the server could admit, by the limits it has announced more than once."""
        if not self._sightings:
            return math.inf
        doubtful = self.doubtful
        limits = [self._windows[key].limit for key in self._sightings if key[0] == "tokens" and key not in doubtful]
        return min(limits, default=math.inf)

    def forbidding(self, tokens: float) -> tuple[tuple[Dimension, float], ...]:
        """The doubtful limits that leave no room for an attempt of `tokens`."""
        windows = [(key, self._windows[key]) for key in self.doubtful]
        return tuple(key for key, window in windows if window.delay(1.0 if key[0] == "requests" else tokens) > 0)

    def observe(
        self,
        announcement: Announcement,
        reservation: Reservation | None,
        now: float,
        *,
        refused: bool = False,
        deferred_charge: float | None = None,
    ) -> None:
        """Adopt announced limits, and correct the levels by what the server says it has left.

        `remaining` is a snapshot from when the server decided on that attempt; `refused`: it did not take its tokens.
        `deferred_charge`: tokens in flight, where the server charges them only when attempts end; then `remaining` is
        as of now. A configured limit is a ceiling: the user may want to use less than the server allows.
        """
        for dimension in self._pacers:
            announced = announcement.of(dimension)
            if not refused and self._sightings:
                self.forget(self._sightings.missed(dimension, {window.period for window in announced}))
            if not announced:
                continue
            announced, wrong = self._periods[dimension].settle(announced)
            self.forget([(dimension, period) for period in wrong])
            for one in announced:
                if deferred_charge is not None and dimension == "tokens" and one.remaining is not None:
                    left = one._replace(remaining=one.remaining - deferred_charge)
                    self._observe(dimension, left, None, now, refused=refused)
                else:
                    self._observe(dimension, one, reservation, now, refused=refused)
            self.forget(self._sightings.surplus(dimension))
            self._set_pacer(dimension)

    def forget(self, keys: list[tuple[Dimension, float]]) -> None:
        """These limits do not exist."""
        if not keys:
            return
        for key in keys:
            self._sightings.discard(key)
            if key[1] != DAY or self._per_day[key[0]] is None:
                self._windows.pop(key, None)
        named = {dimension for dimension, _ in keys}
        for dimension in self._pacers:
            if dimension in named:
                self._set_pacer(dimension)

    def forget_all(self) -> None:
        """Keep only what was configured."""
        self.forget(list(self._sightings))

    def _observe(
        self, dimension: Dimension, announced: Window, reservation: Reservation | None, now: float, *, refused: bool
    ) -> None:
        key = dimension, announced.period
        limit, remaining = announced.limit, announced.remaining
        if announced.period == DAY and (self._per_day[dimension] or math.inf) < limit:
            # The user wants to use less than the server allows; what the server has left is of its larger limit.
            limit, remaining = self._per_day[dimension] or limit, None
        self._sightings.add(key, refused=refused)
        mean_cost = self._pacers[dimension].learner.mean_cost
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = ServerWindow(limit, announced.period)
        if remaining is not None:
            window.holds(announced.size, remaining, now, mean_cost)
        if reservation is None:
            window.observe(limit, remaining, None, now, mean_cost)
            return
        checkpoint = next((one for _, one in reservation.checkpoints if one.window is window), None)
        if checkpoint is None or not math.isclose(limit, window.limit):
            # The first snapshot of this limit: when the attempt left, it was not known, or was another one.
            since = self._spent[dimension] - (
                reservation.requests_spent if dimension == "requests" else reservation.tokens_spent
            )
            level = window.level + max(0.0, since) - window.rate * (now - reservation.at)
            checkpoint = window.checkpoint(reservation.at, level)
        elif refused and dimension == "tokens":
            checkpoint = checkpoint._replace(level=checkpoint.level + reservation.tokens)
        window.observe(limit, remaining, checkpoint, now, mean_cost)

    def _set_pacer(self, dimension: Dimension) -> None:
        pacer, announced = self._pacers[dimension], self._sightings
        rates = [(self._windows[key].rate, key) for key in announced if key[0] == dimension and key[1] <= MINUTE]
        rate, key = min(rates, default=(None, None))
        pacer.announced(rate)
        self.doubtful_pacers.discard(dimension)
        if key in announced.doubtful and rate is not None and rate < (pacer.ceiling or math.inf):
            self.doubtful_pacers.add(dimension)
