"""`ThrottledOpenAI` is `OpenAI`: its arguments, results, errors and counters, behind a throttle, in any thread."""

import asyncio
import contextlib
import inspect
import io
import json

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI
from pydantic import BaseModel

from async_clients import OURS
from scripted import CHAT, HI, URL, Says, families, refuses
from sync_clients import EVENTS, Body, Script, events, is_idle, module_of, say, simulated, soon, throttled
from throttled_openai import (
    AccountBlocked,
    PooledHttpxClient,
    Throttle,
    ThrottledAsyncOpenAI,
    ThrottledAzureOpenAI,
    ThrottledMixin,
    ThrottledOpenAI,
)

# Construction.


def test_it_is_an_openai():
    client = throttled(Script())
    assert isinstance(client, OpenAI)
    assert issubclass(ThrottledAzureOpenAI, AzureOpenAI)


@pytest.mark.parametrize(("ours", "theirs"), [(ThrottledOpenAI, OpenAI), (ThrottledAzureOpenAI, AzureOpenAI)])
@pytest.mark.parametrize("name", ["__init__", "copy", "with_options"])
def test_its_signature_lists_the_sdks_arguments_and_ours(ours, theirs, name):
    shown = inspect.signature(getattr(ours, name)).parameters
    sdks = inspect.signature(getattr(theirs, name)).parameters
    assert set(shown) == set(sdks) | OURS
    assert [parameter for parameter in shown if parameter not in OURS] == list(sdks)


def test_every_argument_of_the_sdk_reaches_the_sdk(monkeypatch):
    given = {}
    monkeypatch.setattr(OpenAI, "__init__", lambda _, **options: given.update(options))
    options = {name: object() for name in inspect.signature(ThrottledOpenAI).parameters if name not in OURS}
    ThrottledOpenAI(**options, rpm=500, max_wait=3.0)
    assert given == options


def test_the_throttle_it_makes_is_for_threads():
    client = ThrottledOpenAI(api_key="x", rpm=60)
    assert client.throttle.threads
    assert ThrottledOpenAI(api_key="x", throttle=client.throttle).throttle is client.throttle
    assert not ThrottledAsyncOpenAI(api_key="x").throttle.threads


def test_any_throttle_may_be_shared_with_synchronous_clients():
    throttle, server = Throttle(max_concurrency=2), Script()
    asynchronous = ThrottledAsyncOpenAI(api_key="x", http_client=simulated(), base_url=URL, throttle=throttle)
    synchronous = throttled(server, throttle=throttle)

    async def main():
        calls = [asynchronous.chat.completions.create(model="gpt-4o", messages=HI) for _ in range(5)]
        await asyncio.gather(*calls, *(asyncio.to_thread(say, synchronous) for _ in range(5)))

    asyncio.run(main())
    say(synchronous)
    stats = throttle.stats()
    assert (stats.succeeded, stats.waiting, stats.in_flight) == (11, 0, 0)


def test_a_synchronous_call_in_a_coroutine_does_not_wait_for_the_calls_of_its_own_event_loop():
    """They cannot end before it has returned."""
    throttle = Throttle(max_concurrency=2)
    asynchronous = ThrottledAsyncOpenAI(api_key="x", http_client=simulated(), base_url=URL, throttle=throttle)
    synchronous = throttled(Script(), throttle=throttle)

    async def main():
        calls = [
            asyncio.create_task(asynchronous.chat.completions.create(model="gpt-4o", messages=HI)) for _ in range(6)
        ]
        await asyncio.sleep(0.05)
        assert throttle.in_flight + throttle.waiting == 6
        assert throttle.waiting
        say(synchronous.with_throttle(max_wait=10.0))
        say(synchronous.with_throttle(max_wait=10.0))
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert (throttle.stats().succeeded, throttle.stats().in_flight) == (8, 0)


def test_connections_are_ours_the_sdks_or_the_users():
    mine = httpx.Client()
    assert isinstance(ThrottledOpenAI(api_key="x")._client, PooledHttpxClient)
    assert isinstance(ThrottledOpenAI(api_key="x", pool="httpx")._client, PooledHttpxClient)
    assert not isinstance(ThrottledOpenAI(api_key="x", pool="sdk")._client, PooledHttpxClient)
    assert ThrottledOpenAI(api_key="x", http_client=mine)._client is mine
    assert ThrottledOpenAI(api_key="x", http_client=mine).copy(pool="sdk")._client is not mine
    with pytest.raises(ValueError, match="pool of a synchronous client must be 'httpx' or 'sdk'"):
        ThrottledOpenAI(api_key="x", pool="aiohttp")
    with pytest.raises(ValueError, match="pool of a synchronous client"):
        ThrottledOpenAI(api_key="x").copy(pool="aiohttp")
    with pytest.raises(ValueError, match="http_client has its own connections"):
        ThrottledOpenAI(api_key="x", pool="httpx", http_client=mine)


