"""What the tests of the simulator share: clients in front of it, requests, and the parts of its replies."""

import asyncio
import importlib
import json
import time
from importlib.util import find_spec

from openai import AsyncOpenAI

from throttled_openai.simulator import Simulator
from throttled_openai.simulator._requests.metered import parse

FAMILIES = ["httpx", *(["httpx2"] if find_spec("httpx2") else [])]
HI = [{"role": "user", "content": "hi"}]


def http_client(simulator, family=FAMILIES[-1], **options):
    transport = simulator.transport() if family == "httpx" else simulator.transport2()
    options = {"base_url": "http://simulator/v1", **options}
    return importlib.import_module(family).AsyncClient(transport=transport, **options)


def sdk(simulator, **options):
    return AsyncOpenAI(
        api_key="x",
        base_url="http://simulator/v1",
        http_client=http_client(simulator),
        max_retries=0,
        **options,
    )


def steady(**options):
    """Every answer takes exactly one second, and every message on the network as long as every other."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, "network_sigma": 0.0, **options})


def chat(tokens=10, model="gpt-4o", **more):
    """A chat body that costs `tokens`: one message and 2 go on top of a quarter of its bytes."""
    return {"model": model, "messages": [{"role": "user", "content": "a" * 4 * (tokens - 3)}], **more}


def post(simulator, body=None, *, now=0.0, endpoint="chat/completions", headers=None):
    """Send without a carrier, and end the answer at once."""
    reply = simulator.receive("POST", f"/v1/{endpoint}", headers or {}, json.dumps(body or chat()).encode(), now)
    simulator.finish(reply, delivered=True)
    return reply


def message_of(reply):
    return json.loads(reply.pieces[0])["error"]["message"]


def headers_of(reply):
    return {name: value for name, value in reply.headers if name.startswith(("x-ratelimit", "retry-after"))}


def cost(endpoint, **body):
    return parse(endpoint, json.dumps({"model": "m", **body}, ensure_ascii=False).encode()).cost


async def until(condition, *, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def statuses(simulator, count, *, now=0.0, **more):
    return [post(simulator, now=now, **more).status for _ in range(count)]


def error_of(reply):
    return json.loads(reply.pieces[0])["error"]


def clock():
    return asyncio.get_running_loop().time()


def seen(simulator):
    """The counters that have to add up."""
    all_ = simulator.counters
    assert all_.attempts == all_.succeeded + all_.refused + all_.failed + all_.abandoned + all_.in_flight
    return all_
