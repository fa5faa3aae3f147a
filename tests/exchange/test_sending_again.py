"""A refused call is sent again with fresh credentials and a fresh date, like the SDK's own retries."""

import asyncio
import importlib
import io
import threading
import time

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

import throttled_openai
from scripted import CHAT, FAMILIES, HI, URL, Says, Script, http_client, now, refuses, say, throttled
from throttled_openai import wrap
from throttled_openai.simulator import virtual_run

HTTP = importlib.import_module(FAMILIES[-1])
AZURE = {"azure_endpoint": "http://server", "api_version": "2026-01-01"}
WAIT = {"retry-after": "1"}
VERSION = tuple(map(int, openai.__version__.split(".")[:2]))
azure_functions = pytest.mark.skipif(
    VERSION < (3, 14), reason="Azure's clients of this SDK take no function as api_key"
)


class Tokens:
    """Tokens that live 0.6 s on the loop's clock, and a server that rejects expired ones."""

    def __init__(self, clock):
        self.clock = clock
        self.given = 0

    def give(self):
        self.given += 1
        return f"{self.clock():.3f}"

    async def give_async(self):
        return self.give()

    def is_fresh(self, headers):
        token = headers.get("api-key") or headers["authorization"].removeprefix("Bearer ")
        return self.clock() - float(token) < 0.6


class Checking(Script):
    """401 to tokens that are too old."""

    def __init__(self, tokens, *responses):
        super().__init__(*responses)
        self.tokens = tokens

    async def answer(self, request, module):
        said = await super().answer(request, module)
        return (
            said if self.tokens.is_fresh(request.headers) else module.Response(401, json={"error": {"message": "old"}})
        )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AsyncOpenAI, lambda tokens: {"api_key": tokens.give_async, "base_url": URL}),
        pytest.param(AsyncAzureOpenAI, lambda tokens: {"api_key": tokens.give_async, **AZURE}, marks=azure_functions),
        (AsyncAzureOpenAI, lambda tokens: {"azure_ad_token_provider": tokens.give, **AZURE}),
        (AsyncAzureOpenAI, lambda tokens: {"azure_ad_token_provider": tokens.give_async, **AZURE}),
    ],
)
def test_every_attempt_has_a_fresh_token(kind, options):
    async def main():
        tokens = Tokens(now)
        script = Checking(tokens, *[refuses(headers=WAIT)] * 3)
        client = wrap(kind(http_client=http_client(script), max_retries=0, **options(tokens)))
        assert (await say(client)).choices
        assert len(script.seen) == tokens.given == 4
        assert [seen.retry_count for seen in script.seen] == [0] * 4

    virtual_run(main())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (OpenAI, lambda tokens: {"api_key": tokens.give, "base_url": URL}),
        pytest.param(AzureOpenAI, lambda tokens: {"api_key": tokens.give, **AZURE}, marks=azure_functions),
        (AzureOpenAI, lambda tokens: {"azure_ad_token_provider": tokens.give, **AZURE}),
    ],
)
def test_every_attempt_of_a_thread_has_a_fresh_token(kind, options):
    tokens, seen = Tokens(time.monotonic), []

    def answer(request):
        seen.append(tokens.is_fresh(request.headers))
        if len(seen) == 1:
            return HTTP.Response(429, json=refuses().body, headers={"retry-after-ms": "700"})
        return HTTP.Response(200, json=CHAT)

    http = HTTP.Client(transport=HTTP.MockTransport(answer))
    with wrap(kind(http_client=http, max_retries=0, **options(tokens))) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=HI).choices
    assert seen == [True, True]


def test_each_attempt_is_prepared_by_the_sdk_and_what_is_built_on_it():
    class Signing(AsyncOpenAI):
        async def _prepare_request(self, request):
            request.headers["x-date"] = f"{now():.0f}"

    async def main():
        script = Script(refuses(headers=WAIT), Says(500), refuses(headers=WAIT))
        client = wrap(Signing(api_key="k", base_url=URL, http_client=http_client(script)))
        client._idempotency_header = "Idempotency-Key"
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.retries_taken == 1
        assert [seen.retry_count for seen in script.seen] == [0, 0, 1, 1]  # refusals use up none
        dates = [float(seen.headers["x-date"]) for seen in script.seen]
        assert dates == [pytest.approx(seen.at, abs=0.5) for seen in script.seen]
        assert len({seen.headers["idempotency-key"] for seen in script.seen}) == 1
        assert len({seen.body for seen in script.seen}) == 1

    virtual_run(main())


