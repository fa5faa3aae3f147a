"""The sender: one permit around one exchange, with any HTTP client."""

import asyncio
import gc
import gzip
import importlib
import json
import os
import threading

import openai
import pytest

from scripted import (
    CHAT,
    FAMILIES,
    Says,
    Script,
    families,
    http_client,
    refuses,
    say,
    settled,
    throttled,
    without_jitter,
)
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai._admission.call import Outcome
from throttled_openai._exchange.send import is_replayable, outcome_of_error
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run


def module_of(family):
    return importlib.import_module(family)


def over_tcp(url, mine, **options):
    return without_jitter(ThrottledAsyncOpenAI(api_key="x", base_url=url, http_client=mine, **options))


# What a failure says.


@families
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("ConnectTimeout", Outcome.OVERLOADED),
        ("ReadTimeout", Outcome.OVERLOADED),
        ("WriteTimeout", Outcome.OVERLOADED),
        ("PoolTimeout", Outcome.OVERLOADED),
        ("ConnectError", Outcome.OVERLOADED),
        ("ReadError", Outcome.IGNORED),
        ("RemoteProtocolError", Outcome.IGNORED),
        ("UnsupportedProtocol", Outcome.IGNORED),
    ],
)
def test_timeouts_and_refused_connections_are_overload_and_other_errors_are_not(family, name, outcome):
    assert outcome_of_error(getattr(module_of(family), name)("said")) is outcome


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError(), TimeoutError(), KeyboardInterrupt()])
def test_what_is_not_the_http_clients_error_says_nothing_about_the_server(error):
    assert outcome_of_error(error) is Outcome.IGNORED


@families
@pytest.mark.parametrize(("status", "cut"), [(504, True), (408, True), (520, True), (500, False), (404, False)])
def test_only_overload_lowers_the_concurrency_limit_and_only_while_others_are_answered(family, status, cut):
    async def main(answered):
        script = [Says(200, CHAT, delay=0.1)] * answered + [Says(status, {}, delay=1.0)] * (16 - answered)
        client = throttled(Script(*script), family, max_retries=0)
        await asyncio.gather(*(say(client) for _ in range(16)), return_exceptions=True)
        assert (client.throttle.stats().budgets[0].concurrency_limit < 16) is (cut and answered > 0)
        assert client.throttle.in_flight == 0

    for answered in (0, 8):
        virtual_run(main(answered))


# Bodies.


@families
def test_bodies_in_memory_and_files_that_rewind_can_be_sent_again(family, tmp_path):
    module = module_of(family)
    url = "http://server/"

    async def generated():
        yield b""

    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe, os.fdopen(write_end, "wb"), (tmp_path / "file").open("w+b") as file:
        assert is_replayable(module.Request("POST", url))
        assert is_replayable(module.Request("POST", url, content=b"body"))
        assert is_replayable(module.Request("POST", url, json={"a": 1}))
        assert is_replayable(module.Request("POST", url, files={"file": b"bytes"}))
        assert is_replayable(module.Request("POST", url, files={"file": file}, data={"model": "m"}))
        assert not is_replayable(module.Request("POST", url, files={"file": pipe}))
        assert not is_replayable(module.Request("POST", url, content=generated()))


@families
def test_a_compressed_answer_is_read_and_its_usage_counted(family):
    async def main():
        body = gzip.compress(json.dumps(CHAT).encode())
        client = throttled(Script(Says(body=body, headers={"content-encoding": "gzip"})), family)
        answer = await say(client)
        assert answer.choices[0].message.content == "yes"
        assert client.throttle.stats().budgets[0].tokens_used == 9

    virtual_run(main())


@families
def test_a_compressed_refusal_is_understood(family):
    async def main():
        told = refuses("Rate limit reached. Please try again in 7s.")
        refusal = Says(429, gzip.compress(told.content), headers={"content-encoding": "gzip"})
        script = Script(refusal)
        await say(throttled(script, family))
        assert script.times == [0.0, 7.0]

    virtual_run(main())


# The user's client goes on doing what it does.


@families
def test_event_hooks_see_every_attempt(family):
    async def main():
        seen = []

        async def on_request(request):
            seen.append(request.method)

        async def on_response(response):
            seen.append(response.status_code)

        script = Script(refuses(headers={"retry-after-ms": "10"}), Says(500, {}, {"retry-after-ms": "10"}))
        mine = http_client(script, family, event_hooks={"request": [on_request], "response": [on_response]})
        await say(throttled(script, family, http_client=mine))
        assert seen == ["POST", 429, "POST", 500, "POST", 200]

    virtual_run(main())


