"""The options that throttled clients add to the SDK's, and the queue options of a `with` block."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping  # noqa: TC003  # for `HINTS`
from contextvars import ContextVar
from typing import Any, Final, Literal, TypedDict, get_args, get_origin, get_type_hints

from throttled_openai._admission.call import QueueOptions
from throttled_openai._admission.throttle import Throttle, check_given
from throttled_openai._limits import Limits  # noqa: TC001
from throttled_openai._pool import Kind  # noqa: TC001
from throttled_openai._protocol.providers import provider_named
from throttled_openai._spelling import suggesting

from .shared import Throttles


class ThrottleOptions(TypedDict, total=False):
    """The options of a `Throttle`."""

    rpm: float | None
    tpm: float | None
    rpd: float | None
    tpd: float | None
    limits: Limits | Mapping[str, Limits] | None
    max_concurrency: int | None
    max_refusals: int | None
    enforce: bool


class Options(ThrottleOptions, total=False):
    """The arguments that throttled clients add to the SDK's; `ThrottledAsyncOpenAI` explains each."""

    throttle: Throttle | None
    priority: int
    max_wait: float | None
    max_queued: int | None
    dialect: str | None
    pool: Kind | None


# Evaluated, for tools that read the type hints of a client's methods.
HINTS: Final[Mapping[str, Any]] = get_type_hints(Options)
OPTIONS: Final = tuple(HINTS)
THROTTLE_OPTIONS: Final = tuple(get_type_hints(ThrottleOptions))
QUEUE_OPTIONS: Final = tuple(field.name for field in dataclasses.fields(QueueOptions))


def text_type_of(option: str) -> type[Any] | None:
    """The type of an option that can be written as text, such as an environment variable; None for others."""
    hint = HINTS[option]
    members = set(get_args(hint)) or {hint}
    texts: tuple[type[Any], ...] = (int, float, str)
    kinds = {str if get_origin(member) is Literal else member for member in members} - {type(None)}
    return next((kind for kind in texts if kinds == {kind}), None)


def read_options(options: dict[str, Any], *, threads: bool) -> tuple[Throttles, QueueOptions, str | None, Kind | None]:
    """Take our options out of `options`: throttles, queue options, dialect, pool. Raises for invalid ones."""
    ours = {name: options.pop(name) for name in OPTIONS if name in options}
    pool, dialect, given = ours.pop("pool", None), ours.pop("dialect", None), ours.pop("throttle", None)
    if dialect is not None:
        provider_named(dialect)
    queue_options = QueueOptions(**{name: ours.pop(name) for name in QUEUE_OPTIONS if name in ours})
    limits = given_of(**ours)
    if isinstance(given, Throttles):  # from the client that this one is a copy of
        return given, queue_options, dialect, pool
    if given is not None:
        check_given(given, limits)
    return Throttles(given, limits, threads=threads), queue_options, dialect, pool


_asked: ContextVar[dict[str, Any] | None] = ContextVar("throttled_openai_queue_options", default=None)


@suggesting
@contextlib.contextmanager
def queue_options(
    *,
    priority: int | None = None,
    max_wait: float | None = None,
    max_queued: int | None = None,
) -> Iterator[None]:
    """Queue options of all calls that begin inside this `with`, for code to which you cannot pass a client.

    They override those of the client, as `with_throttle()` does: `priority`: higher goes first; `max_wait`:
    seconds a call may wait; `max_queued`: how many calls may wait. Options left out stay as they are. Tasks
    created inside inherit them, threads do not.

    Raises `TypeError` or `ValueError` for invalid values.
    """
    given = given_of(priority=priority, max_wait=max_wait, max_queued=max_queued)
    QueueOptions(**given)
    token = _asked.set({**(_asked.get() or {}), **given})
    try:
        yield
    finally:
        _asked.reset(token)


def current_queue_options(own: QueueOptions) -> QueueOptions:
    """`own`, as changed by a `queue_options()` block around the call."""
    asked = _asked.get()
    return own if asked is None else dataclasses.replace(own, **asked)


def given_of(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
