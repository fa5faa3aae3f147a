"""The limits of a model: minutes, days, bursts, shared limits and sudden growth."""

import json

import pytest

from simulated import chat, error_of, headers_of, message_of, post, seen, statuses
from throttled_openai.simulator import Settings, Simulator
from throttled_openai.simulator._quotas.bucket import Bucket
from throttled_openai.simulator._quotas.quota import Quota
from throttled_openai.simulator._wording.headers import go_duration


def test_the_recorded_token_429_of_july_2025_comes_out_to_the_letter():
    server = Simulator(rpm=500, tpm=30_000, charge_refused_requests=True)
    server.drain("gpt-4o", tokens=29_446, now=0.0)

    reply = post(server, chat(821))

    assert reply.status == 429
    assert headers_of(reply) == {
        "retry-after": "1",
        "retry-after-ms": "534",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-remaining-tokens": "554",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-reset-tokens": "58.892s",
    }
    assert json.loads(reply.pieces[0]) == {
        "error": {
            "message": "Rate limit reached for gpt-4o in organization org-simulator on tokens per min (TPM): "
            "Limit 30000, Used 29446, Requested 821. Please try again in 534ms. "
            "Visit https://platform.openai.com/account/rate-limits to learn more.",
            "type": "tokens",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


@pytest.mark.parametrize(
    ("limit", "used", "requested", "again"),
    [(30_000, 29_446, 821, "534ms"), (10_000, 8554, 3082, "9.816s"), (10_000, 8782, 8172, "41.724s")],
)
def test_the_wait_for_tokens_is_the_shortfall_over_the_refill(limit, used, requested, again):
    server = Simulator(tpm=limit)
    server.drain("gpt-4o", tokens=used, now=0.0)

    assert f"Please try again in {again}." in message_of(post(server, chat(requested)))


def test_the_wait_for_a_request_at_three_a_minute_is_twenty_seconds():
    server = Simulator(rpm=3)
    statuses = [post(server, chat(10)).status for _ in range(3)]
    refused = post(server, chat(10))

    assert statuses == [200, 200, 200]
    assert "requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s." in message_of(refused)
    assert json.loads(refused.pieces[0])["error"]["type"] == "requests"
    assert post(server, chat(10), now=19.999).status == 429
    assert post(server, chat(10), now=20.0).status == 200


@pytest.mark.parametrize("rate", [7, 500, 999, 3500])
def test_a_client_that_waits_exactly_the_announced_time_is_admitted(rate):
    server = Simulator(rpm=rate)
    for _ in range(rate):
        post(server, chat(10))

    now = 0.0
    for _ in range(20):
        refused = post(server, chat(10), now=now)
        assert refused.status == 429
        now += int(headers_of(refused)["retry-after-ms"]) / 1000
        assert post(server, chat(10), now=now).status == 200


def test_a_success_announces_the_buckets_as_they_are_after_it():
    server = Simulator(rpm=30_000, tpm=150_000_000)
    assert headers_of(post(server, chat(21))) == {
        "x-ratelimit-limit-requests": "30000",
        "x-ratelimit-remaining-requests": "29999",
        "x-ratelimit-reset-requests": "2ms",
        "x-ratelimit-limit-tokens": "150000000",
        "x-ratelimit-remaining-tokens": "149999979",
        "x-ratelimit-reset-tokens": "0s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "0s"),
        (0.002, "2ms"),
        (0.12, "120ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (9.816, "9.816s"),
        (20, "20s"),
        (58.891, "58.891s"),
        (60, "1m0s"),
        (86.4, "1m26.4s"),
        (432, "7m12s"),
        (1728, "28m48s"),
        (3600, "1h0m0s"),
        (299_439.057, "83h10m39.057s"),
        (410_400, "114h0m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert go_duration(seconds) == text


def test_a_request_larger_than_the_minute_is_never_admitted():
    reply = post(Simulator(tpm=30_000), chat(40_000))
    assert reply.status == 429
    assert message_of(reply) == (
        "Request too large for gpt-4o in organization org-simulator on tokens per min (TPM): "
        "Limit 30000, Requested 40000. The input or output tokens must be reduced in order to run "
        "successfully. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    assert "retry-after" not in headers_of(reply)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == "30000"


def test_a_request_as_large_as_the_minute_is_admitted_by_a_full_bucket():
    assert post(Simulator(tpm=30_000), chat(30_000)).status == 200


def test_a_refusal_takes_nothing_unless_refused_requests_are_charged():
    for charged, remaining in ((False, "499"), (True, "498")):
        server = Simulator(rpm=500, tpm=1000, charge_refused_requests=charged)
        post(server, chat(1000))
        assert headers_of(post(server, chat(500)))["x-ratelimit-remaining-requests"] == remaining


def test_a_client_that_hammers_a_server_that_charges_refusals_never_gets_in():
    server = Simulator(rpm=60, charge_refused_requests=True)
    for _ in range(60):
        post(server, chat(10))
    statuses = {post(server, chat(10), now=step * 0.9).status for step in range(1, 50)}
    assert statuses == {429}
    assert post(server, chat(10), now=46.0).status == 200


def test_the_hidden_bucket_refuses_a_burst_that_the_headers_would_allow():
    server = Simulator(rpm=600, burst=1.0)
    statuses = [post(server, chat(10)).status for _ in range(11)]
    refused = post(server, chat(10))

    assert statuses == [200] * 10 + [429]
    assert headers_of(refused)["x-ratelimit-remaining-requests"] == "590"
    assert headers_of(refused)["retry-after-ms"] == "100"
    assert post(server, chat(10), now=0.1).status == 200


def test_a_request_larger_than_the_hidden_bucket_is_admitted_by_a_full_one_and_leaves_debt():
    server = Simulator(tpm=6000, burst=1.0)  # 100 tokens a second, 100 at once
    assert post(server, chat(300)).status == 200

    refused = post(server, chat(50))
    assert headers_of(refused)["retry-after-ms"] == "2500"
    assert post(server, chat(300), now=2.5).status == 429
    assert post(server, chat(300), now=3.0).status == 200


def test_each_model_has_its_own_buckets():
    server = Simulator(rpm=1)
    assert post(server, chat(10, model="a")).status == 200
    assert post(server, chat(10, model="a")).status == 429
    assert post(server, chat(10, model="b")).status == 200


def test_buckets_may_start_empty():
    server = Simulator(rpm=60, initial_level=0.0)
    assert post(server, chat(10), now=5.0).status == 429
    assert post(server, chat(10), now=6.0).status == 200


def test_a_limit_changes_while_running_and_the_level_stays():
    server = Simulator(rpm=100)
    for _ in range(40):
        post(server, chat(10))

    server.change(rpm=200, now=0.0)
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "59"
    server.change(rpm=10, now=0.0)
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "9"
    server.change(rpm=None, tpm=1000, now=0.0)
    assert headers_of(post(server, chat(10))).keys() == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }


def test_a_burst_changes_while_running():
    server = Simulator(rpm=600)
    server.change(burst=1.0, now=0.0)
    assert [post(server, chat(10)).status for _ in range(11)] == [200] * 10 + [429]
    server.change(burst=0.5, now=0.0)
    assert headers_of(post(server, chat(10)))["retry-after-ms"] == "100"
    server.change(burst=60.0, now=0.0)
    assert [post(server, chat(10)).status for _ in range(591)] == [200] * 590 + [429]


def test_a_drain_takes_at_most_what_is_left_and_leaves_no_debt():
    server = Simulator(rpm=60, tpm=6000)
    server.drain("gpt-4o", requests=100, tokens=1000, now=0.0)
    assert server.stats(0.0)["models"] == {"gpt-4o": {"requests": 0, "tokens": 5000}}
    assert post(server, chat(10), now=1.0).status == 200


def test_a_restarted_clock_refills_nothing():
    bucket = Bucket(rate=1, capacity=10, level=0, now=100.0)
    assert bucket.level(0.0) == 0
    assert bucket.level(3.0) == 3


def test_no_window_admits_more_than_the_limit_and_its_refill():
    quota, spent = Quota(60, Settings(rpm=60, burst=5.0), 0.0), []
    for step in range(2000):
        now = step * 0.05
        if not quota.wait(1, now):
            quota.take(1, now)
            spent.append(now)
    for start in spent:
        assert sum(start <= at < start + 60 for at in spent) <= 60 + 60
        assert sum(start <= at < start + 1 for at in spent) <= 5 + 1


# Days.


def test_with_a_daily_request_limit_headers_show_the_day_and_not_the_minute():
    server = Simulator(rpm=500, rpd=10_000, tpm=200_000)
    assert headers_of(post(server, chat(27))) == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "8.64s",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199973",
        "x-ratelimit-reset-tokens": "8ms",
    }
    assert statuses(server, 500) == [200] * 499 + [429]
    refused = post(server)
    assert "requests per min (RPM): Limit 500, Used 500" in error_of(refused)["message"]
    assert headers_of(refused)["x-ratelimit-remaining-requests"] == "9500"


@pytest.mark.parametrize(("limit", "again"), [(50, "28m48s"), (200, "7m12s"), (2000, "43.2s")])
def test_a_day_refills_as_a_minute_does(limit, again):
    server = Simulator(rpd=limit)
    assert statuses(server, limit) == [200] * limit
    refused = post(server)
    assert (
        f"on requests per day (RPD): Limit {limit}, Used {limit}, Requested 1. Please try again in {again}."
        in error_of(refused)["message"]
    )
    assert error_of(refused)["type"] == "requests"
    assert post(server, now=86_400 / limit).status == 200


def test_tokens_per_day_show_only_in_refusals():
    server = Simulator(tpm=100_000, tpd=100_000)
    server.drain("gpt-4o", tokens=97_050, now=0.0)
    refused = post(server, chat(3619), now=60.0)
    assert headers_of(refused)["x-ratelimit-remaining-tokens"] == "100000"
    assert (
        "on tokens per day (TPD): Limit 100000, Used 96981, Requested 3619. Please try again in 8m38.016s."
        in error_of(refused)["message"]
    )


def test_windows_and_bursts_apply_to_the_minute_not_the_day():
    server = Simulator(rpm=600, rpd=1000, burst=1.0, fixed_window=60.0)
    assert statuses(server, 11) == [200] * 10 + [429]
    assert [statuses(server, 10, now=float(second)) for second in range(1, 60)] == [[200] * 10] * 59
    assert statuses(server, 1, now=59.0) == [429]
    day = [number for minute in (1, 2) for number in statuses(server, 11, now=60.0 * minute)]
    assert day.count(200) == 20


# Shared limits.


def test_models_whose_names_start_alike_may_share_their_limits():
    server = Simulator(rpm=2, shared_limit="gpt-4.1")
    dated = chat(model="gpt-4.1-2025-04-14")
    assert [post(server, body).status for body in (dated, chat(model="gpt-4.1"), chat(model="o3"))] == [200] * 3
    refused = post(server, dated)
    assert error_of(refused)["message"].startswith(
        "Rate limit reached for gpt-4.1-2025-04-14 (for limit gpt-4.1) in organization org-simulator on requests per"
    )
    assert "for limit" not in error_of(post(server, chat(model="gpt-4.1")))["message"]
    assert server.stats(0.0)["models"] == {
        "gpt-4.1": {"requests": 0, "tokens": None},
        "o3": {"requests": 1, "tokens": None},
    }


# Sudden growth.


def test_a_sudden_increase_is_answered_with_slow_down():
    server = Simulator(slow_down_above=5.0)
    assert statuses(server, 60) == [200] * 50 + [503] * 10
    refused = post(server)
    assert error_of(refused)["code"] == "slow_down"
    assert error_of(refused)["message"].startswith("Slow Down")
    assert headers_of(refused) == {}
    assert server.log[-1].dimension == "growth"
    assert (seen(server).refused, server.succeeded) == (11, 50)
    assert post(server, now=9.9).status == 503
    assert post(server, now=10.0).status == 200


def test_growth_by_half_over_15_minutes_is_not_sudden():
    server = Simulator(slow_down_above=5.0)
    for number in range(900 * 4):
        assert post(server, now=number / 4).status == 200  # 4 a second, not worth a look
    assert [post(server, now=900 + number / 6).status for number in range(600)] == [200] * 600  # 6: 1.5 times as many
    assert 503 in [post(server, now=1000 + number / 8).status for number in range(200)]  # 8: more than that


def test_each_model_has_its_own_15_minutes():
    server = Simulator(slow_down_above=1.0)
    assert [post(server, chat(model=model)).status for model in ["a"] * 10 + ["b"]] == [200] * 11
    assert post(server, chat(model="a")).status == 503
