"""Answers and streams, as the SDK reads them."""

import json

import openai
import pytest
from openai import AsyncOpenAI

from simulated import HI, chat, headers_of, http_client, post, sdk, steady
from throttled_openai.simulator import Fault, Simulator, virtual_run


def test_the_sdk_reads_every_answer():
    async def main():
        async with sdk(steady()) as client:
            answer = await client.chat.completions.create(model="m", messages=HI, n=2)
            assert len(answer.choices) == 2
            assert answer.usage.prompt_tokens == 1 + 4 + 3
            assert answer.usage.completion_tokens == 2 * 16
            assert answer.usage.total_tokens == 8 + 32

            answer = await client.chat.completions.create(model="m", messages=HI, max_tokens=5)
            assert answer.usage.completion_tokens == 5
            assert answer.choices[0].finish_reason == "length"

            answer = await client.completions.create(model="m", prompt="hi")
            assert answer.choices[0].text.startswith("This answer is simulated")

            response = await client.responses.create(model="m", input="hi")
            assert response.output_text == answer.choices[0].text
            assert response.usage.total_tokens == 1 + 16
            assert (await client.responses.retrieve(response.id)).output_text == response.output_text
            await client.responses.delete(response.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)

            vectors = await client.embeddings.create(model="e", input=["a", "b"], dimensions=16)
            assert [item.embedding for item in vectors.data] == [[0.25] * 16] * 2
            vectors = await client.embeddings.create(model="e", input="a", dimensions=16, encoding_format="float")
            assert vectors.data[0].embedding == [0.25] * 16
            assert len((await client.embeddings.create(model="e", input=[1, 2])).data) == 1

            moderation = await client.moderations.create(input=["a", "b"])
            assert [result.flagged for result in moderation.results] == [False, False]

            file = await client.files.create(file=("a.jsonl", b"12345"), purpose="batch")
            assert (file.filename, file.bytes, file.purpose) == ("a.jsonl", 5, "batch")
            assert [listed.id async for listed in client.files.list()] == [file.id]
            assert "m" in [model.id async for model in client.models.list()]
            assert (await client.models.retrieve("any")).id == "any"

    virtual_run(main())


def test_a_streamed_chat_has_the_same_text_and_usage_as_a_plain_one():
    async def main():
        async with sdk(steady()) as client:
            plain = await client.chat.completions.create(model="m", messages=HI)
            stream = await client.chat.completions.create(
                model="m", messages=HI, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        *chunks, last = chunks
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert {chunk.usage for chunk in chunks} == {None}
        assert last.choices == []
        assert last.usage == plain.usage

    virtual_run(main())


def test_a_stream_says_nothing_of_usage_unless_asked():
    reply = post(steady(), chat(10, stream=True))
    assert b"usage" not in b"".join(reply.pieces)
    assert reply.pieces[-1] == b"data: [DONE]\n\n"
    assert headers_of(reply) == headers_of(post(steady(), chat(10)))


def test_a_streamed_completion_has_the_same_text_as_a_plain_one():
    async def main():
        async with sdk(steady()) as client:
            plain = await client.completions.create(model="m", prompt="hi")
            stream = await client.completions.create(model="m", prompt="hi", stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text

    virtual_run(main())


def test_a_streamed_response_runs_through_its_events_in_order():
    async def main():
        async with sdk(steady(completion_tokens=2)) as client:
            stream = await client.responses.create(model="m", input="hi", stream=True)
            events = [event async for event in stream]
            plain = await client.responses.create(model="m", input="hi")
            shortened = await client.responses.create(model="m", input="hi", max_output_tokens=1)
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(10))
        assert events[-1].response.usage == plain.usage
        assert events[-1].response.output_text == plain.output_text
        assert events[0].response.usage is None
        assert shortened.status == "incomplete"

    virtual_run(main())


def test_the_sdks_own_accumulator_reads_the_stream():
    async def main():
        async with (
            sdk(steady()) as client,
            client.responses.stream(model="m", input="hi") as stream,
        ):
            return await stream.get_final_response()

    assert virtual_run(main()).usage.output_tokens == 16


def test_a_long_answer_does_not_take_more_events():
    reply = post(steady(completion_tokens=5000), chat(10, stream=True))
    assert len(reply.pieces) == 20 + 3


# Streams that end in an error.


async def outcome(server, **more):
    """What the SDK makes of a streamed response: the events, and the error it raises."""
    client = AsyncOpenAI(api_key="x", base_url="http://s/v1", http_client=http_client(server), max_retries=0)
    seen_events = []
    try:
        async for event in await client.responses.create(model="m", input="hi", stream=True, **more):
            seen_events.append(event)
    except openai.APIError as caught:
        return seen_events, caught
    return seen_events, None


def test_a_response_may_break_off_with_a_wrapped_error():
    server = steady(faults=[Fault("stream_error", retry_after=1.2)])
    events, error = virtual_run(outcome(server))
    assert events == []
    assert error.code == "rate_limit_exceeded"
    assert error.message == "Rate limit reached, please try again later. Please try again in 1.2s."


def test_a_response_may_break_off_with_a_flat_error_which_the_sdk_does_not_raise():
    fault = Fault("stream_error", shape="flat", message="Rate limit reached for m.", retry_after=1.2, after=4)
    server = steady(faults=[fault])
    events, error = virtual_run(outcome(server))
    assert error is None
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "error",
    ]
    assert events[-1].to_dict() == {
        "type": "error",
        "code": "rate_limit_exceeded",
        "message": "Rate limit reached for m. Please try again in 1.2s.",
        "param": None,
        "sequence_number": 4,
    }


def test_a_response_may_fail_in_its_last_event():
    server = steady(faults=[Fault("stream_error", shape="failed", code="no_capacity", message="Full.", after=1)])
    events, error = virtual_run(outcome(server))
    assert error is None
    assert [(event.type, event.sequence_number) for event in events] == [
        ("response.created", 0),
        ("response.failed", 1),
    ]
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.to_dict() == {"code": "no_capacity", "message": "Full."}
    assert events[-1].response.usage is None


@pytest.mark.parametrize("shape", ["wrapped", "flat", "failed"])
def test_before_any_other_event_the_error_has_number_0(shape):
    server = Simulator(faults=[Fault("stream_error", shape=shape)])
    (piece,) = post(server, {"model": "m", "input": "hi", "stream": True}, endpoint="responses").pieces
    name, data = piece.decode().splitlines()[:2]
    assert name == ("event: response.failed" if shape == "failed" else "event: error")
    assert json.loads(data.removeprefix("data: "))["sequence_number"] == 0


def test_a_chat_has_one_shape_of_error_and_it_may_come_late():
    server = Simulator(faults=[Fault("stream_error", shape="failed", after=3)])
    pieces = post(server, chat(stream=True)).pieces
    assert len(pieces) == 4
    assert json.loads(pieces[-1].removeprefix(b"data: ")) == {
        "error": {
            "message": "Rate limit reached, please try again later.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


def test_an_error_never_follows_the_last_event():
    server = Simulator(faults=[Fault("stream_error", after=1000)])
    pieces = post(server, chat(stream=True)).pieces
    assert b"[DONE]" not in b"".join(pieces)
    assert b'"error"' in pieces[-1]
