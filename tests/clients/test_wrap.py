"""`wrap(client)`: a throttled client made from an existing one."""

import asyncio
import functools
import gc
import importlib
import logging
from unittest import mock

import httpx
import openai
import pytest

from scripted import CHAT, FAMILIES, HI, URL, http_client, now, say, without_jitter
from throttled_openai import (
    AsyncThrottledMixin,
    Throttle,
    ThrottledAsyncAzureOpenAI,
    ThrottledAsyncOpenAI,
    queue_options,
    wrap,
    wrap_http_client,
)
from throttled_openai.simulator import Simulator, virtual_run


def stock(server, **options):
    return openai.AsyncOpenAI(**{"api_key": "k", "base_url": URL, "http_client": http_client(server), **options})


def server(**options):
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def test_the_client_stays_as_it_is():
    async def main():
        simulator = server(rpm=60, burst=1.0)
        mine = stock(simulator, max_retries=0)
        before = dict(vars(mine))
        throttled = wrap(mine, rpm=60)
        assert dict(vars(mine)) == before
        with pytest.raises(openai.RateLimitError):
            await asyncio.gather(say(mine), say(mine))
        assert type(mine) is openai.AsyncOpenAI
        await asyncio.sleep(60)
        began = now()
        await asyncio.gather(*(say(without_jitter(throttled)) for _ in range(5)))
        assert 4 < now() - began < 7

    virtual_run(main())


def test_configuration_credentials_and_connections_are_the_same():
    async def provider():
        return "fresh"

    mine = openai.AsyncOpenAI(
        api_key=provider,
        organization="org",
        project="project",
        base_url="http://here/v1",
        timeout=7,
        max_retries=9,
        default_headers={"x-mine": "1"},
        default_query={"q": "1"},
    )
    throttled = wrap(mine, rpm=60, max_wait=3)
    assert isinstance(throttled, ThrottledAsyncOpenAI)
    for name in ("_client", "organization", "project", "base_url", "timeout", "max_retries", "_api_key_provider"):
        assert getattr(throttled, name) is getattr(mine, name), name
    headers = throttled.default_headers
    assert headers == {**mine.default_headers, "User-Agent": headers["User-Agent"]}  # the SDK tells the class's name
    assert throttled.default_query == mine.default_query
    assert throttled.with_options(timeout=1).throttle is throttled.throttle


def test_resources_of_the_client_are_not_taken_over():
    async def main():
        mine = stock(server())
        mine.chat.completions  # noqa: B018  # made, and bound to `mine`
        throttled = wrap(mine, rpm=60)
        await say(throttled)
        assert throttled.throttle.stats().admitted == 1
        assert throttled.chat is not mine.chat

    virtual_run(main())


def test_the_connections_outlive_the_client():
    async def main():
        throttled = wrap(stock(server()), rpm=60)
        gc.collect()
        await asyncio.sleep(1)
        await say(throttled)

    virtual_run(main())


def test_connections_of_its_own_are_had_by_asking():
    mine = openai.AsyncOpenAI(api_key="k")
    throttled = wrap(mine, pool="httpx")
    assert throttled._client is not mine._client
    assert throttled.max_retries == mine.max_retries


def test_azures_client_becomes_azures():
    mine = openai.AsyncAzureOpenAI(api_key="k", api_version="1", azure_endpoint="https://a.openai.azure.com")
    throttled = wrap(mine, rpm=60)
    assert type(throttled) is ThrottledAsyncAzureOpenAI
    assert throttled._azure_endpoint == mine._azure_endpoint


class Mine(openai.AsyncOpenAI):
    """A third-party client with its own constructor."""

    def __init__(self, simulator):
        self.simulator = simulator
        super().__init__(api_key="k", base_url=URL, http_client=http_client(simulator))

    async def ask(self, text):
        return await say(self, text)


def test_a_client_of_ones_own_class_stays_one():
    async def main():
        mine = Mine(server())
        throttled = without_jitter(wrap(mine, rpm=60))
        assert isinstance(throttled, Mine)
        assert type(throttled) is type(wrap(mine))
        assert throttled.simulator is mine.simulator
        await asyncio.gather(*(throttled.ask("hi") for _ in range(3)))
        assert now() == pytest.approx(3, abs=0.3)

    virtual_run(main())


