"""OpenTelemetry: with the real SDK, metrics and spans in memory."""

import asyncio
import json
import re

import pytest

from scripted import say, throttled
from support import Limits, admit, call, gather, refusal, refuse, throttle, virtual, virtual_run
from throttled_openai.simulator import Simulator

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from throttled_openai import otel


class Telemetry:
    def __init__(self, throttle=None):
        self._reader, self._spans = InMemoryMetricReader(), InMemorySpanExporter()
        meters, self.tracers = MeterProvider([self._reader]), TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = self.tracers.get_tracer("test")
        self.end = otel.instrument(throttle, meter_provider=meters, tracer_provider=self.tracers)

    def points(self, name):
        """Values by attributes; of a histogram, the count and the sum."""
        found = {}
        for resource in (self._reader.get_metrics_data() or type("", (), {"resource_metrics": []})).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == f"throttled_openai.{name}":
                        for point in metric.data.data_points:
                            value = point.value if hasattr(point, "value") else (point.count, point.sum)
                            found[tuple(point.attributes.values())] = value
        return found

    def spans(self):
        return self._spans.get_finished_spans()


@virtual
async def test_what_waits_and_what_is_used_is_measured():
    t = throttle({"m": Limits(rpm=60, tpm=6000, burst=1.0)})
    telemetry = Telemetry(t)
    await gather(*(call(t, 10) for _ in range(3)))
    held = await admit(t, 10)
    assert telemetry.points("wait_time") == {("m",): (4, 4.0)}
    assert telemetry.points("waiting") == {("m",): 0}
    assert telemetry.points("in_flight") == {("m",): 1}
    limits = telemetry.points("limit")
    assert (limits["m", "requests", "min"], limits["m", "tokens", "min"]) == (60, 6000)
    assert telemetry.points("used") == {
        ("m", "requests", "min"): 4,
        ("m", "tokens", "min"): 40,
        ("m", "concurrency"): 1,
    }
    refuse(held, refusal("requests", 5.0))
    assert telemetry.points("refusals") == {("m", "rate"): 1}
    assert telemetry.points("pauses") == {("m", "refusals"): 1}
    telemetry.end()
    await asyncio.sleep(60)
    await call(t)
    assert telemetry.points("wait_time") == {("m",): (4, 4.0)}
    assert telemetry.points("waiting") == {}


def test_without_a_throttle_it_is_every_one_of_the_process():
    async def main():
        before = throttle(rpm=6000)
        telemetry = Telemetry()
        later = throttle(rpm=6000)
        await gather(call(before, model="a"), call(later, model="b"))
        waits = telemetry.points("wait_time")
        telemetry.end()
        await gather(call(before, model="a"), call(later, model="b"), call(throttle(), model="c"))
        return waits, telemetry.points("wait_time")

    first, after = virtual_run(main())
    assert first == after == {("a",): (1, 0.0), ("b",): (1, 0.0)}


@pytest.mark.parametrize("threads", [False, True])
def test_waits_and_attempts_are_spans_in_the_trace_of_the_call(threads):
    async def one(t, telemetry, name):
        with telemetry.tracer.start_as_current_span(name):
            await call(t)

    async def main():
        t = throttle(rpm=6000, threads=threads)
        telemetry = Telemetry(t)
        await call(t)  # outside of a trace
        t.pause()
        calls = asyncio.gather(*(one(t, telemetry, name) for name in "abc"))
        while t.stats().waiting < 3:
            await asyncio.sleep(0.01)
        t.resume()
        await calls
        while t.stats().in_flight:
            await asyncio.sleep(0.01)
        telemetry.end()
        return telemetry.spans()

    spans = asyncio.run(main())
    calls = {span.context.span_id: span for span in spans if span.name in "abc"}
    ours = [span for span in spans if span.name not in "abc"]
    assert sorted(span.name for span in ours) == 3 * ["attempt"] + 3 * ["wait"]
    for span in ours:
        whole = calls[span.parent.span_id]
        assert span.context.trace_id == whole.context.trace_id
        assert whole.start_time - 5e6 <= span.start_time <= span.end_time
    assert all("http.request.resend_count" not in span.attributes for span in ours)


def test_an_attempt_that_is_sent_again_says_how_often():
    async def main():
        async with throttled(Simulator(rpm=60, burst=1.0, announce=False)) as client:
            telemetry = Telemetry(client.throttle)
            with telemetry.tracer.start_as_current_span("call"):
                await gather(*(say(client) for _ in range(4)))
            telemetry.end()
            return telemetry.spans()

    attempts = [span for span in virtual_run(main()) if span.name == "attempt"]
    refused = [span for span in attempts if span.attributes.get("error.type") == "refused"]
    assert refused
    assert all(span.status.status_code.name == "ERROR" for span in refused)
    assert max(span.attributes.get("http.request.resend_count", 0) for span in attempts) >= 1


def test_no_prompt_and_no_key_is_in_any_of_it():
    async def main():
        async with throttled(Simulator(rpm=600), api_key="sk-secret") as client:
            telemetry = Telemetry(client.throttle)
            with telemetry.tracer.start_as_current_span("call"):
                await say(client, "a private prompt")
            told = str(telemetry._reader.get_metrics_data()) + "".join(span.to_json() for span in telemetry.spans())
            telemetry.end()
            return told

    told = virtual_run(main())
    assert "gpt-4o" in told
    assert "private" not in told
    assert "secret" not in told


def test_each_query_of_the_dashboard_names_a_metric_that_is_emitted():
    names = {
        *("throttled_openai_waiting", "throttled_openai_in_flight", "throttled_openai_limit", "throttled_openai_used"),
        *("throttled_openai_wait_time_seconds_bucket", "throttled_openai_estimate_error_bucket"),
        *("throttled_openai_refusals_total", "throttled_openai_pauses_total"),
    }
    dashboard = otel.dashboard()
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = {name for query in queries for name in re.findall(r"throttled_openai_\w+", query)}
    assert asked == names
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["title"] and panel["description"] for panel in dashboard["panels"])
    assert json.dumps(dashboard)
