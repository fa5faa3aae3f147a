"""Account: the server that grants limits, and the credentials to which it grants them."""

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

# Headers that carry credentials, by lower-case name.
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

# Claims of a JSON web token that differ between the tokens of one account.
_CHANGING: Final = frozenset({"aio", "auth_time", "exp", "iat", "jti", "nbf", "nonce", "rh", "timestamp", "uti"})
_LONGEST_TOKEN: Final = 16_384

# Types of parts that are hashed by value; of others, which may have no hash, only the type counts.
_HASHABLE: Final = (CodeType, str, bytes, int)

# Makes digests of keys useless outside this process.
_SALT: Final = os.urandom(16)


class Account(NamedTuple):
    """A server, and the credentials we have there.

    `owner`: a digest of the fixed credentials, and the sources of those that change; empty without credentials.
    """

    scheme: str
    host: str
    port: int | None
    owner: tuple[object, ...]

    def __repr__(self) -> str:
        return f"<Account at {self.scheme}://{self.host}{'' if self.port is None else f':{self.port}'}>"


NO_ACCOUNT: Final = Account("", "", None, ())


class CredentialSource:
    """A function or object that supplies keys or tokens, which change while the account stays the same.

    Two functions are equal sources if they have the same code, defaults and closure, because programs make a new
    function for each client.
    """

    __slots__ = ("_hash", "_parts")

    def __init__(self, supplier: object) -> None:
        self._parts = tuple(_parts(supplier))
        self._hash = hash(tuple(part if isinstance(part, _HASHABLE) else type(part) for part in self._parts))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CredentialSource) or len(self._parts) != len(other._parts):
            return False
        return all(map(_same, self._parts, other._parts))

    def __hash__(self) -> int:
        return self._hash


def account_at(url: Any, credentials: Mapping[str, object]) -> Account:
    """The account at `url`, an httpx URL.

    `credentials`: for each lower-case name of a header its value, or the `CredentialSource` of its values.
    """
    digest = hashlib.blake2b(key=_SALT, digest_size=16)
    sources: list[CredentialSource] = []
    has_fixed = False
    for name in sorted(credentials):
        value = credentials[name]
        if isinstance(value, CredentialSource):
            sources.append(value)
        elif isinstance(value, str) and value:
            has_fixed = True
            digest.update(f"{name}\0{_fixed_part(value)}\0".encode("utf-8", "surrogateescape"))
    owner = (digest.digest(), *sources) if has_fixed or sources else ()
    return Account(url.scheme, url.host, url.port, owner)


def credentials_in(headers: Mapping[str, str]) -> dict[str, object]:
    """The credentials in the headers of a request that is ready to be sent."""
    # One pass over the names: each look-up in httpx's headers is one, too.
    return {name: headers[name] for name in CREDENTIALS.intersection(headers)}


def _fixed_part(value: str) -> str:
    """The part of a credential that stays the same when it is renewed for each request or hour."""
    # AWS4-HMAC-SHA256 Credential=KEY/date/region/service/aws4_request, SignedHeaders=..., Signature=...
    if value.startswith("AWS4-"):
        return value.partition("Credential=")[2].partition("/")[0]
    if value.startswith("Bearer eyJ") and value.count(".") == 2 and len(value) < _LONGEST_TOKEN:
        try:
            claims = json.loads(base64.urlsafe_b64decode(value.split(".")[1] + "=="))
            if isinstance(claims, dict):
                return json.dumps({name: claims[name] for name in sorted(claims) if name not in _CHANGING})
        except (ValueError, RecursionError):
            pass
    return value


def _parts(supplier: object, depth: int = 4) -> Iterator[object]:
    """The code of a function, then its defaults and closure; an object that is no function has itself as its part."""
    if isinstance(supplier, functools.partial):
        yield from _parts(supplier.func, depth)
        yield from supplier.args
        yield from supplier.keywords.values()
        return
    function: Any = getattr(supplier, "__func__", supplier)
    code = getattr(function, "__code__", None)
    if code is None or not depth:
        yield supplier
        return
    yield code
    if function is not supplier:
        yield getattr(supplier, "__self__", None)
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
    except Exception:  # noqa: BLE001  # from a foreign `__eq__`, such as an array's
        return False
