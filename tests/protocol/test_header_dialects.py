"""The rate-limit headers of each provider and gateway.

They are recorded, from the documentation of the provider, or from a public log of the year given.
"""

import httpx
import httpx2
import pytest

from header_samples import NOTHING, NOW, announced
from throttled_openai._protocol.durations import DAY, MONTH
from throttled_openai._protocol.headers import Announcement, Window, read_limits
from throttled_openai._protocol.refusals import read_refusal


@pytest.mark.parametrize(
    ("period", "seconds"), [("10", 10), ("60", 60), ("", 60), ("0", 60), ("-1", 60), ("nan", 60), ("9999999", 60)]
)
def test_azure_says_its_period_and_its_resets_are_ignored(period, seconds):
    headers = announced(
        limit_requests="120",
        remaining_requests="119",
        reset_requests="500",
        renewalperiod_requests=period,
        limit_tokens="120000",
        remaining_tokens="119986",
        reset_tokens="7",
        renewalperiod_tokens="60",
    ) | {"x-ms-region": "East US 2"}
    assert read_limits(headers) == Announcement((Window(120, seconds, 119),), (Window(120_000, 60, 119_986),))


@pytest.mark.parametrize("name", ["apim-request-id", "x-ms-region"])
def test_azure_without_a_period_is_per_minute(name):
    """A deployment of 120 per minute announces 20 per ten seconds; 20 a minute is too slow, but not too fast."""
    headers = announced(limit_requests="20", remaining_requests="19", reset_requests="500")
    assert read_limits(headers) == NOTHING  # 500 of anything
    assert read_limits(headers | {name: "x"}).requests == (Window(20, 60, 19),)


@pytest.mark.parametrize("reset", [{}, {"reset_requests": "0", "reset_tokens": "0"}])
def test_azures_minus_one_and_zero_mean_unknown(reset):
    told = {"limit_requests": "-1", "remaining_requests": "-1", "limit_tokens": "0", "remaining_tokens": "0"}
    assert read_limits(announced(**told, **reset)) == NOTHING
    headers = announced(limit_tokens="120000", remaining_tokens="-1", **reset)
    assert read_limits(headers).tokens == (Window(120_000, 60, None),)


def test_a_remainder_without_a_limit_is_nothing():
    assert read_limits(announced(remaining_requests="118", remaining_tokens="119968")) == NOTHING


def test_groq_announces_requests_per_day():
    headers = announced(limit_requests="14400", remaining_requests="14397", reset_requests="17.563999999s")
    # With rounding noise: 17.564 s at one in six seconds are 2.93 requests.
    assert read_limits(headers).requests == (Window(14_400, DAY, pytest.approx(14_397.073, abs=0.001)),)


def test_mistral_names_its_periods():
    headers = announced(
        **{
            "limit-req-10-second": "60",
            "remaining-req-10-second": "59",
            "limit-tokens-minute": "75000",
            "remaining-tokens-minute": "74922",
            "limit-tokens-month": "10000000000",
            "remaining-tokens-month": "9999999922",
            "tokens-query-cost": "78",
        }
    )
    assert read_limits(headers) == Announcement(
        (Window(60, 10, 59),), (Window(75_000, 60, 74_922), Window(1e10, MONTH, 9_999_999_922))
    )


def test_cerebras_names_its_periods():
    headers = announced(
        **{
            "limit-requests-day": "14400",
            "remaining-requests-day": "14399",
            "reset-requests-day": "3600",
            "limit-tokens-minute": "60000",
            "remaining-tokens-minute": "59000",
            "reset-tokens-minute": "26.5",
        }
    )
    assert read_limits(headers) == Announcement((Window(14_400, DAY, 14_399),), (Window(60_000, 60, 59_000),))


def test_anthropic_announces_per_minute_and_its_input_is_what_we_estimate():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2024-03-26T20:00:00Z",
        "anthropic-ratelimit-tokens-limit": "38000",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "29000",
        "anthropic-ratelimit-output-tokens-limit": "8000",
    }
    assert read_limits(headers) == Announcement((Window(50, 60, 49),), (Window(30_000, 60, 29_000),))


def test_the_ietf_headers_name_quota_and_window():
    headers = {
        "ratelimit-policy": '"burst";q=100;w=60,"daily";q=1000;w=86400, "bytes";q=5;w=1;qu="content-bytes"',
        "ratelimit": '"daily";r=50;t=30',
    }
    assert read_limits(headers) == Announcement((Window(100, 60, None), Window(1000, DAY, 50)), ())


