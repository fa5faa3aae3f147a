"""What programs ask besides prose, through the SDK's typed resources with strict validation of each answer."""

import asyncio
import io
import json
import wave
from base64 import b64decode
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from simulated import HI, http_client
from throttled_openai.simulator import Simulator, virtual_run


class Node(BaseModel):
    name: str
    kind: Literal["leaf", "branch"]
    size: int | None
    parent: "Node | None"
    children: list["Node"]


PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "parameters": PARAMETERS, "strict": True}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
TOOLS = [{"type": "function", **FUNCTION}]
ARGUMENTS = {"city": "some text", "days": 3}


def asking(test):
    """Run the test with a strict client of a simulator, in virtual time."""

    def run():
        async def main():
            async with AsyncOpenAI(
                api_key="x",
                base_url="http://simulator/v1",
                http_client=http_client(Simulator()),
                max_retries=0,
                _strict_response_validation=True,
            ) as client:
                await test(client)

        virtual_run(main())

    run.__name__ = test.__name__
    return run


@asking
async def test_structured_outputs_fit_a_schema_that_refers_to_itself(client):
    chat = await client.chat.completions.parse(model="m", messages=HI, response_format=Node)
    response = await client.responses.parse(model="m", input="hi", text_format=Node)
    async with client.chat.completions.stream(model="m", messages=HI, response_format=Node) as stream:
        streamed = await stream.get_final_completion()
    async with client.responses.stream(model="m", input="hi", text_format=Node) as stream:
        streamed_response = await stream.get_final_response()
    nodes = [
        chat.choices[0].message.parsed,
        response.output_parsed,
        streamed.choices[0].message.parsed,
        streamed_response.output_parsed,
    ]
    assert all(node == nodes[0] for node in nodes)
    assert nodes[0].kind == "leaf"
    assert nodes[0].children[0].children == []


@asking
async def test_structured_outputs_that_are_cut_short_say_so(client):
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(model="m", messages=HI, response_format=Node, max_tokens=2)


@asking
async def test_any_json_is_an_object(client):
    answer = await client.chat.completions.create(model="m", messages=HI, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@asking
async def test_a_chat_calls_a_tool_until_it_is_told_what_the_tool_found(client):
    answer = await client.chat.completions.create(model="m", messages=HI, tools=CHAT_TOOLS)
    (call,) = answer.choices[0].message.tool_calls
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    async with client.chat.completions.stream(model="m", messages=HI, tools=CHAT_TOOLS) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.tool_calls[0].function.parsed_arguments == ARGUMENTS
    told = [*HI, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sun"}]
    answer = await client.chat.completions.create(model="m", messages=told, tools=CHAT_TOOLS)
    assert answer.choices[0].message.content.startswith("This answer is simulated")


@asking
async def test_a_response_calls_a_tool_until_it_is_told_what_the_tool_found(client):
    response = await client.responses.create(model="m", input="hi", tools=TOOLS)
    (call,) = response.output
    assert (call.type, json.loads(call.arguments)) == ("function_call", ARGUMENTS)
    async with client.responses.stream(model="m", input="hi", tools=TOOLS) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert streamed.output[0].parsed_arguments == ARGUMENTS
    told = [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}]
    response = await client.responses.create(model="m", input=told, tools=TOOLS)
    assert response.output_text.startswith("This answer is simulated")


@asking
async def test_tool_choice_decides(client):
    async def called(**options):
        message = (await client.chat.completions.create(model="m", messages=HI, **options)).choices[0].message
        return [
            call.function.name if call.type == "function" else call.custom.name for call in message.tool_calls or ()
        ]

    other = {"type": "function", "function": {"name": "other"}}
    both = [*CHAT_TOOLS, other]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    custom = {"type": "custom", "custom": {"name": "code"}}
    assert await called(tools=both, tool_choice="none") == []
    assert await called(tools=both, tool_choice="required") == ["weather"]
    assert await called(tools=both, tool_choice=other) == ["other"]
    assert await called(tools=both, tool_choice=allowed) == ["other"]
    assert await called(tools=[custom]) == ["code"]
    with pytest.raises(openai.BadRequestError, match="'other' not found"):
        await called(tools=CHAT_TOOLS, tool_choice=other)


@asking
async def test_images_are_pictures(client):
    made = await client.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    edited = await client.images.edit(model="gpt-image-1", image=("a.png", b"x"), prompt="a dog", n=1)
    for image in (*made.data, *edited.data):
        assert b64decode(image.b64_json).startswith(b"\x89PNG")
    by_url = await client.images.generate(model="dall-e-3", prompt="a cat")
    assert by_url.data[0].url.startswith("data:image/png;base64,")
    events = [event async for event in await client.images.generate(model="gpt-image-1", prompt="a", stream=True)]
    assert [event.type for event in events] == ["image_generation.completed"]


@asking
async def test_speech_can_be_played_and_sound_is_transcribed(client):
    speech = await client.audio.speech.create(model="tts-1", voice="alloy", input="hi", response_format="wav")
    with wave.open(io.BytesIO(speech.content)) as sound:
        assert sound.getframerate() == 24_000
    async with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="hi") as speech:
        assert (await speech.read())[:2] == b"\xff\xfb"
    sound = {"model": "whisper-1", "file": ("a.wav", b"RIFF")}
    text = (await client.audio.transcriptions.create(**sound)).text
    assert text.startswith("This answer is simulated")
    assert (await client.audio.transcriptions.create(**sound, response_format="text")).strip() == text.strip()
    assert (await client.audio.transcriptions.create(**sound, response_format="verbose_json")).text == text
    stream = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"x"), stream=True)
    assert [event async for event in stream][-1].text == text


