"""`ModelCalls` for Ray Data, without Ray: it is given batches and gives them back with two columns more."""

import asyncio
import json

from scripted import CHAT
from servers import Server, real, says
from throttled_openai.batch.ray import ModelCalls


class Number:
    """What NumPy gives for a number of a column."""

    def tolist(self):
        return 5


def calls_of(body, server, **options):
    return ModelCalls(body, api_key="any", base_url=server.url, **options)


def asks(row):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": row["question"]}]}


@real
async def test_each_row_has_its_answer_in_order_beside_its_columns():
    async def answer(asked):
        question = json.loads(asked.body)["messages"][0]["content"]
        await asyncio.sleep(0.02 if question == "a" else 0)
        return says({**CHAT, "id": question})

    async with Server(answer) as server:
        calls = calls_of(asks, server)
        answered = await calls({"question": ["a", "b"], "n": [1, 2]})
        assert [json.loads(each)["id"] for each in answered["response"]] == ["a", "b"]
        assert (answered["question"], answered["n"], answered["error"]) == (["a", "b"], [1, 2], [None, None])
        await calls._client.close()


@real
async def test_a_row_that_fails_costs_itself_only():
    async def answer(asked):
        question = json.loads(asked.body)["messages"][0]["content"]
        error = {"message": "not like this", "type": "invalid_request_error", "code": "bad"}
        return says({"error": error}, 400) if question == "refused" else says()

    def body(row):
        if row["question"] == "wrong":
            raise KeyError("question")
        return asks(row) if row["question"] != "none" else {"model": "gpt-4o"}

    async with Server(answer) as server:
        calls = calls_of(body, server)
        answered = await calls({"question": ["fine", "wrong", "refused", "none"]})
        assert [each is None for each in answered["error"]] == [True, False, False, False]
        assert [each is None for each in answered["response"]] == [False, True, True, True]
        assert answered["error"][1] == "KeyError: 'question'"
        assert answered["error"][2] == "400 bad not like this"
        assert "neither messages nor input" in answered["error"][3]
        assert len(server.asked) == 2
        await calls._client.close()


@real
async def test_the_endpoint_is_told_by_the_fields_and_values_of_numpy_are_written_as_numbers():
    async with Server() as server:
        calls = calls_of(lambda row: {"model": "text-embedding-3-small", "input": "x", "dimensions": row["n"]}, server)
        answered = await calls({"n": [Number()]})
        assert answered["error"] == [None]
        assert server.asked[0].target == "/v1/embeddings"
        assert json.loads(server.asked[0].body)["dimensions"] == 5
        await calls._client.close()


@real
async def test_all_batches_of_an_actor_have_one_budget():
    async with Server() as server:
        calls = calls_of(asks, server, rpm=60, max_wait=0.2)
        batches = await asyncio.gather(calls({"question": ["a"]}), calls({"question": ["b"]}))
        errors = sorted(str(batch["error"][0]) for batch in batches)
        assert errors[0].startswith("AdmissionTimeout")
        assert errors[1] == "None"
        assert len(server.asked) == 1
        await calls._client.close()


@real
async def test_an_empty_batch_stays_empty():
    async with Server() as server:
        calls = calls_of(asks, server)
        assert await calls({"question": []}) == {"question": [], "response": [], "error": []}
        await calls._client.close()