def test_the_ietf_lists_may_span_header_lines():
    headers = httpx.Headers([("RateLimit-Policy", '"a";q=10;w=1'), ("RateLimit-Policy", '"b";q=100;w=60;qu="tokens"')])
    assert read_limits(headers) == Announcement((Window(10, 1, None),), (Window(100, 60, None),))


def test_the_old_ietf_drafts_had_three_headers():
    headers = {
        "ratelimit-limit": "100, 100;w=60, 1000;w=3600",
        "ratelimit-remaining": "50",
        "ratelimit-reset": "30",
    }
    assert read_limits(headers).requests == (Window(100, 60, 50), Window(1000, 3600, None))


@pytest.mark.parametrize("mapping", [httpx.Headers, httpx2.Headers])
def test_kong_says_per_what_and_counts_requests(mapping):
    kong = {
        "X-RateLimit-Limit-Second": "5",
        "X-RateLimit-Remaining-Second": "4",
        "X-RateLimit-Limit-Minute": "20",
        "X-RateLimit-Remaining-Minute": "0",
        "X-RateLimit-Limit-Hour": "500",
        "X-RateLimit-Limit-Day": "1000",
        "RateLimit-Limit": "20",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "37",
    }
    own = (Window(5, 1, 4), Window(20, 60, 0), Window(500, 3600, None), Window(1000, DAY, None))
    assert read_limits(mapping(kong)) == Announcement(own, ())
    assert read_refusal(429, mapping(kong), None, wall_now=NOW).retry_after == 37
    # Beside the limits of the provider behind it.
    headers = announced(
        limit_requests="500", remaining_requests="499", reset_requests="120ms", limit_tokens="600", remaining_tokens="1"
    )
    both = read_limits(mapping({**headers, **kong}))
    assert set(both.requests) == set(own)
    assert both.tokens == (Window(600, 60, 1),)
    kong = {"X-RateLimit-Limit-Hour": "500", "X-RateLimit-Remaining-Hour": "7"}
    assert read_limits(mapping({**headers, **kong})).requests == (Window(500, 60, 499), Window(500, 3600, 7))


def test_digitalocean_says_per_and_when_a_request_will_fit():
    headers = announced(
        **{
            "limit-requests": "120",
            "remaining-requests": "119",
            "reset-requests": "0",
            "limit-tokens-per-minute": "100000",
            "remaining-tokens-per-minute": "98000",
            "reset-tokens-per-minute": str(int(NOW) + 1),
            "limit-tokens-per-day": "2000000",
            "remaining-tokens-per-day": "1900000",
            "reset-tokens-per-day": str(int(NOW) + 4000),
        }
    )
    assert read_limits(headers) == Announcement(
        (Window(120, 60, 119),), (Window(100_000, 60, 98_000), Window(2_000_000, DAY, 1_900_000))
    )


def test_sambanova_names_its_periods_and_its_resets_have_units():
    headers = announced(
        **{"limit-requests-day": "1500", "remaining-requests-day": "1497", "reset-requests-day": "4h17m"}
    )
    assert read_limits(headers).requests == (Window(1500, DAY, 1497),)


def test_fireworks_announces_per_minute_what_it_documents_per_second():
    """Documented to begin with 3.6 million input tokens a minute; seen in 2026: 7193993 of 7200000."""
    headers = announced(
        **{
            "limit-tokens-prompt": "7200000",
            "remaining-tokens-prompt": "7193993",
            "limit-tokens-cache-adjusted-prompt": "1800000",
            "remaining-tokens-cache-adjusted-prompt": "1793993",
            "limit-tokens-generated": "72000",
            "remaining-tokens-generated": "69338",
            "over-limit": "no",
        }
    )
    assert read_limits(headers) == Announcement((), (Window(1_800_000, 60, 1_793_993),))
    # All of it was cached: the other limit binds.
    headers["x-ratelimit-remaining-tokens-prompt"] = "1000"
    assert read_limits(headers).tokens == (Window(7_200_000, 60, 1000),)
    headers |= announced(limit_requests="6000", remaining_requests="5999")
    assert read_limits(headers) == Announcement((Window(6000, 60, 5999),), (Window(7_200_000, 60, 1000),))


def test_nebius_resets_in_whole_seconds():
    headers = announced(
        **{
            "limit-requests": "600",
            "remaining-requests": "599",
            "reset-requests": "1s",
            "limit-tokens": "400000",
            "remaining-tokens": "398834",
            "reset-tokens": "1s",
            "dynamic-period-remaining": "900s",
            "dynamic-scale-tokens": "1.00",
            "dynamic-period-usage-tokens": "0%",
        }
    )
    assert read_limits(headers) == Announcement((Window(600, 60, 599),), (Window(400_000, 60, 398_834),))


