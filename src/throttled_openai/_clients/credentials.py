"""Credentials: what a client of the SDK shows of whom it calls for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throttled_openai._protocol.account import CREDENTIALS, Giver

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields of the SDK's clients that may be missing: older SDKs, Azure's, classes of others.
_OPTIONAL = ("workload_identity", "_provider", "_bedrock_token_provider", "_azure_ad_token", "_azure_ad_token_provider")


def fields_of(client: Any) -> tuple[object, ...]:
    """Equal as long as the client calls for the same account; cheap, for each call asks."""
    gives = getattr(client, "_api_key_provider", None)
    return (
        client.base_url,
        client.api_key if gives is None else gives,  # the key is new with each refresh
        client.organization,
        client.project,
        client._custom_headers,  # noqa: SLF001
        *[getattr(client, name, None) for name in _OPTIONAL],
    )


def credentials_of(client: Any, headers: Mapping[str, object] | None = None) -> dict[str, object]:
    """By lower-case name of the header: a text, or what gives it. `headers` are the call's own."""
    _, key, organization, project, own, identity, provider, *tokens = fields_of(client)
    shown: dict[str, object] = {"openai-organization": organization, "openai-project": project}
    bedrock, token, gives_token = tokens
    is_azure = hasattr(client, "_azure_ad_token")
    gives = next((each for each in (bedrock, gives_token, identity) if each is not None), None)
    if token is not None:
        shown["authorization"] = f"Bearer {token}"
    elif gives is not None:
        shown["authorization"] = Giver(gives)
    elif key:
        name, text = ("api-key", key) if is_azure else ("authorization", f"Bearer {key}")
        shown[name] = text if isinstance(key, str) else Giver(key)
    elif provider is not None:
        shown["authorization"] = Giver(provider)
    for source in (own, headers or {}):
        # The last one wins, `Omit()` too: then that header is not sent.
        shown |= {name.lower(): value for name, value in source.items() if name.lower() in CREDENTIALS}  # type: ignore[attr-defined]
    return shown


def names_account(headers: Mapping[str, object]) -> bool:
    """Whether headers of a call say for whom it is, which may be another than the client's."""
    return any(name.lower() in CREDENTIALS for name in headers)
