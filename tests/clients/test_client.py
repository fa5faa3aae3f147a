"""`ThrottledAsyncOpenAI` is `AsyncOpenAI`: its arguments, results, errors and counters, behind a throttle."""

import asyncio
import io
import json

import pytest
from openai import AsyncOpenAI
from openai._models import FinalRequestOptions
from pydantic import BaseModel

from async_clients import blocked, server, windows
from scripted import CHAT, HI, URL, Says, Script, cancelled_at_the_end, families, http_client, now, say, throttled
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import Simulator, serve, virtual_run

# The user's HTTP client.


@families
def test_the_users_http_client_is_used_as_it_is(family):
    async def main():
        mine = http_client(server(), family)
        before = dict(vars(mine))
        client = ThrottledAsyncOpenAI(api_key="x", base_url=URL, http_client=mine)
        assert client._client is mine
        await say(client)
        async with await say(client, stream=True) as stream:
            [chunk async for chunk in stream]
        await client.models.list()
        state = before.pop("_state"), dict(vars(mine))
        assert {name: value for name, value in state[1].items() if name != "_state"} == before

    virtual_run(main())


@families
def test_the_http_client_is_closed_as_the_sdk_closes_it(family):
    async def main():
        mine = http_client(server(), family)
        client = throttled(server(), family, http_client=mine)
        copy = client.with_options(timeout=1.0)
        del copy
        assert not mine.is_closed
        async with client as same:
            assert same is client
            await say(client)
        assert mine.is_closed
        assert client.is_closed()

    virtual_run(main())


def test_over_sockets_it_brings_its_own_http_client_and_closes_it():
    async def main():
        simulator = Simulator(latency=0.0)
        async with serve(simulator) as url:
            async with ThrottledAsyncOpenAI(api_key="x", base_url=url) as client:
                assert (await say(client)).choices[0].message.content
                stream = await say(client, stream=True)
                assert len([chunk async for chunk in stream]) == 18
            assert client.is_closed()
            while simulator.connections:
                await asyncio.sleep(0.01)

    asyncio.run(main())


# What calls return.


@families
def test_a_call_returns_what_the_sdks_returns(family):
    async def main():
        ours = throttled(server(), family)
        theirs = AsyncOpenAI(api_key="x", base_url=URL, http_client=http_client(server(), family))

        async def chunks(client):
            return [chunk async for chunk in await say(client, stream=True)]

        answers = await asyncio.gather(*(say(client) for client in (ours, theirs)))
        assert answers[0] == answers[1]
        streams = await asyncio.gather(chunks(ours), chunks(theirs))
        assert streams[0] == streams[1]
        assert len(streams[0]) == 18

    virtual_run(main())


@families
def test_raw_responses_have_headers_and_parse(family):
    async def main():
        client = throttled(server(rpm=600), family)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.headers["x-ratelimit-remaining-requests"] == "599"
        assert raw.retries_taken == 0
        assert raw.parse().choices[0].finish_reason == "stop"
        assert client.throttle.in_flight == 0
        assert client.throttle.stats().budgets[0].tokens_used == 24

    virtual_run(main())


@families
def test_streaming_responses_hold_their_permit_until_they_are_closed(family):
    async def main():
        client = throttled(server(), family)
        create = client.chat.completions.with_streaming_response.create
        async with create(model="gpt-4o", messages=HI, stream=True) as response:
            assert response.retries_taken == 0
            assert client.throttle.in_flight == 1
            lines = [line async for line in response.iter_lines()]
            assert client.throttle.in_flight == 0
        assert lines[-2] == "data: [DONE]"
        async with create(model="gpt-4o", messages=HI, stream=True):
            assert client.throttle.in_flight == 1
        assert client.throttle.in_flight == 0

    virtual_run(main())


class Yes(BaseModel):
    yes: bool


def test_parse_gives_the_model_object():
    async def main():
        body = json.loads(json.dumps(CHAT))
        body["choices"][0]["message"]["content"] = '{"yes": true}'
        client = throttled(Script(Says(body=body)))
        answer = await client.chat.completions.parse(model="gpt-4o", messages=HI, response_format=Yes)
        assert answer.choices[0].message.parsed == Yes(yes=True)
        assert client.throttle.stats().succeeded == 1

    virtual_run(main())


