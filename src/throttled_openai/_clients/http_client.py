"""A throttled view of an `httpx` or `httpx2` client, for other libraries."""

from __future__ import annotations

import functools
import json
import re
import sys
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from throttled_openai._admission.call import Call
from throttled_openai._admission.throttle import dispatcher_of, most_refusals
from throttled_openai._exchange.send import send_admitted
from throttled_openai._exchange.settlement import ADMITTED, PERMIT
from throttled_openai._protocol.account import account_at, credentials_in
from throttled_openai._protocol.endpoints import is_metered, model_of
from throttled_openai._protocol.error_body import NOT_JSON
from throttled_openai._protocol.estimate import estimate
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.providers import endpoint_of, provider_named, provider_of
from throttled_openai._protocol.stream_tail import Tail, last_usage
from throttled_openai._spelling import did_you_mean
from throttled_openai.errors import AdmissionError, redacted

from .options import OPTIONS, current_queue_options, read_options
from .rebind import Rebinding
from .waits import end_waits, wait, waits_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

    import httpx
    import httpx2

    from throttled_openai._admission.call import QueueOptions
    from throttled_openai._admission.permit import Permit
    from throttled_openai._admission.throttle import Throttle
    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.usage import Usage

    from .options import Options
    from .shared import Throttles

# The field of a form that names the model, as for the transcription of a sound.
_MODEL_FIELD: Final = re.compile(rb'; ?name="?model"?(?:\r\n[!-~]+:[^\r\n]*)*\r\n\r\n([^\r\n]{1,200})\r\n')

Client = TypeVar("Client", bound="httpx.AsyncClient | httpx2.AsyncClient")


def wrap_http_client(http_client: Client, **options: Unpack[Options]) -> Client:
    """A client that sends as `http_client` does, but requests that run a model only when the limits allow.

    For libraries that take an `httpx` or `httpx2` client rather than one of the SDK. It shares everything
    with `http_client` (connections, hooks, cookies, proxies; closing one closes both), which is unchanged.
    The options are those of `ThrottledAsyncOpenAI` except `pool`; `.throttle` is the `Throttle`.

    Models and sizes are read from JSON bodies, models also from forms, usage from the decoded body or stream as
    it is read. A
    refused request is sent again unchanged, so credentials that live for seconds need a throttled client of
    the SDK, which asks for new ones. That client may have this one as its `http_client`.

    Calls raise what `http_client` raises, and `AdmissionTimeout`, `QueueFull`, `RequestTooLarge` or
    `AccountBlocked`. Raises `TypeError` for anything but an asynchronous client of httpx or httpx2, or one that is
    throttled already, and `ValueError` for invalid limits.
    """
    client: Any = http_client
    if isinstance(client, _View):
        raise TypeError("this client is throttled already: give its .throttle to others, or throttle the one below")
    families = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
    if not isinstance(client, tuple(family.AsyncClient for family in families)):
        raise TypeError(
            f"wrap_http_client() takes an httpx.AsyncClient or httpx2.AsyncClient, not {type(client).__name__}; "
            "for a client of the SDK use wrap()"
        )
    given: dict[str, Any] = dict(options)
    throttles, queue_options, dialect, pool = read_options(given, threads=False)
    if pool is not None:
        raise ValueError(f"http_client has its own connections: leave out pool={pool!r}")
    if given:
        meant = did_you_mean(next(iter(given)), OPTIONS)
        raise TypeError(f"wrap_http_client() has no option {', '.join(given)}{meant}")
    own: Any = type(client)
    view: Any = object.__new__(_view_class(own))
    view.__dict__ = client.__dict__  # the same, so that both are open or closed, and have the same hooks
    view._throttled, view._own = _Throttled(client, throttles, queue_options, dialect), {}  # noqa: SLF001
    throttled: Client = view
    return throttled


def permit_of(response: Any) -> Permit | None:
    """The permit of a response; None if its request needed none."""
    permit: Permit | None = response.extensions.get(PERMIT)
    return permit


def unthrottled(http_client: Any) -> Any:
    """The client below a view made by `wrap_http_client`; any other client is returned unchanged."""
    return http_client._throttled.client if isinstance(http_client, _View) else http_client  # noqa: SLF001


class _Throttled(NamedTuple):
    """A view's client, and its own options."""

    client: Any
    throttles: Throttles
    queue_options: QueueOptions
    dialect: str | None


