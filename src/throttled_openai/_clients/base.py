"""The base of all throttled clients, and the async mixin: they come before a class of the SDK."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from openai import AsyncAzureOpenAI, AzureOpenAI, DefaultAsyncHttpxClient

from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai._admission.throttle import dispatcher_of, most_refusals
from throttled_openai._exchange.send import send_admitted
from throttled_openai._exchange.settlement import PERMIT
from throttled_openai._pool import http_client
from throttled_openai._protocol.account import account_at
from throttled_openai._protocol.endpoints import is_metered, model_of
from throttled_openai._protocol.estimate import estimate
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.providers import PROVIDERS, Provider, endpoint_of, provider_named, provider_of
from throttled_openai._protocol.refusals import read_stream_error
from throttled_openai._protocol.usage import read_usage
from throttled_openai._spelling import suggesting, suggestions
from throttled_openai.errors import AdmissionError, redacted

from . import answers
from .credentials import credentials_of, fields_of, names_account
from .http_client import unthrottled, wrap_http_client
from .live import begin_if_asked
from .options import OPTIONS, QUEUE_OPTIONS, THROTTLE_OPTIONS, current_queue_options, given_of, read_options
from .sdk import hooked, known_platform, platform_from_thread, retries_of
from .signature import sign
from .stencils import build_request
from .waits import end_waits, wait, waits_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from contextvars import Token

    from throttled_openai._admission.permit import Permit
    from throttled_openai._admission.throttle import Throttle
    from throttled_openai._pool import Kind
    from throttled_openai._protocol.account import Account

    from .shared import Throttles
    from .stencils import Stencil
    from .waits import Waits


class Current:
    """The SDK call under way in this context: its place in the queue and the permit of its next attempt.

    `options`: as the caller gave them, before any attempt changed them. `whom`: the account whose limits apply.
    """

    __slots__ = ("call", "idempotency_key", "options", "permit", "renews", "throttle", "whom")

    def __init__(self, options: Any) -> None:
        self.options = options
        self.idempotency_key: str | None = None
        self.whom: _Whom | None = None
        self.throttle: Throttle | None = None
        self.call: Call | None = None
        self.permit: Permit | None = None
        self.renews = False

    def options_anew(self) -> Any:
        """The options for a further attempt, with the same idempotency key."""
        options = copy.copy(self.options)
        options.idempotency_key = self.idempotency_key
        self.renews = True
        return options

    def end(self, token: Token[Current | None]) -> None:
        """Give back a permit that was never used, because something failed before the request was sent."""
        if self.permit is not None:
            self.permit.release(Outcome.UNSENT)
        try:  # noqa: SIM105  # which is four calls more
            CURRENT.reset(token)
        except ValueError:  # the garbage collector closes coroutines in a context other than their own
            pass


# Set by `request()`. Absent for uses of the hooks below outside a call, such as WebSocket connections.
CURRENT: Final[ContextVar[Current | None]] = ContextVar("throttled_openai_call", default=None)


class _Whom(NamedTuple):
    """The provider that answers and the account it answers, valid while the client's `fields` do not change.

    `endpoint`: the host, if each host has limits of its own. `deployment`: the one in the address.
    """

    fields: tuple[object, ...]
    account: Account
    provider: Provider
    endpoint: str
    deployment: str


class ThrottledBase:
    """The part that synchronous and asynchronous clients share: their options, and the cost of a call."""

    _threads: ClassVar = False
    _throttles: Throttles
    _queue_options: QueueOptions
    _dialect: str | None
    _whose: _Whom | None = None  # of the client itself, while its fields stay the same
    _stencils: dict[Hashable, Stencil | None] | None = None  # requests of known shapes
    _line: tuple[Any, Waits] = None, set()  # the HTTP client, and the calls that wait to be sent through it

    @property
    def throttle(self) -> Throttle:
        """Budgets and queues; `client.throttle.stats()` shows limits, waiting calls and counts.

        Clients of one account with the same limits share it, unless they were given another.
        A copy of the client, or a call, for another account has budgets of its own in it.
        """
        return self._throttles.of_client(self._whom().account)

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
            with suggestions(type(self), OPTIONS):
                super().__init__(*args, **options)
            if made is not None:  # as the SDK does with its own
                made.base_url, made.timeout = self.base_url, self.timeout

        def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
            """A client with the same options except for those given.

            Both share the throttle unless limits are given, and connections unless `pool` or
            `http_client` is. `None` keeps this client's value, as with the SDK's own arguments.
            """
            extra = dict(_extra_kwargs or {})
            given = {name: source.pop(name) for source in (options, extra) for name in OPTIONS if name in source}
            ours = {name: getattr(self._queue_options, name) for name in QUEUE_OPTIONS}
            ours["dialect"] = self._dialect
            ours |= given_of(**given)
            if "pool" in ours and options.get("http_client") is None:
                options["http_client"] = self._http_client(ours.pop("pool"))
            if "throttle" not in ours:
                ours |= self._throttles.changed({name: ours.pop(name) for name in THROTTLE_OPTIONS if name in ours})
            with suggestions(type(self), OPTIONS):
                return super().copy(_extra_kwargs={**extra, **ours}, **options)

        # The SDK binds the alias to its own copy(), which would fork the budgets.
        with_options = copy

        __init__.takes_all = copy.takes_all = True

        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            sign(cls, cls.__mro__[cls.__mro__.index(ThrottledBase) + 1])

    def _take_options(self, options: dict[str, Any]) -> Kind | None:
        """Take our options out of `options`; the rest is the SDK's. Returns `pool`."""
        begin_if_asked()
        self._throttles, self._queue_options, self._dialect, pool = read_options(options, threads=self._threads)
        return pool

    def _http_client(self, pool: Kind | None) -> Any:
        return http_client(pool or "httpx", most_in_flight=dispatcher_of(self._throttles.latest).most_connections)

    @suggesting
    def with_throttle(
        self,
        *,
        priority: int | None = None,
        max_wait: float | None = None,
        max_queued: int | None = None,
    ) -> Self:
        """The same client and budgets, with other queue options; those left out stay as they are."""
        client: Any = self
        copy: Self = client.copy(_extra_kwargs=given_of(priority=priority, max_wait=max_wait, max_queued=max_queued))
        return copy

    def _call(self, options: Any, whom: _Whom) -> Call | None:
        """The call with its estimated cost; None if it runs no model."""
        body = options.json_data
        if options.extra_json and (body is None or isinstance(body, dict)):
            body = {**(body or {}), **options.extra_json}  # extra_body=, which the SDK merges later
        if not is_metered(options.method, options.url, body):
            return None
        cost = estimate(options.url, body, whom.provider)
        # A deployment in the address overrides the requested model; `responses` have none there.
        in_address = whom.deployment and not options.url.startswith("/responses")
        model = whom.deployment if in_address else model_of(options.url, body)
        queue_options = current_queue_options(self._queue_options)
        return Call(model, cost.input, queue_options, cost, whom.provider, whom.endpoint, whom.account)

    def _whom(self, options: Any = None) -> _Whom:
        """Provider and account of a call; found anew if a field of the client, or the call itself, changes them."""
        client: Any = self
        fields = fields_of(client)
        whom = self._whose
        if whom is None or whom.fields != fields:
            whom = self._whose = self._whom_at(client.base_url, credentials_of(client), fields)
        if options is None:
            return whom
        headers, elsewhere = options.headers or {}, "://" in options.url
        if not elsewhere and not (headers and names_account(headers)):
            return whom
        url = client._prepare_url(options.url) if elsewhere else client.base_url  # noqa: SLF001
        return self._whom_at(url, credentials_of(client, headers), fields)

    def _whom_at(self, url: Any, credentials: Mapping[str, object], fields: tuple[object, ...]) -> _Whom:
        provider = self._provider_at(url)
        endpoint = endpoint_of(url.host, url.port, provider)
        deployment = model_of(url.path, None) if endpoint and "/deployments/" in url.path else ""
        return _Whom(fields, account_at(url, credentials), provider, endpoint, deployment)

    def _admissible(self, current: Current) -> Call | None:
        """The call, if it needs a permit."""
        if current.call is None:
            current.whom = whom = self._whom(current.options)
            # A call for an account other than its client's has a budget of its own in the same throttle.
            current.throttle = self._throttles.of_client(self._whose.account if self._whose else whom.account)
            current.call = self._call(current.options, whom)
        # A call through a closed client fails at once, as with the SDK's, not after a wait.
        return None if self._client.is_closed else current.call  # type: ignore[attr-defined]

    def _provider_at(self, url: Any) -> Provider:
        if self._dialect:
            return provider_named(self._dialect)
        if isinstance(self, AsyncAzureOpenAI | AzureOpenAI):  # perhaps behind a gateway of another name
            return PROVIDERS["azure"]
        return provider_of(str(url))

    if not TYPE_CHECKING:

        def _waits(self) -> Waits:
            http, waits = self._line
            if http is not self._client:
                self._line = http, waits = self._client, waits_of(unthrottled(self._client))
            return waits

        def _hear(self, response: Any, current: Current | None) -> None:
            """Learn from the response to a call that needed no permit."""
            if current is not None and current.whom is not None:
                dispatcher_of(current.throttle).observe(read_limits(response.headers), current.whom.account)

        def _bare_request(self, options: Any) -> Any:
            """Method and address, for an error: a waiting call has no request yet."""
            url = options.url if "://" in options.url else f"{self.base_url}{options.url.lstrip('/')}"
            return redacted(self._client.build_request(options.method, url))

        def _build_request(self, options: Any, *, retries_taken: int = 0) -> Any:
            """The SDK's request, of a shape known from earlier ones if it has one."""
            if self._stencils is None:
                self._stencils = {}
            return build_request(self._stencils, self, options, retries_taken, super()._build_request)

        def _process_response_data(self, *, data: object, cast_to: Any, response: Any) -> Any:
            """Read usage from the body or stream event, which the SDK has parsed anyway, and build the answer."""
            permit = response.extensions.get(PERMIT)
            if permit is not None:
                usage = read_usage(data)
                if usage is not None:
                    permit.used(usage)
                if isinstance(data, dict) and data.get("type") in ("error", "response.failed"):
                    permit.refusal = read_stream_error(data)
            sdk = super()._process_response_data
            if type(data) is dict and sdk.__func__ is answers.PROCESS and not self._strict_response_validation:
                answer = answers.construct(cast_to, data)
                if answer is not None:
                    return answer
            return sdk(data=data, cast_to=cast_to, response=response)