@asking
async def test_files_are_kept_listed_page_by_page_and_deleted(client):
    ids = [(await client.files.create(file=(f"{n}", b"%d" % n), purpose="user_data")).id for n in range(5)]
    pages = await client.files.list(limit=2)
    assert [file.id for file in pages.data] == ids[:2]
    assert [file.id async for file in pages] == ids
    assert [file.id async for file in client.files.list(purpose="batch")] == []
    assert (await client.files.retrieve(ids[3])).filename == "3"
    assert (await client.files.content(ids[3])).content == b"3"
    assert (await client.files.delete(ids[3])).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(ids[3])


def lines(*bodies, url="/v1/chat/completions"):
    requests = [{"custom_id": f"{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return "\n".join(map(json.dumps, requests)).encode()


async def batch_of(client, content):
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"job": "a"}
    )


@asking
async def test_a_batch_runs_and_yields_files(client):
    batch = await batch_of(
        client, lines({"model": "m", "messages": HI}, {"model": "m"}, {"model": "m", "messages": HI})
    )
    assert batch.status == "validating"
    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.total) == ("in_progress", 3)
    await asyncio.sleep(1)
    batch = await client.batches.retrieve(batch.id)
    counts = batch.request_counts
    assert (batch.status, counts.completed, counts.failed) == ("completed", 2, 1)
    output = (await client.files.content(batch.output_file_id)).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["0", "2"]
    assert json.loads(output[0])["response"]["body"]["choices"][0]["message"]["content"]
    errors = json.loads((await client.files.content(batch.error_file_id)).text)
    assert (errors["custom_id"], errors["response"]["status_code"]) == ("1", 400)
    assert [listed.id async for listed in client.batches.list(limit=1)] == [batch.id]


@asking
async def test_a_batch_of_lines_that_are_no_requests_fails(client):
    batch = await batch_of(client, b"nonsense\n" + lines({}, url="/v1/embeddings"))
    batch = await client.batches.retrieve(batch.id)
    assert batch.status == "failed"
    assert [problem.line for problem in batch.errors.data] == [1, 2]


@asking
async def test_a_batch_can_be_cancelled(client):
    batch = await batch_of(client, lines({"model": "m", "messages": HI}))
    assert (await client.batches.cancel(batch.id)).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="No such File"):
        await client.batches.create(input_file_id="no", endpoint="/v1/responses", completion_window="24h")


@asking
async def test_the_input_of_a_response_is_listed_and_counted(client):
    response = await client.responses.create(model="m", input="hello")
    items = [item async for item in client.responses.input_items.list(response.id)]
    assert [item.content[0].text for item in items] == ["hello"]
    assert (await client.responses.input_tokens.count(model="m", input="hello")).input_tokens == 2


@asking
async def test_moderations_models_and_embeddings_are_of_the_sdks_types(client):
    moderation = await client.moderations.create(input=["a", "b"])
    assert [result.flagged for result in moderation.results] == [False, False]
    assert "gpt-4o" in [model.id async for model in client.models.list()]
    assert len((await client.embeddings.create(model="e", input=["a", "b"], encoding_format="float")).data) == 2
