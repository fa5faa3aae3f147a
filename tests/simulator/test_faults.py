"""Faults: which attempts they apply to, and what clients see of them."""

import asyncio
import importlib
import json
import re

import openai
import pytest

from simulated import FAMILIES, HI, chat, clock, error_of, headers_of, http_client, post, sdk, seen, steady
from throttled_openai.simulator import Fault, Simulator, virtual_run


def test_a_status_fault_applies_only_to_the_attempts_it_is_for():
    server = steady(
        rpm=100, faults=[Fault("status", status=503, first=1, last=2, model="a"), Fault(status=400, first=4)]
    )
    statuses = [post(server, chat(10, model=model)).status for model in "aabaab"]
    assert statuses == [200, 503, 200, 200, 400, 400]


def test_a_faults_share_is_drawn_from_the_seed():
    def statuses(seed):
        server = Simulator(faults=[Fault(share=0.1)], seed=seed)
        return [post(server, chat(10)).status for _ in range(2000)]

    assert statuses(3) == statuses(3)
    assert statuses(3).count(500) == pytest.approx(200, abs=50)


def test_a_fault_carries_its_own_words_and_wait():
    server = Simulator(rpm=100, faults=[Fault(status=429, code="insufficient_quota", message="Pay!", retry_after=1.5)])
    reply = post(server, chat(10))
    assert headers_of(reply) == {"retry-after": "2", "retry-after-ms": "1500"}
    assert json.loads(reply.pieces[0])["error"] == {
        "message": "Pay!",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }


def test_a_rejected_request_was_charged_and_says_so():
    server = Simulator(rpm=100, faults=[Fault(status=400)])
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "99"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disconnect_is_that_familys_protocol_error(family):
    async def main():
        server = steady(faults=[Fault("disconnect")])
        async with http_client(server, family) as client:
            with pytest.raises(importlib.import_module(family).RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10))
        assert server.log[0].status == 0
        assert (server.in_flight, server.counters.failed) == (0, 1)

    virtual_run(main())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hang_lasts_until_the_clients_read_timeout(family):
    async def main():
        server = steady(faults=[Fault("hang")])
        async with http_client(server, family, timeout=30.0) as client:
            with pytest.raises(importlib.import_module(family).ReadTimeout):
                await client.post("/chat/completions", json=chat(10))
        assert asyncio.get_running_loop().time() == 30.0
        assert (server.in_flight, server.counters.abandoned) == (0, 1)

    virtual_run(main())


def test_a_stream_error_is_an_error_without_a_status():
    async def main():
        server = steady(faults=[Fault("stream_error")])
        async with sdk(server) as client:
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            with pytest.raises(openai.APIError) as caught:
                _ = [chunk async for chunk in stream]
            assert caught.value.code == "rate_limit_exceeded"
            assert type(caught.value) is openai.APIError
            stream = await client.responses.create(model="m", input="hi", stream=True)
            with pytest.raises(openai.APIError, match="Rate limit"):
                _ = [event async for event in stream]
            await client.chat.completions.create(model="m", messages=HI)  # only streams are struck
        assert [attempt.status for attempt in server.log] == [200, 200, 200]
        assert (server.succeeded, server.counters.failed, server.open_streams) == (1, 2, 0)

    virtual_run(main())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_stream_breaks_in_the_middle(family):
    async def main():
        server = steady(faults=[Fault("stream_cut")])
        text = ""
        async with (
            http_client(server, family) as client,
            client.stream("POST", "/chat/completions", json=chat(10, stream=True)) as response,
        ):
            with pytest.raises(importlib.import_module(family).RemoteProtocolError):
                async for piece in response.aiter_text():
                    text += piece
        assert text.count("data:") == 19 // 2
        assert (server.in_flight, server.open_streams, server.counters.failed) == (0, 0, 1)

    virtual_run(main())


@pytest.mark.parametrize(
    "text",
    [
        "hang",
        "status:status=503,share=0.01",
        "stream_cut:first=3,last=5,model=gpt-4o",
        "status:message=a, b,code=c",
        "status:late=False,status=401",
        "stream_error:shape=flat,after=3,late=true",
    ],
)
def test_a_fault_is_written_as_it_is_read(text):
    assert Fault.parse(str(Fault.parse(text))) == Fault.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flood", "fault kind must be one of status, disconnect, hang, stream_error, stream_cut, got 'flood'"),
        ("hang:color=red", "cannot read 'color=red'"),
        ("hang:share=2", "share must be from 0 to 1, got 2.0"),
        ("status:status=200", "status must be from 400 to 599, got 200"),
        ("hang:first=3,last=1", "first=3, last=1"),
        ("hang:late=false", "only a status can come early: a hang is always late"),
        ("status:late=no", "expected true or false, got 'no'"),
        ("stream_error:shape=round", "a fault's shape must be one of wrapped, flat, failed, got 'round'"),
        ("stream_error:after=-1", "a fault's error comes after 0 or more events, got -1"),
    ],
)
def test_an_invalid_fault_says_why(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Fault.parse(text)


# Refusals that no limit caused.


def test_an_exhausted_account_is_refused_before_the_limits():
    async def main():
        async with http_client(server) as client:
            response = await client.post("/chat/completions", json=chat())
        return response, clock()

    server = steady(rpm=2, tpm=1000, faults=[Fault(status=429, code="insufficient_quota", last=0)])
    response, at = virtual_run(main())
    assert (response.status_code, at) == (429, 0.0)
    assert response.json()["error"] == {
        "message": "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert "x-ratelimit-limit-requests" not in response.headers
    assert headers_of(post(server))["x-ratelimit-remaining-requests"] == "1"
    assert (seen(server).failed, server.succeeded, server.peak_in_flight) == (1, 1, 1)
    assert (server.log[0].status, server.log[0].fault) == (429, "status")


@pytest.mark.parametrize("status", [401, 402, 403, 413, 429, 500, 503, 529])
def test_any_status_may_come_before_the_limits_or_late(status):
    server = steady(rpm=10, faults=[Fault(status=status, late=False, last=0), Fault(status=status, last=1)])
    early, late, fine = (post(server) for _ in range(3))
    assert [reply.status for reply in (early, late, fine)] == [status, status, 200]
    assert [reply.delay for reply in (early, late, fine)] == [0.0, 1.0, 1.0]
    assert error_of(early) == error_of(late)
    assert headers_of(fine)["x-ratelimit-remaining-requests"] == "8"


def test_an_early_fault_comes_before_the_limits():
    server = Simulator(rpm=1, max_in_flight=1, faults=[Fault(status=401, late=False, first=1)])
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0)
    assert post(server).status == 401
