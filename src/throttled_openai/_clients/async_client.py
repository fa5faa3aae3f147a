"""The asynchronous clients: the SDK's, with a throttle before every attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import AsyncAzureOpenAI, AsyncOpenAI

from .base import AsyncThrottledMixin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Unpack

    import httpx
    import httpx2
    from openai import NotGiven, Timeout

    from .options import Options


class ThrottledAsyncOpenAI(AsyncThrottledMixin, AsyncOpenAI):
    """`AsyncOpenAI` that finishes any number of calls as fast as the account allows, without 429s.

    Takes every argument of `AsyncOpenAI`, and:

    `rpm`, `tpm`, `rpd`, `tpd`: requests and tokens per minute and per day that each model has.
    `limits`: one `Limits` that all models draw on together, or a mapping from model names to
    `Limits`. Without any of them, limits are learnt from the server's headers and refusals.
    `throttle`: an existing `Throttle`, to share budgets between clients.
    `max_concurrency`: a ceiling for the calls in flight; by default the client finds it.
    `max_wait`: seconds a call may wait in the queue before `AdmissionTimeout`, even through an outage or
    a wait of hours that the server asks for; without it a call waits for neither.
    `max_queued`: calls that may wait before a further one gets `QueueFull`.
    `priority`: calls of higher priority go first.
    `max_refusals`: how often the server may refuse one call before its refusal is raised; 0 leaves
    refusals to the SDK's own retries. By default a call is sent again for ten minutes while the server
    answers other calls, and for one while it answers none.
    `enforce=False`: shadow mode: calls go as without us, and `client.throttle.stats()` says what throttling would have
    done.
    `dialect`: how the server counts tokens, such as `"openai"`, `"mistral"` or `"self-hosted"`; by
    default it is derived from `base_url`.
    `pool`: the connections, where no `http_client` is given: `"httpx"` (ours, the default),
    `"aiohttp"` (needs the extra of that name) or `"sdk"` (the SDK's own).

    Raises `ValueError` or `TypeError` for invalid limits, and `ImportError` if aiohttp is chosen but not
    installed. Calls raise what the SDK's raise, and `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`, all
    `openai.OpenAIError`.
    """

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
            **options: Unpack[Options],
        ) -> None: ...


class ThrottledAsyncAzureOpenAI(AsyncThrottledMixin, AsyncAzureOpenAI):
    """`AsyncAzureOpenAI` that finishes any number of calls as fast as the deployments allow, without 429s.

    Takes every argument of `AsyncAzureOpenAI` and those of `ThrottledAsyncOpenAI`. Each deployment at
    each endpoint has limits of its own; in `limits=` a deployment is named `"my-deployment"`, or
    `"my-resource.openai.azure.com/my-deployment"` for the one at that endpoint only. `azure_ad_token_provider`
    is asked for a token when the call is admitted, so that the token does not expire in the queue.
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            azure_endpoint: str | None = None,
            azure_deployment: str | None = None,
            api_version: str | None = None,
            api_key: str | Callable[[], Awaitable[str]] | None = None,
            admin_api_key: str | None = None,
            workload_identity: Any = None,
            azure_ad_token: str | None = None,
            azure_ad_token_provider: Callable[[], str | Awaitable[str]] | None = None,
            organization: str | None = None,
            project: str | None = None,
            webhook_secret: str | None = None,
            base_url: str | None = None,
            websocket_base_url: str | httpx.URL | httpx2.URL | None = None,
            timeout: float | Timeout | NotGiven | None = ...,
            max_retries: int = ...,
            default_headers: Mapping[str, str] | None = None,
            default_query: Mapping[str, object] | None = None,
            http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
            _strict_response_validation: bool = False,
            _enforce_credentials: bool = True,
            **options: Unpack[Options],
        ) -> None: ...