@families
def test_a_hook_that_raises_gives_the_permit_back(family):
    async def main():
        async def on_response(response):
            raise module_of(family).ReadError("from the hook", request=response.request)

        script = Script()
        mine = http_client(script, family, event_hooks={"response": [on_response]})
        client = throttled(script, family, http_client=mine, max_retries=0)
        with pytest.raises(openai.APIConnectionError):
            await say(client)
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
def test_a_redirect_is_followed_within_one_permit(family):
    async def main():
        script = Script(Says(307, b"", {"location": "http://server/v2/chat/completions"}))
        client = throttled(script, family, http_client=http_client(script, family, follow_redirects=True))
        assert (await say(client)).choices
        assert [seen.url for seen in script.seen][1] == "http://server/v2/chat/completions"
        assert script.seen[0].body == script.seen[1].body
        assert (client.throttle.stats().admitted, client.throttle.in_flight) == (1, 0)

    virtual_run(main())


@families
def test_the_clients_own_headers_and_cookies_are_sent(family):
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "10"}))
        mine = http_client(script, family, headers={"x-mine": "1"}, cookies={"c": "2"})
        await say(throttled(script, family, http_client=mine))
        assert [(seen.headers["x-mine"], seen.headers["cookie"]) for seen in script.seen] == [("1", "c=2")] * 2

    virtual_run(main())


@families
def test_mounts_of_the_users_client_survive(family):
    """Proxies from the environment are mounts too."""

    async def main():
        near, far = Script(), Script()
        mine = http_client(near, family, mounts={"http://far": far.transport(module_of(family))})
        client = throttled(near, family, http_client=mine)
        await say(client)
        await say(client.copy(base_url="http://far/v1"))
        assert (len(near.seen), len(far.seen)) == (1, 1)
        assert client.throttle.stats().succeeded == 2

    virtual_run(main())


# Connections.


@families
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_gives_its_connection_back_before_it_waits(family, stream):
    async def main():
        simulator = Simulator(latency=0.0, faults=[Fault(status=429, retry_after=0.05, last=2)])
        async with serve(simulator) as url, module_of(family).AsyncClient() as mine:
            client = over_tcp(url, mine, max_retries=0, max_concurrency=1)
            answer = await say(client, stream=stream)
            if stream:
                assert len([chunk async for chunk in answer]) == 18
            assert simulator.attempts == 4
            assert simulator.counters.connections_made == 1
            assert client.throttle.in_flight == 0

    asyncio.run(main())


@families
def test_two_hundred_calls_over_sockets_need_no_more_connections_than_are_in_flight(family):
    async def main():
        simulator = Simulator(latency=0.01)
        async with serve(simulator) as url, module_of(family).AsyncClient() as mine:
            client = over_tcp(url, mine, max_concurrency=8)
            await asyncio.gather(*(say(client) for _ in range(200)))
            assert simulator.succeeded == 200
            assert simulator.peak_in_flight <= 8
            # httpx 0.28 opens a few more while it hands one connection to several callers.
            assert simulator.counters.connections_made <= 2 * 8

    asyncio.run(main())


@families
def test_the_pool_is_never_the_queue(family):
    """Waiting calls have no connection and no timeout that runs."""

    async def main():
        simulator = Simulator(latency=0.02, latency_sigma=0.0)
        module = module_of(family)
        limits, timeout = module.Limits(max_connections=2), module.Timeout(5.0, pool=0.01)
        async with serve(simulator) as url, module.AsyncClient(limits=limits, timeout=timeout) as mine:
            client = over_tcp(url, mine, max_concurrency=2, max_retries=0, timeout=timeout)
            await asyncio.gather(*(say(client) for _ in range(50)))
            assert simulator.succeeded == 50

    asyncio.run(main())


# Dropped streams.


@families
def test_a_stream_dropped_in_another_thread_is_closed_on_its_own_loop(family):
    async def main():
        simulator = Simulator(latency=1.0, latency_sigma=0.0)
        async with serve(simulator) as url, module_of(family).AsyncClient() as mine:
            client = over_tcp(url, mine)
            held = [await say(client, stream=True)]
            assert client.throttle.in_flight == 1

            def drop():
                held.clear()
                gc.collect()

            thread = threading.Thread(target=drop)
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0.01)
            thread.join()
            async with asyncio.timeout(5.0):
                while client.throttle.in_flight or simulator.open_streams:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


@families
def test_a_stream_dropped_after_its_loop_is_closed_says_nothing(family):
    async def main():
        return await say(client, stream=True)

    client = throttled(Simulator(), family)
    stream = virtual_run(main())
    assert client.throttle.in_flight == 1
    del stream
    gc.collect()

    async def go_on():
        assert (await say(client)).choices
        await settled()
        assert client.throttle.in_flight == 0

    virtual_run(go_on())


@families
def test_both_families_can_be_loaded_at_once(family):
    async def main():
        others = [throttled(Simulator(latency=0.0), other) for other in FAMILIES]
        client = throttled(Simulator(latency=0.0), family)
        for one in (*others, client):
            assert len([chunk async for chunk in await say(one, stream=True)]) == 18
            assert one.throttle.in_flight == 0

    virtual_run(main())
