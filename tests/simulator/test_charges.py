"""What a request is measured to cost, and when it is charged."""

import json

import pytest

from simulated import HI, chat, cost, error_of, headers_of, post
from throttled_openai.simulator import Simulator


@pytest.mark.parametrize(
    ("size", "messages", "recorded"), [(89, 2, 26), (40, 1, 13), (7242, 2, 1814), (241, 2, 64), (6441, 2, 1614)]
)
def test_a_chat_costs_the_recorded_tokens(size, messages, recorded):
    contents = ["a" * (size - messages + 1), *("b" for _ in range(messages - 1))]
    assert cost("chat/completions", messages=[{"role": "user", "content": c} for c in contents]) == recorded


def test_text_is_counted_in_bytes_and_max_tokens_not_at_all():
    assert cost("chat/completions", messages=[{"role": "user", "content": "日本語です。東"}], max_tokens=999) == 5 + 3


def test_parts_are_counted_and_each_image_costs_765():
    url = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    parts = [{"type": "text", "text": "a" * 40}, url]
    assert cost("chat/completions", messages=[{"role": "user", "content": parts}]) == 10 + 3 + 765


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat/completions", {"messages": HI, "n": 3}, 0 + 3 + 2),
        ("completions", {"prompt": "abcde"}, 2),
        ("completions", {"prompt": ["abcd", "e"]}, 2),
        ("embeddings", {"input": ["abcd"] * 10 + ["a"]}, 10),
        ("embeddings", {"input": [1, 2, 3]}, 3),
        ("embeddings", {"input": [[1, 2, 3], [4]]}, 4),
        ("moderations", {"input": "a" * 40}, 10),
        ("responses", {"input": "a" * 40}, 10 + 19),
        ("responses", {"input": [{"role": "user", "content": "a" * 40}], "instructions": "abcd"}, 11 + 19),
        ("responses", {"input": "a" * 40, "tools": [{"type": "web_search"}]}, 10 + 19),
        ("responses", {"input": "a" * 40, "tools": [{"type": "function", "name": "f"}]}, 10 + 217),
    ],
)
def test_each_endpoint_has_its_own_arithmetic(endpoint, body, expected):
    assert cost(endpoint, **body) == expected


# When it is charged.


def left(server, now=0.0):
    return server.stats(now)["models"]["gpt-4o"]["tokens"]


@pytest.mark.parametrize(
    ("more", "cost"),
    [
        ({}, 10 + 16),
        ({"max_tokens": 300}, 10 + 300),
        ({"max_completion_tokens": 200, "max_tokens": 300}, 10 + 200),
        ({"max_tokens": 300, "n": 3}, 10 + 2 + 3 * 300),
        ({"n": 2}, 10 + 1 + 2 * 16),
    ],
)
def test_a_reserve_for_the_answer_may_be_charged_too(more, cost):
    server = Simulator(tpm=10_000, charge="reserve")
    reply = post(server, chat(**more))
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == str(10_000 - cost)
    assert left(server) == 10_000 - cost
    assert server.log[0].tokens == cost


def test_a_reserve_counts_towards_the_largest_request():
    refused = post(Simulator(tpm=1000, charge="reserve"), chat(max_tokens=1000))
    assert error_of(refused)["message"].startswith("Request too large for gpt-4o")
    assert "Limit 1000, Requested 1010." in error_of(refused)["message"]


def test_embeddings_have_no_answer_to_reserve_for():
    server = Simulator(tpm=10_000, charge="reserve")
    post(server, {"model": "gpt-4o", "input": "a" * 40}, endpoint="embeddings")
    assert left(server) == 10_000 - 10


@pytest.mark.parametrize(("delivered", "kept"), [(True, 10 + 16), (False, 10)])
def test_the_unused_part_of_a_reserve_may_be_refunded_at_the_end(delivered, kept):
    server = Simulator(tpm=10_000, charge="reserve", refund=True)
    body = json.dumps(chat(max_tokens=500)).encode()
    reply = server.receive("POST", "/v1/chat/completions", {}, body, 0.0)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == str(10_000 - 510)
    server.finish(reply, delivered=delivered)
    server.finish(reply, delivered=delivered)
    assert left(server) == 10_000 - kept


def test_a_refund_does_not_overfill():
    server = Simulator(tpm=6000, charge="reserve", refund=True)
    body = json.dumps(chat(max_tokens=500)).encode()
    reply = server.receive("POST", "/v1/chat/completions", {}, body, 0.0)
    assert left(server, 100.0) == 6000
    server.finish(reply, delivered=True)
    assert left(server, 100.0) == 6000


@pytest.mark.parametrize(("delivered", "used"), [(True, 7 + 7 + 16), (False, 14)])
def test_usage_may_be_charged_only_at_the_end(delivered, used):
    server = Simulator(tpm=10_000, charge="usage")
    reply = server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == "10000"
    server.finish(reply, delivered=delivered)
    assert left(server) == 10_000 - used
    assert server.log[0].tokens == 30


def test_usage_may_leave_debt_and_the_next_waits_until_one_token_is_left():
    server = Simulator(tpm=6000, charge="usage", completion_tokens=2000)
    replies = [server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0) for _ in range(4)]
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        server.finish(reply, delivered=True)
    refused = post(server)  # 8,056 of 6,000
    assert headers_of(refused)["retry-after-ms"] == "20570"
    assert "Limit 6000, Used 6000, Requested 1." in error_of(refused)["message"]
    assert post(server, now=20.569).status == 429
    assert post(server, now=20.57).status == 200


def test_with_usage_charged_no_request_is_too_large():
    assert post(Simulator(tpm=1000, charge="usage"), chat(5000)).status == 200
