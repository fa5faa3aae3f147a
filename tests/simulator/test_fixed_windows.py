"""Limits that are counted in fixed windows."""

import pytest

from simulated import chat, error_of, headers_of, post, statuses
from throttled_openai.simulator import Simulator


def test_a_minute_window_shows_its_use_grow_and_its_end_come_near():
    server = Simulator(rpm=60, tpm=6000, fixed_window=60.0)
    post(server, now=90.0)
    assert headers_of(post(server, now=100.0)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "20s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5980",
        "x-ratelimit-reset-tokens": "20s",
    }
    assert headers_of(post(server, now=119.999))["x-ratelimit-remaining-requests"] == "57"
    assert headers_of(post(server, now=120.0))["x-ratelimit-remaining-requests"] == "59"


def test_a_used_up_minute_window_opens_again_at_its_end_and_whole():
    server = Simulator(rpm=60, fixed_window=60.0)
    assert statuses(server, 61, now=10.0) == [200] * 60 + [429]
    refused = post(server, now=47.5)
    assert headers_of(refused)["retry-after-ms"] == "12500"
    assert "Limit 60, Used 60, Requested 1. Please try again in 12.5s." in error_of(refused)["message"]
    assert statuses(server, 61, now=60.0) == [200] * 60 + [429]


def test_around_the_boundary_of_two_windows_twice_the_limit_is_admitted():
    server = Simulator(rpm=60, fixed_window=60.0)
    assert statuses(server, 61, now=59.9).count(200) + statuses(server, 61, now=60.1).count(200) == 120


def test_a_hidden_window_of_a_second_stands_beside_the_minute_bucket():
    server = Simulator(rpm=600, fixed_window=1.0)
    assert statuses(server, 11, now=5.25) == [200] * 10 + [429]
    refused = post(server, now=5.5)
    assert headers_of(refused) == {
        "retry-after": "1",
        "retry-after-ms": "500",
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "592",  # ten taken, two and a half refilled
        "x-ratelimit-reset-requests": "750ms",
    }
    assert statuses(server, 11, now=6.0) == [200] * 10 + [429]


def test_a_hidden_window_admits_no_more_than_its_share_of_the_minute():
    server = Simulator(tpm=6000, fixed_window=10.0)
    assert [post(server, chat(400)).status for _ in range(3)] == [200, 200, 429]
    assert [post(server, chat(400), now=9.999).status, post(server, chat(400), now=10.0).status] == [429, 200]


def test_a_request_larger_than_a_hidden_window_uses_up_several():
    server = Simulator(tpm=6000, fixed_window=1.0)  # 100 tokens a second
    assert post(server, chat(250), now=0.5).status == 200
    assert headers_of(post(server, chat(50), now=0.5))["retry-after-ms"] == "1500"
    assert post(server, chat(50), now=1.999).status == 429
    assert post(server, chat(50), now=2.0).status == 200


def test_less_than_one_request_a_window_is_one_in_several():
    server = Simulator(rpm=6, fixed_window=1.0)
    admitted = [second for second in range(31) if post(server, now=float(second)).status == 200]
    assert admitted == [0, 10, 20, 30]


@pytest.mark.parametrize("window", [0.1, 0.7, 1.0, 10.0, 60.0])
def test_a_client_that_waits_exactly_until_the_windows_end_is_admitted(window):
    server, now = Simulator(rpm=700, fixed_window=window), 0.123
    for _ in range(5):
        while (reply := post(server, now=now)).status == 200:
            pass
        now += int(headers_of(reply)["retry-after-ms"]) / 1000
        assert post(server, now=now).status == 200


def test_windows_come_and_go_while_it_runs():
    server = Simulator(rpm=600)
    server.change(fixed_window=1.0, now=0.0)
    assert statuses(server, 11) == [200] * 10 + [429]
    server.change(fixed_window=2.0, now=0.0)
    assert statuses(server, 1, now=1.5) == [429]
    assert statuses(server, 21, now=2.0) == [200] * 20 + [429]
    server.change(fixed_window=60.0, now=2.0)
    assert headers_of(post(server, now=2.0))["x-ratelimit-reset-requests"] == "58s"
    server.change(fixed_window=None, now=2.0)
    assert headers_of(post(server, now=2.0))["x-ratelimit-remaining-requests"] == "578"


def test_a_window_and_a_burst_may_both_be_hidden():
    server = Simulator(rpm=600, burst=0.5, fixed_window=1.0)
    assert statuses(server, 6) == [200] * 5 + [429]
    assert statuses(server, 6, now=0.5) == [200] * 5 + [429]
    assert headers_of(post(server, now=0.75))["retry-after-ms"] == "250"
