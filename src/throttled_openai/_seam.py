"""The SDK seam: what every throttled client does with its calls, as a mixin before a class of the SDK."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, TypeVar

from openai import AsyncAzureOpenAI, AzureOpenAI, DefaultAsyncHttpxClient

from ._core.estimate import estimate, is_metered, model_of, read_usage
from ._core.headers import read_limits
from ._core.providers import PROVIDERS, Provider, endpoint_of, provider_named, provider_of
from ._core.refusals import read_stream_error
from ._exchange import PERMIT
from ._http import send_admitted
from ._http_client import throttle_http_client, unthrottled
from ._options import MANNERS_OPTIONS, OPTIONS, THROTTLE_OPTIONS, current_manners, given_of, read_options
from ._permit import Call, Manners, Outcome, Permit
from ._pool import http_client
from ._sdk import hooked, platform
from .errors import AdmissionError, bare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._pool import Kind
    from ._throttle import Throttle


C = TypeVar("C", bound=type)


class Current:
    """The SDK call under way in this context: its place in line and the permit of its next attempt."""

    __slots__ = ("call", "permit")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.permit: Permit | None = None


# Set by `request()`. Absent for what only borrows the hooks below, such as WebSocket connections.
CURRENT: Final[ContextVar[Current | None]] = ContextVar("throttled_openai_call", default=None)


class _Account(NamedTuple):
    """Who answers at `url`. `endpoint`: the host, where each has limits of its own. `deployment`: in the address."""

    url: Any
    provider: Provider
    endpoint: str
    deployment: str

    @classmethod
    def at(cls, url: Any, provider: Provider) -> _Account:
        endpoint = endpoint_of(url.host, url.port, provider)
        deployment = model_of(url.path, None) if endpoint and "/deployments/" in url.path else ""
        return cls(url, provider, endpoint, deployment)


class Seam:
    """What synchronous and asynchronous clients have in common: their options, and what a call costs."""

    throttle: Throttle
    """Budgets and queues; `client.throttle.stats()` tells what it knows and what waits."""

    _threads: ClassVar = False
    _manners: Manners
    _dialect: str | None
    _account: _Account | None = None

    if not TYPE_CHECKING:  # the SDK's signatures are those of the classes

        def __init__(self, *args: Any, **options: Any) -> None:
            pool = self._take_options(options)
            made = None
            if options.get("http_client") is not None:
                if pool is not None:
                    raise ValueError(f"http_client has its own connections: leave out it or pool={pool!r}")
            elif pool != "sdk" and (pool is not None or _takes_http_client(type(self))):
                made = options["http_client"] = self._http_client(pool)
            if not hooked():
                options["http_client"] = self._throttled_below(options.get("http_client"))
            super().__init__(*args, **options)
            if made is not None:  # what the SDK gives to its own
                made.base_url, made.timeout = self.base_url, self.timeout

        def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
            """A client with the same options but those given.

            Budgets are shared unless limits are among them, connections unless `pool` or
            `http_client` is. `None` keeps what this client has, as with the SDK's own arguments.
            """
            extra = dict(_extra_kwargs or {})
            given = {name: source.pop(name) for source in (options, extra) for name in OPTIONS if name in source}
            ours = {name: getattr(self._manners, name) for name in MANNERS_OPTIONS}
            ours["dialect"] = self._dialect
            ours |= given_of(**given)
            if "pool" in ours and options.get("http_client") is None:
                options["http_client"] = self._http_client(ours.pop("pool"))
            if "throttle" not in ours:
                limits = {name: ours.pop(name) for name in THROTTLE_OPTIONS if name in ours}
                ours["throttle"] = self.throttle.changed(**limits) if limits else self.throttle
            return super().copy(_extra_kwargs={**extra, **ours}, **options)

        # The SDK binds the alias to its own copy(), which would fork the budgets.
        with_options = copy

    def _take_options(self, options: dict[str, Any]) -> Kind | None:
        """Take what is ours out of `options`; the rest is the SDK's. Returns `pool`."""
        self.throttle, self._manners, self._dialect, pool = read_options(options, threads=self._threads)
        return pool

    def _http_client(self, pool: Kind | None) -> Any:
        return http_client(pool or "httpx", most_in_flight=self.throttle.most_connections)

    def with_throttle(
        self,
        *,
        priority: int | None = None,
        max_wait: float | None = None,
        max_queued: int | None = None,
    ) -> Self:
        """The same client and budgets, with other manners in the queue; what is not given stays."""
        client: Any = self
        copy: Self = client.copy(_extra_kwargs=given_of(priority=priority, max_wait=max_wait, max_queued=max_queued))
        return copy

    def _call(self, options: Any) -> Call | None:
        """What a call with these options may cost; None: it runs no model."""
        body = options.json_data
        if options.extra_json and (body is None or isinstance(body, dict)):
            body = {**(body or {}), **options.extra_json}  # extra_body=, which the SDK merges later
        if not is_metered(options.method, options.url, body):
            return None
        account = self._answers()
        cost = estimate(options.url, body, account.provider)
        # A deployment in the address goes over the model that is asked for; `responses` have none there.
        in_address = account.deployment and not options.url.startswith("/responses")
        model = account.deployment if in_address else model_of(options.url, body)
        return Call(model, cost.input, current_manners(self._manners), cost, account.provider, account.endpoint)

    def _answers(self) -> _Account:
        """Who answers; looked up once, as long as `base_url` stays."""
        client: Any = self
        account = self._account
        if account is None or account.url is not client.base_url:
            account = self._account = _Account.at(client.base_url, self._provider_at(client.base_url))
        return account

    def _provider_at(self, url: Any) -> Provider:
        if self._dialect:
            return provider_named(self._dialect)
        if isinstance(self, AsyncAzureOpenAI | AzureOpenAI):  # perhaps behind a gateway with a name of its own
            return PROVIDERS["azure"]
        return provider_of(str(url))

    if not TYPE_CHECKING:

        def _bare_request(self, options: Any) -> Any:
            """Method and address, for an error: the call that waited had no request yet."""
            url = options.url if "://" in options.url else f"{self.base_url}{options.url.lstrip('/')}"
            return bare(self._client.build_request(options.method, url))

        def _process_response_data(self, *, data: object, cast_to: Any, response: Any) -> Any:
            """Usage: from the body, or the stream event, that the SDK has parsed anyway."""
            permit = response.extensions.get(PERMIT)
            if permit is not None:
                usage = read_usage(data)
                if usage is not None:
                    permit.used(usage)
                if isinstance(data, dict) and data.get("type") in ("error", "response.failed"):
                    permit.refusal = read_stream_error(data)
            return super()._process_response_data(data=data, cast_to=cast_to, response=response)