class AsyncThrottledMixin(ThrottledBase):
    """Makes a throttled client of any subclass of `AsyncOpenAI`: `class Mine(AsyncThrottledMixin, TheirClient): ...`.

    It must be the first base. The constructor takes all arguments of the other class, and those
    that `ThrottledAsyncOpenAI` adds to `AsyncOpenAI`.
    """

    if not TYPE_CHECKING:

        def _throttled_below(self, http: Any) -> Any:
            """Throttle the HTTP client instead, if this SDK lacks the hooks above it."""
            http = DefaultAsyncHttpxClient() if http is None else unthrottled(http)
            self._throttles.given = self._throttles.latest  # the HTTP client does not know our account
            ours = {
                "throttle": self._throttles.latest,
                "dialect": self._dialect,
                **dataclasses.asdict(self._queue_options),
            }
            return wrap_http_client(http, **ours)

        async def request(self, *args: Any, **kwargs: Any) -> Any:
            if not hooked():
                return await super().request(*args, **kwargs)
            current = Current(args[1] if len(args) > 1 else kwargs["options"])
            token = CURRENT.set(current)
            try:
                # Here, and not in `_prepare_options`: the SDK would have made two copies of the
                # options by then: 2 KB for each call that waits.
                await self._admit(current)
                if self._platform is None:
                    # The SDK asks in a thread for every call that begins before the first answer arrives:
                    # ten thousand gathered calls start ten thousand thread jobs.
                    self._platform = known_platform() or await platform_from_thread()
                return await super().request(*args, **kwargs)
            finally:
                current.end(token)

        async def _prepare_options(self, options: Any) -> Any:
            """Admission of the SDK's own retries, before the key is refreshed and the body serialised."""
            current = CURRENT.get()
            if current is not None and not current.renews:
                current.idempotency_key = options.idempotency_key
                if current.permit is None:
                    await self._admit(current)
            return await super()._prepare_options(options)

        async def _send_request(self, request: Any, *, stream: bool, **kwargs: Any) -> Any:
            """Send with the permit; without one, only read the limits in the headers."""
            send = functools.partial(super()._send_request, stream=stream, **kwargs)
            current = CURRENT.get()
            if current is None or current.permit is None:
                response = await send(request)
                self._hear(response, current)
                return response
            permit, current.permit = current.permit, None
            renew = functools.partial(self._renewed, current, request)
            admit = functools.partial(self._admitted, current)
            return await send_admitted(most_refusals(current.throttle), permit, request, send, admit, renew)

        async def _renewed(self, current: Current, request: Any) -> Any:
            """The request of a further attempt, with fresh credentials, as the SDK's own retries make it."""
            try:
                options = await self._prepare_options(current.options_anew())
            finally:
                current.renews = False
            renewed = self._build_request(options, retries_taken=retries_of(request))
            await self._prepare_request(renewed)
            return renewed

        async def _admit(self, current: Current) -> None:
            """Get `current` a permit for its next attempt, if that runs a model."""
            call = self._admissible(current)
            if call is not None:
                current.permit = await self._admitted(current, call)

        async def _admitted(self, current: Current, call: Call) -> Permit:
            try:
                return await wait(self._waits(), dispatcher_of(current.throttle).admit(call))
            except AdmissionError as error:
                error.request = self._bare_request(current.options)
                raise

        async def close(self) -> None:
            """Close the connections. Calls of this client that wait for their turn fail with `ClientClosed`."""
            self._throttles.leave()
            end_waits(self._waits())
            await super().close()


@functools.cache
def _takes_http_client(cls: type[Any]) -> bool:
    """Whether the SDK's class, or one built on it, lets us choose the connections."""
    sdk: Any = cls.__mro__[cls.__mro__.index(ThrottledBase) + 1]
    return "http_client" in inspect.signature(sdk.__init__).parameters
