"""Raw calls: calls of a throttled client with bodies in bytes, for files of requests.

A raw call passes admission, the pool, refusals and retries by the same rules as in `base`, without the SDK's
resources and models. If the program has replaced methods of the client, or if its credentials change, the call goes
through the SDK's public `post()` instead.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import openai
from openai._models import FinalRequestOptions

from throttled_openai._admission.call import Outcome
from throttled_openai._admission.throttle import dispatcher_of, most_refusals
from throttled_openai._exchange.send import send_admitted
from throttled_openai._exchange.settlement import PERMIT, outcome_of_error
from throttled_openai._pool import raw_exchange
from throttled_openai._protocol.durations import parse_delay
from throttled_openai._protocol.error_body import NOT_JSON
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.usage import Usage, read_usage
from throttled_openai.errors import AccountBlocked, AdmissionError, redacted

from .async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from .credentials import fields_of
from .http_client import unthrottled
from .sdk import hooked, known_platform, platform_from_thread
from .waits import end_waits, wait, waits_of

if TYPE_CHECKING:
    from throttled_openai._admission.call import Call
    from throttled_openai._admission.permit import Permit
    from throttled_openai._admission.throttle import Throttle
    from throttled_openai._pool import RawExchange, RawResponse

# Statuses that the SDK retries, and its waits before a retry, as in `openai._base_client`.
_RETRIED: Final = frozenset({408, 409, 429})
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 8.0
_LONGEST_ASKED: Final = 60.0
# Statuses of a gateway that reaches no server, and the longest wait between the retries that `patience` adds.
_OUTAGES: Final = frozenset({502, 503, 504})
_LONGEST_OUTAGE_DELAY: Final = 30.0

# The class of responses that the SDK returns unparsed.
_RESPONSE: Final[Any] = (sys.modules.get("httpx2") or sys.modules["httpx"]).Response
# Attributes of clients whose credentials change.
_CREDENTIAL_SOURCES: Final = (
    "_api_key_provider",
    "workload_identity",
    "_provider",
    "_azure_ad_token",
    "_azure_ad_token_provider",
)


class Answer(NamedTuple):
    """The server's answer. `data`: `content` parsed; None if it is not JSON.

    `waited`: seconds before admission. `took`: seconds of the last attempt.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    data: object
    usage: Usage | None
    waited: float
    took: float


