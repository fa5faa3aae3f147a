"""A call that fails raises the SDK's own error or one derived from it; none contains a prompt or a key."""

import asyncio
import importlib
import logging

import openai
import pytest

import throttled_openai
from async_clients import blocked, server
from scripted import CHAT, HI, URL, Says, Script, cancelled_at_the_end, families, http_client, now, say, throttled
from throttled_openai import AdmissionTimeout, QueueFull, RequestTooLarge, ThrottledAsyncOpenAI
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run

KEY, PROMPT = "sk-secret-0123456789", "the launch code is 0000"


# Faults belong to the SDK.


@families
def test_a_fault_is_retried_by_the_sdk_with_its_own_counters(family):
    async def main():
        simulator = server(faults=[Fault(status=500, last=0)])
        client = throttled(simulator, family)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.retries_taken == 1
        assert [attempt.status for attempt in simulator.log] == [500, 200]
        assert [attempt.retry_count for attempt in simulator.log] == [0, 1]
        stats = client.throttle.stats()
        assert (stats.admitted, stats.succeeded, stats.refused, stats.in_flight) == (2, 1, 0, 0)

    virtual_run(main())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=500), openai.InternalServerError),
        (Fault(status=400), openai.BadRequestError),
        (Fault(status=401), openai.AuthenticationError),
        (Fault(status=404), openai.NotFoundError),
        (Fault(status=409), openai.ConflictError),
        (Fault("disconnect"), openai.APIConnectionError),
        (Fault("hang"), openai.APITimeoutError),
    ],
    ids=str,
)
@families
def test_without_retries_a_fault_is_the_sdks_own_error_after_one_attempt(family, fault, error):
    async def main():
        simulator = server(faults=[fault])
        client = throttled(simulator, family, max_retries=0, timeout=5.0)
        with pytest.raises(openai.APIError) as caught:
            await say(client)
        assert type(caught.value) is error
        assert caught.value.request.method == "POST"
        assert now() == (5.0 if fault.kind == "hang" else 1.0)
        assert simulator.attempts == 1
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
def test_over_sockets_faults_are_the_sdks_own_errors(family):
    async def main():
        module = importlib.import_module(family)
        simulator = Simulator(
            latency=0.0, faults=[Fault("disconnect", last=0), Fault("hang", first=1, last=1), Fault(status=500, last=2)]
        )
        async with serve(simulator) as url, module.AsyncClient() as mine:
            options = {"api_key": "x", "base_url": url, "http_client": mine, "max_retries": 0}
            client = ThrottledAsyncOpenAI(**options)
            for error in (openai.APIConnectionError, openai.APITimeoutError, openai.InternalServerError):
                with pytest.raises(openai.APIError) as caught:
                    await say(client, timeout=0.2)
                assert type(caught.value) is error
            assert (await say(client)).choices
            assert client.throttle.in_flight == 0

    asyncio.run(main())


def test_a_retry_by_the_sdk_keeps_the_calls_place_in_line():
    async def main():
        script = Script(Says(500, {}, headers={"retry-after-ms": "100"}), Says(delay=1.0))
        client = throttled(script, max_concurrency=1)
        calls = [asyncio.create_task(say(client, str(number))) for number in range(4)]
        await asyncio.gather(*calls)
        # 1 went while 0 was asleep; 0 came back before 2 and 3.
        assert [seen.text for seen in script.seen] == ["0", "1", "0", "2", "3"]

    virtual_run(main())


# Errors of admission.


@families
def test_not_being_admitted_in_time_is_a_timeout_of_the_sdk(family):
    async def main():
        client = throttled(blocked(), family, max_concurrency=1)
        async with cancelled_at_the_end(say(client), say(client)):
            with pytest.raises(openai.APITimeoutError) as caught:
                await say(client.with_throttle(max_wait=3.0))
            assert now() == 3.0
        error = caught.value
        assert type(error) is AdmissionTimeout
        assert (error.max_wait, error.waited, error.ahead) == (3.0, 3.0, 1)
        assert str(error) == (
            "not admitted within max_wait=3 s: 1 calls ahead, gpt-4o has 1 calls in flight of 1; "
            "raise max_wait or send less"
        )

    virtual_run(main())


def test_a_timeout_of_admission_is_not_retried_by_the_sdk():
    async def main():
        client = throttled(blocked(), max_concurrency=1, max_retries=5)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout):
                await say(client.with_throttle(max_wait=3.0))
            assert now() == 3.0

    virtual_run(main())