def test_the_stream_helpers_accumulate():
    async def main():
        client = throttled(server())
        async with client.chat.completions.stream(model="gpt-4o", messages=HI) as chat:
            events = [event.type async for event in chat]
            completion = await chat.get_final_completion()
        assert events[-1] == "content.done"
        async with client.responses.stream(model="gpt-4o", input="hi") as stream:
            response = await stream.get_final_response()
        assert completion.choices[0].message.content == response.output_text
        assert client.throttle.stats().succeeded == 2
        assert client.throttle.in_flight == 0

    virtual_run(main())


def test_responses_embeddings_completions_and_moderations_are_admitted():
    async def main():
        client = throttled(server())
        response = await client.responses.create(model="gpt-4o", input="hi")
        assert response.output_text
        embedded = await client.embeddings.create(model="e", input=["a", "b"])
        assert len(embedded.data) == 2
        assert len(embedded.data[0].embedding) == 1536
        assert (await client.completions.create(model="c", prompt="hi")).choices
        assert (await client.moderations.create(input="hi")).results
        stats = client.throttle.stats()
        assert stats.admitted == 4
        used = {budget.name: budget.tokens_used for budget in stats.budgets}
        assert used["gpt-4o"] == response.usage.total_tokens
        assert used["e"] == embedded.usage.total_tokens > 0

    virtual_run(main())


def test_running_a_thread_is_admitted_and_making_one_is_not():
    async def main():
        script = Script(
            Says(body={"id": "thread_1", "object": "thread"}), Says(body={"id": "run_1", "model": "gpt-4o"})
        )
        client = throttled(script)
        with pytest.warns(DeprecationWarning):
            await client.beta.threads.create()
        assert client.throttle.stats().admitted == 0
        with pytest.warns(DeprecationWarning):
            await client.beta.threads.runs.create("thread_1", assistant_id="asst_1")
        assert client.throttle.stats().admitted == 1

    virtual_run(main())


@families
def test_extra_headers_body_query_and_timeout_reach_the_server(family):
    async def main():
        script = Script()
        client = throttled(script, family)
        await say(client, extra_headers={"x-mine": "1"}, extra_body={"top_k": 3}, extra_query={"q": "2"}, timeout=7.0)
        (seen,) = script.seen
        assert seen.headers["x-mine"] == "1"
        assert seen.json["top_k"] == 3
        assert seen.url.endswith("?q=2")
        assert seen.timeout["read"] == 7.0

    virtual_run(main())


# What needs no permit.


def test_calls_that_run_no_model_pass_a_blocked_queue():
    async def main():
        client = throttled(blocked(), max_concurrency=1)
        async with cancelled_at_the_end(say(client), say(client)):
            assert (client.throttle.in_flight, client.throttle.waiting) == (1, 1)
            assert len([model async for model in client.models.list()]) == 5
            file = await client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
            assert [found.id async for found in client.files.list()] == [file.id]
            assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
            assert now() == 0.0
            assert (client.throttle.in_flight, client.throttle.waiting) == (1, 1)
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)
        assert client.throttle.stats().admitted == 1

    virtual_run(main())


def test_every_page_passes_without_a_permit():
    async def main():
        file = {
            "object": "file",
            "bytes": 1,
            "created_at": 0,
            "filename": "a",
            "purpose": "batch",
            "status": "processed",
        }
        pages = [
            Says(body={"object": "list", "data": [{**file, "id": f"file-{number}"}], "has_more": number < 2})
            for number in range(3)
        ]
        script = Script(*pages)
        client = throttled(script)
        assert [found.id async for found in client.files.list()] == ["file-0", "file-1", "file-2"]
        assert len(script.seen) == 3
        assert client.throttle.stats().admitted == 0

    virtual_run(main())


