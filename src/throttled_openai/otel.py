"""OpenTelemetry: metrics of every throttle, and the waits and attempts of a call as spans in its trace.

`throttled_openai.otel.instrument()` is all that is needed; it takes the extra `otel`. The names are shaped like
OpenTelemetry's `db.client.connection.*`. Nothing of `gen_ai.*` is emitted: the SDK's own instrumentation does that.

| metric | kind | attributes |
|---|---|---|
| `throttled_openai.wait_time` | histogram, seconds | `budget` |
| `throttled_openai.waiting`, `throttled_openai.in_flight` | up-down counter | `budget` |
| `throttled_openai.limit`, `throttled_openai.used` | gauge | `budget`, `limit` (`requests` ...), `per` |
| `throttled_openai.refusals` | counter | `budget`, `kind` |
| `throttled_openai.pauses` | counter | `budget`, `reason` |
| `throttled_openai.estimate_error` | histogram, share | `budget` |

`limit` is `requests`, `tokens` or `concurrency`; `per` is the period of the first two, such as `min`.

A call inside a trace gets a span `wait` for each wait in the queue and a span `attempt` for each attempt, with
`http.request.resend_count` from the second one on.
"""

from __future__ import annotations

import importlib.resources
import json
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.trace import Status, StatusCode

from ._admission.throttle import Throttle, everywhere
from ._seeing.events import Admitted, BreakerChanged, Charged, Left, Paused, Refused, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._seeing.events import Event
    from ._stats import BudgetStats

_NAME: Final = "throttled_openai"
# Upper bounds of the histograms: seconds of waiting, and shares of the estimate.
_SECONDS: Final = (0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_SHARES: Final = (-0.9, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def instrument(
    throttle: Throttle | None = None,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Callable[[], None]:
    """Report `throttle`, or every throttle of this process, to OpenTelemetry. Returns a function that ends this.

    The providers are the global ones unless given.
    """
    return _Instruments(
        throttle,
        metrics.get_meter(_NAME, meter_provider=meter_provider),
        trace.get_tracer(_NAME, tracer_provider=tracer_provider),
    ).end


def dashboard() -> dict[str, Any]:
    """A Grafana dashboard of these metrics, as Prometheus names them: `json.dumps` it and import that in Grafana."""
    text = importlib.resources.files("throttled_openai").joinpath("dashboard.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


class _Instruments:
    def __init__(self, throttle: Throttle | None, meter: Meter, tracer: trace.Tracer) -> None:
        self._throttle = throttle
        self._tracer = tracer
        self._ended = False
        self._read_at = 0.0
        self._read: list[BudgetStats] = []
        self._reading = threading.Lock()
        self._wait_time = meter.create_histogram(
            f"{_NAME}.wait_time",
            unit="s",
            description="Seconds from the arrival in the queue to the admission.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._estimate_error = meter.create_histogram(
            f"{_NAME}.estimate_error",
            unit="1",
            description="By what share the tokens charged exceed the estimate.",
            explicit_bucket_boundaries_advisory=_SHARES,
        )
        self._refusals = meter.create_counter(
            f"{_NAME}.refusals", unit="{refusal}", description="Attempts that the server refused."
        )
        self._pauses = meter.create_counter(
            f"{_NAME}.pauses", unit="{pause}", description="Times at which all sending was paused."
        )
        meter.create_observable_up_down_counter(
            f"{_NAME}.waiting", [self._waiting], unit="{call}", description="Calls not yet admitted."
        )
        meter.create_observable_up_down_counter(
            f"{_NAME}.in_flight", [self._in_flight], unit="{attempt}", description="Attempts admitted and not settled."
        )
        meter.create_observable_gauge(f"{_NAME}.limit", [self._limit], description="The limits in force.")
        meter.create_observable_gauge(f"{_NAME}.used", [self._used], description="What is used of the limits.")
        if throttle is None:
            everywhere.subscribe(self.hear)
        else:
            self._unsubscribe = throttle.subscribe(self.hear)

    def end(self) -> None:
        self._ended = True
        if self._throttle is None:
            everywhere.unsubscribe(self.hear)
        else:
            self._unsubscribe()

    # Events

    def hear(self, event: Event) -> None:
        """Count an event. It comes in the context of its call, so that spans join the call's trace."""
        budget = {"budget": event.budget}
        if isinstance(event, Admitted):
            self._wait_time.record(event.queued, budget)
            if event.queued > 0:
                self._span("wait", event.budget, event.queued, event.attempt)
        elif isinstance(event, Settled):
            error = None if event.outcome == "success" else event.outcome
            self._span("attempt", event.budget, event.seconds, event.attempt, error)
        elif isinstance(event, Left):
            self._span("wait", event.budget, event.queued, 1, event.reason)
        elif isinstance(event, Refused):
            self._refusals.add(1, {**budget, "kind": event.kind})
        elif isinstance(event, Charged):
            self._estimate_error.record(event.charged / event.estimated - 1 if event.estimated else 0.0, budget)
        elif isinstance(event, Paused) or (isinstance(event, BreakerChanged) and event.state == "open"):
            reason = event.reason if isinstance(event, Paused) else event.cause
            self._pauses.add(1, {**budget, "reason": reason})

    def _span(self, name: str, budget: str, seconds: float, attempt: int, error: str | None = None) -> None:
        if not trace.get_current_span().get_span_context().is_valid:
            return  # no trace to belong to
        now = time.time_ns()
        attributes: dict[str, str | int] = {f"{_NAME}.budget": budget}
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        if error is not None:
            attributes["error.type"] = error
        span = self._tracer.start_span(name, start_time=now - int(seconds * 1e9), attributes=attributes)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    # Figures

    def _budgets(self) -> list[BudgetStats]:
        """The budgets now; the four observed metrics of one collection share one reading."""
        if self._ended:
            return []
        with self._reading:
            if time.monotonic() - self._read_at > 0.05:
                throttles = everywhere.throttles() if self._throttle is None else [self._throttle]
                self._read = [budget for throttle in throttles for budget in throttle.stats().budgets]
                self._read_at = time.monotonic()
            return self._read

    def _waiting(self, _: CallbackOptions) -> Iterator[Observation]:
        return _sums((_of(each), each.waiting) for each in self._budgets())

    def _in_flight(self, _: CallbackOptions) -> Iterator[Observation]:
        return _sums((_of(each), each.in_flight) for each in self._budgets())

    def _limit(self, _: CallbackOptions) -> Iterator[Observation]:
        budgets = self._budgets()
        return _sums(
            [(_of(each, "concurrency"), each.concurrency_limit) for each in budgets]
            + [(_of(each, w.dimension, w.unit), w.limit) for each in budgets for w in each.windows]
        )

    def _used(self, _: CallbackOptions) -> Iterator[Observation]:
        budgets = self._budgets()
        return _sums(
            [(_of(each, "concurrency"), each.in_flight) for each in budgets]
            + [(_of(each, w.dimension, w.unit), w.used) for each in budgets for w in each.windows]
        )


def _of(budget: BudgetStats, limit: str = "", per: str = "") -> tuple[tuple[str, str], ...]:
    named = {"budget": budget.name, "limit": limit, "per": per}
    return tuple((name, value) for name, value in named.items() if value)


def _sums(found: Any) -> Iterator[Observation]:
    """One observation for equal attributes: several accounts may have a budget of the same name."""
    sums: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
    for attributes, value in found:
        sums[attributes] += value
    for attributes, value in sums.items():
        yield Observation(value, dict(attributes))
