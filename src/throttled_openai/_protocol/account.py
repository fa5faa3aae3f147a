"""Account: who grants the limits, a server, and to whom it grants them there."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Headers that say who asks, by lower-case name.
CREDENTIALS: Final = frozenset(
    {
        "api-key",  # Azure
        "authorization",
        "cf-aig-authorization",  # Cloudflare's gateway
        "ocp-apim-subscription-key",  # Azure's API management
        "openai-organization",
        "openai-project",
        "x-api-key",  # Anthropic
        "x-goog-api-key",
    }
)

# Claims of a JSON web token that are new in each token of one account.
_MADE_ANEW: Final = frozenset({"aio", "auth_time", "exp", "iat", "jti", "nbf", "nonce", "rh", "timestamp", "uti"})
_LONGEST_TOKEN: Final = 16_384

# What may tell two givers apart before they are compared.
_PLAIN: Final = (CodeType, str, bytes, int)

# A digest of a key is good in this process only.
_SALT: Final = os.urandom(16)


class Account(NamedTuple):
    """A server, and whom it knows us as.

    `owner`: digest of the credentials, and what gives those that change; empty where there are none to see.
    """

    scheme: str
    host: str
    port: int | None
    owner: tuple[object, ...]

    def __repr__(self) -> str:
        return f"<Account at {self.scheme}://{self.host}{'' if self.port is None else f':{self.port}'}>"


NOBODY: Final = Account("", "", None, ())


class Giver:
    """What gives keys or tokens; these change, and the account stays.

    Two functions are one giver if they have the same code and hold on to the same things: programs
    make a new function for each client.
    """

    __slots__ = ("_hash", "_parts")

    def __init__(self, gives: object) -> None:
        self._parts = tuple(_parts(gives))
        self._hash = hash(tuple(part if isinstance(part, _PLAIN) else type(part) for part in self._parts))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Giver) or len(self._parts) != len(other._parts):
            return False
        return all(map(_same, self._parts, other._parts))

    def __hash__(self) -> int:
        return self._hash


def account_at(url: Any, credentials: Mapping[str, object]) -> Account:
    """The account at `url`, of httpx. `credentials`: by lower-case name of the header, a text or a `Giver`."""
    digest = hashlib.blake2b(key=_SALT, digest_size=16)
    givers: list[Giver] = []
    said = False
    for name in sorted(credentials):
        value = credentials[name]
        if isinstance(value, Giver):
            givers.append(value)
        elif isinstance(value, str) and value:
            said = True
            digest.update(f"{name}\0{_lasting(value)}\0".encode("utf-8", "surrogateescape"))
    owner = (digest.digest(), *givers) if said or givers else ()
    return Account(url.scheme, url.host, url.port, owner)


def credentials_in(headers: Mapping[str, str]) -> dict[str, object]:
    """Those of a request that is ready to be sent."""
    return {name: headers[name] for name in CREDENTIALS if name in headers}


def _lasting(value: str) -> str:
    """What stays of credentials that are made anew for each request or hour."""
    if value.startswith(
        "AWS4-"
    ):  # ... Credential=KEY/date/region/service/aws4_request, SignedHeaders=..., Signature=...
        return value.partition("Credential=")[2].partition("/")[0]
    if value.startswith("Bearer eyJ") and value.count(".") == 2 and len(value) < _LONGEST_TOKEN:
        try:
            claims = json.loads(base64.urlsafe_b64decode(value.split(".")[1] + "=="))
            if isinstance(claims, dict):
                return json.dumps({name: claims[name] for name in sorted(claims) if name not in _MADE_ANEW})
        except (ValueError, RecursionError):
            pass
    return value


def _parts(gives: object, depth: int = 4) -> Iterator[object]:
    """Code first, then what it holds on to; anything that is no function is itself."""
    if isinstance(gives, functools.partial):
        yield from _parts(gives.func, depth)
        yield from gives.args
        yield from gives.keywords.values()
        return
    function: Any = getattr(gives, "__func__", gives)
    code = getattr(function, "__code__", None)
    if code is None or not depth:
        yield gives
        return
    yield code
    if function is not gives:
        yield getattr(gives, "__self__", None)
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not yet filled
            held.append(cell)
    for each in held:
        yield from _parts(each, depth - 1)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001  # somebody's `__eq__`, such as an array's
        return False
