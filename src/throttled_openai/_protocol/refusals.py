"""Refusals: why a response refuses an attempt, for how long, and whether for good.

Server input is untrusted: a value that is negative, not finite, absurdly large or of the wrong type counts as absent,
and nothing here raises. No text of an error is kept.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from .billing import is_about_one_call, is_billing, is_billing_code, may_be_billing
from .durations import LONGEST
from .error_body import ErrorBody, parse_error_body
from .headers import NOTHING, Announcement, Dimension, Window, read_limits
from .named_limit import NamedLimit, has_numbers, named_limit, names_rate_or_wait
from .retry_after import read_retry_after

Kind = Literal["rate", "overload", "too_large", "billing"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the server did not run an attempt, and when it might.

    `rate`: calls came too fast. `overload`: the server has no room, at any rate. `too_large`: this request can never
    be admitted. `billing`: no request can, until the account is settled.
    """

    kind: Kind
    dimension: Dimension | None = None  # None: the server did not name one
    retry_after: float | None = None  # seconds from the response; None: it asks for no wait
    period: float | None = None  # seconds, of the named limit
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    group: str | None = None  # the name of a bucket that several models share: "(for limit gpt-4.1)"
    slow_down: bool = False  # the rate grew too fast, whatever the limits: go back to the former rate for a while
    may_retry: bool = True  # False: the server asks not to send this call again (`x-should-retry: false`)
    # The provider's own code, for error messages: one word of at most 64 characters, or a number. Not compared.
    code: str | None = field(default=None, compare=False)

    @property
    def final(self) -> bool:
        """Whether sending the same request again is pointless, or not wanted."""
        return self.kind in ("too_large", "billing") or not self.may_retry

    @property
    def is_explained(self) -> bool:
        """Whether the server gave any reason: a wait, a dimension or a number."""
        return not (self.retry_after is None and self.dimension is None and self.limit is None)

    @property
    def announcement(self) -> Announcement:
        """The limit that the refusal names, as headers would announce it."""
        if self.limit is None or self.limit < 1.0 or self.period is None:
            return NOTHING
        left = None if self.used is None else max(0.0, self.limit - self.used)
        windows = (Window(self.limit, self.period, left),)
        if self.dimension == "requests":
            return Announcement(windows, ())
        return Announcement((), windows) if self.dimension == "tokens" else NOTHING


# Codes of errors inside a stream, whose status has already been 200.
_STREAMED_RATE: Final = frozenset(
    {
        "429",
        "dynamic_request_limited",
        "dynamic_token_limited",
        "limit_burst_rate",
        "limit_requests",
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limit_reached_error",
        "rate_limited",
        "requests",
        "resource_exhausted",
        "tokens",
        "too_many_requests",
        "usage_limit_reached",
    }
)
_STREAMED_OVERLOAD: Final = frozenset({"503", "529", "service_unavailable_error", "slow_down", "unavailable"})

_FLAGS: Final = re.ASCII | re.IGNORECASE

# Words for a lack of room: Azure's `no_capacity`, Mistral's 3505, flex, TGI, DeepSeek, Zhipu's 1302 (in Chinese). Not
# a text that offers more capacity, nor Gemini's "exhausted your capacity on this model", which is a quota.
_NO_ROOM: Final = re.compile(
    r"(?<!more )(?<!your )(?<!higher )(?<!additional )(?<!increased )(?<!dedicated )(?<!provisioned )"
    r"(?<!increase )(?<!reserved )capacity"
    r"|concurren|overload|high demand|resource[_ ]unavailable|max_parallel|\u5e76\u53d1",
    _FLAGS,
)

# OpenAI: "Your request rate has increased suddenly, overloading the model", "Slow Down". Anthropic: "maximum usage
# increase rate … to stay within the acceleration limit". DashScope: "Request rate increased too quickly".
_SLOW_DOWN: Final = re.compile(
    r"increased (?:suddenly|too quickly)|usage increase rate|acceleration limit|^slow down", _FLAGS
)

_GROUP: Final = re.compile(r"\(for limit ([\w.:/-]{1,100})\)", _FLAGS)
# Where a limit of tokens asks to wait for Azure's "not known" (exactly a day), the request can never fit.
_NEVER: Final = "retry after 86400 seconds"
# A quota of nothing, where no quotaValue says so: "* Quota exceeded for metric: …, limit: 0, model: gemini-2.0-flash".
_NOTHING_ALLOWED: Final = re.compile(r"\bexceeded for (?:quota )?metric:? [^\s,]{1,200}, limit: 0(?![.,]?\d)", _FLAGS)


