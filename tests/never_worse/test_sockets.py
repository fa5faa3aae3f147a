"""The promise where bytes matter: connections that end at every stage, on real sockets."""

import asyncio
import json
import sys
from unittest import mock

import openai
import pytest
from openai import AsyncOpenAI

from servers import Server, real, says
from throttled_openai import ThrottledAsyncOpenAI

from .calls import KEY, failed, request_of
from .server import good

SLACK = 3.0


def well(asked):
    number = json.loads(asked.body)["messages"][0]["content"].rpartition(" ")[2]
    return says(good(int(number)))


def ends_after(share):
    """The response breaks off after this share of its bytes, and the connection with it."""

    async def answer(asked):
        reply = well(asked)
        asked.writer.write(reply[: int(len(reply) * share)])
        await asked.writer.drain()

    return answer


async def closes(asked):
    return None


async def aborts(asked):
    asked.writer.transport.abort()


async def garbage(asked):
    return b"SSH-2.0-OpenSSH_9.6\r\n\r\n"


async def healthy(asked):
    return well(asked)


async def closes_politely(asked):
    reply = well(asked).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    asked.writer.write(reply)
    await asked.writer.drain()


FAULTS = {
    "closes without a word": closes,
    "aborts": aborts,
    "breaks off in the headers": ends_after(0.1),
    "breaks off in the body": ends_after(0.8),
    "speaks another protocol": garbage,
    "closes after each answer": closes_politely,
}
TIMINGS = {
    "a fresh connection, once": lambda asked, number: number == 1,
    "a reused connection, once": lambda asked, number: number == 2,
    "always": lambda asked, number: True,
    "every third": lambda asked, number: number % 3 == 0,
}


async def calls(cls, fault, due, retries, count, *, at_once):
    """How `count` calls ended, the seconds they took, and how often each was read by the server."""

    async def answer(asked):
        return await (fault if due(asked, len(server.asked)) else healthy)(asked)

    async def one(client, number):
        try:
            answered = await client.chat.completions.create(**request_of(number))
        except Exception as error:  # noqa: BLE001  # stock has to raise it too
            return str(failed(error))
        return answered.choices[0].message.content

    loop = asyncio.get_running_loop()
    quick = mock.patch("openai._base_client.INITIAL_RETRY_DELAY", 0.02)  # time is real here
    async with Server(answer) as server, cls(api_key=KEY, base_url=server.url, max_retries=retries) as client:
        began = loop.time()
        with quick:
            if at_once:
                endings = await asyncio.gather(*(one(client, number) for number in range(count)))
            else:
                endings = [await one(client, number) for number in range(count)]
        took = loop.time() - began
    return endings, took, len(server.asked)


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("fault", FAULTS)
@real
async def test_a_broken_connection_costs_no_more_than_with_stock(fault, timing, retries):
    given = FAULTS[fault], TIMINGS[timing], retries, 4
    stock, took, read = await calls(AsyncOpenAI, *given, at_once=False)
    ours, ours_took, ours_read = await calls(ThrottledAsyncOpenAI, *given, at_once=False)

    assert ours == stock
    assert ours_read == read
    assert ours_took <= took + SLACK


@pytest.mark.parametrize("fault", FAULTS)
@real
async def test_gathered_calls_lose_no_more_than_with_stock(fault):
    given = FAULTS[fault], TIMINGS["every third"], 2, 20
    stock, took, _ = await calls(AsyncOpenAI, *given, at_once=True)
    ours, ours_took, _ = await calls(ThrottledAsyncOpenAI, *given, at_once=True)

    assert {ending for ending in ours if not ending.startswith("yes")} <= {
        ending for ending in stock if not ending.startswith("yes")
    } | {"APIConnectionError"}
    assert sum(ending.startswith("yes") for ending in ours) >= sum(ending.startswith("yes") for ending in stock) - 1
    assert all(ending == f"yes {number}" for number, ending in enumerate(ours) if ending.startswith("yes"))
    assert ours_took <= took + SLACK


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@real
async def test_eager_tasks_change_nothing():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    endings, _, _ = await calls(ThrottledAsyncOpenAI, healthy, TIMINGS["always"], 0, 5, at_once=True)

    assert endings == [f"yes {number}" for number in range(5)]


@real
async def test_a_closed_port_raises_the_sdks_error():
    async with Server() as server:
        url = server.url
    async with ThrottledAsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**request_of(0))
