"""Which refused requests are sent again: those whose body can be sent whole a second time."""

import asyncio
import importlib
import io
import json

import openai
import pytest

from scripted import CHAT, HI, Says, Script, families, refuses, say, settled, throttled, without_jitter
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run


class Pipe(io.RawIOBase):
    """A file that can be read once."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def readable(self):
        return True

    def seekable(self):
        return False

    def read(self, size=-1):
        return self._file.read(size)


REFUSED_ONCE = {"headers": {"retry-after-ms": "1000"}}


@families
def test_a_stream_of_bytes_is_not_sent_twice(family):
    async def main():
        async def body():
            yield json.dumps({"model": "gpt-4o", "messages": HI}).encode()

        script = Script(refuses(**REFUSED_ONCE))
        client = throttled(script, family, max_retries=5)
        with pytest.raises(openai.RateLimitError):
            await client.post("/chat/completions", content=body(), cast_to=object)
        assert script.times == [0.0]
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
def test_a_file_that_cannot_be_rewound_is_not_sent_twice(family):
    async def main():
        script = Script(refuses(**REFUSED_ONCE))
        client = throttled(script, family, max_retries=5)
        with pytest.raises(openai.RateLimitError):
            await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", Pipe(b"sound")))
        assert len(script.seen) == 1
        assert b"sound" in script.seen[0].body

    virtual_run(main())


@families
@pytest.mark.parametrize(
    "file",
    [lambda: b"sound" * 1000, lambda: io.BytesIO(b"sound" * 1000), lambda: ("a.wav", io.BytesIO(b"sound" * 1000))],
    ids=["bytes", "file", "named file"],
)
def test_replayable_bodies_are_sent_again_whole(family, file):
    async def main():
        script = Script(refuses(**REFUSED_ONCE), refuses(**REFUSED_ONCE), Says(body={"text": "hello"}))
        client = throttled(script, family, max_retries=0)
        answer = await client.audio.transcriptions.create(model="whisper-1", file=file())
        assert answer.text == "hello"
        assert len(script.seen) == 3
        # Each attempt is built anew, with a boundary of its own.
        boundaries = [seen.headers["content-type"].partition("boundary=")[2].encode() for seen in script.seen]
        bodies = {seen.body.replace(boundary, b"") for seen, boundary in zip(script.seen, boundaries, strict=True)}
        assert len(bodies) == 1
        assert b"sound" * 1000 in bodies.pop()

    virtual_run(main())


@families
def test_bytes_and_json_are_sent_again_whole(family):
    async def main():
        script = Script(refuses(**REFUSED_ONCE), Says(), refuses(**REFUSED_ONCE))
        client = throttled(script, family, max_retries=0)
        await say(client, "the same words")
        content = json.dumps({"model": "gpt-4o", "messages": HI}).encode()
        answer = await client.post("/chat/completions", content=content, cast_to=object)
        assert answer == CHAT
        assert script.seen[0].body == script.seen[1].body
        assert script.seen[2].body == script.seen[3].body == content

    virtual_run(main())


@families
def test_over_sockets_refusals_are_readmitted_on_the_same_connections(family):
    async def main():
        module = importlib.import_module(family)
        simulator = Simulator(rpm=6000, latency=0.0, faults=[Fault(status=429, retry_after=0.01, last=4)])
        async with serve(simulator) as url, module.AsyncClient() as mine:
            client = without_jitter(
                ThrottledAsyncOpenAI(api_key="x", base_url=url, http_client=mine, max_retries=0, max_concurrency=1)
            )
            for _ in range(5):
                assert (await say(client)).choices
            await settled()
            assert [attempt.status for attempt in simulator.log] == [429] * 5 + [200] * 5
            assert simulator.counters.connections_made == 1
            assert client.throttle.in_flight == 0

    asyncio.run(main())
