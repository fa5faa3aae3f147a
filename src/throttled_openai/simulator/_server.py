"""The server: routes, meters, draws the configured faults, and counts. It decides at once and never waits."""

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
from urllib.parse import parse_qsl

from ._answers.bodies import Answer, body_of, response
from ._answers.reply import Reply, answer_reply, fault_reply, json_reply, reply_of
from ._answers.store import Store
from ._backend import Backend
from ._gate import Gate, limit_headers
from ._log import Attempt, Counters, Dimension
from ._network import Network
from ._quotas.charge import charge_of
from ._requests.fields import BadRequestError, read_body
from ._requests.metered import MeteredRequest, metered_path, parse
from ._settings import Settings, SettingsOptions
from ._wording.dates import EPOCH
from ._wording.errors import invalid_request_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._fault import Fault
    from ._quotas.charge import Charge
    from ._quotas.quota import Quota
    from ._wording.headers import Headers


class Server:
    """Turns each request into a `Reply`. A carrier calls `receive` on arrival and `finish` at the end.

    `settings` are changed with `change`; `faults` and `counters` are plain attributes.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        faults: Iterable[Fault] = (),
        keep_log: int = 100_000,
        **options: Unpack[SettingsOptions],
    ) -> None:
        self.settings = replace(settings or Settings(), **options)
        self.faults = list(faults)
        self.counters = Counters()
        self._log: deque[Attempt] = deque(maxlen=keep_log)
        self._gate = Gate()
        self._store = Store()
        self._backend = Backend()
        self.network = Network(self.settings.seed)
        self._latencies = Random(self.settings.seed)
        self._dice = Random(self.settings.seed)
        self._requests = 0
        self._latest = 0.0

    def change(self, *, now: float | None = None, **options: Unpack[SettingsOptions]) -> None:
        """Change settings while running. Levels are kept; a new `seed` or `initial_level` applies from now on."""
        self.settings = replace(self.settings, **options)
        now = self._now(now)
        self._gate.change(self.settings, now)
        self._backend.start_queued(self.settings)
        self.counters.queued = self._backend.queued
        if "seed" in options:
            self.network = Network(self.settings.seed)
            self._latencies, self._dice = Random(self.settings.seed), Random(self.settings.seed)

    def stats(self, now: float | None = None) -> dict[str, Any]:
        """The counters, the units left of each limit, and the units its neighbours took; plain values only."""
        now = self._now(now)
        by_name = self._gate.limits.items()
        for _, limits in by_name:
            limits.catch_up(now)
        left = {name: {"requests": _left(it.requests, now), "tokens": _left(it.tokens, now)} for name, it in by_name}
        taken = {
            name: {"requests": it.neighbours.taken_requests, "tokens": it.neighbours.taken_tokens}
            for name, it in by_name
        }
        return {**asdict(self.counters), "models": left, "neighbours": taken}

    def receive(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Decide on one complete request at the instant of its arrival. `path` may end in a query."""
        self._latest = now
        self._requests += 1
        try:
            metered = metered_path(path.partition(_QUERY)[0]) if method == "POST" else None
            if metered is not None:
                endpoint, deployment = metered
                reply = self._meter(parse(endpoint, body, deployment, headers.get("content-type", "")), headers, now)
            else:
                reply = self._serve_unmetered(method, path, headers, body, now)
        except BadRequestError as problem:
            reply = reply_of(400, invalid_request_body(str(problem), problem.param))
        reply.headers += (
            ("content-type", "text/event-stream; charset=utf-8" if reply.stream else reply.content_type),
            ("x-request-id", f"req_{self._requests:032x}"),
            ("openai-version", "2020-10-01"),
        )
        if not reply.queued:  # the time in the queue is not known yet
            processing = 0 if math.isinf(reply.delay) else round(reply.delay * 1000)
            reply.headers.append(("openai-processing-ms", str(processing)))
        return reply

    def finish(self, reply: Reply, *, delivered: bool) -> None:
        """End a reply; a second request does nothing. `delivered`: all of it was performed."""
        if not reply.in_flight:
            return
        reply.in_flight = False
        self.counters.in_flight -= 1
        self.counters.open_streams -= reply.stream
        self._backend.leave(reply, self.settings)
        self.counters.queued = self._backend.queued
        answered = delivered and reply.fault is None
        if reply.bill is not None:
            limits, charge = reply.bill
            limits.settle(charge.settled if answered else charge.settled_unanswered, self._now(None))
        if answered:
            self.counters.succeeded += 1
        elif delivered:
            self.counters.failed += 1
        else:
            self.counters.abandoned += 1

    def _meter(self, request: MeteredRequest, headers: Mapping[str, str], now: float) -> Reply:
        """Admit or refuse, charge, count, and log."""
        number = self.counters.attempts
        self.counters.attempts += 1
        charge = charge_of(request, self.settings)
        reply, dimension = self._decide(number, request, charge, now)
        model = "".join(letter if letter.isprintable() else "?" for letter in request.model[:100])
        reply.note = f"{model}, {f'refused: {dimension}' if dimension is not None else f'{charge.total:,} tokens'}"
        retry_count = headers.get("x-stainless-retry-count", "0")
        self._log.append(
            Attempt(
                at=now,
                model=request.model,
                endpoint=request.endpoint,
                status=0 if reply.fault in {"disconnect", "hang"} else reply.status,
                tokens=charge.total,
                retry_count=int(retry_count) if re.fullmatch(r"\d{1,6}", retry_count) else 0,
                dimension=dimension,
                fault=reply.fault,
                call=headers.get("x-client-request-id"),
            )
        )
        return reply

    def _decide(
        self, number: int, request: MeteredRequest, charge: Charge, now: float
    ) -> tuple[Reply, Dimension | None]:
        settings, counters = self.settings, self.counters
        if (fault := self._draw_fault(number, request, before_limits=True)) is not None:
            counters.failed += 1
            return fault_reply(fault, [], 0.0), None
        if (refused := self._gate.refuse(request, charge, settings, counters.in_flight, now)) is not None:
            counters.refused += 1
            return refused
        fault = self._draw_fault(number, request, before_limits=False)
        limits = self._gate.limits_of(request.model, settings, now)
        reply = self._answer(request, fault, limit_headers(limits, settings, now), now)
        reply.bill = limits, charge
        reply.in_flight = True
        counters.in_flight += 1
        counters.peak_in_flight = max(counters.peak_in_flight, counters.in_flight)
        counters.open_streams += reply.stream
        self._backend.enter(reply, settings)
        counters.queued = self._backend.queued
        counters.peak_queued = max(counters.peak_queued, counters.queued)
        return reply, None

    def _draw_fault(self, number: int, request: MeteredRequest, *, before_limits: bool) -> Fault | None:
        for fault in self.faults:
            if (
                fault.before_limits == before_limits
                and fault.applies_to(number, request.model, stream=request.stream)
                and (fault.share >= 1 or self._dice.random() < fault.share)
            ):
                return fault
        return None

    def _answer(self, request: MeteredRequest, fault: Fault | None, headers: Headers, now: float) -> Reply:
        settings = self.settings
        usual = settings.completion_tokens
        tokens = request.completion_tokens(usual)
        shortened = tokens < request.whole_tokens(usual)
        answer = Answer(request, self._requests, EPOCH + int(now), tokens, shortened)
        latency = settings.latency * math.exp(self._latencies.gauss(0, settings.latency_sigma))
        reply = answer_reply(answer, fault, headers, latency)
        if reply.status == 200 and request.endpoint == "responses" and request.body.get("store") is not False:
            self._store.keep_response(response(answer), request.body["input"])
        return reply

    def _serve_unmetered(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer a request that the limits do not apply to."""
        path, _, query = path.partition(_QUERY)
        match method, path:
            case "GET", "/simulator/stats":
                found: dict[str, Any] | bytes | None = self.stats(now)
            case "GET", "/simulator/log":
                found = {"attempts": [asdict(attempt) for attempt in self._log]}
            case "POST", "/simulator/settings":
                found = self._change_by(body, now)
            case "POST", _:
                found = self._post(_AZURE.sub("/v1/", path), headers, body, now)
            case "GET", _:
                found = self._get(_AZURE.sub("/v1/", path), query, now)
            case "DELETE", _:
                found = self._store.delete(_AZURE.sub("/v1/", path).removeprefix("/v1/"))
            case _:
                found = None
        if found is None:
            return reply_of(404, invalid_request_body(f"Invalid URL ({method} {path})"))
        if isinstance(found, bytes):
            return Reply(200, [], (found,), content_type="application/octet-stream")
        return json_reply(found)

    def _post(self, path: str, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, Any] | None:
        if path == "/v1/files":
            return self._store.keep_file(headers.get("content-type", ""), body, now)
        if path == "/v1/batches":
            return self._store.start_batch(read_body(body), now, self.settings.latency)
        if path == "/v1/responses/input_tokens":
            counted = parse("responses", body, "any").prompt_tokens
            return {"object": "response.input_tokens", "input_tokens": counted}
        cancelled = _CANCEL.fullmatch(path)
        return self._store.cancel_batch(cancelled[1], now) if cancelled is not None else None

    def _get(self, path: str, query: str, now: float) -> dict[str, Any] | bytes | None:
        if (file := _CONTENT.fullmatch(path)) is not None:
            return self._store.content(file[1])
        if not path.startswith("/v1/"):
            return None
        asked = dict(parse_qsl(query, errors="replace"))
        return self._store.find(path.removeprefix("/v1/"), asked, self._gate.limits, self._answer_line, now)

    def _answer_line(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        """Answer a line of a batch, to which no limits apply."""
        self._requests += 1
        try:
            request = parse(path.removeprefix("/v1/"), json.dumps(body).encode())
        except BadRequestError as problem:
            refused: dict[str, Any] = json.loads(invalid_request_body(str(problem), problem.param))
            return 400, refused
        usual = self.settings.completion_tokens
        tokens = request.completion_tokens(usual)
        created = EPOCH + int(self._latest)
        answer = Answer(request, self._requests, created, tokens, tokens < request.whole_tokens(usual))
        answered: dict[str, Any] = json.loads(body_of(answer))
        return 200, answered

    def _change_by(self, body: bytes, now: float) -> dict[str, Any]:
        """Change settings over HTTP; the answer is all settings."""
        try:
            options = json.loads(body)
            _check_names(options)
            self.change(now=now, **{str(name): value for name, value in options.items() if name != "now"})
        except (ValueError, TypeError, AttributeError, RecursionError) as problem:
            raise BadRequestError(f"Invalid settings: {problem}") from problem
        return asdict(self.settings)

    def _now(self, now: float | None) -> float:
        """`now`, else the running loop's time, else that of the latest request."""
        if now is not None:
            return now
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return self._latest


# Azure's paths of what is not metered, which name no deployment.
_QUERY: Final = "?"
_AZURE: Final = re.compile(r"^/openai/(?:v1/)?")
_CONTENT: Final = re.compile(r"/v1/files/([^/]+)/content")
_CANCEL: Final = re.compile(r"/v1/batches/([^/]+)/cancel")

_SETTINGS: Final = tuple(field.name for field in fields(Settings))


def _check_names(options: Iterable[str]) -> None:
    for name in options:
        if name not in (*_SETTINGS, "now"):
            meant = "".join(f"; did you mean {close!r}?" for close in get_close_matches(name, _SETTINGS, n=1))
            raise ValueError(f"there is no setting {name!r}{meant}")


def _left(quota: Quota | None, now: float) -> int | None:
    return None if quota is None else quota.remaining(now)