class Throttled(Seam):
    """Makes a throttled client of any subclass of `AsyncOpenAI`: `class Mine(Throttled, TheirClient): ...`.

    It comes first among the bases. The constructor takes all arguments of the other class, and those
    that `ThrottledAsyncOpenAI` has more than `AsyncOpenAI`.
    """

    if not TYPE_CHECKING:

        def _throttled_below(self, http: Any) -> Any:
            """The throttle in the HTTP client, where this SDK does not let us in above it."""
            http = DefaultAsyncHttpxClient() if http is None else unthrottled(http)
            ours = {"throttle": self.throttle, "dialect": self._dialect, **dataclasses.asdict(self._manners)}
            return throttle_http_client(http, **ours)

        async def request(self, *args: Any, **kwargs: Any) -> Any:
            if not hooked():
                return await super().request(*args, **kwargs)
            if self._platform is None:
                # The SDK asks in a thread, for every call that begins before the first answer is
                # there: ten thousand gathered calls start ten thousand thread jobs.
                self._platform = platform()
            current = Current()
            token = CURRENT.set(current)
            try:
                # Here, and not in `_prepare_options`, as the SDK would have made two copies of the
                # options by then: 2 KB for each call that waits.
                await self._admit(current, args[1] if len(args) > 1 else kwargs["options"])
                return await super().request(*args, **kwargs)
            finally:
                CURRENT.reset(token)
                if current.permit is not None:
                    # Admitted, but something failed before it was sent.
                    current.permit.release(Outcome.UNSENT)

        async def _prepare_options(self, options: Any) -> Any:
            """Admission of the SDK's own retries, before the key is refreshed and the body serialised."""
            current = CURRENT.get()
            if current is not None and current.permit is None:
                await self._admit(current, options)
            return await super()._prepare_options(options)

        async def _send_request(self, request: Any, *, stream: bool, **kwargs: Any) -> Any:
            """The exchange: the permit is bound to it, or the headers are read in passing."""
            send = functools.partial(super()._send_request, request, stream=stream, **kwargs)
            current = CURRENT.get()
            if current is None or current.permit is None:
                response = await send()
                self.throttle.observe(read_limits(response.headers))
                return response
            permit, current.permit = current.permit, None
            return await send_admitted(self.throttle, permit, request, send)

        async def _admit(self, current: Current, options: Any) -> None:
            """Get `current` a permit for its next attempt, if that runs a model."""
            if current.call is None:
                current.call = self._call(options)
                if current.call is None:
                    return
            try:
                current.permit = await self.throttle.admit(current.call)
            except AdmissionError as error:
                error.request = self._bare_request(options)
                raise


def signed(cls: C) -> C:
    """Class decorator: `help()` and `inspect.signature` show the SDK's arguments and ours in one list."""
    made: Any = cls
    keyword = inspect.Parameter.KEYWORD_ONLY
    ours = [inspect.Parameter(name, keyword, default=0 if name == "priority" else None) for name in OPTIONS]
    sdk = made.__mro__[_after_seams(made)]
    for name in ("__init__", "copy"):
        theirs = inspect.signature(getattr(sdk, name))
        parameters = list(theirs.parameters.values())
        end = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        parameters[end:end] = ours
        setattr(made, name, _delegate(made, name, theirs.replace(parameters=parameters)))
    made.with_options = made.copy
    return cls


def _delegate(cls: Any, name: str, signature: inspect.Signature) -> Callable[..., Any]:
    @functools.wraps(getattr(cls, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), name)(*args, **kwargs)

    method.__qualname__ = f"{cls.__qualname__}.{name}"
    method.__module__ = cls.__module__
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _after_seams(cls: type[Any]) -> int:
    """Where the SDK's classes begin among the bases of `cls`."""
    return cls.__mro__.index(Seam) + 1


@functools.cache
def _takes_http_client(cls: type[Any]) -> bool:
    """Whether the class of the SDK, or one built on it, lets us choose the connections."""
    sdk: Any = cls.__mro__[_after_seams(cls)]
    return "http_client" in inspect.signature(sdk.__init__).parameters
