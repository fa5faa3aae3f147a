"""The server itself: it routes, meters, misbehaves as told, and keeps count. It never waits."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, Unpack

from ._answers import EPOCH, Answer, plain, response, to_bytes
from ._errors import BadRequestError, error, invalid, overload_body, refusal_body
from ._events import error_event, events
from ._headers import Headers, rate_headers, retry_headers
from ._limiter import Dimension, Limiter
from ._log import Attempt, Counters
from ._memory import transport_of
from ._reply import Reply, found_reply, reply_of, struck_reply
from ._request import METERED, Call, parse
from ._settings import Options, Settings
from ._shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx
    import httpx2

    from ._fault import Fault

# Share of an answer's latency until a stream's head; the rest passes between its events.
_TO_FIRST_EVENT: Final = 0.3


class Simulator:
    """A rate-limited server with OpenAI's interface, arithmetic and words.

    `transport()` and `transport2()` put it behind an httpx or httpx2 client in this process, on
    the running loop's clock; `serve` and `spawn` put it on a TCP port. Settings and `faults` may
    change while it runs.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        faults: Iterable[Fault] = (),
        keep_log: int = 100_000,
        **options: Unpack[Options],
    ) -> None:
        self.settings = replace(settings or Settings(), **options)
        self.faults = list(faults)
        self.counters = Counters()
        self._log: deque[Attempt] = deque(maxlen=keep_log)
        self._limiters: dict[str, Limiter] = {}
        self._shelf = Shelf()
        self._latencies = Random(self.settings.seed)
        self._dice = Random(self.settings.seed)
        self._requests = 0
        self._latest = 0.0

    def __repr__(self) -> str:
        seen, limits = self.counters, self.settings
        return (
            f"<Simulator [{seen.in_flight} in flight, {seen.succeeded} succeeded, {seen.refused} refused"
            f" | {_limit(limits.rpm)} rpm, {_limit(limits.tpm)} tpm]>"
        )

    # What people ask of it.

    def transport(self) -> httpx.AsyncBaseTransport:
        """For `httpx.AsyncClient(transport=...)`."""
        import httpx  # noqa: PLC0415

        transport: httpx.AsyncBaseTransport = transport_of(self, httpx)
        return transport

    def transport2(self) -> httpx2.AsyncBaseTransport:
        """For `httpx2.AsyncClient(transport=...)`."""
        import httpx2  # noqa: PLC0415  # not every supported SDK brings it

        transport: httpx2.AsyncBaseTransport = transport_of(self, httpx2)
        return transport

    def change(self, *, now: float | None = None, **options: Unpack[Options]) -> None:
        """Change settings while running. Levels stay; `seed` and `initial_level` concern what is still to come."""
        self.settings = replace(self.settings, **options)
        now = self._now(now)
        for limiter in self._limiters.values():
            limiter.change(self.settings, now)
        if "seed" in options:
            self._latencies, self._dice = Random(self.settings.seed), Random(self.settings.seed)

    def drain(self, model: str, *, requests: float = 0, tokens: float = 0, now: float | None = None) -> None:
        """Let a neighbour on the same account take units of `model`, as far as there are any."""
        now = self._now(now)
        self._limiter(model, now).drain(requests, tokens, now)

    @property
    def log(self) -> list[Attempt]:
        """The latest metered attempts, in order of arrival; at most `keep_log`."""
        return list(self._log)

    @property
    def attempts(self) -> int:
        return self.counters.attempts

    @property
    def succeeded(self) -> int:
        return self.counters.succeeded

    @property
    def refused(self) -> int:
        return self.counters.refused

    @property
    def in_flight(self) -> int:
        return self.counters.in_flight

    @property
    def peak_in_flight(self) -> int:
        return self.counters.peak_in_flight

    @property
    def open_streams(self) -> int:
        return self.counters.open_streams

    @property
    def connections(self) -> int:
        """TCP connections open now."""
        return self.counters.connections

    def stats(self, now: float | None = None) -> dict[str, Any]:
        """Return the counters, and what is left of each model's limits; plain values only."""
        now = self._now(now)
        models = {
            model: {
                "requests": None if limiter.requests is None else limiter.requests.remaining(now),
                "tokens": None if limiter.tokens is None else limiter.tokens.remaining(now),
            }
            for model, limiter in self._limiters.items()
        }
        return {**asdict(self.counters), "models": models}

    # What carriers ask of it.

    def receive(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Decide on one request, whole, at the instant it arrives."""
        self._latest = now
        self._requests += 1
        try:
            endpoint = path.removeprefix("/v1/")
            if method == "POST" and endpoint in METERED and endpoint != path:
                reply = self._meter(parse(endpoint, body), headers, now)
            else:
                reply = self._serve(method, path, headers, body, now)
        except BadRequestError as problem:
            reply = reply_of(400, invalid(str(problem), problem.param))
        reply.headers += (
            ("content-type", "text/event-stream; charset=utf-8" if reply.stream else "application/json"),
            ("x-request-id", f"req_{self._requests:032x}"),
            ("openai-processing-ms", "0" if math.isinf(reply.delay) else str(round(reply.delay * 1000))),
            ("openai-version", "2020-10-01"),
        )
        return reply

    def finish(self, reply: Reply, *, delivered: bool) -> None:
        """End a reply; the second time does nothing. `delivered`: all of it was acted out."""
        if not reply.in_flight:
            return
        reply.in_flight = False
        self.counters.in_flight -= 1
        self.counters.open_streams -= reply.stream
        if not delivered:
            self.counters.abandoned += 1
        elif reply.fault is not None:
            self.counters.failed += 1
        else:
            self.counters.succeeded += 1

    def _meter(self, call: Call, headers: Mapping[str, str], now: float) -> Reply:
        """Admit or refuse, charge, count, and put it on record."""
        number = self.counters.attempts
        self.counters.attempts += 1
        reply, dimension = self._refuse(call, now)
        if reply is None:
            fault = self._draw_fault(number, call)
            reply = self._answer(call, fault, now)
            reply.in_flight = True
            self.counters.in_flight += 1
            self.counters.peak_in_flight = max(self.counters.peak_in_flight, self.counters.in_flight)
            self.counters.open_streams += reply.stream
        else:
            self.counters.refused += 1
        retry_count = headers.get("x-stainless-retry-count", "0")
        self._log.append(
            Attempt(
                at=now,
                model=call.model,
                endpoint=call.endpoint,
                status=0 if reply.fault in {"disconnect", "hang"} else reply.status,
                tokens=call.cost,
                retry_count=int(retry_count) if retry_count.isdecimal() else 0,
                dimension=dimension,
                fault=reply.fault,
            )
        )
        return reply

    def _refuse(self, call: Call, now: float) -> tuple[Reply | None, Dimension | None]:
        settings = self.settings
        if settings.max_in_flight is not None and self.counters.in_flight >= settings.max_in_flight:
            return reply_of(settings.overload_status, overload_body(settings.overload_status)), "concurrency"
        limiter = self._limiter(call.model, now)
        refusal = limiter.admit(call.cost, now, charge_refused=settings.charge_refused_requests)
        if refusal is None:
            return None, None
        headers = self._announced(call, now)
        if settings.retry_after and refusal.wait is not None:
            headers += retry_headers(refusal.wait)
        body = refusal_body(refusal, call.model, retry_after=settings.retry_after)
        return reply_of(429, body, headers), refusal.dimension

    def _draw_fault(self, number: int, call: Call) -> Fault | None:
        for fault in self.faults:
            if fault.concerns(number, call.model, stream=call.stream) and (
                fault.share >= 1 or self._dice.random() < fault.share
            ):
                return fault
        return None

    def _answer(self, call: Call, fault: Fault | None, now: float) -> Reply:
        settings = self.settings
        usual = settings.completion_tokens
        tokens = call.completion_tokens(usual)
        answer = Answer(call, self._requests, EPOCH + int(now), tokens, tokens < usual)
        latency = settings.latency * math.exp(self._latencies.gauss(0, settings.latency_sigma))
        headers = self._announced(call, now)

        if fault is not None and not fault.kind.startswith("stream"):
            return struck_reply(fault, headers, latency)
        if call.endpoint == "responses" and call.body.get("store") is not False:
            self._shelf.keep_response(response(answer))
        if not call.stream:
            return Reply(200, headers, (to_bytes(plain(answer)),), delay=latency)

        pieces = events(answer)
        pause = (1 - _TO_FIRST_EVENT) * latency / len(pieces)
        if fault is not None and fault.kind == "stream_error":
            code = fault.code or "rate_limit_exceeded"
            pieces = (error_event(answer, error(fault.words, "requests", code)),)
        elif fault is not None:
            pieces = pieces[: len(pieces) // 2]
        kind = None if fault is None else fault.kind
        return Reply(200, headers, pieces, _TO_FIRST_EVENT * latency, pause, stream=True, fault=kind)

    def _serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer what is not metered."""
        match method, path:
            case "GET", "/simulator/stats":
                return found_reply(self.stats(now))
            case "POST", "/simulator/settings":
                return found_reply(self._change_by(body, now))
            case "POST", "/v1/files":
                return found_reply(self._shelf.keep_file(headers.get("content-type", ""), body, now))
        found = None
        if path.startswith("/v1/") and method == "GET":
            found = self._shelf.find(path.removeprefix("/v1/"), self._limiters)
        elif path.startswith("/v1/") and method == "DELETE":
            found = self._shelf.delete(path.removeprefix("/v1/"))
        return found_reply(found) if found is not None else reply_of(404, invalid(f"Invalid URL ({method} {path})"))

    def _change_by(self, body: bytes, now: float) -> dict[str, Any]:
        """Change settings over HTTP; the answer is all of them."""
        try:
            options = json.loads(body)
            self.change(now=now, **{str(name): value for name, value in options.items() if name != "now"})
        except (ValueError, TypeError, AttributeError) as problem:
            raise BadRequestError(f"These settings cannot be: {problem}") from problem
        return asdict(self.settings)

    def _limiter(self, model: str, now: float) -> Limiter:
        if model not in self._limiters:
            self._limiters[model] = Limiter(self.settings, now)
        return self._limiters[model]

    def _announced(self, call: Call, now: float) -> Headers:
        return rate_headers(self._limiters[call.model], now) if self.settings.announce else []

    def _now(self, now: float | None) -> float:
        """The instant given, or the running loop's, or where there is none the latest one seen."""
        if now is not None:
            return now
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return self._latest


def _limit(limit: float | None) -> str:
    return "no" if limit is None else f"{limit:g}"