def test_a_subclass_that_prepares_its_own_options_does_so_once_for_each_attempt():
    prepared = []

    class Mine(throttled_openai.ThrottledAsyncOpenAI):
        async def _prepare_options(self, options):
            prepared.append(options.headers)
            return await super()._prepare_options(options)

    async def main():
        script = Script(*[refuses(headers=WAIT)] * 2)
        client = Mine(api_key="k", base_url=URL, http_client=http_client(script))
        await say(client)
        assert len(prepared) == len(script.seen) == 3
        assert (client.throttle.in_flight, client.throttle.stats().admitted) == (0, 3)

    virtual_run(main())


def test_a_key_that_cannot_be_had_any_more_ends_the_call_and_gives_the_permit_back():
    async def main():
        keys = iter(["a"])

        async def give():
            try:
                return next(keys)
            except StopIteration:
                raise openai.OpenAIError("vault closed") from None

        client = throttled(Script(refuses(headers=WAIT)), api_key=give)
        with pytest.raises(openai.OpenAIError, match="vault closed"):
            await say(client)
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)

    virtual_run(main())


def test_a_file_is_sent_again_from_its_beginning():
    async def main():
        script = Script(refuses(headers=WAIT), Says(body={"text": "hello"}))
        client = throttled(script)
        heard = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", io.BytesIO(b"sound" * 100)))
        assert heard.text == "hello"
        assert [seen.body.count(b"sound") for seen in script.seen] == [100, 100]

    virtual_run(main())


def test_vertex_gets_a_fresh_token_for_each_attempt():
    vertex = pytest.importorskip("openai.providers.vertex").vertex

    async def main():
        tokens = Tokens(now)
        script = Checking(tokens, *[refuses(headers=WAIT)] * 2, Says(body=ANSWER))
        provider = vertex(base_url="http://server/v1/publishers/openai/v1", token_provider=tokens.give_async)
        client = wrap(AsyncOpenAI(provider=provider, http_client=http_client(script)))
        assert (await client.responses.create(model="gpt-oss", input="hi")).id == "resp_1"
        assert tokens.given == 3

    virtual_run(main())


ANSWER = {"id": "resp_1", "object": "response", "created_at": 0, "model": "m", "output": [], "status": "completed"}


# --- what the server asks -------------------------------------------------------------------------


@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_refusal_marked_not_to_be_retried_comes_at_once(max_retries):
    async def main():
        script = Script(refuses(headers={"x-should-retry": "false"}))
        client = throttled(script, max_retries=max_retries)
        with pytest.raises(openai.RateLimitError):
            await say(client)
        assert (len(script.seen), now() < 1) == (1, True)
        assert client.throttle.stats().refused == 1

    virtual_run(main())


def test_a_refusal_marked_so_later_ends_the_attempts_then():
    async def main():
        script = Script(refuses(headers=WAIT), refuses(headers={"x-should-retry": "false"}))
        with pytest.raises(openai.RateLimitError):
            await say(throttled(script))
        assert len(script.seen) == 2

    virtual_run(main())


# --- closing --------------------------------------------------------------------------------------


def test_closing_fails_the_calls_that_wait_at_once_and_only_those_of_this_client():
    async def main():
        one, other = throttled(Script(Says(delay=30)), rpm=2), throttled(Script(), rpm=2)
        sent = asyncio.create_task(say(other))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(say(client)) for client in (one, one, other)]
        await asyncio.sleep(1)
        await one.close()
        failed = await asyncio.gather(*waiting[:2], return_exceptions=True)
        assert now() < 2
        for error in failed:
            assert isinstance(error, throttled_openai.ClientClosed)
            assert isinstance(error, openai.APIConnectionError)
            assert str(error.request.url) == f"{URL}/chat/completions"
        assert (await waiting[2]).choices
        assert (await sent).choices
        assert (other.throttle.waiting, other.throttle.in_flight) == (0, 0)

    virtual_run(main())


