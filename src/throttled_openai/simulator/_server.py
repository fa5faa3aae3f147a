"""The server itself: it routes, meters, misbehaves as told, and keeps count. It never waits."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import deque
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from random import Random
from typing import TYPE_CHECKING, Any, Final, Unpack

from ._answers import EPOCH, Answer, response
from ._backend import Backend
from ._charge import charge_of
from ._door import Door, announced
from ._errors import BadRequestError, invalid
from ._log import Attempt, Counters, Dimension
from ._memory import transport_of
from ._network import Network
from ._reply import Reply, answer_reply, found_reply, reply_of, struck_reply
from ._request import Call, metered_path, parse
from ._settings import Options, Settings
from ._shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx
    import httpx2

    from ._charge import Charge
    from ._fault import Fault
    from ._headers import Headers
    from ._quota import Quota


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
        self._door = Door()
        self._shelf = Shelf()
        self._backend = Backend()
        self.network = Network(self.settings.seed)
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
        self._door.change(self.settings, now)
        self._backend.fill(self.settings)
        self.counters.queued = self._backend.queued
        if "seed" in options:
            self.network = Network(self.settings.seed)
            self._latencies, self._dice = Random(self.settings.seed), Random(self.settings.seed)

    def drain(self, model: str, *, requests: float = 0, tokens: float = 0, now: float | None = None) -> None:
        """Let a neighbour on the same account take units of `model`, as far as there are any."""
        now = self._now(now)
        self._door.limiter(model, self.settings, now).drain(requests, tokens, now)

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
        """Return the counters, what is left of each limit, and what neighbours took of it; plain values only."""
        now = self._now(now)
        limiters = self._door.limiters.items()
        for _, limiter in limiters:
            limiter.catch_up(now)
        left = {name: {"requests": _left(it.requests, now), "tokens": _left(it.tokens, now)} for name, it in limiters}
        taken = {
            name: {"requests": it.neighbours.taken_requests, "tokens": it.neighbours.taken_tokens}
            for name, it in limiters
        }
        return {**asdict(self.counters), "models": left, "neighbours": taken}

    # What carriers ask of it.

    def receive(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Decide on one request, whole, at the instant it arrives."""
        self._latest = now
        self._requests += 1
        try:
            metered = metered_path(path) if method == "POST" else None
            if metered is not None:
                endpoint, deployment = metered
                reply = self._meter(parse(endpoint, body, deployment), headers, now)
            else:
                reply = self._serve(method, path, headers, body, now)
        except BadRequestError as problem:
            reply = reply_of(400, invalid(str(problem), problem.param))
        reply.headers += (
            ("content-type", "text/event-stream; charset=utf-8" if reply.stream else "application/json"),
            ("x-request-id", f"req_{self._requests:032x}"),
            ("openai-version", "2020-10-01"),
        )
        if not reply.queued:  # how long that takes, nobody knows yet
            processing = 0 if math.isinf(reply.delay) else round(reply.delay * 1000)
            reply.headers.append(("openai-processing-ms", str(processing)))
        return reply

    def finish(self, reply: Reply, *, delivered: bool) -> None:
        """End a reply; the second time does nothing. `delivered`: all of it was acted out."""
        if not reply.in_flight:
            return
        reply.in_flight = False
        self.counters.in_flight -= 1
        self.counters.open_streams -= reply.stream
        self._backend.leave(reply, self.settings)
        self.counters.queued = self._backend.queued
        answered = delivered and reply.fault is None
        if reply.bill is not None:
            limiter, charge = reply.bill
            limiter.settle(charge.settled if answered else charge.settled_unanswered, self._now(None))
        if answered:
            self.counters.succeeded += 1
        elif delivered:
            self.counters.failed += 1
        else:
            self.counters.abandoned += 1

    def _meter(self, call: Call, headers: Mapping[str, str], now: float) -> Reply:
        """Admit or refuse, charge, count, and put it on record."""
        number = self.counters.attempts
        self.counters.attempts += 1
        charge = charge_of(call, self.settings)
        reply, dimension = self._decide(number, call, charge, now)
        retry_count = headers.get("x-stainless-retry-count", "0")
        self._log.append(
            Attempt(
                at=now,
                model=call.model,
                endpoint=call.endpoint,
                status=0 if reply.fault in {"disconnect", "hang"} else reply.status,
                tokens=charge.total,
                retry_count=int(retry_count) if re.fullmatch(r"\d{1,6}", retry_count) else 0,
                dimension=dimension,
                fault=reply.fault,
                call=headers.get("x-client-request-id"),
            )
        )
        return reply

    def _decide(self, number: int, call: Call, charge: Charge, now: float) -> tuple[Reply, Dimension | None]:
        settings, counters = self.settings, self.counters
        if (fault := self._draw_fault(number, call, at_door=True)) is not None:
            counters.failed += 1
            return struck_reply(fault, [], 0.0), None
        if (refused := self._door.refuse(call, charge, settings, counters.in_flight, now)) is not None:
            counters.refused += 1
            return refused
        fault = self._draw_fault(number, call, at_door=False)
        limiter = self._door.limiter(call.model, settings, now)
        reply = self._answer(call, fault, announced(limiter, settings, now), now)
        reply.bill = limiter, charge
        reply.in_flight = True
        counters.in_flight += 1
        counters.peak_in_flight = max(counters.peak_in_flight, counters.in_flight)
        counters.open_streams += reply.stream
        self._backend.enter(reply, settings)
        counters.queued = self._backend.queued
        counters.peak_queued = max(counters.peak_queued, counters.queued)
        return reply, None

    def _draw_fault(self, number: int, call: Call, *, at_door: bool) -> Fault | None:
        for fault in self.faults:
            if (
                fault.at_door == at_door
                and fault.concerns(number, call.model, stream=call.stream)
                and (fault.share >= 1 or self._dice.random() < fault.share)
            ):
                return fault
        return None

    def _answer(self, call: Call, fault: Fault | None, headers: Headers, now: float) -> Reply:
        settings = self.settings
        usual = settings.completion_tokens
        tokens = call.completion_tokens(usual)
        answer = Answer(call, self._requests, EPOCH + int(now), tokens, tokens < usual)
        latency = settings.latency * math.exp(self._latencies.gauss(0, settings.latency_sigma))
        reply = answer_reply(answer, fault, headers, latency)
        if reply.status == 200 and call.endpoint == "responses" and call.body.get("store") is not False:
            self._shelf.keep_response(response(answer))
        return reply

    def _serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer what is not metered."""
        match method, path:
            case "GET", "/simulator/stats":
                return found_reply(self.stats(now))
            case "GET", "/simulator/log":
                return found_reply({"attempts": [asdict(attempt) for attempt in self._log]})
            case "POST", "/simulator/settings":
                return found_reply(self._change_by(body, now))
            case "POST", "/v1/files":
                return found_reply(self._shelf.keep_file(headers.get("content-type", ""), body, now))
        found = None
        if path.startswith("/v1/") and method == "GET":
            found = self._shelf.find(path.removeprefix("/v1/"), self._door.limiters)
        elif path.startswith("/v1/") and method == "DELETE":
            found = self._shelf.delete(path.removeprefix("/v1/"))
        return found_reply(found) if found is not None else reply_of(404, invalid(f"Invalid URL ({method} {path})"))

    def _change_by(self, body: bytes, now: float) -> dict[str, Any]:
        """Change settings over HTTP; the answer is all of them."""
        try:
            options = json.loads(body)
            _check_names(options)
            self.change(now=now, **{str(name): value for name, value in options.items() if name != "now"})
        except (ValueError, TypeError, AttributeError, RecursionError) as problem:
            raise BadRequestError(f"Invalid settings: {problem}") from problem
        return asdict(self.settings)

    def _now(self, now: float | None) -> float:
        """The instant given, or the running loop's, or where there is none the latest one seen."""
        if now is not None:
            return now
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return self._latest


_SETTINGS: Final = tuple(field.name for field in fields(Settings))


def _check_names(options: Iterable[str]) -> None:
    for name in options:
        if name not in (*_SETTINGS, "now"):
            meant = "".join(f"; did you mean {close!r}?" for close in get_close_matches(name, _SETTINGS, n=1))
            raise ValueError(f"there is no setting {name!r}{meant}")


def _limit(limit: float | None) -> str:
    return "no" if limit is None else f"{limit:g}"


def _left(quota: Quota | None, now: float) -> int | None:
    return None if quota is None else quota.remaining(now)
