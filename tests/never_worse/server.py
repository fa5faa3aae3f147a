"""A scripted server in memory: it says what a script tells it, does its own arithmetic, and keeps what it was asked."""

import asyncio
import functools
import json
from collections import Counter
from dataclasses import dataclass, field

from scripted import CHAT

from .answers import Answer

QUOTA = {"error": {"message": "quota", "type": "insufficient_quota", "code": "insufficient_quota", "param": None}}
BROKEN = {"error": {"message": "it broke", "type": "server_error", "code": None, "param": None}}


def now():
    return asyncio.get_running_loop().time()


@dataclass
class Attempt:
    """One request as the server saw it. `nth`: of its call, from 0."""

    call: int
    nth: int
    number: int  # of all, from 0
    at: float
    path: str = ""
    said: Answer = field(default_factory=Answer)


class Bucket:
    """A limit that is really enforced: `rate` calls a second, `size` at once."""

    def __init__(self, rate, size):
        self.rate, self.size = rate, size
        self._level, self._at = float(size), 0.0

    def refuses(self, at):
        self._level, self._at = min(self.size, self._level + self.rate * (at - self._at)), at
        refused = self._level < 1
        self._level -= not refused
        return refused

    def needs(self, calls, seconds):
        """Seconds until the last of `calls` has its answer, with a client that knows the limit."""
        return max(0, calls - self.size) / self.rate + seconds


class Room:
    """A limit of calls in flight that the server really enforces."""

    def __init__(self, size):
        self.size = size
        self.inside = 0

    def needs(self, calls, seconds):
        return -(-calls // self.size) * seconds


class Server:
    """Answers with `fault` when `timing` says it is due, and otherwise well, after `latency` seconds.

    `announce(attempt)`: the headers of good answers. `limit`: a `Bucket` or a `Room` that is really
    kept to: beyond it, the server refuses with `fault`.
    """

    def __init__(self, fault, due, *, latency=0.1, announce=None, limit=None):
        self.fault, self.due, self.latency, self.announce, self.limit = fault, due, latency, announce, limit
        self.clock = now
        self.attempts: list[Attempt] = []
        self.last_refusal = 0.0  # instant of the last answer that `due` asked for
        self._of_call: Counter[int] = Counter()

    def transport(self, module):
        return _transport_class(module)(self)

    def begin(self, request, body):
        call = _call_of(body)
        attempt = Attempt(call, self._of_call[call], len(self.attempts), self.clock(), request.url.path)
        self._of_call[call] += 1
        self.attempts.append(attempt)
        if self.due(attempt) or self._full(attempt.at):
            attempt.said = self.fault
            self.last_refusal = attempt.at
        return attempt

    def _full(self, at):
        if isinstance(self.limit, Bucket):
            return self.limit.refuses(at)
        return isinstance(self.limit, Room) and self.limit.inside >= self.limit.size

    @property
    def per_call(self):
        return self._of_call

    async def answer(self, request, module):
        body = b"".join([chunk async for chunk in request.stream])
        attempt = self.begin(request, body)
        said = attempt.said
        room = self.limit if isinstance(self.limit, Room) and said is not self.fault else None
        if room is not None:
            room.inside += 1
        try:
            return await self._answer(request, module, body, attempt)
        finally:
            if room is not None:
                room.inside -= 1

    async def _answer(self, request, module, body, attempt):
        said = attempt.said
        timeout = request.extensions.get("timeout", {})
        if said.fault == "hang":
            await _patience(timeout.get("read"))
            raise module.ReadTimeout("hangs", request=request)
        if said.fault == "connect timeout":
            await _patience(timeout.get("connect"))
            raise module.ConnectTimeout("no answer", request=request)
        if said.fault == "connect":
            raise module.ConnectError("refused", request=request)
        await asyncio.sleep(self.latency)
        if said.fault == "disconnect":
            raise module.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        if said.fault == "reset":
            raise module.ReadError("reset", request=request)
        return self._response(request, module, body, attempt, timeout.get("read"))

    def _response(self, request, module, body, attempt, patience):
        said = attempt.said
        asked = _json(body)
        streams = isinstance(asked, dict) and asked.get("stream")
        headers = {"content-type": "application/json", **self._announced(attempt), **said.headers}
        if said.body is not None:
            return module.Response(said.status, headers=headers, content=said.body)
        content = [_events(attempt.call)] if streams else [json.dumps(good(attempt.call)).encode()]
        if streams:
            headers["content-type"] = "text/event-stream"
        if not said.fault:
            return module.Response(said.status, headers=headers, content=b"".join(content))
        stream = _Stream.of(module)(_broken(said.fault, content[0]), said.fault, module, request, patience)
        return module.Response(200, headers=headers, stream=stream)

    def _announced(self, attempt):
        return {} if self.announce is None else self.announce(attempt)


def good(call):
    """The answer to call number `call`, which says so."""
    message = {"role": "assistant", "content": f"yes {call}"}
    return {**CHAT, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def _events(call, *, done=True):
    chunk = {**CHAT, "object": "chat.completion.chunk", "usage": None}
    told = [{**chunk, "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in ("yes ", str(call))]
    told.append({**chunk, "choices": [], "usage": CHAT["usage"]})
    return "".join([*map(_event, told), "data: [DONE]\n\n" if done else ""]).encode()


def _event(data):
    return f"data: {json.dumps(data)}\n\n"


def _broken(fault, content):
    """The bytes of a body until it breaks."""
    match fault:
        case "error event first":
            return _event(BROKEN).encode()
        case "quota event first":
            return _event(QUOTA).encode()
        case "error event":
            return content[: len(content) // 3].rpartition(b"\n\n")[0] + b"\n\n" + _event(BROKEN).encode()
        case "odd events":
            return b"data: 5\n\ndata: [[[]]]\n\ndata: {\n\n"
    return content[: len(content) // 2]


class _Stream:
    """A body that is cut, stalls, or ends after what it says."""

    @staticmethod
    @functools.cache
    def of(module):
        return type("BrokenStream", (_Stream, module.AsyncByteStream), {})

    def __init__(self, content, fault, module, request, patience):
        self._told = content, fault, module, request, patience

    async def __aiter__(self):
        content, fault, module, request, patience = self._told
        yield content
        if fault == "cut":
            raise module.RemoteProtocolError("peer closed connection without sending complete message body")
        if fault == "stalls":
            await _patience(patience)
            raise module.ReadTimeout("stalls", request=request)

    async def aclose(self):
        pass


async def _patience(seconds):
    await asyncio.sleep(600.0 if seconds is None else seconds)


def _json(body):
    try:
        return json.loads(body)
    except ValueError:
        return None


def _call_of(body):
    """Number of the call, from the end of its prompt; -1 where a redirect lost the body."""
    asked = _json(body)
    try:
        return int(asked["messages"][0]["content"].rpartition(" ")[2])
    except (TypeError, KeyError, IndexError, ValueError):
        return -1


@functools.cache
def _transport_class(module):
    class ScriptedTransport(module.AsyncBaseTransport):
        def __init__(self, server):
            self._server = server

        async def handle_async_request(self, request):
            return await self._server.answer(request, module)

    return ScriptedTransport
