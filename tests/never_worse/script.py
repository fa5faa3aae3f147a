"""Named cases: a server that answers what a function returns, and a program that one client runs against it."""

import asyncio
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI

from scripted import URL
from support import virtual_run
from throttled_openai import Throttle, ThrottledAsyncOpenAI

from .answers import Answer
from .calls import KEY, failed, http_client, request_of
from .run import Run, deterministic, left, listening, not_for_ever
from .server import Server, now


class Scripted(Server):
    """`choose(attempt)` gives an `Answer`, or None for the good one; `latency` may be a function of the attempt."""

    def __init__(self, choose=lambda attempt: None, *, latency=0.1, announce=None):
        super().__init__(Answer(), lambda attempt: False, latency=latency, announce=announce)
        self.choose = choose

    def begin(self, request, body):
        attempt = super().begin(request, body)
        attempt.request, attempt.asked = request, body
        attempt.said = self.choose(attempt) or attempt.said
        return attempt


def first(*answers):
    """These in turn, then good ones."""
    return lambda attempt: answers[attempt.number] if attempt.number < len(answers) else None


def always(answer):
    return lambda attempt: answer


def says(status=429, body=b"", kind="application/json", **headers):
    """An answer; `retry_after="3"` is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body if isinstance(body, bytes) else body.encode(), {"content-type": kind, **named})


@dataclass
class Played(Run):
    """What a program gave, beside what a `Run` keeps."""

    gave: object = None
    throttles: list[Throttle] = field(default_factory=list)

    @property
    def warnings(self):
        return [text for _, level, text in self.said if level >= 30]


def play(program, server=None, *, ours=True, make=None, checks=True, **options):
    """Run `program(client)` in virtual time with a client of `server`, ours or stock; nothing may be left behind."""
    server = server or Scripted()
    played = Played()

    async def main():
        http = http_client(server)
        given = {"api_key": KEY, "base_url": URL, "http_client": http, **options}
        client = (make or (ThrottledAsyncOpenAI if ours else AsyncOpenAI))(**given)
        if isinstance(getattr(client, "throttle", None), Throttle):
            client.throttle._dispatcher.random = lambda: 0.0
            played.throttles.append(client.throttle)
        played.gave = await program(client)
        played.took = now()
        played.attempts, played.per_call = len(server.attempts), server.per_call
        for throttle in played.throttles:
            played.left += await left(throttle)
        await client.close()

    with deterministic(), listening(played), not_for_ever():
        virtual_run(main())
    assert not checks or not played.left, played.left
    return played


async def ends(awaitable, within=86400.0):
    """How a call ended and when, or None where it did not end in time."""
    try:
        answered = await asyncio.wait_for(awaitable, within)
    except TimeoutError:
        return None, now()
    except Exception as error:  # noqa: BLE001  # the test says which it may be
        return failed(error), now()
    return answered, now()


def call(client, number=0, **more):
    return client.chat.completions.create(**{**request_of(number), **more})


async def gather(client, count, **more):
    """How each of `count` calls at once ended, and when."""
    return await asyncio.gather(*(ends(call(client, number, **more)) for number in range(count)))


def answered(endings):
    """How many calls were answered."""
    return sum(isinstance(ending, openai.types.chat.ChatCompletion) for ending, _ in endings)


def errors(endings):
    return [ending for ending, _ in endings if not isinstance(ending, openai.types.chat.ChatCompletion)]


def last(endings):
    return max(at for _, at in endings)