def test_the_mixin_makes_a_class_of_ones_own_throttled():
    class ThrottledMine(AsyncThrottledMixin, Mine):
        pass

    async def main():
        client = ThrottledMine(server(), rpm=60, max_wait=100)
        await asyncio.gather(*(without_jitter(client).ask("hi") for _ in range(3)))
        assert now() == pytest.approx(3, abs=0.3)
        assert client._queue_options.max_wait == 100

    virtual_run(main())


def test_a_client_of_the_sdk_that_we_do_not_know_is_throttled_by_the_mixin():
    bedrock = pytest.importorskip("openai.lib.bedrock", exc_type=ImportError)

    class ThrottledBedrock(AsyncThrottledMixin, bedrock.AsyncBedrockOpenAI):
        pass

    async def main():
        client = ThrottledBedrock(base_url=URL, api_key="k", http_client=http_client(server()), rpm=60)
        await asyncio.gather(*(say(without_jitter(client)) for _ in range(3)))
        assert now() == pytest.approx(3, abs=0.3)
        assert isinstance(wrap(bedrock.AsyncBedrockOpenAI(base_url=URL, api_key="k")), bedrock.AsyncBedrockOpenAI)

    virtual_run(main())


def test_budgets_are_shared_by_giving_the_throttle():
    shared = Throttle(rpm=60)
    clients = [wrap(openai.AsyncOpenAI(api_key="k"), throttle=shared) for _ in range(2)]
    assert {id(client.throttle) for client in clients} == {id(shared)}


def test_an_error_about_an_unsupported_client_says_what_to_write():
    with pytest.raises(TypeError, match=r"copy\(rpm=...\)"):
        wrap(ThrottledAsyncOpenAI(api_key="k"))
    with pytest.raises(TypeError, match="wrap_http_client"):
        wrap(httpx.AsyncClient())
    with pytest.raises(TypeError, match="AsyncOpenAI"):
        wrap(openai.AsyncOpenAI)
    with pytest.raises(ValueError, match="rpm"):
        wrap(openai.AsyncOpenAI(api_key="k"), rpm=-1)


def test_manners_hold_for_calls_that_begin_inside():
    async def main():
        client = wrap(stock(server()), rpm=60, priority=1)
        without_jitter(client)
        order = []

        async def ask(name):
            await say(client)
            order.append(name)

        first = asyncio.create_task(ask("first"))
        await asyncio.sleep(0)
        batch = asyncio.create_task(ask("batch"))
        with queue_options(priority=10, max_wait=30):
            urgent = asyncio.create_task(ask("urgent"))
            with queue_options(max_wait=0.5), pytest.raises(openai.APITimeoutError):
                await say(client)  # and is still urgent
        await asyncio.gather(first, batch, urgent)
        assert order == ["first", "urgent", "batch"]

    virtual_run(main())


def test_invalid_queue_options_fail_at_the_with_statement():
    with pytest.raises(TypeError, match="priority"), queue_options(priority="high"):
        pass
    with pytest.raises(ValueError, match="max_wait"), queue_options(max_wait=-1):
        pass


def test_streams_give_their_permit_back():
    async def main():
        client = wrap(stock(server()), rpm=60)
        async with await client.chat.completions.create(model="m", messages=HI, stream=True) as stream:
            assert client.throttle.in_flight == 1
            del stream
        assert client.throttle.in_flight == 0

    virtual_run(main())


# --- what others have put around methods ----------------------------------------------------------

SEEN = []


def traced(method):
    """As tools that trace calls do it."""

    @functools.wraps(method)
    async def wrapper(*args, **kwargs):
        SEEN.append(getattr(method, "__name__", "object"))
        return await method(*args, **kwargs)

    return wrapper


class Traced:
    """The same as an object."""

    def __init__(self, method):
        self.method = method

    def __call__(self, *args, **kwargs):
        SEEN.append("object")
        return self.method(*args, **kwargs)


class Hidden:
    """Does not show what it holds."""

    __slots__ = ("method",)

    def __init__(self, method):
        self.method = method

    def __call__(self, *args, **kwargs):
        SEEN.append("hidden")
        return self.method(*args, **kwargs)


def passed_on(method):
    return functools.partial(traced(lambda how, *args, **kwargs: how(*args, **kwargs)), method)


