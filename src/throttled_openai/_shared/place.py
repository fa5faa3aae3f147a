"""The place where processes meet: what `shared=` names, and which of the two ways of getting there it means."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["server", "sentinel", "cluster", "local"]

# Before each key in the store, unless the address has `?prefix=`.
PREFIX: Final = "throttled-openai:"
_SCHEMES: Final = {
    "redis": ("server", "redis"),
    "rediss": ("server", "rediss"),
    "valkey": ("server", "redis"),
    "valkeys": ("server", "rediss"),
    "unix": ("server", "unix"),
    "redis+sentinel": ("sentinel", "redis"),
    "rediss+sentinel": ("sentinel", "rediss"),
    "redis+cluster": ("cluster", "redis"),
    "rediss+cluster": ("cluster", "rediss"),
}
_SAYS: Final = "a Redis or Valkey address such as 'redis://host:6379/0', or 'local' for the processes of one machine"
# Names of local places, which become names of files.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where processes meet. `label`: for messages, without user name and password."""

    kind: Kind
    address: str = field(repr=False)
    label: str
    prefix: str = PREFIX


def read_place(written: object) -> Place:
    """The place that `shared=` names. Raises `TypeError`, `ValueError` or `ImportError` that say what to write."""
    if not isinstance(written, str):
        raise TypeError(f"shared must be {_SAYS}; got {type(written).__name__}")
    if written == "local" or written.startswith("local:"):
        return _local(written)
    try:
        parts = urlsplit(written)
        kind, scheme = _SCHEMES[parts.scheme]
        hosts = re.sub(".*@", "", parts.netloc)
        if not hosts and scheme != "unix":
            raise ValueError("no host")  # noqa: TRY301
        query = parse_qsl(parts.query, keep_blank_values=True)
        address = urlunsplit(
            parts._replace(scheme=scheme, query=urlencode([one for one in query if one[0] != "prefix"]))
        )
    except (KeyError, ValueError):
        raise ValueError(f"shared must be {_SAYS}; got {_redacted(written)!r}") from None
    prefix = dict(query).get("prefix", PREFIX)
    place = Place(kind, address, f"{parts.scheme}://{hosts}{parts.path}", prefix)  # type: ignore[arg-type]
    try:
        client = client_of(place)
        if kind == "server":
            client.connection_pool.make_connection()  # checks the rest of the address, and connects to nothing
        client.close()
    except ImportError:
        raise ImportError(
            f"shared={_redacted(written)!r} needs the package redis: pip install 'throttled-openai[redis]'"
        ) from None
    except Exception as error:  # noqa: BLE001  # of several packages
        raise ValueError(
            f"shared={_redacted(written)!r} is no address that the package redis can use: {error}"
        ) from None
    return place


def _local(written: str) -> Place:
    name = written.partition(":")[2] or "default"
    if not _NAME.fullmatch(name):
        raise ValueError(f"shared='local:NAME' takes letters, digits, '_', '.' and '-', up to 64; got {name!r}")
    if not hasattr(os, "fork"):
        raise ValueError("shared='local' does not work on this system: give it the address of a Redis or Valkey server")
    return Place("local", name, f"local:{name}")


def _redacted(written: str) -> str:
    return re.sub(r"//.*@", "//***@", written)


def client_of(place: Place, *, patience: float = 0.5) -> Any:
    """A client of the package redis. It connects with its first command; `patience`: seconds for each answer."""
    import redis  # noqa: PLC0415  # an extra

    options: dict[str, Any] = {
        "socket_timeout": patience,
        "socket_connect_timeout": max(1.0, patience),
        "decode_responses": True,
        "protocol": 2,
        "retry": _no_retry(),
    }
    if place.kind == "server":
        return redis.Redis.from_url(place.address, **options)
    parts = urlsplit(place.address)
    hosts = [_host_of(one) for one in re.sub(".*@", "", parts.netloc).split(",")]
    if parts.scheme == "rediss":
        options["ssl"] = True
    if "@" in parts.netloc:
        first = urlsplit(f"//{parts.netloc.split(',')[0]}")
        options |= {"username": first.username or None, "password": first.password}
    if place.kind == "cluster":
        import redis.cluster  # noqa: PLC0415

        cluster: Any = redis.cluster  # some of its functions have no types

        del options["retry"]
        nodes: Callable[[], Any] = lambda: cluster.RedisCluster(  # noqa: E731
            startup_nodes=[cluster.ClusterNode(host, port or 6379) for host, port in hosts], **options
        )
        return _Later(nodes)
    import redis.sentinel  # noqa: PLC0415

    sentinels: Any = redis.sentinel

    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the service is missing, as in redis+sentinel://host:26379/mymaster/0")
    security = {name: value for name, value in options.items() if name in {"ssl", "socket_timeout"}}
    sentinel = sentinels.Sentinel([(host, port or 26379) for host, port in hosts], sentinel_kwargs=security, **options)
    return sentinel.master_for(service, db=int(database or 0))


class _Later:
    """A client that connects when it is made: it is made when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def _no_retry() -> Any:
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    return Retry(NoBackoff(), 0)


def _host_of(text: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    return parts.hostname, parts.port
