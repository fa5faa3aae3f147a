"""`wrap_http_client`: the same admission for libraries that take an `httpx` or `httpx2` client."""

import asyncio
import gc
import gzip
import importlib
import json
import random

import openai
import pytest

from scripted import CHAT, FAMILIES, HI, URL, Says, Script, families, http_client, now, say, settled, without_jitter
from servers import Server, real, says
from throttled_openai import (
    AdmissionTimeout,
    Limits,
    PooledAsyncHttpxClient,
    QueueFull,
    Throttle,
    ThrottledAsyncOpenAI,
    queue_options,
    wrap_http_client,
)
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run

BODY = {"model": "gpt-4o", "messages": HI}


def server(**options):
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def view_of(server, family=FAMILIES[-1], **options):
    return without_jitter(wrap_http_client(http_client(server, family), **options))


def post(client, **more):
    return client.post(f"{URL}/chat/completions", json=BODY, **more)


def stock(client, **options):
    return openai.AsyncOpenAI(**{"api_key": "k", "base_url": URL, "http_client": client, **options})


# --- what it is -----------------------------------------------------------------------------------


@families
def test_it_is_the_same_client_and_leaves_that_as_it_is(family):
    mine = http_client(Script(), family, headers={"x-mine": "1"})
    before = type(mine), dict(vars(mine))
    view = wrap_http_client(mine, rpm=60)
    assert isinstance(view, type(mine))
    assert view.headers is mine.headers
    assert vars(view) is vars(mine)
    assert (type(mine), dict(vars(mine))) == before
    assert view.throttle.stats().budgets == ()
    view.timeout = 7
    assert mine.timeout.read == 7


@families
def test_closing_one_closes_both_and_dropping_one_closes_none(family):
    async def main():
        module = importlib.import_module(family)

        class Closing(module.AsyncClient):
            def __del__(self):
                closed.append(self)

        closed = []
        mine = Closing(transport=module.MockTransport(lambda _: module.Response(200)))
        view = wrap_http_client(mine)
        del view
        gc.collect()
        assert closed == []
        view = wrap_http_client(mine)
        async with view:
            assert not mine.is_closed
        assert mine.is_closed

    virtual_run(main())


def test_the_client_below_lives_as_long_as_the_view():
    async def main():
        view = wrap_http_client(openai.DefaultAsyncHttpxClient(transport=None))
        gc.collect()
        assert not view.is_closed
        await view.aclose()

    virtual_run(main())


def test_wrap_http_client_rejects_other_clients_and_invalid_limits():
    httpx = importlib.import_module(FAMILIES[-1])
    mine = httpx.AsyncClient()
    with pytest.raises(TypeError, match="AsyncClient"):
        wrap_http_client(httpx.Client())
    with pytest.raises(TypeError, match=r"wrap\(\)"):
        wrap_http_client(openai.AsyncOpenAI(api_key="k"))
    with pytest.raises(TypeError, match="throttled already"):
        wrap_http_client(wrap_http_client(mine))
    with pytest.raises(TypeError, match="no option rpn"):
        wrap_http_client(mine, rpn=3)
    with pytest.raises(ValueError, match="pool"):
        wrap_http_client(mine, pool="sdk")
    with pytest.raises(ValueError, match="rpm"):
        wrap_http_client(mine, rpm=0)


# --- admission ------------------------------------------------------------------------------------


@families
def test_requests_that_run_a_model_wait_their_turn_and_others_do_not(family):
    async def main():
        simulator = server()
        view = view_of(simulator, family, rpm=60)
        answers = asyncio.gather(*(post(view) for _ in range(4)))
        await settled()
        assert (await view.get(f"{URL}/models")).status_code == 200
        assert now() <= 1.0
        assert [answer.status_code for answer in await answers] == [200] * 4
        assert 3 < now() < 5
        assert (view.throttle.in_flight, view.throttle.waiting, view.throttle.stats().admitted) == (0, 0, 4)

    virtual_run(main())