TRACERS = [traced, Traced, passed_on, lambda method: traced(Traced(traced(method)))]


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("name", ["request", "post", "_send_request"])
@pytest.mark.parametrize("traced_first", [True, False])
def test_a_client_is_throttled_and_traced_in_either_order(name, tracer, traced_first):
    async def main():
        SEEN.clear()
        simulator = server(latency=0.1)
        client = stock(simulator)
        if traced_first:
            setattr(client, name, tracer(getattr(client, name)))
            client = wrap(client, rpm=60)
        else:
            client = wrap(client, rpm=60)
            setattr(client, name, tracer(getattr(client, name)))
        await asyncio.gather(*(say(client) for _ in range(3)))
        assert client.throttle.stats().succeeded == simulator.stats()["succeeded"] == 3
        assert now() > 1
        assert len(SEEN) in {3, 9}

    virtual_run(main())


def test_the_wrapped_client_stays_traced_and_unthrottled():
    async def main():
        SEEN.clear()
        client = stock(server(latency=0.1))
        client.request = wrapper = traced(client.request)
        throttled = wrap(client, rpm=60)
        assert client.request is wrapper is not throttled.request
        await asyncio.gather(*(say(client) for _ in range(3)))
        assert throttled.throttle.stats().admitted == 0
        assert len(SEEN) == 3
        assert now() < 1

    virtual_run(main())


def test_tracing_of_a_resource_is_kept():
    """As `langsmith.wrappers.wrap_openai` does it."""

    async def main():
        SEEN.clear()
        client = stock(server(latency=0.1))
        client.chat.completions.create = traced(client.chat.completions.create)
        throttled = wrap(client, rpm=60)
        assert throttled.chat is not client.chat
        await say(throttled)
        assert (SEEN, throttled.throttle.stats().succeeded) == (["create"], 1)
        await say(client)
        assert (SEEN, throttled.throttle.stats().succeeded) == (["create"] * 2, 1)
        assert "embeddings" not in vars(throttled)

    virtual_run(main())


def test_a_replaced_method_without_a_visible_client_is_reported(caplog):
    client = stock(server())
    client.request = Hidden(client.request)
    with caplog.at_level(logging.WARNING, "throttled_openai"):
        wrap(client)
    assert "AsyncOpenAI.request of this client has been replaced" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tracer", [*TRACERS, Hidden])
@pytest.mark.parametrize("name", ["send", "request", "post"])
@pytest.mark.parametrize("traced_first", [True, False])
def test_a_http_client_is_throttled_and_traced_in_either_order(name, tracer, family, traced_first):
    if tracer is Hidden and name != "send" and traced_first:
        pytest.skip("it hides what it calls")

    async def main():
        SEEN.clear()
        module = importlib.import_module(family)
        mine = module.AsyncClient(transport=module.MockTransport(lambda _: module.Response(200, json=CHAT)))
        if traced_first:
            setattr(mine, name, tracer(getattr(mine, name)))
            view = wrap_http_client(mine, rpm=60)
        else:
            view = wrap_http_client(mine, rpm=60)
            setattr(view, name, tracer(getattr(view, name)))
        body = {"model": "m", "messages": HI}
        await asyncio.gather(*(view.post(f"{URL}/chat/completions", json=body) for _ in range(3)))
        assert view.throttle.stats().succeeded == 3
        assert now() > 1
        traces = len(SEEN)
        assert traces in {3, 9}
        await mine.post(f"{URL}/chat/completions", json=body)
        assert view.throttle.stats().admitted == 3
        assert len(SEEN) == traces * 4 // 3 if traced_first else traces

    virtual_run(main())


def test_tracing_that_is_put_on_a_http_client_later_or_taken_off_is_seen():
    async def main():
        SEEN.clear()
        module = importlib.import_module(FAMILIES[-1])
        mine = module.AsyncClient(transport=module.MockTransport(lambda _: module.Response(200, json=CHAT)))
        view = wrap_http_client(mine)
        mine.send = traced(mine.send)
        await view.post(f"{URL}/chat/completions", json={"model": "m"})
        assert len(SEEN) == 1
        del mine.send
        await view.post(f"{URL}/chat/completions", json={"model": "m"})
        assert len(SEEN) == 1
        assert view.throttle.stats().succeeded == 2

    virtual_run(main())


def test_a_mocked_method_is_copied_and_reported(caplog):
    async def main():
        client = stock(server())
        client.request = mock.AsyncMock(return_value="mocked")
        with caplog.at_level(logging.WARNING, "throttled_openai"):
            throttled = wrap(client)
        assert await throttled.get("/models", cast_to=object) == "mocked"
        assert "has been replaced" in caplog.text

    virtual_run(main())
