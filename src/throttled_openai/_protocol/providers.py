"""Providers: whose API a base URL is, and what that API takes from the token limit.

Only what the arithmetic of costs or the choice of a limiter needs. Header dialects are read from the headers
themselves. Numbers in brackets are sections of the project's reference on how providers count.
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

    `charges`: what is taken in the end, the estimate at admission or the real usage at completion.
    `reserves_output`: whether the most output the request allows is taken at admission; None: not known, learnt.
    `hosted`: a company's API with rate limits; a server of one's own may queue instead of refusing.
    `counts_output`: whether output draws on the same limit as input, where usage is charged.
    `counts_cached`: whether input that a cache had is charged, where usage is.
    `default_output`: tokens reserved for an answer whose request tells no most, where output is reserved.
    """

    name: str
    charges: Literal["estimate", "usage"] = "estimate"
    reserves_output: bool | None = None
    hosted: bool = True
    counts_output: bool = True
    counts_cached: bool = True
    default_output: int = 16  # OpenAI until 2025-03 (1.3) and Azure in 2024 (2)


PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            # Reserved until 2025-03-19, and the documentation still says so; traffic since says no (1.3).
            Provider("openai", reserves_output=False),
            # Documented as reserved; the one sample with `max_tokens` of 2025 was not charged them (2).
            Provider("azure"),
            # "Requested 32979" for a small prompt with a large `max_tokens` (four reports of 2026, see
            # zeeyado/koassistant.koplugin#106); without `max_tokens` nothing beyond the prompt was taken
            # (7 samples of 2024).
            Provider("groq", reserves_output=True, default_output=0),
            # `x-ratelimit-tokens-query-cost` is prompt and completion, exactly (3).
            Provider("mistral", charges="usage", reserves_output=False),
            # Documented (3). What it reserves without a maximum is an upper bound it does not tell.
            Provider("cerebras", reserves_output=True),
            # Of its limits ours is that of input tokens: estimated, then corrected, without cache reads (3).
            Provider("anthropic", charges="usage", reserves_output=False, counts_output=False, counts_cached=False),
            Provider("together"),
            # Input and output have limits of their own; the ones announced for input are read (3).
            Provider("fireworks", charges="usage", reserves_output=False, counts_output=False),
            # Requests only (3).
            Provider("openrouter", reserves_output=False),
            # The limit is one of input tokens (3).
            Provider("gemini", charges="usage", reserves_output=False, counts_output=False),
            # Prompt, completion and reasoning (3).
            Provider("xai", charges="usage", reserves_output=False),
            # Calls in flight only (3).
            Provider("deepseek", reserves_output=False),
            # Requests only (3).
            Provider("perplexity", reserves_output=False),
            Provider("nvidia"),
            Provider("digitalocean"),
            Provider("nebius"),
            # Its own name or address says nothing; it passes on the headers of what is behind it (3).
            Provider("litellm"),
            # vLLM, SGLang, Ollama, llama.cpp, TGI, NIM (3).
            Provider("self-hosted", reserves_output=False, hosted=False),
            # May be anybody's own server at a public address.
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
    # Names that exist in one network only; `svc` without its `cluster.local` is common in a cluster.
    "home.arpa": "self-hosted",
    "internal": "self-hosted",
    "lan": "self-hosted",
    "local": "self-hosted",
    "localhost": "self-hosted",
    "svc": "self-hosted",
}


_SCHEME: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


def provider_of(base_url: str) -> Provider:
    """Provider at `base_url`, by its host name; whatever cannot be read is `unknown`."""
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
    """The server, where each has limits of its own for a deployment; empty where the account has."""
    if provider.name != "azure":
        return ""
    return host if port is None else f"{host}:{port}"


def provider_named(name: str) -> Provider:
    """The provider of that name; `ValueError` lists the names there are."""
    provider = next((provider for provider in PROVIDERS.values() if provider.name == name), None)
    if provider is None:
        raise ValueError(f"dialect must be one of {', '.join(map(repr, PROVIDERS))}; got {name!r}")
    return provider


def _host(rest: str) -> str:
    """Host of what follows `://`, in lower case. Not `urlsplit`, which raises on half of an IPv6 address."""
    for end in "/?#":
        rest = rest.partition(end)[0]
    rest = rest.rpartition("@")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0].lower()
    return rest.partition(":")[0].rstrip(".").lower()
