"""What the recipes share: an account with limits, served on a real port, and the reckoning at the end.

The simulator answers in prose. `Account` also fills in forms, as agents and extractors need: where tools
are offered it calls the first, once; where a JSON schema is asked for it answers in it. Streams stay prose.
"""

import asyncio
import contextlib
import json
import urllib.request

from throttled_openai._clients.options import OPTIONS
from throttled_openai.simulator import Simulator, serve

# Calls a minute, of each model; and how many of them a new throttle lets go at once.
RPM = 600
BURST = 0.85 * RPM / 60


class Account(Simulator):
    """`url` is where it is served, `opened_at` since when."""

    url = ""
    opened_at = 0.0

    def receive(self, method, path, headers, body, now):
        reply = super().receive(method, path, headers, body, now)
        if method == "POST" and reply.status == 200 and not reply.stream:
            reply.pieces = (json.dumps(filled(json.loads(body), json.loads(reply.pieces[0]))).encode(),)
        return reply

    def settles(self, throttle, *, calls):
        """Each of `calls` was admitted once, when it was due, and answered; none is left over."""
        known, seen = throttle.stats(), self.stats()
        assert known.admitted == known.succeeded == calls, (calls, known, seen)
        assert seen["attempts"] == seen["succeeded"] == calls, (calls, known, seen)
        assert known.refused == seen["refused"] == 0, (known, seen)
        assert known.waiting == known.in_flight == seen["in_flight"] == 0, (known, seen)
        for model in {attempt.model for attempt in self.log}:
            arrived = [attempt.at - self.opened_at for attempt in self.log if attempt.model == model]
            assert len(arrived) <= BURST + max(arrived) * RPM / 60 + 1e-3, (model, arrived)


@contextlib.asynccontextmanager
async def account():
    # Nothing is announced: the only limits that a client knows are those it was given.
    server = Account(rpm=RPM, latency=0.1, announce=False)
    async with serve(server) as server.url:
        server.opened_at = asyncio.get_running_loop().time()
        yield server


def options_of(*, rpm, processes):
    """Options for each of several processes that have `rpm` together."""
    return {"rpm": rpm, "shared": "local"} if "shared" in OPTIONS else {"rpm": rpm / processes}


def counted(url):
    """What a simulator in another process has counted."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/simulator/stats") as response:
        return json.load(response)


def filled(asked, answer):
    """`answer`, or the form that `asked` wants filled in."""
    tool = next(iter(asked.get("tools") or ()), None)
    if answer.get("object") == "chat.completion":
        choice = answer["choices"][0]
        schema = asked.get("response_format", {}).get("json_schema", {}).get("schema")
        # Told what the tool found, a model answers, unless it has to call it again.
        if tool and (asked["messages"][-1]["role"] != "tool" or isinstance(asked.get("tool_choice"), dict)):
            function = {"name": tool["function"]["name"], "arguments": example(tool["function"]["parameters"])}
            choice["message"]["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
            choice["message"]["content"] = None
            choice["finish_reason"] = "tool_calls"
        elif schema:
            choice["message"]["content"] = example(schema)
    if answer.get("object") == "response":
        schema = asked.get("text", {}).get("format", {}).get("schema")
        told = isinstance(asked["input"], list) and asked["input"][-1].get("type") == "function_call_output"
        if tool and not told:
            call = {"name": tool["name"], "arguments": example(tool["parameters"]), "status": "completed"}
            answer["output"] = [{"id": "fc_1", "call_id": "call_1", "type": "function_call", **call}]
        elif schema:
            answer["output"][0]["content"][0]["text"] = example(schema)
    return answer


def example(schema):
    """The simplest text that fits."""
    named = schema.get("$defs", {})

    def value(part):
        if "$ref" in part:
            return value(named[part["$ref"].rpartition("/")[2]])
        match part.get("type"):
            case "object":
                return {name: value(field) for name, field in part["properties"].items()}
            case "array":
                return [value(part["items"])]
            case kind:
                return {"integer": 1, "number": 1.5, "boolean": True}.get(kind, "some text")

    return json.dumps(value(schema))
