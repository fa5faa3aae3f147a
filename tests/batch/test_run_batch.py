"""Results of requests from Python, as they come."""

import asyncio
import importlib

import openai
import pytest

from batches import request, steady
from scripted import FAMILIES, URL, Says, Script, http_client, refuses, throttled
from support import virtual
from throttled_openai import BatchStoppedError, run_batch
from throttled_openai.simulator import Fault


def requests(count, **body):
    return (request(number, **body) for number in range(1, count + 1))


async def collected(results):
    return [each async for each in results]


@virtual
async def test_each_request_gets_its_result():
    async with throttled(steady(), rpm=6000) as client:
        found = await collected(run_batch(client, requests(100)))
    assert sorted(each.line for each in found) == list(range(1, 101))
    assert {each.custom_id for each in found} == {f"request-{number}" for number in range(1, 101)}
    assert all(each.ok and each.body["choices"] and each.request_id for each in found)


@virtual
async def test_bodies_alone_and_an_endless_asynchronous_source():
    async def endless():
        while True:
            yield {"model": "gpt-4o", "messages": []}
            await asyncio.sleep(0.1)

    async with throttled(steady()) as client:
        found = []
        async for each in run_batch(client, endless()):
            found.append(each.custom_id)
            if len(found) == 20:
                break
    assert sorted(found) == sorted(f"line-{number}" for number in range(1, 21))


@virtual
async def test_results_in_the_order_of_the_requests():
    server = Script(*(Says(delay=10 - number % 10) for number in range(50)))
    async with throttled(server) as client:
        found = await collected(run_batch(client, requests(50), order="input"))
    assert [each.line for each in found] == list(range(1, 51))


@virtual
async def test_no_more_is_taken_than_results_are():
    taken = []

    def source():
        for each in requests(100_000):
            taken.append(1)
            yield each

    async with throttled(steady(latency=0.01)) as client:
        results = run_batch(client, source())
        await anext(results)
        await asyncio.sleep(60)
        assert len(taken) < 5_000
        await results.aclose()


@virtual
async def test_a_failure_is_a_result():
    server = Script(Says(400, {"error": {"message": "no", "code": "invalid"}}), Says(200, b"<html>"), Says())
    async with throttled(server) as client:
        source = [request(1), {"custom_id": "bad", "body": 3}, request(2), {"model": object()}, request(3)]
        found = {each.line: each for each in await collected(run_batch(client, source))}
    assert [found[line].ok for line in (1, 2, 3, 4, 5)] == [False, False, False, False, True]
    assert (found[1].status_code, found[1].error) == (400, None)
    assert found[1].body["error"]["code"] == "invalid"
    assert found[2].error["code"] == "invalid_url"
    assert found[3].error["code"] == "invalid_answer"
    assert found[4].error["code"] == "invalid_json"


@virtual
async def test_a_refused_request_is_sent_again():
    server = Script(refuses("Rate limit reached. Please try again in 1s."), Says())
    async with throttled(server) as client:
        found = await collected(run_batch(client, [request(1)]))
    assert found[0].ok
    assert len(server.seen) == 2


@virtual
async def test_an_error_in_an_answer_of_status_200_is_a_failure():
    server = Script(Says(200, {"error": {"code": 502, "message": "provider"}, "choices": []}))
    async with throttled(server) as client:
        found = await collected(run_batch(client, [request(1)]))
    assert found[0].error == {"code": "502", "message": "the answer is an error"}


@virtual
async def test_a_bill_that_is_unpaid_stops_at_once():
    server = steady()
    server.faults = [Fault("status", status=429, code="insufficient_quota")]
    async with throttled(server) as client:
        with pytest.raises(
            BatchStoppedError, match=r"account has to be paid for first \(insufficient_quota\)"
        ) as error:
            await collected(run_batch(client, requests(10_000)))
    assert isinstance(error.value, openai.OpenAIError)
    assert asyncio.get_running_loop().time() < 1


@virtual
async def test_a_wrong_key_stops_after_ten_and_keeps_nothing_of_them():
    server = Script(*(Says(401, {"error": {"message": "no"}}) for _ in range(2000)))
    async with throttled(server) as client:
        with pytest.raises(BatchStoppedError, match="does not accept the API key"):
            assert await collected(run_batch(client, requests(10_000))) == []


@virtual
async def test_a_server_that_is_gone_stops_the_run():
    family = importlib.import_module(FAMILIES[-1])

    class Gone(family.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise family.ConnectError("refused", request=request)

    async with throttled(steady(), http_client=family.AsyncClient(transport=Gone()), max_retries=0) as client:
        with pytest.raises(BatchStoppedError, match="the server cannot be reached: 10 requests in a row failed"):
            await collected(run_batch(client, requests(1000)))


@virtual
async def test_with_keep_going_every_failure_is_a_result():
    server = Script(*(Says(401, {"error": {"message": "no"}}) for _ in range(200)))
    async with throttled(server) as client:
        found = await collected(run_batch(client, requests(200), keep_going=True))
    assert {each.status_code for each in found} == {401}
    assert len(found) == 200


@virtual
async def test_a_few_such_failures_among_others_are_their_requests():
    server = Script(*(Says(401 if number % 3 == 0 else 200, delay=number / 10) for number in range(60)))
    async with throttled(server) as client:
        found = await collected(run_batch(client, requests(60)))
    assert len(found) == 60
    assert sum(not each.ok for each in found) == 20


@virtual
async def test_one_odd_request_after_another_does_not_stop_a_run():
    server = Script(*(Says(500, {"error": "poison"}) for _ in range(300)), Says())
    async with throttled(server, max_retries=0) as client:
        found = await collected(run_batch(client, requests(301)))
    assert len(found) == 301


@virtual
async def test_several_models_each_go_at_their_own_limit():
    server = steady()
    source = [request(number, "gpt-4o") for number in range(300)]
    source += [request(number + 300, "gpt-4o-mini") for number in range(300)]
    async with throttled(server, rpm=60) as client:
        await collected(run_batch(client, source))
    # Five minutes for each: one after the other would take ten.
    assert asyncio.get_running_loop().time() < 330


@virtual
async def test_leaving_the_loop_gives_everything_back():
    async with throttled(steady(latency=100), rpm=60_000) as client:
        results = run_batch(client, requests(1000))
        reading = asyncio.ensure_future(anext(results))
        await asyncio.sleep(5)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await results.aclose()
        assert client.throttle.in_flight == client.throttle.waiting == 0


@virtual
async def test_a_client_that_is_closed_ends_the_run():
    client = throttled(steady(), rpm=1)
    results = run_batch(client, requests(1000))
    await anext(results)
    await client.close()
    with pytest.raises(BatchStoppedError, match="the client was closed"):
        await collected(results)


@virtual
async def test_a_client_that_is_not_throttled_is_throttled_here():
    client = openai.AsyncOpenAI(api_key="k", base_url=URL, http_client=http_client(steady(), FAMILIES[-1]))
    found = await collected(run_batch(client, requests(3)))
    assert [each.ok for each in found] == [True] * 3