@pytest.mark.parametrize("method", ["copy", "with_options"])
def test_a_copy_shares_the_budgets_and_keeps_its_queue_options(method):
    client = throttled(Script(), rpm=500, max_wait=30.0, priority=3, max_queued=7)
    other = getattr(client, method)(timeout=5.0, max_retries=9)
    assert isinstance(other, ThrottledOpenAI)
    assert (other.timeout, other.max_retries) == (5.0, 9)
    assert other.throttle is client.throttle
    assert other._queue_options == client._queue_options
    assert other._client is client._client
    assert client.with_throttle(priority=1).throttle is client.throttle
    assert client.with_throttle(priority=1)._queue_options.max_wait == 30.0


def test_a_copy_with_limits_gets_budgets_of_its_own():
    client = throttled(Script(), rpm=600)
    other = client.copy(rpm=60)
    say(client)
    say(other)
    assert other.throttle is not client.throttle
    assert other.throttle.threads
    assert other.throttle.stats().budgets[0].windows[0].limit == 60


def test_a_third_party_class_can_be_throttled():
    class Theirs(OpenAI):
        pass

    class Mine(ThrottledMixin, Theirs):
        pass

    script = Script()
    client = Mine(api_key="x", base_url=URL, rpm=60, http_client=script.client())
    assert say(client).choices[0].message.content == "yes"
    assert client.throttle.stats().succeeded == 1
    assert isinstance(client.with_options(timeout=1), Mine)


# What calls return.


@families
def test_a_call_returns_what_the_sdks_returns(family):
    ours, theirs = (
        throttled(Script(), family),
        OpenAI(api_key="x", base_url=URL, http_client=Script().client(family)),
    )
    assert say(ours) == say(theirs)
    assert ours.throttle.stats().succeeded == 1
    assert ours.throttle.stats().budgets[0].tokens_used == 9


@families
def test_a_stream_gives_what_the_sdks_gives_and_settles_at_its_end(family):
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), family)
    stream = say(client, stream=True)
    assert client.throttle.stats().in_flight == 1
    assert [chunk.choices[0].delta.content for chunk in stream if chunk.choices] == ["yes"]
    assert body.closed == 1
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 1
    assert client.throttle.stats().budgets[0].tokens_used == 9


def test_raw_responses_and_their_counters_are_the_sdks():
    client = throttled(Script(Says(500, {}), Says(500, {}), Says(headers={"x-request-id": "7"})), max_retries=2)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.retries_taken == 2
    assert raw.headers["x-request-id"] == "7"
    assert raw.parse().choices[0].message.content == "yes"
    assert client.throttle.stats().admitted == 3


def test_a_streamed_raw_response_settles_when_it_is_left():
    body = Body(json.dumps(CHAT).encode())
    client = throttled(Script(Says(body=body)))
    with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HI) as response:
        assert client.throttle.stats().in_flight == 1
        assert response.parse().choices[0].message.content == "yes"
    assert is_idle(client)


def test_parsed_answers_are_the_sdks():
    class Answer(BaseModel):
        yes: bool

    told = {**CHAT, "choices": [{**CHAT["choices"][0], "message": {"role": "assistant", "content": '{"yes": true}'}}]}
    client = throttled(Script(Says(body=told)))
    answer = client.chat.completions.parse(model="gpt-4o", messages=HI, response_format=Answer)
    assert answer.choices[0].message.parsed == Answer(yes=True)


def test_calls_that_run_no_model_do_not_wait():
    client = throttled(Script(Says(body={"object": "list", "data": []})), max_concurrency=1)
    held = say(throttled(Script(Says(body=Body())), throttle=client.throttle), stream=True)
    assert client.throttle.stats().in_flight == 1
    assert client.models.list().data == []
    assert client.throttle.stats().admitted == 1
    held.close()


