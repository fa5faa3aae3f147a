"""A plugin of pytest: the SDK's names stand for our clients, if OURS is set; outcomes are written to TOLD."""

import json
import os
from pathlib import Path

import openai
import openai.lib.azure

if os.environ.get("OURS"):
    from throttled_openai import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI

    openai.AsyncOpenAI = openai.AsyncClient = ThrottledAsyncOpenAI
    openai.AsyncAzureOpenAI = openai.lib.azure.AsyncAzureOpenAI = ThrottledAsyncAzureOpenAI

_outcomes = {}


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_unconfigure(config):
    with Path(os.environ["TOLD"]).open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(item)}\n" for item in _outcomes.items())