class RawCalls:
    """Raw calls of one throttled client.

    `waiting`: calls not admitted yet, except those that go through the SDK. `retries`: how often a call is retried
    where the SDK would retry it. `patience`: seconds for which a call is retried beyond that, while the server cannot
    be reached.
    """

    def __init__(self, client: Any, *, retries: int | None = None, patience: float = 0.0) -> None:
        self.client = client
        self.patience = patience
        self.retries: int = client.max_retries if retries is None else retries
        self.waiting = 0
        self.on_wait_end: Callable[[], object] = _nothing  # called when a call stops waiting
        self._waits = waits_of(unthrottled(client._client))  # noqa: SLF001
        self._routes: dict[tuple[str, str], _Route | None] = {}
        self._fields: tuple[object, ...] | None = None

    @property
    def throttle(self) -> Throttle:
        throttle: Throttle = self.client.throttle
        return throttle

    async def post(self, path: str, content: bytes, body: Mapping[str, Any]) -> Answer:
        """Send `content`, which is `body` as JSON, to `path` below the base URL, such as `/chat/completions`.

        Returns any answer of the server, errors included. If there is none, raises the SDK's `APIConnectionError` or
        an error of admission.
        """
        route = await self._route(path, body)
        if route is None:
            return await self._through_sdk(path, body)
        call = route.call(body)
        loop = asyncio.get_running_loop()
        began, taken = loop.time(), 0
        while True:
            answer, failure = None, None
            try:
                answer = await self._attempt(route, call, content)
            except Exception as error:
                if isinstance(error, openai.OpenAIError) or not route.is_transports(error):
                    raise
                failure = error
            if answer is not None and not _is_retryable(answer):
                # A redirect, which httpx follows.
                return await self._through_sdk(path, body) if 300 <= answer.status < 400 else answer
            is_outage = is_unreachable(failure) or (answer is not None and answer.status in _OUTAGES)
            if taken >= self.retries and not (is_outage and loop.time() - began < self.patience):
                if answer is not None:
                    return answer
                assert failure is not None
                raise _named_by_sdk(failure) from failure
            longest = _LONGEST_DELAY if taken < self.retries else _LONGEST_OUTAGE_DELAY
            await wait(
                self._waits, asyncio.sleep(_retry_delay(taken, {} if answer is None else answer.headers, longest))
            )
            taken += 1

    def end_waits(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Calls of `tasks` that wait for admission, or for a retry, fail with `ClientClosed`."""
        end_waits(self._waits, tasks)

    # Routes

    async def _route(self, path: str, body: Mapping[str, Any]) -> _Route | None:
        fields = fields_of(self.client)
        if fields != self._fields:
            self._routes.clear()
            self._fields = fields
        is_azure = isinstance(self.client, ThrottledAsyncAzureOpenAI)
        model = body.get("model") if is_azure else ""
        key = path, model if isinstance(model, str) else ""
        if key not in self._routes:
            if len(self._routes) >= 1000:  # names of deployments come from the file
                self._routes.clear()
            self._routes[key] = await self._made_route(path, body)
        return self._routes[key]

    async def _made_route(self, path: str, body: Mapping[str, Any]) -> _Route | None:
        client = self.client
        plain = type(client) in {ThrottledAsyncOpenAI, ThrottledAsyncAzureOpenAI} and hooked()
        if not plain or any(getattr(client, name, None) is not None for name in _CREDENTIAL_SOURCES):
            return None
        if not {"post", "request", "_build_request", "_prepare_request"}.isdisjoint(vars(client)):
            return None  # a tool traces its calls
        if client._platform is None:  # noqa: SLF001
            client._platform = known_platform() or await platform_from_thread()  # noqa: SLF001
        options = FinalRequestOptions.construct(method="post", url=path, json_data={"model": body.get("model")})
        template = client._build_request(options, retries_taken=0)  # noqa: SLF001
        exchange = raw_exchange(client._client, template, template.extensions.get("timeout", {}))  # noqa: SLF001
        return None if exchange is None else _Route(client, path, exchange, redacted(template))

    # Attempts

    async def _admitted(self, route: _Route, call: Call) -> Permit:
        self.waiting += 1
        try:
            return await wait(self._waits, dispatcher_of(route.throttle).admit(call))
        except AdmissionError as error:
            error.request = route.request
            raise
        finally:
            self.waiting -= 1
            self.on_wait_end()

    async def _attempt(self, route: _Route, call: Call, content: bytes) -> Answer:
        """One attempt, and further ones if it is refused. Every way out settles the permit."""
        permit = await self._admitted(route, call)
        try:
            raw = await route.exchange.post(content)
        except BaseException as error:
            permit.release(outcome_of_error(error))
            raise
        if 200 <= raw.status < 300:
            return _taken(permit, raw)
        first = [raw]

        async def send(request: Any) -> Any:
            del request
            return route.exchange.response(first.pop() if first else await route.exchange.post(content))

        admit = functools.partial(self._admitted, route)
        response = await send_admitted(most_refusals(route.throttle), permit, route.request, send, admit)
        return _answer_of(response, call)

    async def _through_sdk(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The same call through the SDK's public `post()`, and so through any wrapper around it."""
        options: Any = {"max_retries": self.retries}
        try:
            response = await self.client.post(path, cast_to=_RESPONSE, body=dict(body), options=options)
        except AccountBlocked:
            raise
        except openai.APIStatusError as error:
            response = error.response
        return _answer_of(response, None)


class _Route:
    """One endpoint of a client: the account whose limits apply, and how its calls are sent."""

    def __init__(self, client: Any, path: str, exchange: RawExchange, request: Any) -> None:
        self.exchange = exchange
        self.request = request
        self._client = client
        self._whom = client._whom()  # noqa: SLF001
        self._options = FinalRequestOptions.construct(method="post", url=path)
        self._family: str = request.__class__.__module__.partition(".")[0]

    @property
    def throttle(self) -> Throttle:
        throttle: Throttle = self._client._throttles.of_client(self._whom.account)  # noqa: SLF001
        return throttle

    def call(self, body: Mapping[str, Any]) -> Call:
        self._options.json_data = body
        call: Call = self._client._call(self._options, self._whom)  # noqa: SLF001
        self._options.json_data = None
        return call

    def is_transports(self, failure: Exception) -> bool:
        """Whether `failure` is an error of httpx, which the SDK would retry."""
        return type(failure).__module__.partition(".")[0] == self._family


class _Headers(Mapping[str, str]):
    """Headers as received. A look-up scans all of them, as only few are looked up."""

    __slots__ = ("raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> str:
        key = name.lower().encode("latin-1")
        for other, value in self.raw:
            if other.lower() == key:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name.decode("latin-1").lower(): None for name, _ in self.raw})

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self.raw})


