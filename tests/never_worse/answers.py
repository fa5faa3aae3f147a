"""What a server may answer: statuses, bodies, headers and faults, each with the seconds of wait that it names."""

import email.utils
import json
import time
from dataclasses import dataclass, field, replace

# Statuses that may say "not now" and so may be refusals of a rate, of room, of size or of the account.
MAY_REFUSE = frozenset({402, 413, 429, 503, 529})


@dataclass(frozen=True)
class Answer:
    """One answer. `fault` is how the exchange fails where it does; `wait` the seconds that it names.

    `final`: no wait cures it, as its text says or as `x-should-retry: false` tells the client.
    """

    status: int = 200
    body: bytes | None = None  # None: the good answer to what was asked
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    wait: float | None = None
    final: bool = False

    @property
    def refuses(self):
        return self.status in MAY_REFUSE and not self.fault

    def with_headers(self, header):
        return replace(
            self,
            headers={**self.headers, **header.values()},
            wait=self.wait if header.wait is None else header.wait,
            final=self.final or header.final,
        )


@dataclass(frozen=True)
class Body:
    content: bytes
    kind: str = "application/json"
    final: bool = False  # says that no wait cures the refusal


def _error(**error):
    return Body(json.dumps({"error": error}).encode())


BODIES = {
    "openai": _error(message="Rate limit reached", type="requests", param=None, code="rate_limit_exceeded"),
    "bare": _error(message="no", type=None, param=None, code=None),
    "quota": Body(
        b'{"error":{"message":"You exceeded your current quota",'
        b'"type":"insufficient_quota","code":"insufficient_quota"}}',
        final=True,
    ),
    "anthropic": Body(b'{"type":"error","error":{"type":"rate_limit_error","message":"Too fast"}}'),
    "gemini": Body(b'[{"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}]'),
    "detail": Body(b'{"detail":"Too Many Requests"}'),
    "room": _error(message="Too many concurrent requests", type="requests", param=None, code=None),
    "slow_down": _error(message="Slow down", type="server_error", param=None, code="slow_down"),
    "text": Body(b"error code: 1015", "text/plain"),
    "html": Body(b"<html><body><h1>503 Service Unavailable</h1></body></html>", "text/html"),
    "empty": Body(b""),
    "invalid": Body(b'{"error": {"message": "Rate li'),
    "not utf-8": Body(b'{"error": {"message": "\xff\xfe\x00"}}'),
    "deep": Body(b'{"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "1 MB": Body(json.dumps({"error": {"message": "no " * 350_000, "code": "x" * 1000}}).encode()),
    "number": Body(b'{"error": 5}'),
    "odd types": Body(b'{"error": {"message": ["no"], "type": {"a": 1}, "code": {"b": [null]}, "param": 1e400}}'),
    "list": Body(b"[]"),
    "null": Body(b"null"),
    "odd usage": Body(
        b'{"id":"c","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"odd"},"finish_reason":"stop"}],"usage":{"prompt_tokens":"many",'
        b'"completion_tokens":-5,"total_tokens":1e300}}'
    ),
}


@dataclass(frozen=True)
class Header:
    """Headers of an answer. `wait`: the seconds they name, where they name any that can be meant."""

    fixed: dict[str, str] = field(default_factory=dict)
    date_in: float | None = None
    wait: float | None = None
    final: bool = False

    def values(self):
        if self.date_in is None:
            return self.fixed
        return {"retry-after": email.utils.formatdate(time.time() + self.date_in, usegmt=True)}


def _after(value, wait=None):
    return Header({"retry-after": value}, wait=wait)


def _limits(limit, remaining, reset, what="requests"):
    names = zip(("limit", "remaining", "reset"), (limit, remaining, reset), strict=True)
    return Header({f"x-ratelimit-{name}-{what}": value for name, value in names})


HEADERS = {
    "none": Header(),
    "after 0": _after("0"),
    "after 1": _after("1", 1.0),
    "after 1.5": _after("1.5", 1.5),
    "after 30": _after("30", 30.0),
    "after 90": _after("90", 90.0),
    "after 3600": _after("3600", 3600.0),
    "after 86400": _after("86400", 86400.0),
    "after 30000": _after("30000", 30000.0),
    "after -5": _after("-5"),
    "after soon": _after("soon"),
    "after nan": _after("nan"),
    "after 1e400": _after("1e400", 1e400),
    "after a date": Header(date_in=30.0, wait=30.0),
    "after a date of tomorrow": Header(date_in=86400.0, wait=86400.0),
    "after a date gone by": Header(date_in=-60.0),
    "after 500 ms": Header({"retry-after-ms": "500"}, wait=0.5),
    "after 10 h in ms": Header({"retry-after-ms": "36000000"}, wait=36000.0),
    "after -1 ms": Header({"retry-after-ms": "-1"}),
    "retry true": Header({"x-should-retry": "true"}),
    "retry false": Header({"x-should-retry": "false"}, final=True),
    "retry false after 30": Header({"x-should-retry": "false", "retry-after": "30"}, wait=30.0, final=True),
    "limits good": _limits("6000", "5000", "10s"),
    "limits used up": _limits("600", "0", "1s"),
    "limits negative": _limits("-1", "-7", "-3s"),
    "limits absurd": _limits("1e99", "NaN", "soon"),
    "limits of a day": Header(
        {
            "x-ratelimit-limit-requests": "200",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "7m12s",
        }
    ),
}


STATUSES = {
    str(status): Answer(status)
    for status in (
        *(200, 304, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429),
        *(500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 599),
    )
}
# 307 keeps method and body, 301 becomes a GET; "loop" leads to itself.
REDIRECTS = {
    "301": Answer(301, b"", {"location": "/v1/elsewhere"}),
    "307": Answer(307, b"", {"location": "/v1/elsewhere"}),
    "308 loop": Answer(308, b"", {"location": "/v1/chat/completions"}),
    "302 nowhere": Answer(302, b""),
}
FAULTS = {
    "connect": Answer(fault="connect"),
    "connect timeout": Answer(fault="connect timeout"),
    "disconnect": Answer(fault="disconnect"),
    "reset": Answer(fault="reset"),
    "hang": Answer(fault="hang"),
    "cut": Answer(fault="cut"),
    "stalls": Answer(fault="stalls"),
    "error event": Answer(fault="error event"),
    "error event first": Answer(fault="error event first"),
    "quota event first": Answer(fault="quota event first", final=True),
    "failed event": Answer(fault="odd events"),
}
KINDS = {**STATUSES, **REDIRECTS, **FAULTS}


def answer(kind, body="bare", header="none"):
    """The answer that a cell is about, put together of its parts."""
    made = KINDS[kind]
    if kind in STATUSES and not (kind == "200" and body == "bare"):
        content = BODIES[body]
        made = replace(
            made,
            body=content.content,
            headers={"content-type": content.kind},
            final=content.final and kind in ("402", "429"),
        )
    return made.with_headers(HEADERS[header])
