"""The promise in threads and on several event loops, in real time."""

import asyncio
import gc
import subprocess
import sys
import threading
import time

import pytest

from scripted import URL
from throttled_openai import Throttle, ThrottledAsyncOpenAI, ThrottledOpenAI

from . import threads
from .calls import KEY, http_client
from .cells import Cell
from .promise import breaches
from .script import Scripted, answered, call, ends, gather, says

CELLS = [
    Cell(),
    Cell(header="after 500 ms"),
    Cell(timing="third", header="after 500 ms"),
    Cell(header="retry false", timing="always"),
    Cell(body="quota"),
    Cell(body="quota", timing="always"),
    Cell(body="deep", kind="402"),
    Cell(body="deep", kind="503"),
    Cell(body="html", kind="503", header="after 3600"),
    Cell(header="after 86400"),
    Cell(kind="500", timing="first of each"),
    Cell(kind="500", timing="always"),
    Cell(kind="400", timing="always"),
    Cell(kind="200", body="deep", timing="first of each"),
    Cell(kind="connect", timing="always"),
    Cell(kind="disconnect", timing="first of each"),
    Cell(kind="hang", timing="always"),
]


@pytest.mark.parametrize("seam", threads.SEAMS)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_ours_is_never_worse_than_stock_in_threads(cell, seam):
    stock = threads.run(cell, ours=False)
    ours = threads.run(cell, ours=True, seam=seam)

    found = breaches(cell, stock, ours)
    told = "\n".join(map(str, found))
    assert not found, f"{told}\nstock: {stock}\nours:  {ours}"


def on_a_loop_of_its_own(coroutine, results):
    thread = threading.Thread(target=lambda: results.append(asyncio.run(coroutine)), daemon=True)
    thread.start()
    return thread


def test_one_client_serves_two_running_event_loops():
    """A tracer's thread makes calls with the client of the program."""
    results = []
    client = ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http_client(Scripted(latency=0.3)))
    running = [on_a_loop_of_its_own(gather(client, 5), results) for _ in range(2)]
    for thread in running:
        thread.join(20.0)

    assert [answered(endings) for endings in results] == [5, 5]


def test_calls_of_a_loop_that_was_closed_give_their_places_back():
    throttle = Throttle(threads=True, max_concurrency=3)
    client = ThrottledAsyncOpenAI(
        api_key=KEY, base_url=URL, http_client=http_client(Scripted(latency=60.0)), throttle=throttle
    )

    async def leave():
        for number in range(3):
            left.append(asyncio.get_running_loop().create_task(ends(call(client, number))))
        while throttle.in_flight < 3:
            await asyncio.sleep(0.01)

    left = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(leave())
    loop.close()
    for task in left:
        task._log_destroy_pending = False
    left.clear()
    del loop
    until = time.monotonic() + 15.0
    while throttle.stats().in_flight and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)

    assert throttle.stats().in_flight == 0


def test_each_attempt_in_a_thread_has_a_fresh_token():
    issued = {}

    def token():
        issued[name := f"token-{time.monotonic()}"] = time.monotonic()
        return name

    def choose(attempt):
        if time.monotonic() - issued[attempt.request.headers["authorization"].removeprefix("Bearer ")] > 0.3:
            return says(401, '{"error":{"message":"expired"}}')
        return says(429, '{"error":{"message":"later"}}', retry_after_ms="500") if attempt.number == 0 else None

    server = Scripted(choose)
    server.latency, server.clock = 0.01, time.monotonic
    module = threads.importlib.import_module(threads.FAMILIES[-1])
    http = module.Client(transport=threads.transport(server, module))
    with ThrottledOpenAI(api_key=token, base_url=URL, http_client=http) as client:
        assert call(client).choices[0].message.content == "yes 0"


LATE = """
import sys, threading, time
sys.path[:0] = {path!r}
from scripted import URL
from never_worse import threads
from never_worse.script import Scripted, call
from throttled_openai import ThrottledOpenAI
server = Scripted()
server.latency, server.clock = 0.01, time.monotonic
module = threads.importlib.import_module(threads.FAMILIES[-1])
http = module.Client(transport=threads.transport(server, module))
client = ThrottledOpenAI(api_key="k", base_url=URL, http_client=http)
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    print(call(client).choices[0].message.content, flush=True)
threading.Thread(target=late).start()
"""


def test_a_threads_first_call_may_come_after_the_main_thread_ended():
    ran = subprocess.run(
        [sys.executable, "-c", LATE.format(path=[path for path in sys.path if path])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stdout.strip() == "yes 0", ran.stderr
