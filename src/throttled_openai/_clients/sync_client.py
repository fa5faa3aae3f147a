"""The synchronous clients: the SDK's, with a throttle before every attempt, in any number of threads."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import openai
from openai import AzureOpenAI, OpenAI

from throttled_openai._admission.throttle import dispatcher_of, most_refusals
from throttled_openai._exchange.send_sync import send_admitted
from throttled_openai._pool import sync_http_client
from throttled_openai.errors import AdmissionError

from .base import CURRENT, Current, ThrottledBase
from .sdk import retries_of
from .waits import end_waits, wait_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    import httpx
    import httpx2
    from openai import NotGiven, Timeout

    from throttled_openai._admission.call import Call
    from throttled_openai._admission.posted_permit import PostedPermit
    from throttled_openai._pool import Kind

    from .options import Options


class ThrottledMixin(ThrottledBase):
    """Makes a throttled client of any subclass of `OpenAI`: `class Mine(ThrottledMixin, TheirClient): ...`.

    It must be the first base. The constructor takes all arguments of the other class, and those
    that `ThrottledOpenAI` adds to `OpenAI`.
    """

    _threads: ClassVar = True

    if not TYPE_CHECKING:

        def _http_client(self, pool: Kind | None) -> Any:
            return sync_http_client(
                pool or "httpx", most_in_flight=dispatcher_of(self._throttles.latest).most_connections
            )

        def _throttled_below(self, http: Any) -> Any:
            del http
            raise RuntimeError(
                f"openai {openai.__version__} has no hooks for synchronous clients to be throttled by; "
                "install openai>=2.47,<4, or use the asynchronous client"
            )

        def request(self, *args: Any, **kwargs: Any) -> Any:
            current = Current(args[1] if len(args) > 1 else kwargs["options"])
            token = CURRENT.set(current)
            try:
                self._admit(current)
                return super().request(*args, **kwargs)
            finally:
                current.end(token)

        def _prepare_options(self, options: Any) -> Any:
            """Admission of the SDK's own retries, before the key is refreshed and the body serialised."""
            current = CURRENT.get()
            if current is not None and not current.renews:
                current.idempotency_key = options.idempotency_key
                if current.permit is None:
                    self._admit(current)
            return super()._prepare_options(options)

        def _send_request(self, request: Any, *, stream: bool, **kwargs: Any) -> Any:
            """Send with the permit; without one, only read the limits in the headers."""
            send = functools.partial(super()._send_request, stream=stream, **kwargs)
            current = CURRENT.get()
            if current is None or current.permit is None:
                response = send(request)
                self._hear(response, current)
                return response
            permit, current.permit = current.permit, None
            renew = functools.partial(self._renewed, current, request)
            admit = functools.partial(self._admitted, current)
            return send_admitted(most_refusals(current.throttle), permit, request, send, admit, renew)

        def _renewed(self, current: Current, request: Any) -> Any:
            """The request of a further attempt, with fresh credentials, as the SDK's own retries make it."""
            try:
                options = self._prepare_options(current.options_anew())
            finally:
                current.renews = False
            renewed = self._build_request(options, retries_taken=retries_of(request))
            self._prepare_request(renewed)
            return renewed

        def _admit(self, current: Current) -> None:
            """Get `current` a permit for its next attempt, if that runs a model."""
            call = self._admissible(current)
            if call is not None:
                current.permit = self._admitted(current, call)

        def _admitted(self, current: Current, call: Call) -> PostedPermit:
            try:
                return wait_blocking(self._waits(), current.throttle, call)
            except AdmissionError as error:
                error.request = self._bare_request(current.options)
                raise

        def close(self) -> None:
            """Close the connections. Calls of this client that wait for their turn fail with `ClientClosed`."""
            self._throttles.leave()
            end_waits(self._waits())
            super().close()


class ThrottledOpenAI(ThrottledMixin, OpenAI):
    """`OpenAI` that any number of threads may call, as fast as the account allows, without 429s.

    Takes every argument of `OpenAI`, and those of `ThrottledAsyncOpenAI`, except for `pool="aiohttp"`.
    A call blocks its thread until it may go; it raises what the SDK's raises, and `AdmissionTimeout`,
    `QueueFull` or `RequestTooLarge`, all `openai.OpenAIError`. A `throttle` may be shared with
    asynchronous clients.
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            api_key: str | Callable[[], str] | None = None,
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
            http_client: httpx.Client | httpx2.Client | None = None,
            _strict_response_validation: bool = False,
            _enforce_credentials: bool = True,
            **options: Unpack[Options],
        ) -> None: ...


class ThrottledAzureOpenAI(ThrottledMixin, AzureOpenAI):
    """`AzureOpenAI` that any number of threads may call, as fast as the deployments allow, without 429s.

    Takes every argument of `AzureOpenAI` and those of `ThrottledOpenAI`. Limits and tokens are as with
    `ThrottledAsyncAzureOpenAI`.
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            azure_endpoint: str | None = None,
            azure_deployment: str | None = None,
            api_version: str | None = None,
            api_key: str | Callable[[], str] | None = None,
            admin_api_key: str | None = None,
            workload_identity: Any = None,
            azure_ad_token: str | None = None,
            azure_ad_token_provider: Callable[[], str] | None = None,
            organization: str | None = None,
            project: str | None = None,
            webhook_secret: str | None = None,
            base_url: str | None = None,
            websocket_base_url: str | httpx.URL | httpx2.URL | None = None,
            timeout: float | Timeout | NotGiven | None = ...,
            max_retries: int = ...,
            default_headers: Mapping[str, str] | None = None,
            default_query: Mapping[str, object] | None = None,
            http_client: httpx.Client | httpx2.Client | None = None,
            _strict_response_validation: bool = False,
            _enforce_credentials: bool = True,
            **options: Unpack[Options],
        ) -> None: ...
