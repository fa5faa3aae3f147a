"""The settings: a client, an input and rules, made from the arguments of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import openai

from throttled_openai._clients.async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from throttled_openai._limits import Limits, LimitsBook
from throttled_openai._protocol.providers import OPENAI, provider_named, provider_of
from throttled_openai.batch._file import Rules, calls_of
from throttled_openai.batch._input import InputOptions
from throttled_openai.batch._prices import Prices
from throttled_openai.batch._processes import Processes
from throttled_openai.batch._request import BadLineError, path_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from throttled_openai._clients.raw import RawCalls
    from throttled_openai._protocol.providers import Provider

_LIMITS: Final = "rpm", "tpm", "rpd", "tpd"
# Of options that another process can be given.
_PLAIN: Final = (str, int, float, list, type(None))
_KEY: Final = "OPENAI_API_KEY"
_AZURE_KEY: Final = "AZURE_OPENAI_API_KEY"


def input_options_of(arguments: argparse.Namespace) -> InputOptions:
    """The description of the input. Raises `ValueError`."""
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
    return InputOptions(
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
    """The rules of the run. Raises `ValueError` and `OSError`."""
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
    """The limits, as arguments for a client. Raises `ValueError`, `TypeError` and `OSError`."""
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
    """The provider, which determines how tokens are counted."""
    if arguments.dialect is not None:
        return provider_named(arguments.dialect)
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL")
    return provider_named("azure") if arguments.azure else provider_of(base_url) if base_url else OPENAI


def read_limits_file(path: str) -> dict[str, Limits]:
    """Read one table for each model, or for several that share limits: `models = [...]`.

    Raises `ValueError` and `OSError`.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    limits: dict[str, Limits] = {}
    for name, table in tables.items():
        given = dict(table) if isinstance(table, dict) else {"": table}
        models = given.pop("models", [name])
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise ValueError(f"{path}: [{name}] models must be a list of names")
        try:
            each = Limits(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: [{name}]: {error}") from None
        limits |= dict.fromkeys(models, each)
    return limits


def calls_for(arguments: argparse.Namespace, rules: Rules) -> RawCalls | Processes:
    """Calls made by this process, or by several workers. Raises `ValueError` and `TypeError`."""
    count = arguments.processes
    if count == 1:
        return calls_of(client_of(arguments), rules)
    client_of(arguments, count)  # raises here rather than in each worker
    plain = argparse.Namespace(**{name: value for name, value in vars(arguments).items() if isinstance(value, _PLAIN)})
    make = functools.partial(client_of, plain, count)
    return Processes(count, make, retries=rules.max_retries, patience=rules.max_outage)


def client_of(arguments: argparse.Namespace, count: int = 1) -> AsyncOpenAI:
    """The client of one of `count` processes, with its share of the limits. Raises `ValueError` and `TypeError`."""
    limits = limits_of(arguments)
    # Processes that share their limits all have the whole ones.
    options: dict[str, Any] = {**(limits if arguments.shared else _share_of(limits, count)), **sharing_of(arguments)}
    if arguments.max_concurrency is not None:
        options["max_concurrency"] = math.ceil(arguments.max_concurrency / count)
    named = ("max_wait", "dialect", "base_url", "timeout")
    options |= {name: value for name in named if (value := getattr(arguments, name)) is not None}
    options["default_headers"] = headers_of(arguments.header)
    options["max_retries"] = arguments.max_retries
    variable = arguments.api_key_env or (_AZURE_KEY if arguments.azure else _KEY)
    key = os.environ.get(variable)
    if not key and (arguments.base_url is None or arguments.api_key_env is not None):
        raise ValueError(f"there is no API key: set {variable}, or name another variable with --api-key-env")
    options["api_key"] = key or "none"  # self-hosted servers need none
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


def _share_of(limits: dict[str, Any], count: int) -> dict[str, Any]:
    """The share of `limits` that each of `count` processes has."""
    if "limits" not in limits:
        return {name: value / count for name, value in limits.items()}
    made: dict[int, Limits] = {}  # models that share one `Limits` object still share one
    for each in limits["limits"].values():
        given = {name: value / count for name in _LIMITS if (value := getattr(each, name)) is not None}
        made.setdefault(id(each), dataclasses.replace(each, **given))
    return {"limits": {model: made[id(each)] for model, each in limits["limits"].items()}}


def headers_of(given: list[str]) -> dict[str, str]:
    headers = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise ValueError('--header must be "Name: value"')  # do not quote it, as it may be a secret
        headers[name.strip()] = value.strip()
    return headers


def _text(value: str | None) -> str | None:
    """The value of an option; `@FILE` stands for the text of a file."""
    if value is None or not value.startswith("@"):
        return value
    return Path(value[1:]).read_text(encoding="utf-8")