@families
def test_refusals_are_waited_out(family):
    async def main():
        simulator = server(rpm=60, burst=1.0, announce=False)
        view = view_of(simulator, family)
        answers = await asyncio.gather(*(post(view) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert view.throttle.stats().admitted == simulator.stats()["attempts"]

    virtual_run(main())


def test_a_stock_client_of_the_sdk_above_it_is_throttled():
    async def main():
        simulator = server()
        view = view_of(simulator, rpm=60)
        client = stock(view)
        await asyncio.gather(*(say(client) for _ in range(3)), say(client.with_options(timeout=3)))
        assert 3 < now() < 5
        await client.embeddings.create(model="other", input=["one"])
        assert {budget.name for budget in view.throttle.stats().budgets} == {"gpt-4o", "other"}
        assert client._client is view

    virtual_run(main())


def test_a_throttled_client_above_it_is_admitted_once():
    async def main():
        simulator = server()
        view = view_of(simulator, rpm=60)
        client = without_jitter(ThrottledAsyncOpenAI(api_key="k", base_url=URL, http_client=view, rpm=120))
        await asyncio.gather(*(say(client) for _ in range(4)))
        assert now() < 3.5
        assert client.throttle.stats().admitted == 4
        assert view.throttle.stats().admitted == 0

    virtual_run(main())


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (
            "https://a.openai.azure.com/openai/deployments/mine/chat/completions?api-version=1",
            "a.openai.azure.com/mine",
        ),
        ("https://a.openai.azure.com/openai/v1/chat/completions", "a.openai.azure.com/gpt-4o"),
        ("http://gateway/some/prefix/v1/chat/completions", "gpt-4o"),
        ("http://gateway/v1/other/thing", "gpt-4o"),
    ],
)
def test_models_are_read_from_body_and_address(url, model):
    async def main():
        view = view_of(Script())
        await view.post(url, json=BODY)
        assert [budget.name for budget in view.throttle.stats().budgets] == [model]

    virtual_run(main())


def test_what_cannot_be_read_counts_by_its_address():
    async def body():
        yield b"{}"

    async def main():
        view = view_of(Script())
        await view.post(f"{URL}/chat/completions", content=body())
        await view.post(f"{URL}/audio/transcriptions", files={"file": b"sound"}, data={"model": "whisper-1"})
        await view.post(f"{URL}/files", files={"file": b"text"})
        names = [budget.name for budget in view.throttle.stats().budgets]
        assert names == ["chat/completions", "audio/transcriptions"]

    virtual_run(main())


def test_manners_of_the_view_and_of_the_context_hold():
    async def main():
        view = view_of(server(), max_wait=0.5, max_queued=1, limits=Limits(rpm=1, burst=1))
        first, late, full = await asyncio.gather(post(view), post(view), post(view), return_exceptions=True)
        assert first.status_code == 200
        assert isinstance(late, AdmissionTimeout)
        assert isinstance(full, QueueFull)
        assert (late.request.method, str(late.request.url)) == ("POST", f"{URL}/chat/completions")
        with queue_options(max_wait=0.1), pytest.raises(AdmissionTimeout, match=r"max_wait=0\.1"):
            await post(view)

    virtual_run(main())


def test_what_admission_raises_comes_through_a_stock_client_of_the_sdk_untouched():
    async def main():
        view = view_of(server(), limits=Limits(rpm=1, burst=1), max_wait=0.5)
        client = stock(view, max_retries=2)
        await say(client)
        with pytest.raises(openai.APITimeoutError) as late:
            await say(client)
        assert isinstance(late.value, AdmissionTimeout)
        assert view.throttle.stats().admitted == 1

    virtual_run(main())


def test_a_throttle_is_shared_by_clients_of_both_kinds():
    async def main():
        shared = Throttle(rpm=60)
        simulator = server()
        view = view_of(simulator, throttle=shared)
        client = ThrottledAsyncOpenAI(api_key="k", base_url=URL, http_client=http_client(simulator), throttle=shared)
        await asyncio.gather(post(view), post(view), say(client), say(client))
        assert 3 < now() < 5
        assert shared.stats().admitted == 4

    virtual_run(main())


# --- streams and usage ----------------------------------------------------------------------------


@families
def test_an_answer_nested_too_deeply_reaches_the_caller(family):
    async def main():
        deep = b'{"usage": ' + b"[" * 100_000
        view = view_of(Script(Says(200, deep), Says(200, b"data: " + deep + b"\n\n")), family)
        assert (await post(view)).content == deep
        async with view.stream("POST", f"{URL}/chat/completions", json={**BODY, "stream": True}) as response:
            assert (await response.aread()).strip().endswith(b"[[")
        assert view.throttle.stats().budgets[0].succeeded == 2

    virtual_run(main())


@families
def test_usage_is_read_from_bodies_and_streams(family):
    async def main():
        simulator = server()
        view = view_of(simulator, family)
        usage = (await post(view)).json()["usage"]["total_tokens"]
        assert view.throttle.stats().budgets[0].tokens_used == usage
        body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        for read in ("aiter_bytes", "aiter_lines", "aiter_text"):
            async with view.stream("POST", f"{URL}/chat/completions", json=body) as response:
                assert view.throttle.in_flight == 1
                assert [part async for part in getattr(response, read)()]
            assert view.throttle.in_flight == 0
        async with view.stream("POST", f"{URL}/chat/completions", json=body) as response:
            await response.aread()
        assert view.throttle.stats().budgets[0].tokens_used == 5 * usage

    virtual_run(main())