def read_refusal(status: int, headers: Mapping[str, str], body: object, *, wall_now: float) -> Refusal | None:
    """Why the server refused, or None if a response of this status is no refusal.

    `body` is bytes, text or parsed JSON, as far as it could be read. `wall_now`, seconds since 1970, turns dates into
    delays where the response has no date of its own.
    """
    if status not in (402, 413, 429, 503, 529):
        return None
    error = parse_error_body(body)
    # With this code it is Groq's "too large". Without it, it is a proxy that counts bytes.
    if status == 413 and "rate_limit_exceeded" not in error.codes:
        return None
    return _refusal(status, headers, error, wall_now)


def read_stream_error(event: object) -> Refusal | None:
    """Why the server ended a stream of status 200 with this error; None if it is no refusal.

    `event` is a whole event, its error, or a failed response, as text or parsed.
    """
    error = parse_error_body(event)
    if error.codes & _STREAMED_OVERLOAD or any(map(_NO_ROOM.search, error.codes)):
        return _refusal(503, {}, error, math.nan)
    if error.codes & _STREAMED_RATE or any(map(is_billing_code, error.codes)) or has_numbers(error.message):
        return _refusal(429, {}, error, math.nan)
    return None


def _refusal(status: int, headers: Mapping[str, str], error: ErrorBody, wall_now: float) -> Refusal:
    named = named_limit(error)
    slow_down = "slow_down" in error.codes or _SLOW_DOWN.search(error.message) is not None
    kind = _kind(status, error, named, slow_down=slow_down)
    if kind == "overload":
        named = NamedLimit()
    # Waiting is pointless where the next attempt would fail in the same way.
    final = kind in ("too_large", "billing")
    wait = None if final else read_retry_after(headers, error, wall_now)
    if wait is None and kind == "rate":
        wait = _refill_time(read_limits(headers), named)
    group = _GROUP.search(error.message)
    return Refusal(
        kind=kind,
        dimension=named.dimension,
        retry_after=wait,
        period=named.period,
        limit=named.limit or None,  # "Limit 0" is a model this account may not use
        used=named.used,
        requested=named.requested,
        group=None if group is None else group[1],
        slow_down=slow_down and not final,
        may_retry=headers.get("x-should-retry") != "false",
        code=error.code,
    )


def _kind(status: int, error: ErrorBody, named: NamedLimit, *, slow_down: bool) -> Kind:
    if status in (503, 529):
        return "overload"
    if is_about_one_call(error.message):
        return "too_large"
    if is_billing(status, error) or (not names_rate_or_wait(error.message) and may_be_billing(error)):
        return "billing"
    if status == 413 or _is_too_large(error, named):
        return "too_large"
    # OpenAI's text for "slow down" speaks of overload.
    no_room = _NO_ROOM.search(error.message) or any(map(_NO_ROOM.search, error.codes))
    return "overload" if no_room and named.limit is None and not slow_down else "rate"


def _is_too_large(error: ErrorBody, named: NamedLimit) -> bool:
    if named.limit == 0.0 or _NOTHING_ALLOWED.search(error.message):
        return True
    if named.limit is not None and named.requested is not None and named.requested > named.limit:
        return True
    message = error.message.lower()
    return (named.dimension == "tokens" and _NEVER in message) or "request too large" in message


def _refill_time(announced: Announcement, named: NamedLimit) -> float | None:
    """Seconds until the named limit has refilled what is missing: `(requested - remaining) / rate`."""
    if named.dimension is None:
        return None
    # A call is one request, whether the server says so or not.
    requested = 1.0 if named.dimension == "requests" else named.requested
    if named.limit and named.used is not None and named.period:
        windows: tuple[Window, ...] = (Window(named.limit, named.period, named.limit - named.used),)
    else:
        windows = announced.of(named.dimension)
    waits = [
        (requested - window.remaining) / window.rate
        for window in windows
        if requested is not None and window.remaining is not None
    ]
    longest = max(waits, default=0.0)
    return longest if 0.0 < longest <= LONGEST else None
