"""Everyday programs give the same with our clients as with the SDK's own, on the same server."""

import asyncio
from dataclasses import dataclass

import openai
import pytest

import throttled_openai
from snippets import SNIPPETS
from throttled_openai.simulator import spawn


@dataclass
class Made:
    """The clients of a snippet: of the SDK, or ours."""

    url: str
    ours: bool

    def client(self):
        made = throttled_openai.ThrottledAsyncOpenAI if self.ours else openai.AsyncOpenAI
        return made(base_url=self.url, api_key="any")

    def blocking(self):
        made = throttled_openai.ThrottledOpenAI if self.ours else openai.OpenAI
        return made(base_url=self.url, api_key="any")

    def azure(self):
        made = throttled_openai.ThrottledAsyncAzureOpenAI if self.ours else openai.AsyncAzureOpenAI
        endpoint = self.url.removesuffix("/v1")
        return made(azure_endpoint=endpoint, api_key="any", api_version="2025-01-01-preview")


@pytest.fixture(scope="module")
def url():
    with spawn(rpm=60_000, latency=0.02) as url:
        yield url


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_gives_the_same(name, url):
    stock = asyncio.run(SNIPPETS[name](Made(url, ours=False)))
    assert stock
    assert asyncio.run(SNIPPETS[name](Made(url, ours=True))) == stock


def test_there_are_twenty_eight():
    assert len(SNIPPETS) >= 28