def test_limits_announced_beside_calls_are_learnt():
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    client = throttled(Script(Says(), Says(body={"object": "list", "data": []}, headers=headers)))
    say(client)
    client.models.list()
    soon(lambda: client.throttle.stats().budgets[0].windows)
    assert client.throttle.stats().budgets[0].windows[0].limit == 60


# Refusals and faults.


@families
def test_a_refused_call_is_sent_again_without_the_callers_notice(family):
    script = Script(refuses(headers={"retry-after-ms": "100"}), refuses(headers={"retry-after-ms": "100"}))
    client = throttled(script, family, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.retries_taken == 0
    assert [seen.retry_count for seen in script.seen] == [0, 0, 0]
    assert client.throttle.stats().refused == 2
    assert script.seen[1].at - script.seen[0].at >= 0.1
    assert is_idle(client)


def test_a_refusal_for_billing_that_a_second_attempt_confirms_comes_at_once():
    billing = refuses(code="insufficient_quota", kind="insufficient_quota")
    script = Script(billing, billing)
    client = throttled(script)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert len(script.seen) == 2
    with pytest.raises(AccountBlocked, match="settle the account"):
        say(client)
    assert len(script.seen) == 2


def test_too_many_refusals_are_handed_to_the_caller():
    script = Script(*[refuses(headers={"retry-after-ms": "1"})] * 5)
    client = throttled(script, max_refusals=2, max_retries=2)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert len(script.seen) == 3


def test_without_readmission_refusals_are_the_sdks():
    script = Script(refuses(headers={"retry-after-ms": "1"}))
    client = throttled(script, max_refusals=0, max_retries=1)
    say(client)
    assert [seen.retry_count for seen in script.seen] == [0, 1]


def test_a_refused_call_whose_wait_is_too_long_ends_with_its_refusal():
    client = throttled(Script(refuses(headers={"retry-after": "60"})), max_wait=0.2, max_retries=0)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert is_idle(client)


@pytest.mark.parametrize(("rewinds", "attempts"), [(True, 2), (False, 1)])
def test_a_file_is_sent_again_if_it_can_be_rewound(rewinds, attempts):
    file = io.BytesIO(b"sound")
    file.seekable = lambda: rewinds
    script = Script(refuses(headers={"retry-after-ms": "1"}), Says(body={"text": "words"}))
    client = throttled(script, max_retries=0)
    with contextlib.nullcontext() if rewinds else pytest.raises(openai.RateLimitError):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", file))
    assert len(script.seen) == attempts


@families
def test_faults_are_retried_by_the_sdk_each_with_a_permit(family):
    module = module_of(family)
    script = Script(Says(500, {}), module.ConnectError("no"), module.ReadTimeout("late"))
    client = throttled(script, family, max_retries=3)
    say(client)
    assert [seen.retry_count for seen in script.seen] == [0, 1, 2, 3]
    assert client.throttle.stats().admitted == 4
    assert is_idle(client)


@families
def test_an_error_leaves_nothing_in_flight(family):
    module = module_of(family)
    for told, error in (
        (Says(400, {"error": {"message": "no"}}), openai.BadRequestError),
        (module.ReadError("cut"), openai.APIConnectionError),
        (module.PoolTimeout("late"), openai.APITimeoutError),
    ):
        client = throttled(Script(told), family, max_retries=0)
        with pytest.raises(error):
            say(client)
        assert is_idle(client)


def test_an_error_before_sending_gives_everything_back():
    def no_key():
        raise RuntimeError("no key today")

    client = ThrottledOpenAI(api_key=no_key, base_url=URL, http_client=Script().client(), rpm=60)
    with pytest.raises(RuntimeError, match="no key today"):
        say(client)
    assert is_idle(client)
    assert client.throttle.stats().budgets[0].windows[0].spendable == pytest.approx(0.85, abs=0.2)


# Azure.


def test_azures_client_counts_by_deployment_and_asks_for_a_token_once_it_is_admitted():
    asked = []

    def token():
        asked.append(client.throttle.stats().in_flight)
        return "token"

    client = ThrottledAzureOpenAI(
        azure_endpoint="https://east.openai.azure.com",
        azure_ad_token_provider=token,
        api_version="2024-10-21",
        http_client=Script().client(),
    )
    say(client, model="mine")
    say(client.with_options(timeout=3), model="other")
    names = {budget.name for budget in client.throttle.stats().budgets}
    assert names == {"east.openai.azure.com/mine", "east.openai.azure.com/other"}
    assert asked == [1, 1]