def _taken(permit: Permit, raw: RawResponse) -> Answer:
    """The answer of a successful attempt; settles its permit."""
    headers = _Headers(raw.headers)
    try:
        took = max(0.0, asyncio.get_running_loop().time() - permit.admitted_at)
        permit.observe(read_limits(headers))
        data = parsed(raw.content)
        usage = read_usage(data)
        if usage is not None:
            permit.used(usage)
    finally:
        permit.release(Outcome.SUCCESS)
    return Answer(raw.status, headers, raw.content, data, usage, permit.call.waited, took)


def _answer_of(response: Any, call: Call | None) -> Answer:
    """The answer in a response of httpx, whose permit, if it has one, is settled already."""
    content = response.content
    data = parsed(content)
    served = response.status_code < 300
    usage = read_usage(data) if served else None
    permit = response.extensions.get(PERMIT)
    took = waited = 0.0
    if permit is not None:
        took = max(0.0, asyncio.get_running_loop().time() - permit.admitted_at)
        call = permit.call
        if usage is not None:
            permit.used(usage)
    if call is not None:
        waited = call.waited
    return Answer(response.status_code, response.headers, content, data, usage, waited, took)


def _nothing() -> None:
    pass


def _not_finite(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_not_finite)


def parsed(content: bytes) -> object:
    """`content` parsed as JSON; None if it is not JSON."""
    try:
        return _DECODER.decode(content.decode("utf-8"))
    except NOT_JSON:
        return None


def _is_retryable(answer: Answer) -> bool:
    should_retry = answer.headers.get("x-should-retry")
    if should_retry in {"true", "false"}:
        return should_retry == "true"
    asked = _asked(answer.headers)
    if asked is not None and asked > _LONGEST_ASKED:
        return False
    return answer.status >= 500 or answer.status in _RETRIED


def _asked(headers: Mapping[str, str]) -> float | None:
    milliseconds = headers.get("retry-after-ms", "")
    if milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) < 12:
        return int(milliseconds) / 1000
    return parse_delay(headers.get("retry-after"), time.time())


def _retry_delay(taken: int, headers: Mapping[str, str], longest: float) -> float:
    asked = _asked(headers)
    if asked is not None and 0 < asked <= _LONGEST_ASKED:
        return asked
    return min(_FIRST_DELAY * 2.0 ** min(taken, 20), longest) * (1 - random.random() / 4)


def is_unreachable(failure: BaseException | None) -> bool:
    """Whether a failure of httpx means that no connection to the server was made."""
    return type(failure).__name__ in {"ConnectError", "ConnectTimeout", "ProxyError"}


def _named_by_sdk(failure: Exception) -> openai.APIConnectionError:
    request: Any = getattr(failure, "_request", None)
    if any(kind.__name__ == "TimeoutException" for kind in type(failure).__mro__):
        return openai.APITimeoutError(request=request)
    return openai.APIConnectionError(message=f"Connection error: {failure or type(failure).__name__}", request=request)
