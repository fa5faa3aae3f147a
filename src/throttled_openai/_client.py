"""The SDK seam: `ThrottledAsyncOpenAI`, which is `AsyncOpenAI` with a throttle before every attempt."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from openai import AsyncOpenAI
from openai._base_client import get_platform

from ._core.estimate import estimate, is_metered, model_of, read_usage
from ._core.headers import read_limits
from ._core.providers import Provider, provider_named, provider_of
from ._core.refusals import read_stream_error
from ._http import PERMIT, send_admitted
from ._permit import Call, Manners, Outcome, Permit
from ._pool import http_client
from ._throttle import Throttle
from .errors import AdmissionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx
    import httpx2
    from openai import NotGiven, Timeout

    from ._core.limits import Limits
    from ._pool import Kind


class _Current:
    """The SDK call under way in this context: its place in line and the permit of its next attempt."""

    __slots__ = ("call", "permit")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.permit: Permit | None = None


# Set by `request()`. Absent for what only borrows the hooks below, such as WebSocket connections.
_current: ContextVar[_Current | None] = ContextVar("throttled_openai_call", default=None)

_THROTTLE_OPTIONS = ("rpm", "tpm", "rpd", "tpd", "limits", "max_concurrency", "max_refusals")
_MANNERS_OPTIONS = ("priority", "max_wait", "max_queued")
_OPTIONS = ("throttle", *_THROTTLE_OPTIONS, *_MANNERS_OPTIONS, "dialect", "pool")


class ThrottledAsyncOpenAI(AsyncOpenAI):
    """`AsyncOpenAI` that finishes any number of calls as fast as the account allows, without 429s.

    Takes every argument of `AsyncOpenAI`, and:

    `rpm`, `tpm`, `rpd`, `tpd`: requests and tokens per minute and per day that each model has.
    `limits`: one `Limits` that all models draw on together, or a mapping from model names to
    `Limits`. Without any of them, limits are learnt from the server's headers and refusals.
    `throttle`: an existing `Throttle`, to share budgets between clients.
    `max_concurrency`: a ceiling for the calls in flight; by default it is found.
    `max_wait`: seconds a call may wait in the queue before `AdmissionTimeout`.
    `max_queued`: calls that may wait before a further one gets `QueueFull`.
    `priority`: calls of higher priority go first.
    `max_refusals`: how often the server may refuse one call before its refusal is raised; 0 leaves
    refusals to the SDK's own retries.
    `dialect`: how the server counts tokens, such as `"openai"`, `"mistral"` or `"self-hosted"`; by
    default it is told from `base_url`.
    `pool`: the connections, where no `http_client` is given: `"httpx"` (ours, the default),
    `"aiohttp"` (needs the extra of that name) or `"sdk"` (the SDK's own).

    Raises `ValueError` or `TypeError` for limits that cannot be meant, and `ImportError` where
    aiohttp is asked for and missing. Calls raise what the SDK's
    raise, and `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`, all `openai.OpenAIError`.
    """

    throttle: Throttle
    """Budgets and queues; `client.throttle.stats()` tells what it knows and what waits."""

    _manners: Manners
    _dialect: str | None
    _counter: tuple[object, Provider | None] = (None, None)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            api_key: str | Callable[[], Awaitable[str]] | None = None,
            admin_api_key: str | None = None,
            workload_identity: Any = None,
            organization: str | None = None,
            project: str | None = None,
            webhook_secret: str | None = None,
            provider: Any = None,
            base_url: str | httpx.URL | httpx2.URL | None = None,
            data_residency: Any = None,
            websocket_base_url: str | httpx.URL | httpx2.URL | None = None,
            timeout: float | Timeout | NotGiven | None = ...,
            max_retries: int = ...,
            default_headers: Mapping[str, str] | None = None,
            default_query: Mapping[str, object] | None = None,
            http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
            _strict_response_validation: bool = False,
            _enforce_credentials: bool = True,
            throttle: Throttle | None = None,
            rpm: float | None = None,
            tpm: float | None = None,
            rpd: float | None = None,
            tpd: float | None = None,
            limits: Limits | Mapping[str, Limits] | None = None,
            max_concurrency: int | None = None,
            max_refusals: int | None = None,
            priority: int = 0,
            max_wait: float | None = None,
            max_queued: int | None = None,
            dialect: str | None = None,
            pool: Kind | None = None,
        ) -> None: ...

    else:

        def __init__(self, **options: Any) -> None:
            ours = {name: options.pop(name) for name in _OPTIONS if name in options}
            pool = ours.pop("pool", None)
            self._dialect = ours.pop("dialect", None)
            if self._dialect is not None:
                provider_named(self._dialect)
            self._manners = Manners(**{name: ours.pop(name) for name in _MANNERS_OPTIONS if name in ours})
            self.throttle = _throttle_from(**{name: value for name, value in ours.items() if value is not None})
            made = None
            if options.get("http_client") is not None:
                if pool is not None:
                    raise ValueError(f"http_client has its own connections: leave out it or pool={pool!r}")
            elif pool != "sdk":
                made = options["http_client"] = self._http_client(pool or "httpx")
            super().__init__(**options)
            if made is not None:  # what the SDK gives to its own
                made.base_url, made.timeout = self.base_url, self.timeout

        def _http_client(self, pool: Kind) -> Any:
            return http_client(pool, most_in_flight=self.throttle.most_in_flight)

        def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
            """A client with the same options but those given.

            Budgets are shared unless limits are among them, connections unless `pool` or
            `http_client` is. `None` keeps what this client has, as with the SDK's own arguments.
            """
            extra = dict(_extra_kwargs or {})
            given = {name: source.pop(name) for source in (options, extra) for name in _OPTIONS if name in source}
            ours = {name: getattr(self._manners, name) for name in _MANNERS_OPTIONS}
            ours["dialect"] = self._dialect
            ours |= {name: value for name, value in given.items() if value is not None}
            if "pool" in ours and options.get("http_client") is None:
                options["http_client"] = self._http_client(ours.pop("pool"))
            if "throttle" not in ours:
                limits = {name: ours.pop(name) for name in _THROTTLE_OPTIONS if name in ours}
                ours["throttle"] = self.throttle.changed(**limits) if limits else self.throttle
            return super().copy(_extra_kwargs={**extra, **ours}, **options)

        # The SDK binds the alias to its own copy(), which would fork the budgets.
        with_options = copy

        async def request(self, *args: Any, **kwargs: Any) -> Any:
            if self._platform is None:
                # The SDK asks in a thread, for every call that begins before the first answer is
                # there: ten thousand gathered calls start ten thousand thread jobs.
                self._platform = _platform()
            current = _Current()
            token = _current.set(current)
            try:
                # Here, and not in `_prepare_options`, as the SDK would have made two copies of the
                # options by then: 2 KB for each call that waits.
                await self._admit(current, args[1] if len(args) > 1 else kwargs["options"])
                return await super().request(*args, **kwargs)
            finally:
                _current.reset(token)
                if current.permit is not None:
                    # Admitted, but something failed before it was sent.
                    current.permit.release(Outcome.UNSENT)

    def with_throttle(
        self,
        *,
        priority: int | None = None,
        max_wait: float | None = None,
        max_queued: int | None = None,
    ) -> Self:
        """The same client and budgets, with other manners in the queue; what is not given stays."""
        given = {"priority": priority, "max_wait": max_wait, "max_queued": max_queued}
        return self.copy(_extra_kwargs={name: value for name, value in given.items() if value is not None})

    async def _prepare_options(self, options: Any) -> Any:
        """Admission of the SDK's own retries, before the key is refreshed and the body serialised."""
        current = _current.get()
        if current is not None and current.permit is None:
            await self._admit(current, options)
        return await super()._prepare_options(options)

    async def _admit(self, current: _Current, options: Any) -> None:
        """Get `current` a permit for its next attempt, if that runs a model."""
        body = options.json_data
        if options.extra_json and (body is None or isinstance(body, dict)):
            body = {**(body or {}), **options.extra_json}  # extra_body=, which the SDK merges later
        if not is_metered(options.method, options.url, body):
            return
        if current.call is None:
            provider = self._counted_by()
            cost = estimate(options.url, body, provider)
            current.call = Call(model_of(options.url, body), cost.input, self._manners, cost, provider)
        try:
            current.permit = await self.throttle.admit(current.call)
        except AdmissionError as error:
            error.request = self._bare_request(options)
            raise

    def _counted_by(self) -> Provider:
        """Who answers; looked up once, as long as `base_url` stays."""
        url, provider = self._counter
        if provider is None or url is not self.base_url:
            url = self.base_url
            provider = provider_named(self._dialect) if self._dialect else provider_of(str(url))
            self._counter = url, provider
        return provider

    def _bare_request(self, options: Any) -> Any:
        """Method and address, for an error; headers and query may hold keys, and the body the prompt."""
        url = options.url if "://" in options.url else f"{self.base_url}{options.url.lstrip('/')}"
        built = self._client.build_request(options.method, url)
        return type(built)(built.method, built.url.copy_with(query=None))

    async def _send_request(self, request: Any, *, stream: bool, **kwargs: Any) -> Any:
        """The exchange: the permit is bound to it, or the headers are read in passing."""
        send = functools.partial(super()._send_request, request, stream=stream, **kwargs)
        current = _current.get()
        if current is None or current.permit is None:
            response = await send()
            self.throttle.observe(read_limits(response.headers))
            return response
        permit, current.permit = current.permit, None
        return await send_admitted(self.throttle, permit, request, send)

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


@functools.cache
def _platform() -> Any:
    return get_platform()  # 2 ms, once per process


def _throttle_from(throttle: Throttle | None = None, **options: Any) -> Throttle:
    if throttle is None:
        return Throttle(**options)
    if not isinstance(throttle, Throttle):
        raise TypeError(f"throttle must be a throttled_openai.Throttle, got {type(throttle).__name__}")
    if options:
        raise ValueError(
            f"a throttle has its own limits: give {', '.join(options)} to Throttle(...), or leave out throttle="
        )
    return throttle


def _show_signatures() -> None:
    """Make `help()` and `inspect.signature` show the SDK's arguments and ours in one list."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    ours = [inspect.Parameter(name, keyword, default=0 if name == "priority" else None) for name in _OPTIONS]
    for name in ("__init__", "copy"):
        theirs = inspect.signature(getattr(AsyncOpenAI, name))
        function: Any = vars(ThrottledAsyncOpenAI)[name]
        function.__signature__ = theirs.replace(parameters=[*theirs.parameters.values(), *ours])


_show_signatures()
