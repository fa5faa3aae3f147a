"""Unknown SDK versions: one warning, and everything that still works is used."""

import subprocess
import sys
import textwrap
import warnings

import openai
import pytest

from throttled_openai._clients import sdk as _sdk

MOVED = """
    import asyncio, warnings
    import openai
    from openai._base_client import AsyncAPIClient, SyncAPIClient

    # As if a release had another name for this hook.
    for cls in (AsyncAPIClient, SyncAPIClient):
        cls._send_otherwise = cls._send_request
        del cls._send_request
        code = cls.request.__code__
        names = tuple("_send_otherwise" if name == "_send_request" else name for name in code.co_names)
        cls.request.__code__ = code.replace(co_names=names)
    for cls in (openai.AsyncOpenAI, openai.OpenAI):
        if "_send_request" in vars(cls):
            del cls._send_request

    import throttled_openai
    from throttled_openai.simulator import Simulator, virtual_run

    async def main():
        simulator = Simulator(rpm=60, burst=1.0, latency=1.0, latency_sigma=0.0)
        bases = [base.__module__ for base in openai.DefaultAsyncHttpxClient.__mro__]
        family = "httpx2" if "httpx2" in bases else "httpx"
        module = __import__(family)
        transport = simulator.transport() if family == "httpx" else simulator.transport2()
        client = throttled_openai.ThrottledAsyncOpenAI(
            api_key="k", base_url="http://server/v1", http_client=module.AsyncClient(transport=transport), rpm=60)
        for each in (client, client.copy(rpm=30)):
            hi = [{"role": "user", "content": "hi"}]
            await asyncio.gather(*(each.chat.completions.create(model="m", messages=hi) for _ in range(4)))
            stats = each.throttle.stats()
            print(stats.succeeded, stats.in_flight, stats.waiting, [w.limit for w in stats.budgets[0].windows])
        stock = openai.AsyncOpenAI(
            api_key="k", base_url="http://server/v1", http_client=module.AsyncClient(transport=transport))
        wrapped = throttled_openai.wrap(stock, rpm=60)
        await wrapped.chat.completions.create(model="m", messages=hi)
        print(wrapped.throttle.stats().succeeded)
        try:
            throttled_openai.ThrottledOpenAI(api_key="k")
        except RuntimeError as error:
            print(error)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        virtual_run(main())
    print([str(warning.message) for warning in caught])
"""


def test_where_a_hook_has_moved_calls_are_throttled_in_the_http_client_and_one_warning_says_so():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MOVED)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, wrapped, sync, caught = done.stdout.splitlines()
    assert first.startswith("4 0 0 [60")
    assert second.startswith("4 0 0 [30")
    assert wrapped == "1"
    assert "no hooks for synchronous clients" in sync
    assert caught.count("has no _send_request") == 1
    assert "throttled in the HTTP client instead" in caught


@pytest.mark.parametrize("version", ["2.46.9", "4.0.0", "5.1"])
def test_an_sdk_outside_the_range_warns_once_and_works(monkeypatch, version):
    monkeypatch.setattr(openai, "__version__", version)
    _sdk.hooked.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=rf"openai {version} is not one of those .* everything should work"):
            assert _sdk.hooked()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert _sdk.hooked()
    finally:
        _sdk.hooked.cache_clear()


def test_the_sdk_that_is_installed_is_one_we_know():
    _sdk.hooked.cache_clear()
    assert _sdk.hooked()
    assert _sdk.missing_hooks() == []
