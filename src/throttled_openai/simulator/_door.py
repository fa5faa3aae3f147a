"""Who gets in: the limits of every model, and what is said to those they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._dialects import DIALECTS
from ._errors import overload_body, slow_down_body, unexplained_body
from ._limiter import Limiter
from ._ramp import Ramp
from ._reply import Reply, reply_of

if TYPE_CHECKING:
    from ._charge import Charge
    from ._headers import Headers
    from ._log import Dimension
    from ._request import Call
    from ._settings import Settings


class Door:
    """Refuses for capacity first, then for sudden growth, then for limits."""

    def __init__(self) -> None:
        self.limiters: dict[str, Limiter] = {}
        self._ramps: dict[str, Ramp] = {}

    def limiter(self, model: str, settings: Settings, now: float) -> Limiter:
        """Find the limits of `model`, which it may share with others."""
        shared = settings.shared_limit
        name = shared if shared is not None and model.startswith(shared) else model
        if name not in self.limiters:
            self.limiters[name] = Limiter(name, settings, now)
        return self.limiters[name]

    def change(self, settings: Settings, now: float) -> None:
        for limiter in self.limiters.values():
            limiter.change(settings, now)

    def refuse(
        self, call: Call, charge: Charge, settings: Settings, in_flight: int, now: float
    ) -> tuple[Reply, Dimension] | None:
        """Charge and admit, which is None, or refuse."""
        if settings.max_in_flight is not None and in_flight >= settings.max_in_flight:
            status, wait = settings.overload_status, settings.overload_wait
            body = overload_body(status, explain=settings.explain_refusals, code=settings.overload_code)
            headers = [] if wait is None else DIALECTS[settings.dialect].wait(wait, now)
            return reply_of(status, body, headers), "concurrency"
        limiter = self.limiter(call.model, settings, now)
        if settings.slow_down_above is not None:
            ramp = self._ramps.setdefault(limiter.name, Ramp())
            if ramp.arrive(now, settings.slow_down_above):
                return reply_of(503, slow_down_body()), "growth"
        refusal = limiter.admit(charge, now)
        if refusal is None:
            return None
        dialect = DIALECTS[settings.dialect]
        headers = announced(limiter, settings, now)
        if settings.retry_after and refusal.wait is not None:
            headers += dialect.wait(refusal.wait, now)
        if settings.explain_refusals:
            body = dialect.body(refusal, call.model, limiter.name, now, hint=settings.retry_after)
        else:
            body = unexplained_body()
        return reply_of(dialect.status(refusal), body, headers), refusal.dimension


def announced(limiter: Limiter, settings: Settings, now: float) -> Headers:
    """Say what is left of the limits, if the settings have it said."""
    return DIALECTS[settings.dialect].announce(limiter, now) if settings.announce else []
