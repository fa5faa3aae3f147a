"""Throttled clients made from existing ones."""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, overload

from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from openai._resource import AsyncAPIResource, SyncAPIResource

from throttled_openai._spelling import check_names

from .async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from .base import AsyncThrottledMixin, ThrottledBase
from .options import OPTIONS
from .rebind import Rebinding, is_wrapped
from .sdk import hooked
from .sync_client import ThrottledAzureOpenAI, ThrottledMixin, ThrottledOpenAI

if TYPE_CHECKING:
    from typing import Unpack

    from .options import Options

logger = logging.getLogger("throttled_openai")


@overload
def wrap(  # type: ignore[overload-overlap]  # the first that fits is taken
    client: AsyncAzureOpenAI, **options: Unpack[Options]
) -> ThrottledAsyncAzureOpenAI: ...
@overload
def wrap(client: AsyncOpenAI, **options: Unpack[Options]) -> ThrottledAsyncOpenAI: ...
@overload
def wrap(  # type: ignore[overload-overlap]
    client: AzureOpenAI, **options: Unpack[Options]
) -> ThrottledAzureOpenAI: ...
@overload
def wrap(client: OpenAI, **options: Unpack[Options]) -> ThrottledOpenAI: ...
def wrap(client: Any, **options: Unpack[Options]) -> Any:
    """A throttled client with the configuration, credentials and connections of `client`.

    `client` is unchanged and stays usable; both share its HTTP client, so closing one closes both, as
    with `client.with_options()`. `pool="httpx"` gives the new one connections of its own. The
    options are those of `ThrottledAsyncOpenAI`. A client of your own class stays one of that class.
    Wrappers that tools have put around its methods, or those of its resources, are put around the new client's.

    Raises `TypeError` for anything but a client of the SDK, and for one that is throttled already.
    """
    if isinstance(client, ThrottledBase):
        raise TypeError(f"this {type(client).__name__} is throttled: client.copy(rpm=...) makes one with other limits")
    if not isinstance(client, AsyncOpenAI | OpenAI):
        raise TypeError(
            f"wrap() takes a client of the SDK, such as AsyncOpenAI() or OpenAI(), not {type(client).__name__}; "
            "for an httpx client use wrap_http_client()"
        )
    check_names("wrap", options, OPTIONS)
    sdk: Any = type(client)
    throttled: Any = object.__new__(throttled_class(sdk))
    vars(throttled).update(_taken_over(client, throttled))
    pool = throttled._take_options(dict(options))  # noqa: SLF001
    if pool is not None:
        return throttled.copy(pool=pool)
    if not hooked():
        throttled._client = throttled._throttled_below(client._client)  # noqa: SLF001
    return throttled


def _taken_over(client: Any, throttled: Any) -> dict[str, Any]:
    """The attributes of `client`, as `throttled` should have them."""
    sdk = type(client)
    rebinding = Rebinding(client, throttled)
    resources = inspect.getmembers_static(sdk, lambda member: isinstance(member, functools.cached_property))
    made = {name for name, _ in resources}  # such as `chat`: they send through the client they were made by
    taken = {}
    for name, value in vars(client).items():
        if name in made:
            if isinstance(value, AsyncAPIResource | SyncAPIResource) and is_wrapped(value):
                taken[name] = rebinding.of(value)
            continue
        taken[name] = rebinding.of(value) if callable(value) else value
        if taken[name] is value and callable(value) and callable(getattr(sdk, name, None)):
            logger.warning(
                "%s.%s of this client has been replaced by something that does not show which client it calls: "
                "calls through it may not be throttled; replace that of the throttled client instead",
                sdk.__name__,
                name,
            )
    return taken


@functools.cache
def throttled_class(cls: Any) -> type[Any]:
    """The throttled subclass of `cls`."""
    for known in (ThrottledAsyncOpenAI, ThrottledAsyncAzureOpenAI, ThrottledOpenAI, ThrottledAzureOpenAI):
        if known.__mro__[known.__mro__.index(ThrottledBase) + 1] is cls:
            return known
    mixin = AsyncThrottledMixin if issubclass(cls, AsyncOpenAI) else ThrottledMixin
    made: type[Any] = type(f"Throttled{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})
    return made
