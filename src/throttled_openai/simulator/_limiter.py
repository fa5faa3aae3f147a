"""The limits of one model: what is admitted, what is refused, and how long a refusal lasts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ._bucket import ROUNDING, Bucket

if TYPE_CHECKING:
    from ._settings import Settings

Dimension = Literal["requests", "tokens", "concurrency"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit was in the way. `wait` is seconds; None: the attempt can never be admitted."""

    dimension: Literal["requests", "tokens"]
    limit: float
    used: int
    requested: int
    wait: float | None


class Quota:
    """One dimension: the minute bucket the headers show and, below 60 s of burst, a hidden shorter one."""

    __slots__ = ("_short", "limit", "minute")

    def __init__(self, limit: float, settings: Settings, now: float) -> None:
        self.limit = limit
        level = limit * settings.initial_level
        self.minute = Bucket(rate=limit / 60, capacity=limit, level=level, now=now)
        self._short = self._shorter(settings.burst, now)

    def wait(self, amount: float, now: float) -> float:
        return max(bucket.wait(amount, now) for bucket in self._buckets)

    def take(self, amount: float, now: float) -> None:
        for bucket in self._buckets:
            bucket.take(amount, now)

    def drain(self, amount: float, now: float) -> None:
        for bucket in self._buckets:
            bucket.drain(amount, now)

    def remaining(self, now: float) -> int:
        """Whole units in the minute bucket, as the headers show them."""
        return max(0, math.floor(self.minute.level(now) + ROUNDING))

    def resize(self, limit: float, burst: float, now: float) -> None:
        """Change the limit; levels stay as far as they fit."""
        self.limit = limit
        self.minute.resize(rate=limit / 60, capacity=limit, now=now)
        if self._short is None or burst >= 60:
            self._short = self._shorter(burst, now)
        else:
            self._short.resize(rate=limit / 60, capacity=limit * burst / 60, now=now)

    @property
    def _buckets(self) -> tuple[Bucket, ...]:
        return (self.minute,) if self._short is None else (self.minute, self._short)

    def _shorter(self, burst: float, now: float) -> Bucket | None:
        if burst >= 60:
            return None
        capacity = self.limit * burst / 60
        level = min(capacity, self.minute.level(now))
        return Bucket(rate=self.limit / 60, capacity=capacity, level=level, now=now)


class Limiter:
    """The request quota and the token quota of one model; None where there is no limit."""

    __slots__ = ("requests", "tokens")

    def __init__(self, settings: Settings, now: float) -> None:
        self.requests = _resized(None, settings.rpm, settings, now)
        self.tokens = _resized(None, settings.tpm, settings, now)

    def admit(self, tokens: int, now: float, *, charge_refused: bool) -> Refusal | None:
        """Take one request and `tokens`, or say what refuses them.

        Requests are looked at first, as OpenAI does. A refused attempt takes no tokens, and a
        request only if `charge_refused`.
        """
        if self.requests is not None and self.requests.wait(1, now):
            if charge_refused:
                self.requests.drain(1, now)
            return _refusal("requests", self.requests, 1, now)

        refused = None
        if self.tokens is not None and (tokens > self.tokens.limit or self.tokens.wait(tokens, now)):
            refused = _refusal("tokens", self.tokens, tokens, now)

        if self.requests is not None and (refused is None or charge_refused):
            self.requests.take(1, now)
        if self.tokens is not None and refused is None:
            self.tokens.take(tokens, now)
        return refused

    def drain(self, requests: float, tokens: float, now: float) -> None:
        if self.requests is not None:
            self.requests.drain(requests, now)
        if self.tokens is not None:
            self.tokens.drain(tokens, now)

    def change(self, settings: Settings, now: float) -> None:
        self.requests = _resized(self.requests, settings.rpm, settings, now)
        self.tokens = _resized(self.tokens, settings.tpm, settings, now)


def _refusal(dimension: Literal["requests", "tokens"], quota: Quota, amount: int, now: float) -> Refusal:
    used = math.ceil(quota.limit) - quota.remaining(now)
    wait = None if amount > quota.limit else quota.wait(amount, now)
    return Refusal(dimension, quota.limit, used, amount, wait)


def _resized(quota: Quota | None, limit: float | None, settings: Settings, now: float) -> Quota | None:
    if limit is None:
        return None
    if quota is None:
        return Quota(limit, settings, now)
    quota.resize(limit, settings.burst, now)
    return quota