def test_closing_ends_a_call_that_waits_to_be_sent_again():
    async def main():
        client = throttled(Script(refuses(headers={"retry-after": "60"})))
        waiting = asyncio.create_task(say(client))
        await asyncio.sleep(1)
        await client.close()
        with pytest.raises(throttled_openai.ClientClosed):
            await waiting
        assert now() < 2
        assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)

    virtual_run(main())


def test_a_copy_that_shares_the_connections_is_closed_too():
    async def main():
        client = throttled(Script(), rpm=2)
        copy = client.with_options(timeout=3)
        await say(client)
        waiting = asyncio.create_task(say(copy))
        await asyncio.sleep(1)
        await client.close()
        with pytest.raises(throttled_openai.ClientClosed):
            await waiting

    virtual_run(main())


def test_a_call_after_close_fails_as_the_sdks_and_does_not_wait():
    async def main():
        failed = []
        for make in (
            lambda: throttled(Script(), rpm=2, max_retries=0),
            lambda: AsyncOpenAI(api_key="k", base_url=URL, http_client=http_client(Script()), max_retries=0),
        ):
            client = make()
            await say(client)
            await client.close()
            with pytest.raises(Exception) as caught:  # the SDK's, which differs from version to version
                await say(client)
            failed.append((type(caught.value), str(caught.value)))
        assert failed[0] == failed[1]
        assert now() < 1

    virtual_run(main())


def test_a_task_that_is_cancelled_while_its_client_closes_is_cancelled():
    async def main():
        client = throttled(Script(), rpm=2)
        await say(client)
        waiting = asyncio.create_task(say(client))
        await asyncio.sleep(1)
        closing = asyncio.create_task(client.close())
        waiting.cancel()
        await closing
        with pytest.raises(asyncio.CancelledError):
            await waiting

        async with asyncio.timeout(5):  # the count of cancellations is right afterwards
            await asyncio.sleep(1)

    virtual_run(main())


@pytest.mark.parametrize("family", FAMILIES)
def test_closing_a_throttled_http_client_ends_what_waits_for_it(family):
    async def main():
        view = throttled_openai.wrap_http_client(http_client(Script(), family), rpm=2)
        body = {"model": "m", "messages": HI}
        await view.post(f"{URL}/chat/completions", json=body)
        waiting = asyncio.create_task(view.post(f"{URL}/chat/completions", json=body))
        await asyncio.sleep(1)
        await view.aclose()
        with pytest.raises(throttled_openai.ClientClosed):
            await waiting

    virtual_run(main())


def test_closing_wakes_the_threads_that_wait():
    http = HTTP.Client(transport=HTTP.MockTransport(lambda _: HTTP.Response(200, json=CHAT)))
    client = throttled_openai.ThrottledOpenAI(api_key="k", base_url=URL, http_client=http, rpm=1)
    client.chat.completions.create(model="gpt-4o", messages=HI)
    errors = []

    def ask():
        try:
            client.chat.completions.create(model="gpt-4o", messages=HI)
        except openai.APIConnectionError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while client.throttle.waiting < 3:
        time.sleep(0.01)
    client.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == [throttled_openai.ClientClosed] * 3
    assert (client.throttle.stats().waiting, client.throttle.stats().in_flight) == (0, 0)


def test_a_call_that_the_garbage_collector_ends_elsewhere_gives_its_permit_back():
    async def main():
        client = throttled(Script(Says(delay=30)), max_concurrency=1)
        call = say(client)

        async def begin():
            # Driven by hand, in a context of its own, and dropped in another.
            call.send(None)

        await asyncio.create_task(begin())
        assert client.throttle.in_flight == 1
        call.close()
        assert client.throttle.in_flight == 0

    virtual_run(main())
