"""Providers: whose API a base URL is, and what that API takes from the token limit.

A provider has only the facts that the arithmetic of costs and the choice of a limiter need. Its dialect of headers is
recognised from the headers themselves.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Provider:
    """How one provider counts tokens against the limit per minute.

    `charges`: what is charged in the end, the estimate at admission or the real usage at completion.
    `reserves_output`: whether the maximum output of the request is charged at admission; None: unknown, so learnt.
    `hosted`: a company's API with rate limits; a self-hosted server may queue instead of refusing.
    `counts_output`: whether output is charged to the same limit as input, where usage is charged.
    `counts_cached`: whether cached input is charged, where usage is charged.
    `default_output`: tokens reserved for an answer where output is reserved and the request sets no maximum.
    """

    name: str
    charges: Literal["estimate", "usage"] = "estimate"
    reserves_output: bool | None = None
    hosted: bool = True
    counts_output: bool = True
    counts_cached: bool = True
    default_output: int = 16  # OpenAI until 2025-03 and Azure in 2024


PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            # Reserved until 2025-03-19. The documentation still says so, but traffic since then shows otherwise.
            Provider("openai", reserves_output=False),
            # Documented as reserved; the one sample of 2025 with `max_tokens` was not charged for them.
            Provider("azure"),
            # "Requested 32979" for a small prompt with a large `max_tokens` (four reports of 2026, see
            # zeeyado/koassistant.koplugin#106); without `max_tokens` nothing beyond the prompt was taken
            # (7 samples of 2024).
            Provider("groq", reserves_output=True, default_output=0),
            # `x-ratelimit-tokens-query-cost` is exactly prompt and completion.
            Provider("mistral", charges="usage", reserves_output=False),
            # Documented. Without a maximum it reserves an upper bound that it does not publish.
            Provider("cerebras", reserves_output=True),
            # We count its limit of input tokens: estimated, then corrected, without cache reads.
            Provider("anthropic", charges="usage", reserves_output=False, counts_output=False, counts_cached=False),
            Provider("together"),
            # Input and output have separate limits; we read those of input.
            Provider("fireworks", charges="usage", reserves_output=False, counts_output=False),
            # It limits requests only.
            Provider("openrouter", reserves_output=False),
            # The limit is one of input tokens.
            Provider("gemini", charges="usage", reserves_output=False, counts_output=False),
            # It counts prompt, completion and reasoning.
            Provider("xai", charges="usage", reserves_output=False),
            # It limits calls in flight only.
            Provider("deepseek", reserves_output=False),
            # It limits requests only.
            Provider("perplexity", reserves_output=False),
            Provider("nvidia"),
            Provider("digitalocean"),
            Provider("nebius"),
            # No address shows it, so it has to be named; it passes on the headers of the provider behind it.
            Provider("litellm"),
            # vLLM, SGLang, Ollama, llama.cpp, TGI, NIM.
            Provider("self-hosted", reserves_output=False, hosted=False),
            # Possibly a self-hosted server at a public address.
            Provider("unknown", hosted=False),
        )
    }
)

OPENAI: Final = PROVIDERS["openai"]

# A domain and everything below it: `eu.api.openai.com` (data residency), `us-east-1.api.x.ai`.
_DOMAINS: Final = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "openai.azure.us": "azure",
    "cognitiveservices.azure.us": "azure",
    "groq.com": "groq",
    "mistral.ai": "mistral",
    "cerebras.ai": "cerebras",
    "anthropic.com": "anthropic",
    "together.ai": "together",
    "together.xyz": "together",
    "fireworks.ai": "fireworks",
    "openrouter.ai": "openrouter",
    "generativelanguage.googleapis.com": "gemini",
    "x.ai": "xai",
    "deepseek.com": "deepseek",
    "perplexity.ai": "perplexity",
    "api.nvidia.com": "nvidia",
    "do-ai.run": "digitalocean",
    "nebius.ai": "nebius",
    "nebius.com": "nebius",
    # Names that exist only inside one network; clusters often use `svc` without its `cluster.local`.
    "home.arpa": "self-hosted",
    "internal": "self-hosted",
    "lan": "self-hosted",
    "local": "self-hosted",
    "localhost": "self-hosted",
    "svc": "self-hosted",
}


# Servers that people run themselves, by their own names.
_SERVERS: Final[Mapping[str, str]] = dict.fromkeys(
    ("vllm", "sglang", "ollama", "llama.cpp", "tgi", "nim"), "self-hosted"
)

_SCHEME: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


def provider_of(base_url: str) -> Provider:
    """Provider at `base_url`, by its host name; `unknown` for a URL that cannot be read."""
    scheme = _SCHEME.match(base_url)
    if scheme is not None and "unix" in scheme[0].lower():
        return PROVIDERS["self-hosted"]
    host = _host(base_url[scheme.end() :] if scheme is not None else base_url.strip())
    if not host:
        return PROVIDERS["unknown"]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return PROVIDERS["unknown" if address.is_global else "self-hosted"]
    if "." not in host:  # `vllm`, `localhost`: no public name has one word
        return PROVIDERS["self-hosted"]
    domain = host
    while domain:
        if domain in _DOMAINS:
            return PROVIDERS[_DOMAINS[domain]]
        domain = domain.partition(".")[2]
    return PROVIDERS["unknown"]


def endpoint_of(host: str, port: int | None, provider: Provider) -> str:
    """The host and port where limits belong to a deployment at one endpoint (Azure); empty where they do not."""
    if provider.name != "azure":
        return ""
    return host if port is None else f"{host}:{port}"


def provider_named(name: str) -> Provider:
    """The provider of that name; for an unknown one, a `ValueError` lists all names."""
    provider = PROVIDERS.get(_SERVERS.get(name, name)) if isinstance(name, str) else None
    if provider is None:
        raise ValueError(f"dialect must be one of {', '.join(map(repr, [*PROVIDERS, *_SERVERS]))}; got {name!r}")
    return provider


def _host(rest: str) -> str:
    """The host in the part of a URL after `://`, in lower case. `urlsplit` would raise on half an IPv6 address."""
    for end in "/?#":
        rest = rest.partition(end)[0]
    rest = rest.rpartition("@")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0].lower()
    return rest.partition(":")[0].rstrip(".").lower()