class _View:
    """Comes before the class of a client: `send` waits for a permit."""

    __slots__ = ()

    if TYPE_CHECKING:
        _throttled: _Throttled

    @property
    def throttle(self) -> Throttle:
        """Budgets and queues of the account of the latest request."""
        return self._throttled.throttles.latest

    def __del__(self) -> None:
        """Does nothing: some classes close themselves here, but the wrapped client owns the connections."""

    if not TYPE_CHECKING:

        async def send(self, request: Any, *, _below: Any = None, **options: Any) -> Any:
            send = functools.partial(_below or super().send, **options)
            if ADMITTED in request.extensions or self.is_closed:  # admitted by a client of ours above
                return await send(request)
            client, throttles, queue_options, dialect = self._throttled
            account = account_at(request.url, credentials_in(request.headers))
            throttle = throttles.of(account)
            call = _call(request, account, queue_options, dialect)
            if call is None:
                response = await send(request)
                dispatcher_of(throttle).observe(read_limits(response.headers), account)
                return response

            async def admit(call: Call) -> Permit:
                try:
                    return await wait(waits_of(client), dispatcher_of(throttle).admit(call))
                except AdmissionError as error:
                    error.request = redacted(request)
                    raise

            response = await send_admitted(most_refusals(throttle), await admit(call), request, send, admit)
            _watch(response)
            return response

        async def aclose(self) -> None:
            self._end()
            await super().aclose()

        async def __aexit__(self, *error: object) -> None:
            self._end()
            await super().__aexit__(*error)

        def _end(self) -> None:
            self._throttled.throttles.leave()
            end_waits(waits_of(self._throttled.client))


def _call(request: Any, account: Account, queue_options: QueueOptions, dialect: str | None) -> Call | None:
    """The call with its estimated cost; None if it runs no model."""
    if request.method != "POST":
        return None
    url = str(request.url)
    body = _body_of(request)
    if not is_metered("POST", url, body):
        return None
    provider = provider_named(dialect) if dialect else provider_of(url)
    cost = estimate(url, body, provider)
    endpoint = endpoint_of(request.url.host, request.url.port, provider)
    return Call(
        model_of(url, body), cost.input, current_queue_options(queue_options), cost, provider, endpoint, account
    )


class _Method:
    """A method of a view, which takes precedence over an entry of the same name in the shared `__dict__`.

    Such an entry is a wrapper that a tool has put around the client's method, to trace calls. Here it is put around
    the view's method.
    """

    def __init__(self, name: str, function: Any) -> None:
        self._name, self._function = name, function

    def __get__(self, view: Any, owner: Any) -> Any:
        if view is None:
            return self._function
        theirs = vars(view).get(self._name)
        seen, made = view._own.get(self._name, (None, None))  # noqa: SLF001
        if made is not None and seen is theirs:
            return made
        if theirs is None:
            return types.MethodType(self._function, view)
        made = self._made(view, theirs)
        view._own[self._name] = theirs, made  # noqa: SLF001
        return made

    def __set__(self, view: Any, value: Any) -> None:
        view._own[self._name] = vars(view).get(self._name), value  # noqa: SLF001

    def __delete__(self, view: Any) -> None:
        del view._own[self._name]  # noqa: SLF001

    def _made(self, view: Any, theirs: Any) -> Any:
        made = Rebinding(view._throttled.client, view).of(theirs)  # noqa: SLF001
        if made is theirs and self._name == "send":  # it hides what it calls, but sends one request
            return functools.partial(self._function, view, _below=theirs)
        return made


@functools.cache
def _view_class(cls: Any) -> type[Any]:
    # In slots, as `__dict__` is shared with the client.
    own = {"__slots__": ("_own", "_throttled"), "__module__": cls.__module__}
    functions = {
        name: getattr(_View, name, None) or getattr(cls, name) for name in dir(cls) if not name.startswith("_")
    }
    methods = {name: _Method(name, each) for name, each in functions.items() if isinstance(each, types.FunctionType)}
    return type(f"Throttled{cls.__name__}", (_View, cls), {**own, **methods})


def _body_of(request: Any) -> object:
    """The body, as far as it is in memory: of JSON all of it, of a form its field `model`."""
    kind = request.headers.get("content-type", "json")
    try:
        if "multipart/form-data" in kind:
            named = _MODEL_FIELD.search(request.content)
            return None if named is None else {"model": named[1].decode("utf-8", "replace")}
        return json.loads(request.content) if "json" in kind else None
    except (*NOT_JSON, RuntimeError):  # RuntimeError: RequestNotRead, a stream
        return None


def _watch(response: Any) -> None:
    """Report the usage to the permit: now, or while the body is read."""
    permit = permit_of(response)
    if permit is None:
        return
    if response.is_closed:
        usage = last_usage(response.content)
        if usage is not None:
            permit.used(usage)
        return
    # `aread`, `aiter_text` and `aiter_lines` all read through this.
    read, reading = response.aiter_bytes, Reading(permit)

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async for chunk in read(chunk_size):
            reading.add(chunk)
            yield chunk

    response.aiter_bytes = aiter_bytes


class Reading:
    """Reports to a permit what the decoded bytes of its response say, while they pass. `usage`: the last one so far."""

    def __init__(self, permit: Permit) -> None:
        self._permit = permit
        self._tail = Tail()

    @property
    def usage(self) -> Usage | None:
        return self._tail.usage

    def add(self, chunk: bytes) -> None:
        permit, tail = self._permit, self._tail
        before = tail.usage
        tail.add(chunk)
        if tail.usage is not None and tail.usage is not before:
            permit.used(tail.usage)
        if permit.refusal is None:
            permit.refusal = tail.refusal