def test_a_full_queue_says_when_to_come_back():
    async def main():
        client = throttled(server(), rpm=60, max_queued=2)
        async with cancelled_at_the_end(*(say(client) for _ in range(3))):
            with pytest.raises(QueueFull) as caught:
                await say(client)
        assert isinstance(caught.value, openai.APIConnectionError)
        assert (caught.value.max_queued, caught.value.waiting, caught.value.retry_after) == (2, 2, 2.0)

    virtual_run(main())


@pytest.mark.parametrize("tells", [True, False])
def test_a_prompt_larger_than_the_limit_is_sent_if_cached_input_is_free(tells):
    """96 % of it are in the cache, so a limit of 30,000 lets 15 a minute pass; usage may report that."""

    async def main():
        limits = {
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "28000",
        }
        cached = {"prompt_tokens_details": {"cached_tokens": 48_000}} if tells else {}
        usage = {"prompt_tokens": 50_000, "completion_tokens": 5, "total_tokens": 50_005, **cached}
        answer = Says(body={**CHAT, "usage": usage}, headers=limits, delay=1.0)
        script = Script(*[answer] * 10)
        client = throttled(script, dialect="anthropic")
        for _ in range(5):
            await say(client, "x" * 200_000)
        assert len(script.seen) == 5
        if tells:
            assert now() < 10.0

    virtual_run(main())


def test_a_call_larger_than_the_announced_limit_fails_before_it_is_sent():
    async def main():
        simulator = server(tpm=1000)
        client = throttled(simulator)
        await say(client)
        await say(client)  # a limit that was announced once may be a mistake
        with pytest.raises(RequestTooLarge, match="estimated at 2,000 tokens but gpt-4o admits at most 1,000"):
            await say(client, "x" * 4 * 1997)
        assert simulator.attempts == 2

    virtual_run(main())


@families
def test_an_error_of_admission_names_the_request_without_body_or_key(family):
    async def main():
        mine = http_client(blocked(), family, headers={"authorization": KEY, "api-key": KEY}, cookies={"session": KEY})
        client = throttled(Script(), api_key=KEY, http_client=mine, max_concurrency=1, max_wait=3.0)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout) as caught:
                await say(client, PROMPT)
        request = caught.value.request
        assert (request.method, str(request.url)) == ("POST", f"{URL}/chat/completions")
        assert KEY not in repr(list(request.headers.items()))
        assert request.content == b""
        assert caught.value.body is None

    virtual_run(main())


@pytest.mark.parametrize("url", ["http://elsewhere/v1/chat/completions", "/chat/completions", "chat/completions"])
def test_an_error_of_admission_names_the_address_that_was_called(url):
    async def main():
        client = throttled(blocked(), max_concurrency=1, max_wait=3.0)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout) as caught:
                await client.post(url, body={"model": "gpt-4o", "messages": HI}, cast_to=object)
        expected = url if url.startswith("http") else f"{URL}/chat/completions"
        assert str(caught.value.request.url) == expected

    virtual_run(main())


# Nothing secret.


def test_neither_prompts_nor_keys_are_in_logs_reprs_stats_or_errors(caplog):
    caplog.set_level(logging.DEBUG, logger="throttled_openai")
    said = []

    async def main():
        faults = [
            Fault(status=429, retry_after=1.0, last=1),
            Fault(status=503, first=2, last=3),
            Fault(status=500, first=4, last=4),
            Fault("disconnect", first=5, last=5),
            Fault("stream_cut", share=0.5),
        ]
        client = throttled(server(rpm=600, tpm=10_000, faults=faults), api_key=KEY, max_wait=60.0, max_queued=9)
        calls = [say(client, PROMPT, stream=bool(number % 2)) for number in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, openai.AsyncStream):
                try:
                    [chunk async for chunk in answer]
                except Exception:  # noqa: BLE001  # the SDKs differ in what a cut stream raises
                    said.append("cut")
        hasty = client.with_throttle(max_wait=0.001)
        answers += await asyncio.gather(*(say(hasty, PROMPT) for _ in range(30)), return_exceptions=True)
        errors = [error for error in answers if isinstance(error, throttled_openai.AdmissionError)]
        assert {type(error) for error in errors} == {AdmissionTimeout, QueueFull}
        for error in errors:
            said.extend([str(error), repr(error), repr(vars(error)), repr(error.request.headers)])
        said.extend([repr(client), repr(client.throttle), repr(client.throttle.stats()), str(client.throttle.stats())])

    virtual_run(main())
    told = [record.getMessage() for record in caplog.records if record.name == "throttled_openai"]
    assert any("refused" in line for line in told)
    assert any("attempt success" in line for line in told)
    for text in [*told, *said]:
        assert PROMPT not in text
        assert KEY not in text
