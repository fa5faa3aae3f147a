"""Programs as people write them. Each is an async function of `made` that returns what the program found.

`made` gives the clients: the SDK's own, or ours.
"""

import asyncio
import base64
import concurrent.futures
import copy
import io
import json
from typing import Literal

import openai
from pydantic import BaseModel

SNIPPETS = {}
HI = [{"role": "user", "content": "Say hi."}]


class Square(BaseModel):
    number: int
    square: int
    parity: Literal["even", "odd"]


WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def snippet(function):
    SNIPPETS[function.__name__.replace("_", " ")] = function
    return function


async def ask(client, number=0, **options):
    question = [{"role": "user", "content": f"What is {number} squared?"}]
    answer = await client.chat.completions.create(model="gpt-4o", messages=question, **options)
    return answer.choices[0].message.content


@snippet
async def gather(made):
    async with made.client() as client:
        return await asyncio.gather(*(ask(client, n) for n in range(30)))


@snippet
async def gather_with_a_semaphore(made):
    slots = asyncio.Semaphore(5)

    async def one(n):
        async with slots:
            return await ask(client, n)

    async with made.client() as client:
        return await asyncio.gather(*map(one, range(20)))


@snippet
async def as_completed_with_a_counter_as_tqdm_does(made):
    done = 0
    async with made.client() as client:
        for answer in asyncio.as_completed([ask(client, n) for n in range(20)]):
            done += bool(await answer)
    return done


@snippet
async def a_task_group(made):
    async with made.client() as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(client, n)) for n in range(10)]
    return [task.result() for task in tasks]


@snippet
async def workers_on_a_queue(made):
    queue, found = asyncio.Queue(), []
    for n in range(12):
        queue.put_nowait(n)

    async def work():
        while not queue.empty():
            n = queue.get_nowait()
            found.append((n, await ask(client, n)))

    async with made.client() as client:
        await asyncio.gather(*(work() for _ in range(4)))
    return sorted(found)


@snippet
async def a_streamed_chat(made):
    async with made.client() as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks[-1].usage.total_tokens


@snippet
async def a_stream_that_is_left_early(made):
    async with made.client() as client:
        async with await client.chat.completions.create(model="gpt-4o", messages=HI, stream=True) as stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    first = chunk.choices[0].delta.content
                    break
        return first, await ask(client)


@snippet
async def the_stream_helper(made):
    async with made.client() as client, client.chat.completions.stream(model="gpt-4o", messages=HI) as stream:
        kinds = [event.type async for event in stream]
        return kinds[-1], (await stream.get_final_completion()).choices[0].message.content


@snippet
async def parse_into_a_model(made):
    async with made.client() as client:
        answer = await client.chat.completions.parse(model="gpt-4o", messages=HI, response_format=Square)
    return answer.choices[0].message.parsed


@snippet
async def json_mode(made):
    async with made.client() as client:
        return json.loads(await ask(client, response_format={"type": "json_object"}))


@snippet
async def a_loop_of_tools(made):
    messages, calls = [*HI], 0
    tools = [{"type": "function", "function": WEATHER}]
    async with made.client() as client:
        while True:
            answer = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return calls, message.content
            for call in message.tool_calls:
                calls += 1
                found = f"sunny in {json.loads(call.function.arguments)['city']}"
                messages.append({"role": "tool", "tool_call_id": call.id, "content": found})


@snippet
async def responses_with_tools(made):
    async with made.client() as client:
        response = await client.responses.create(model="gpt-4o", input=HI, tools=[{"type": "function", **WEATHER}])
        (call,) = response.output
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        last = await client.responses.create(model="gpt-4o", input=[*HI, call, told])
        return call.name, call.arguments, last.output_text


@snippet
async def embeddings_in_chunks(made):
    texts = [f"text {n}" for n in range(50)]
    async with made.client() as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model="text-embedding-3-small", input=texts[n : n + 10], dimensions=8)
              for n in range(0, 50, 10))
        )  # fmt: skip
    return [item.embedding for answer in answers for item in answer.data]