def test_xai_has_no_resets():
    """8300 of 8300, as seen in 2026: what is left does not fall."""
    headers = announced(
        limit_requests="8300", remaining_requests="8300", limit_tokens="53000000", remaining_tokens="53000000"
    )
    assert read_limits(headers) == Announcement((Window(8300, 60, 8300),), (Window(53_000_000, 60, 53_000_000),))


@pytest.mark.parametrize(
    "headers",
    [
        # As recorded in 2024, 1.4 s apart: not per second, then, as it is documented.
        {"x-ratelimit-limit": "200", "x-ratelimit-remaining": "199", "x-ratelimit-reset": "2"},
        {"x-ratelimit-limit": "200", "x-ratelimit-remaining": "198", "x-ratelimit-reset": "1"},
        {"x-ratelimit-limit": "2", "x-tokenlimit-limit": "3000", "x-tokenlimit-remaining": "2900"},
        {"x-ratelimit-limit-dynamic": "2", "x-tokenlimit-limit-dynamic": "3000"},
    ],
)
def test_together_does_not_say_per_what(headers):
    assert read_limits(headers) == NOTHING


LITELLM_TOLD = announced(
    limit_requests="10000", remaining_requests="9999", limit_tokens="200000", remaining_tokens="199973"
)


def forwarded(**told):
    return {f"llm_provider-{name}": value for name, value in announced(**told).items()}


def test_litellm_repeats_limits_without_their_resets_which_it_has_elsewhere():
    original = {f"llm_provider-{name}": value for name, value in LITELLM_TOLD.items()}
    resets = forwarded(reset_requests="8.64s", reset_tokens="8ms")
    assert read_limits(LITELLM_TOLD).requests == (Window(10_000, 60, 9999),)
    told = read_limits(LITELLM_TOLD | original | resets)
    assert told.requests == (Window(10_000, DAY, pytest.approx(9999)),)
    assert told.tokens == (Window(200_000, 60, 199_973),)  # 3,333 a second: no finer


@pytest.mark.parametrize("other", [{"limit_requests": "30000"}, {"remaining_requests": "29998"}])
def test_the_resets_of_other_limits_are_not_those_of_the_proxys_own(other):
    same = {"limit_requests": "10000", "remaining_requests": "9999", "reset_requests": "8.64s"}
    assert read_limits(LITELLM_TOLD | forwarded(**same | other)).requests == (Window(10_000, 60, 9999),)


def test_a_reset_without_a_unit_is_not_taken_from_behind_a_proxy():
    same = {"limit_requests": "10000", "remaining_requests": "9999", "reset_requests": "500"}
    assert read_limits(LITELLM_TOLD | forwarded(**same)).requests == (Window(10_000, 60, 9999),)


def test_limits_of_one_deployment_behind_a_proxy_are_not_ours():
    headers = forwarded(limit_requests="500", remaining_requests="0", limit_tokens="30000", remaining_tokens="554")
    assert read_limits(headers | {"llm_provider-anthropic-ratelimit-requests-limit": "50"}) == NOTHING


def test_one_dimension_may_be_announced_in_one_dialect_and_the_other_in_another():
    headers = announced(**{"limit-requests": "600", "limit-tokens-minute": "75000", "remaining-tokens-minute": "5"})
    assert read_limits(headers) == Announcement((Window(600, 60, None),), (Window(75_000, 60, 5),))


def test_of_two_limits_of_one_period_the_one_with_less_left_is_read():
    headers = {"ratelimit-policy": '"a";q=100;w=60,"b";q=50;w=60,"c";q=10;w=1', "ratelimit": '"a";r=5,"b";r=6'}
    assert read_limits(headers).requests == (Window(100, 60, 5), Window(10, 1, None))


def test_a_project_limit_counts_where_it_has_less_left():
    headers = announced(
        **{
            "limit-tokens": "150000",
            "remaining-tokens": "149984",
            "limit-project-tokens": "60000",
            "remaining-project-tokens": "57000",
            "reset-project-tokens": "3s",
        }
    )
    assert read_limits(headers).tokens == (Window(60_000, 60, 57_000),)
    headers |= announced(remaining_tokens="100", reset_tokens="59.96s", limit_requests="500")
    assert read_limits(headers).tokens == (Window(150_000, 60, 100),)
