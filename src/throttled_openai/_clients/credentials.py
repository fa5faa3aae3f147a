"""Credentials: which account a client of the SDK calls for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from throttled_openai._protocol.account import CREDENTIALS, CredentialSource

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields that some SDK clients lack: older SDKs, Azure's, third-party classes.
_OPTIONAL = ("workload_identity", "_provider", "_bedrock_token_provider", "_azure_ad_token", "_azure_ad_token_provider")


def fields_of(client: Any) -> tuple[object, ...]:
    """Values that are equal as long as the client calls for the same account; cheap, as each call compares them."""
    gives = getattr(client, "_api_key_provider", None)
    return (
        client.base_url,
        client.api_key if gives is None else gives,  # the key itself changes with each refresh
        client.organization,
        client.project,
        client._custom_headers,  # noqa: SLF001
        *[getattr(client, name, None) for name in _OPTIONAL],
    )


def credentials_of(client: Any, headers: Mapping[str, object] | None = None) -> dict[str, object]:
    """Credentials by lower-case header name: a text, or the function that returns it. `headers`: the call's own."""
    _, key, organization, project, own, identity, provider, *tokens = fields_of(client)
    shown: dict[str, object] = {"openai-organization": organization, "openai-project": project}
    bedrock, token, gives_token = tokens
    is_azure = hasattr(client, "_azure_ad_token")
    gives = next((each for each in (bedrock, gives_token, identity) if each is not None), None)
    if token is not None:
        shown["authorization"] = f"Bearer {token}"
    elif gives is not None:
        shown["authorization"] = CredentialSource(gives)
    elif key:
        name, text = ("api-key", key) if is_azure else ("authorization", f"Bearer {key}")
        shown[name] = text if isinstance(key, str) else CredentialSource(key)
    elif provider is not None:
        shown["authorization"] = CredentialSource(provider)
    for source in (own, headers or {}):
        # The last one wins. It may be `Omit()`: then that header is not sent.
        shown |= {name.lower(): value for name, value in source.items() if name.lower() in CREDENTIALS}  # type: ignore[attr-defined]
    return shown


def names_account(headers: Mapping[str, object]) -> bool:
    """Whether headers of a call name an account, which may differ from the client's."""
    return any(name.lower() in CREDENTIALS for name in headers)
