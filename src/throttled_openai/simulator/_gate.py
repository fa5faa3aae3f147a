"""The gate: admits or refuses each metered request by the limits of its model, and words the refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._answers.reply import Reply, reply_of
from ._quotas.model_limits import ModelLimits
from ._quotas.ramp import Ramp
from ._wording.dialects import DIALECTS
from ._wording.errors import overload_body, slow_down_body, unexplained_body

if TYPE_CHECKING:
    from ._log import Dimension
    from ._quotas.charge import Charge
    from ._requests.metered import MeteredRequest
    from ._settings import Settings
    from ._wording.headers import Headers


class Gate:
    """Refuses for lack of capacity first, then for sudden growth, then by the limits."""

    def __init__(self) -> None:
        self.limits: dict[str, ModelLimits] = {}
        self._ramps: dict[str, Ramp] = {}

    def limits_of(self, model: str, settings: Settings, now: float) -> ModelLimits:
        """The limits of `model`, which other models may share."""
        shared = settings.shared_limit
        name = shared if shared is not None and model.startswith(shared) else model
        if name not in self.limits:
            self.limits[name] = ModelLimits(name, settings, now)
        return self.limits[name]

    def change(self, settings: Settings, now: float) -> None:
        for limits in self.limits.values():
            limits.change(settings, now)

    def refuse(
        self, request: MeteredRequest, charge: Charge, settings: Settings, in_flight: int, now: float
    ) -> tuple[Reply, Dimension] | None:
        """Admit and charge `request`, which gives None, or refuse it."""
        if settings.max_in_flight is not None and in_flight >= settings.max_in_flight:
            status, wait = settings.overload_status, settings.overload_wait
            body = overload_body(status, explain=settings.explain_refusals, code=settings.overload_code)
            headers = [] if wait is None else DIALECTS[settings.dialect].retry_after(wait, now)
            return reply_of(status, body, headers), "concurrency"
        limits = self.limits_of(request.model, settings, now)
        if settings.slow_down_above is not None:
            ramp = self._ramps.setdefault(limits.name, Ramp())
            if ramp.arrive(now, settings.slow_down_above):
                return reply_of(503, slow_down_body()), "growth"
        refusal = limits.admit(charge, now)
        if refusal is None:
            return None
        dialect = DIALECTS[settings.dialect]
        headers = limit_headers(limits, settings, now)
        if settings.retry_after and refusal.wait is not None:
            headers += dialect.retry_after(refusal.wait, now)
        if settings.explain_refusals:
            body = dialect.body(refusal, request.model, limits.name, now, hint=settings.retry_after)
        else:
            body = unexplained_body()
        return reply_of(dialect.status(refusal), body, headers), refusal.dimension


def limit_headers(limits: ModelLimits, settings: Settings, now: float) -> Headers:
    """The headers that show what is left of `limits`; none if the settings turn them off."""
    return DIALECTS[settings.dialect].announce(limits, now) if settings.announce else []