def test_the_headers_of_a_get_are_observed():
    async def main():
        told = {"x-ratelimit-limit-requests": "300", "x-ratelimit-remaining-requests": "300"}
        told["x-ratelimit-reset-requests"] = "0s"
        client = throttled(Script(Says(), Says(body={"object": "list", "data": []}, headers=told)))
        await say(client)
        assert windows(client) == [[]]
        await client.models.list()
        assert windows(client) == [[("requests", 300.0)]]

    virtual_run(main())


@pytest.mark.parametrize("url", ["ws://server/v1/realtime", "wss://server/v1/responses", "/chat/completions"])
def test_hooks_that_websockets_borrow_take_no_permit(url):
    """The SDK's WebSocket resources call `_prepare_options` outside `request()`."""

    async def main():
        client = throttled(Script())
        options = FinalRequestOptions.construct(method="post", url=url, json_data={"model": "gpt-4o"})
        await client._prepare_options(options)
        assert client.throttle.stats().admitted == 0

    virtual_run(main())


# Keys.


@families
def test_a_key_is_fetched_once_per_attempt_and_only_after_admission(family):
    async def main():
        fetched = []

        async def key():
            fetched.append(now())
            return f"sk-{len(fetched)}"

        script = Script(Says(delay=10.0), Says(500, {}, headers={"retry-after-ms": "100"}))
        client = throttled(script, family, api_key=key, max_concurrency=1)
        await asyncio.gather(say(client), say(client))
        assert fetched == [0.0, 10.0, 10.1]
        assert [seen.headers["authorization"] for seen in script.seen] == ["Bearer sk-1", "Bearer sk-2", "Bearer sk-3"]

    virtual_run(main())


def test_a_call_whose_key_cannot_be_fetched_gives_everything_back():
    async def main():
        async def key():
            raise LookupError("no key")

        client = throttled(server(), api_key=key, rpm=60, max_retries=0)
        with pytest.raises(LookupError):
            await say(client)
        assert client.throttle.in_flight == 0
        assert client.throttle.stats().budgets[0].windows[0].spendable == 1.0

    virtual_run(main())


def test_a_key_may_be_fetched_with_a_call_of_another_throttled_client():
    async def main():
        other = throttled(server())

        async def key():
            await say(other)
            return "sk-1"

        client = throttled(server(), api_key=key)
        await say(client)
        for one in (client, other):
            assert (one.throttle.stats().succeeded, one.throttle.in_flight) == (1, 0)

    virtual_run(main())


# Usage.


def test_usage_is_counted_from_plain_answers_and_streams():
    async def main():
        client = throttled(server(completion_tokens=16))

        def used():
            return client.throttle.stats().budgets[0].tokens_used

        usage = (await say(client)).usage.total_tokens
        assert used() == usage == 24
        async for _ in await say(client, stream=True, stream_options={"include_usage": True}):
            pass
        assert used() == 2 * usage
        async for _ in await say(client, stream=True):
            pass
        assert used() == 2 * usage  # the server did not say

    virtual_run(main())


def test_usage_of_a_streamed_response_is_counted_once():
    async def main():
        client = throttled(server())
        async for event in await client.responses.create(model="gpt-4o", input="hi", stream=True):
            last = event
        assert last.type == "response.completed"
        assert client.throttle.stats().budgets[0].tokens_used == last.response.usage.total_tokens == 17

    virtual_run(main())


def test_a_response_in_the_background_reports_no_usage_yet():
    async def main():
        body = {
            "id": "resp_1",
            "object": "response",
            "status": "queued",
            "model": "gpt-4o",
            "output": [],
            "usage": None,
        }
        client = throttled(Script(Says(body=body), Says(body=body)))
        response = await client.responses.create(model="gpt-4o", input="hi", background=True)
        await client.responses.retrieve(response.id)
        stats = client.throttle.stats()
        assert (stats.admitted, stats.budgets[0].tokens_used) == (1, 0)

    virtual_run(main())


def test_an_upload_that_is_metered_is_admitted_by_its_model():
    async def main():
        script = Script(Says(body={"text": "hello"}))
        client = throttled(script)
        answer = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", io.BytesIO(b"sound")))
        assert answer.text == "hello"
        assert client.throttle.stats().budgets[0].name == "whisper-1"
        assert b"sound" in script.seen[0].body

    virtual_run(main())