@snippet
async def responses_parsed_and_streamed(made):
    async with made.client() as client:
        response = await client.responses.parse(model="gpt-4o", input="hi", text_format=Square)
        async with client.responses.stream(model="gpt-4o", input="hi") as stream:
            text = (await stream.get_final_response()).output_text
        kept = await client.responses.retrieve(response.id)
    return response.output_parsed, text, kept.id == response.id


@snippet
async def a_conversation(made):
    async with made.client() as client:
        first = await client.responses.create(model="gpt-4o", input="hi")
        second = await client.responses.create(model="gpt-4o", input="and?", previous_response_id=first.id)
    return second.previous_response_id == first.id, second.output_text


@snippet
async def pictures_in_and_out(made):
    async with made.client() as client:
        made_ = await client.images.generate(model="gpt-image-1", prompt="a cat")
        url = f"data:image/png;base64,{made_.data[0].b64_json}"
        content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": content}])
    return base64.b64decode(made_.data[0].b64_json)[:4], answer.choices[0].message.content


@snippet
async def speech_and_back(made):
    async with made.client() as client:
        speech = await client.audio.speech.create(model="tts-1", voice="alloy", input="hi")
        sound = io.BytesIO(speech.content)
        sound.name = "hi.mp3"
        return (await client.audio.transcriptions.create(model="whisper-1", file=sound)).text


@snippet
async def an_upload(made):
    async with made.client() as client:
        file = await client.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
        content = await client.files.content(file.id)
        return file.bytes, content.text, (await client.files.delete(file.id)).deleted


@snippet
async def a_batch_file(made):
    body = {"model": "gpt-4o", "messages": HI}
    lines = [
        json.dumps({"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        for n in range(3)
    ]
    async with made.client() as client:
        file = await client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while batch.status not in {"completed", "failed"}:
            await asyncio.sleep(0.02)
            batch = await client.batches.retrieve(batch.id)
        output = await client.files.content(batch.output_file_id)
    return batch.status, [json.loads(line)["custom_id"] for line in output.text.splitlines()]


@snippet
async def moderations_and_models(made):
    async with made.client() as client:
        moderation = await client.moderations.create(input=["a", "b"])
        return [result.flagged for result in moderation.results], "gpt-4o" in [m.id async for m in client.models.list()]


@snippet
async def azure(made):
    async with made.azure() as client:
        return await ask(client)


@snippet
async def raw_responses(made):
    async with made.client() as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        async with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HI) as response:
            body = json.loads(await response.text())
    return raw.headers["openai-version"], raw.parse().choices[0].message.content, body["object"]


@snippet
async def options_and_copies(made):
    async with made.client() as client:
        short = client.with_options(timeout=20, max_retries=1)
        other = copy.copy(client)
        return await ask(short), await ask(other), await ask(client.copy(default_headers={"x-a": "b"}))


@snippet
async def errors_are_caught(made):
    async with made.client() as client:
        try:
            await client.chat.completions.create(model="gpt-4o", messages=[5])
        except openai.BadRequestError as error:
            return error.status_code, error.body["message"]


@snippet
async def a_timeout_and_a_cancelled_call(made):
    async with made.client() as client:
        task = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(20):
            return task.cancelled(), await ask(client)


@snippet
async def threads(made):
    def work():
        with made.blocking() as client, concurrent.futures.ThreadPoolExecutor(8) as pool:

            def one(n):
                question = [{"role": "user", "content": f"{n}?"}]
                return client.chat.completions.create(model="gpt-4o", messages=question).choices[0].message.content

            return list(pool.map(one, range(16)))

    return await asyncio.to_thread(work)


@snippet
async def a_blocking_stream(made):
    def work():
        with made.blocking() as client:
            stream = client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    return await asyncio.to_thread(work)


@snippet
async def cells_of_a_notebook(made):
    """One loop that rests between cells."""

    def cells():
        with asyncio.Runner() as loop:
            client = made.client()
            found = [loop.run(ask(client, n)) for n in range(3)]
            loop.run(client.close())
        return found

    return await asyncio.to_thread(cells)


@snippet
async def a_script_that_runs_loop_after_loop(made):
    async def once(n):
        async with made.client() as client:
            return await ask(client, n)

    return await asyncio.to_thread(lambda: [asyncio.run(once(n)) for n in range(3)])
