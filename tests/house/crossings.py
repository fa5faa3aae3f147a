"""Counts how often one call crosses from one file of the library into another, the pool and the simulator left out.

`python tests/house/crossings.py` prints the counts of a plain async call, and of one that is refused once.
"""

import sys
from pathlib import Path

import httpx

import throttled_openai
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import virtual_run

PACKAGE = Path(throttled_openai.__file__).parent
LEFT_OUT = ("_pool", "simulator")
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}
LIMITS = {"x-ratelimit-limit-requests": "6000", "x-ratelimit-remaining-requests": "5999"}
REFUSAL = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}


def answers(refused):
    """A transport that refuses the third request if `refused`; the first two calls settle the throttle."""
    seen = iter(range(1000))

    async def handle(request):
        if next(seen) == 2 and refused:
            return httpx.Response(429, json=REFUSAL, headers={"retry-after-ms": "1"})
        return httpx.Response(200, json=CHAT, headers=LIMITS)

    return httpx.MockTransport(handle)


def ours(frame, cache):
    """The file of the library that a frame runs, as a path inside the package; None for other code."""
    name = frame.f_code.co_filename
    if name not in cache:
        path = Path(name)
        inside = path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE)
        cache[name] = inside.as_posix() if inside and inside.parts[0] not in LEFT_OUT else None
    return cache[name]


async def crossings(*, refused=False):
    """Pairs of files: from which file which other one was entered, during the third call of a client."""
    client = ThrottledAsyncOpenAI(
        api_key="x", base_url="http://server/v1", http_client=httpx.AsyncClient(transport=answers(refused))
    )
    cache, entered = {}, []

    def count(frame, event, argument):
        del argument
        if event != "call" or (file := ours(frame, cache)) is None:
            return
        caller = frame.f_back
        while caller is not None and (before := ours(caller, cache)) is None:
            caller = caller.f_back
        if caller is not None and before != file:
            entered.append((before, file))

    for number in range(3):
        if number == 2:
            sys.setprofile(count)
        try:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        finally:
            sys.setprofile(None)
    await client.close()
    return entered


def between_rooms(entered):
    """How many of the crossings lead into another room."""
    return sum(before.split("/")[0] != file.split("/")[0] for before, file in entered)


def main():
    for refused in (False, True):
        entered = virtual_run(crossings(refused=refused))
        kind = "with one refusal" if refused else "plain"
        files = {file for pair in entered for file in pair}
        rooms = between_rooms(entered)
        print(f"{kind}: {len(entered)} crossings between {len(files)} files, {rooms} of them between rooms")


if __name__ == "__main__":
    main()