def test_usage_of_a_stream_is_read_below_a_stock_client_of_the_sdk():
    async def main():
        view = view_of(server())
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await stock(view).chat.completions.create(model="m", messages=HI, **options)
        assert [chunk async for chunk in stream][-1].usage.total_tokens == view.throttle.stats().budgets[0].tokens_used

    virtual_run(main())


@families
def test_a_stream_that_is_read_raw_or_left_gives_its_permit_back(family):
    async def main():
        view = view_of(server(), family)
        body = {**BODY, "stream": True}
        async with view.stream("POST", f"{URL}/chat/completions", json=body) as response:
            assert b"".join([part async for part in response.aiter_raw()]).startswith(b"data:")
        assert view.throttle.in_flight == 0
        async with view.stream("POST", f"{URL}/chat/completions", json=body) as response:
            async for _ in response.aiter_bytes():
                break
        assert view.throttle.in_flight == 0

    virtual_run(main())


@families
@real
async def test_usage_is_read_from_what_was_compressed(family):
    compressed = gzip.compress(json.dumps(CHAT).encode())

    async def answer(_):
        return says(compressed, content_encoding="gzip", content_type="application/json")

    module = importlib.import_module(family)
    async with Server(answer) as local:
        for asked in ("post", "stream"):
            view = wrap_http_client(module.AsyncClient())
            async with view:
                if asked == "post":
                    assert (await view.post(f"{local.url}/v1/chat/completions", json=BODY)).json() == CHAT
                else:
                    async with view.stream("POST", f"{local.url}/v1/chat/completions", json=BODY) as response:
                        assert json.loads(await response.aread()) == CHAT
            usage = CHAT["usage"]["total_tokens"]
            assert view.throttle.stats().budgets[0].tokens_used == usage


# --- real clients ---------------------------------------------------------------------------------


@families
@real
async def test_hooks_and_cookies_are_the_clients(family):
    seen = []

    async def hook(request):
        seen.append(request.url.path)

    module = importlib.import_module(family)
    async with serve(Simulator(latency=0.01)) as url, module.AsyncClient(event_hooks={"request": [hook]}) as mine:
        view = wrap_http_client(mine)
        mine.cookies.set("a", "1")
        assert (await view.post(f"{url}/chat/completions", json=BODY)).status_code == 200
        assert seen == ["/v1/chat/completions"]
        assert view.cookies is mine.cookies


@real
async def test_the_sdks_aiohttp_client_and_our_pool_can_be_throttled():
    async with serve(Simulator(latency=0.01)) as url:
        for mine in (openai.DefaultAioHttpClient(), PooledAsyncHttpxClient()):
            async with wrap_http_client(mine) as view:
                assert (await say(stock(view, base_url=url))).choices
                assert view.throttle.stats().succeeded == 1


# --- everything at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@families
def test_no_permit_is_lost_whatever_happens(family, seed):
    dice = random.Random(seed)

    async def main():
        faults = [Fault(status=status, share=0.05) for status in (400, 429, 500, 503)]
        faults += [Fault(name, share=0.05) for name in ("disconnect", "hang", "stream_cut", "stream_error")]
        simulator = server(rpm=600, burst=2.0, faults=faults, seed=seed)
        view = view_of(simulator, family, max_wait=20)
        client = stock(view, max_retries=1, timeout=3)

        async def one():
            stream = dice.random() < 0.5
            answer = await client.chat.completions.create(model="m", messages=HI, stream=stream)
            if stream:
                async for _ in answer:
                    if dice.random() < 0.2:
                        await answer.close()
                        break

        tasks = [asyncio.create_task(one()) for _ in range(60)]
        for task in dice.sample(tasks, 20):
            asyncio.get_running_loop().call_later(dice.uniform(0, 8), task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        gc.collect()
        await settled()
        assert (view.throttle.in_flight, view.throttle.waiting) == (0, 0), f"seed {seed}"
        assert view.throttle.stats().admitted >= simulator.stats()["attempts"]

    virtual_run(main())


@families
def test_a_request_that_is_sent_a_second_time_is_admitted_again(family):
    async def main():
        simulator = server(rpm=60)
        client = view_of(simulator, family)
        request = client.build_request("POST", f"{URL}/chat/completions", json=BODY)
        for _ in range(3):
            await client.send(request)
        assert client.throttle.stats().admitted == simulator.stats()["attempts"] == 3

    virtual_run(main())
