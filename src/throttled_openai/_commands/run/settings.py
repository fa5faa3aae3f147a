"""The settings: what the command line says, as a client, an input and rules.

What belongs here is reading them, and saying which cannot be.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import openai

from throttled_openai._clients.async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from throttled_openai._limits import Limits, LimitsBook
from throttled_openai._protocol.providers import OPENAI, provider_named, provider_of
from throttled_openai.batch._file import Rules
from throttled_openai.batch._input import Asked
from throttled_openai.batch._prices import Prices
from throttled_openai.batch._request import BadLineError, path_of

if TYPE_CHECKING:
    import argparse

    from openai import AsyncOpenAI

    from throttled_openai._protocol.providers import Provider

_LIMITS: Final = "rpm", "tpm", "rpd", "tpd"
_KEY: Final = "OPENAI_API_KEY"
_AZURE_KEY: Final = "AZURE_OPENAI_API_KEY"


def asked_of(arguments: argparse.Namespace) -> Asked:
    """Raises `ValueError`."""
    body: dict[str, Any] = {}
    if arguments.body is not None:
        try:
            body = json.loads(arguments.body)
        except ValueError:
            body = None  # type: ignore[assignment]
        if not isinstance(body, dict):
            raise ValueError('--body must be a JSON object, such as {"temperature": 0}')
    if arguments.service_tier is not None:
        body["service_tier"] = arguments.service_tier
    try:
        path = None if arguments.url is None else path_of(arguments.url)
    except BadLineError as error:
        raise ValueError(f"--{error}") from None
    return Asked(
        kind=arguments.format,
        path=path,
        model=arguments.model,
        system=_text(arguments.system),
        template=_text(arguments.template),
        column=arguments.column,
        id_column=arguments.id_column,
        body=body,
    )


def rules_of(arguments: argparse.Namespace) -> Rules:
    """Raises `ValueError` and `OSError`."""
    prices = None if arguments.prices is None else Prices.read(arguments.prices)
    if arguments.max_cost is not None and prices is None:
        raise ValueError("--max-cost needs --prices")
    return Rules(
        order=arguments.order,
        retry_errors=arguments.retry_errors,
        limit=arguments.limit,
        prices=prices,
        max_cost=arguments.max_cost,
        max_retries=arguments.max_retries,
        keep_going=arguments.keep_going,
        max_outage=arguments.max_outage,
    )


def limits_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """As a client takes them. Raises `ValueError`, `TypeError` and `OSError`."""
    given = {name: value for name in _LIMITS if (value := getattr(arguments, name)) is not None}
    if arguments.limits is None:
        Limits(**given)
        return given
    if given:
        raise ValueError(f"write either --limits or --{' --'.join(given)}, not both")
    return {"limits": read_limits_file(arguments.limits)}


def sharing_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the limits are shared with other processes, as a client takes it."""
    return {} if arguments.shared is None else {"shared": arguments.shared}


def book_of(arguments: argparse.Namespace) -> LimitsBook:
    given = limits_of(arguments)
    return (
        LimitsBook(given["limits"]) if "limits" in given else LimitsBook(each_model=Limits(**given) if given else None)
    )


def provider_at(arguments: argparse.Namespace) -> Provider:
    """The provider, whose way of counting tokens applies."""
    if arguments.dialect is not None:
        return provider_named(arguments.dialect)
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL")
    return provider_named("azure") if arguments.azure else provider_of(base_url) if base_url else OPENAI


def read_limits_file(path: str) -> dict[str, Limits]:
    """A table for each model; one with `models = [...]` is for these together. Raises `ValueError` and `OSError`."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    limits: dict[str, Limits] = {}
    for name, table in tables.items():
        told = dict(table) if isinstance(table, dict) else {"": table}
        models = told.pop("models", [name])
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise ValueError(f"{path}: [{name}] models must be a list of names")
        try:
            each = Limits(**told)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: [{name}]: {error}") from None
        limits |= dict.fromkeys(models, each)
    return limits


def client_of(arguments: argparse.Namespace) -> AsyncOpenAI:
    """Raises `ValueError` and `TypeError`."""
    options: dict[str, Any] = {**limits_of(arguments), **sharing_of(arguments)}
    named = ("max_concurrency", "max_wait", "dialect", "base_url", "timeout")
    options |= {name: value for name in named if (value := getattr(arguments, name)) is not None}
    options["default_headers"] = headers_of(arguments.header)
    options["max_retries"] = arguments.max_retries
    variable = arguments.api_key_env or (_AZURE_KEY if arguments.azure else _KEY)
    key = os.environ.get(variable)
    if not key and (arguments.base_url is None or arguments.api_key_env is not None):
        raise ValueError(f"there is no API key: set {variable}, or name another variable with --api-key-env")
    options["api_key"] = key or "none"  # servers of one's own ask for none
    try:
        if not arguments.azure:
            return ThrottledAsyncOpenAI(**options)
        if options.pop("base_url", None) is not None:
            options["azure_endpoint"] = arguments.base_url
        if arguments.api_version is not None:
            options["api_version"] = arguments.api_version
        return ThrottledAsyncAzureOpenAI(**options)
    except openai.OpenAIError as error:
        raise ValueError(str(error)) from None


def headers_of(told: list[str]) -> dict[str, str]:
    headers = {}
    for each in told:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise ValueError('--header must be "Name: value"')  # without its text, which may be a secret
        headers[name.strip()] = value.strip()
    return headers


def _text(told: str | None) -> str | None:
    """An option's text, or with `@` before it the text of a file."""
    if told is None or not told.startswith("@"):
        return told
    return Path(told[1:]).read_text(encoding="utf-8")
