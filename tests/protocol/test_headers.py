"""Limits that response headers announce: limit, remainder, reset and period, against recorded responses."""

import math
from email.utils import formatdate

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from header_samples import BROKEN, NOTHING, NOW, SAMPLES, announced, recorded
from throttled_openai._protocol.durations import DAY, MINUTE, MONTH
from throttled_openai._protocol.headers import Announcement, Window, read_limits

# --- limits -----------------------------------------------------------------


def test_an_ordinary_response_announces_two_limits_per_minute():
    headers = announced(
        limit_requests="500",
        remaining_requests="499",
        reset_requests="120ms",
        limit_tokens="30000",
        remaining_tokens="554",
        reset_tokens="58.891s",
    )
    # 58.891 s at 500 tokens a second tell half a token more than the remainder.
    assert read_limits(headers) == Announcement((Window(500, 60, 499),), (Window(30_000, 60, 554.5),))


def test_a_window_has_a_rate():
    assert Window(500, 60, None).rate == 500 / 60


@pytest.mark.parametrize("mapping", [httpx.Headers, httpx2.Headers])
def test_names_are_read_in_any_case(mapping):
    headers = mapping({"X-RateLimit-Limit-Requests": "500", "X-RateLimit-Remaining-Requests": "499"})
    assert read_limits(headers) == Announcement((Window(500, 60, 499),), ())


@pytest.mark.parametrize("mapping", [httpx.Headers, httpx2.Headers])
def test_every_recorded_response_reads_the_same_from_httpx_and_from_a_dict(mapping):
    for row in SAMPLES:
        assert read_limits(mapping(recorded(row))) == read_limits(recorded(row))


TWICE = [("x-ratelimit-limit-tokens", "600"), ("x-ratelimit-remaining-tokens", "599"), ("x-other", "1")]
TWICE += [("x-ratelimit-reset-tokens", "100ms")]


@pytest.mark.parametrize("value", ["500", "0", "nonsense", ""])
@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("x-ratelimit-limit-tokens", ()),
        ("x-ratelimit-remaining-tokens", ()),  # nothing is left to tell the period by
        ("x-ratelimit-reset-tokens", ()),
        ("x-other", (Window(600, 60, 599),)),
    ],
)
def test_different_values_of_a_repeated_header_count_as_absent(name, windows, value):
    for headers in ([(name, value), *TWICE], [*TWICE, (name, value)]):
        assert read_limits(httpx.Headers(headers)).tokens == windows


def test_equal_values_of_a_repeated_header_are_read():
    assert read_limits(httpx.Headers(TWICE * 2)).tokens == (Window(600, 60, 599),)


def test_every_recorded_limit_is_read():
    finer = 0
    for row in SAMPLES:
        told = read_limits(recorded(row))
        for dimension in ("requests", "tokens"):
            limit, remaining = row[f"limit_{dimension}"], row[f"remaining_{dimension}"]
            windows = told.of(dimension)
            assert [window.limit for window in windows] == ([float(limit)] if limit else [])
            for window in windows:
                assert int(remaining) <= window.remaining <= int(remaining) + 1
                finer += window.remaining > int(remaining) + 1e-6
    assert finer == 39


def requests_period(row):
    """The period that each recorded account is known to have."""
    if row["host"] == "api.groq.com":
        return DAY
    limit, reset = int(row["limit_requests"]), row["reset_requests"]
    # 10000 is both gpt-4o's RPM at tier 4 (6ms a request) and gpt-4o-mini's RPD at tier 1 (8.64s).
    return DAY if limit in (100, 200) or (limit == 10_000 and reset != "6ms") else MINUTE


def test_the_period_of_every_recorded_requests_limit_is_found():
    rows = [row for row in SAMPLES if row["limit_requests"]]
    daily = 0
    for row in rows:
        (window,) = read_limits(recorded(row)).requests
        assert window.period == requests_period(row), row
        daily += window.period == DAY
    assert (len(rows), daily) == (269, 34)


def test_every_recorded_tokens_limit_is_per_minute_but_for_one_free_account():
    odd = [row for row in SAMPLES for w in read_limits(recorded(row)).tokens if w.period != MINUTE]
    assert [(row["limit_tokens"], row["reset_tokens"]) for row in odd] == [("100000", "83h10m39.057s")]
    assert read_limits(recorded(odd[0])).tokens[0].period == MONTH


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "period"),
    [
        pytest.param(3000, 49, "20ms", 60, id="a bucket smaller than the limit"),
        pytest.param(3000, 0, "1s", 60, id="that bucket, empty"),
        pytest.param(3000, 0, "10s", 60, id="a bucket of ten seconds, empty"),
        pytest.param(3000, 2999, "0s", 60, id="rounded to nothing"),
        pytest.param(3000, 3000, "0s", 60, id="nothing missing"),
        pytest.param(500, 499, "1s", 60, id="near no period"),
        pytest.param(600, 599, "2s", 60, id="rounded up to seconds (Nebius, 2026)"),
        pytest.param(3600, 3599, "1s", 60, id="rounded up to seconds, as if per hour"),
        pytest.param(400_000, 399_889, "1s", 60, id="111 tokens rounded up to seconds, as if per hour"),
        pytest.param(500, 491, "59", 60, id="the end of a fixed window"),
        pytest.param(500, 480, "59s", 60, id="the end of a fixed window, with its unit"),
        pytest.param(500, 491, "59.9", 60, id="the end of a fixed window, more exactly"),
        pytest.param(100, 99, "10ms", 1, id="per second"),
        pytest.param(1, 0, "1s", 1, id="one per second"),
        pytest.param(20, 19, "500ms", 10, id="per ten seconds"),
        pytest.param(3600, 3500, "100s", 3600, id="per hour"),
        pytest.param(50, 0, "24h0m0s", DAY, id="a day, spent"),
        pytest.param(30_000, 29_999, "86.4s", MONTH, id="per month"),
    ],
)
def test_the_period_is_the_one_that_explains_the_reset(limit, remaining, reset, period):
    headers = announced(limit_requests=str(limit), remaining_requests=str(remaining), reset_requests=reset)
    ((found_limit, found_period, found_remaining, _),) = read_limits(headers).requests
    assert (found_limit, found_period) == (limit, period)
    assert found_remaining == pytest.approx(remaining)


def go(seconds):
    """A duration as Go prints it."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, seconds = divmod(round(seconds, 3), 60)
    parts = f"{int(minutes // 60)}h{int(minutes % 60)}m" if minutes >= 60 else f"{int(minutes)}m" if minutes else ""
    return f"{parts}{round(seconds, 3):g}s"


@given(
    limit=st.integers(1, 10_000_000),
    period=st.sampled_from([60.0, 3600.0, DAY, MONTH]),
    taken=st.floats(0, 1),
)
def test_the_period_of_a_bucket_is_found_and_its_level_to_a_millisecond(limit, period, taken):
    used = max(1.0, taken * limit)
    remaining = math.floor(limit - used)
    seconds = round(used * period / limit, 3)
    headers = announced(limit_requests=str(limit), remaining_requests=str(remaining), reset_requests=go(seconds))
    windows = read_limits(headers).requests
    if seconds <= 0.001 or (seconds.is_integer() and seconds <= 60):
        assert all(window.period in (MINUTE, period) for window in windows)
    else:
        ((_, found, level, _),) = windows
        assert found == period
        # Rounding is half a millisecond; of the remainder alone it is a whole unit.
        rate = limit / period
        assert abs(level - (limit - used)) <= (0.0005 * rate if rate < 1000 else 1.0) + 1e-6


def test_at_three_requests_a_minute_the_level_is_known_to_the_millisecond():
    headers = announced(limit_requests="3", remaining_requests="0", reset_requests="59s")
    assert read_limits(headers).requests == (Window(3, 60, pytest.approx(0.05)),)
    headers = announced(limit_requests="3", remaining_requests="1", reset_requests="20.5s")
    assert read_limits(headers).requests == (Window(3, 60, pytest.approx(1.975)),)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        pytest.param(30_000, 554, "58.884s", id="four units too many"),
        pytest.param(30_000, 554, "58.897s", id="two units too few"),
        pytest.param(60_000, 59_900, "100ms", id="at 1,000 a second, a millisecond is a unit"),
        pytest.param(150_000_000, 149_999_979, "0s", id="rounded to nothing"),
        pytest.param(30_000, 29_999, "0s", id="nothing is missing, and a unit is"),
        pytest.param(30_000, 29_000, "2", id="no unit"),
    ],
)
def test_a_remainder_that_the_reset_does_not_make_finer_stays_whole(limit, remaining, reset):
    headers = announced(limit_tokens=str(limit), remaining_tokens=str(remaining), reset_tokens=reset)
    assert read_limits(headers).tokens == (Window(limit, 60, remaining),)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        pytest.param(1500, 1497, "4h17m", id="the end of a fixed day, or of something else"),
        pytest.param(1500, 1497, "15420", id="the same, in seconds or milliseconds"),
        pytest.param(50, 49, "1728", id="a day's bucket without a unit"),
        pytest.param(500, 499, "61s", id="longer than a minute"),
        pytest.param(500, 491, "59s", id="the end of a fixed minute, or 8.2 of 500 an hour"),
        pytest.param(50, 51, "8.64s", id="more left than there is"),
    ],
)
def test_a_period_that_would_be_a_guess_counts_as_absent(limit, remaining, reset):
    headers = announced(limit_requests=str(limit), remaining_requests=str(remaining), reset_requests=reset)
    assert read_limits(headers) == NOTHING


def test_without_a_reset_a_limit_is_per_minute_as_its_name_means():
    """OpenAI's `limit-requests: 10000` may be daily, but its daily limits always come with a reset."""
    assert read_limits(announced(limit_requests="10000")).requests == (Window(10_000, 60, None),)
    headers = announced(limit_requests="10000", remaining_requests="9999")
    assert read_limits(headers).requests == (Window(10_000, 60, 9999),)


@pytest.mark.parametrize(
    ("reset", "period"),
    [
        (str(int(NOW) + 40), 60),
        (str(int(NOW) + 7200), None),
        (str(int(NOW + 40) * 1000), 60),
        (str(int(NOW + 7200) * 1000), None),
        ("2026-05-28T20:27:10Z", 60),
        ("2026-05-28T22:26:40Z", None),
        (formatdate(NOW + 40, usegmt=True), 60),
        (formatdate(NOW + 7200, usegmt=True), None),
        (str(int(NOW) - 2), 60),
    ],
)
@pytest.mark.parametrize("name", ["date", "Date"])
def test_a_reset_that_is_an_instant_is_the_end_of_a_minute_or_of_something_longer(reset, period, name):
    told = announced(limit_requests="60", remaining_requests="20", reset_requests=reset)
    windows = () if period is None else (Window(60, period, 20),)
    for also in ({}, {"x-ratelimit-limit-tokens": "600"}):
        headers = httpx.Headers({name: formatdate(NOW, usegmt=True), **told, **also})
        assert read_limits(headers).requests == windows
    assert read_limits(httpx.Headers(told)) == NOTHING  # without a date it may be any time


# --- dialects -----------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        announced(**{"limit-input-images": "50000", "limit-tokens-generated": "600", "limit-images": "5"}),
        {"x-ratelimit-abusepenalty-active": "False", "x-ratelimit-key": "gpt-5.2_2025-12-11"},
        announced(**{"limit-tokens-99999-month": "5", "limit-req-0-second": "5"}),
        {"ratelimit-limit": "100", "ratelimit-policy": ";;;==,,", "ratelimit": ""},
        {"ratelimit-policy": '"a";q=1;w=0, "b";q=0;w=1, "c";q=1, "d";w=1'},
    ],
)
def test_headers_without_a_limit_of_ours_announce_nothing(headers):
    assert read_limits(headers) == NOTHING


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_limit_counts_as_absent(value):
    assert read_limits(announced(limit_requests=value)) == NOTHING
    assert read_limits(announced(**{"limit-req-minute": value})) == NOTHING
    assert read_limits({"ratelimit-policy": f'"a";q={value};w=60'}).tokens == ()


@pytest.mark.parametrize("value", [value for value in BROKEN if value not in ("0", "0.5")] + ["501"])
def test_a_broken_remainder_counts_as_absent(value):
    headers = announced(limit_requests="500", remaining_requests=value)
    assert read_limits(headers).requests == (Window(500, 60, None),)
    # A time to full is there to be compared with it: 500 a minute, or a day?
    assert read_limits(headers | announced(reset_requests="8.64s")).requests == ()


@pytest.mark.parametrize("value", [value for value in BROKEN if value not in ("", "0", "0.5")])
@pytest.mark.parametrize("suffix", ["", "s", "ms"])
def test_with_a_broken_reset_a_limit_that_depends_on_it_counts_as_absent(value, suffix):
    headers = announced(limit_requests="500", remaining_requests="499", reset_requests=value + suffix)
    assert read_limits(headers).requests == ()
    headers["x-ratelimit-renewalperiod-requests"] = "10"
    assert read_limits(headers).requests == (Window(500, 10, 499),)
    named = {name.replace("requests", "requests-day"): value for name, value in headers.items()}
    assert read_limits(named).requests == (Window(500, DAY, 499),)


@pytest.mark.parametrize("value", ["", "0", "0s", "0ms", "0.5"])
def test_a_reset_without_information_means_a_limit_per_minute(value):
    headers = announced(limit_requests="500", remaining_requests="499", reset_requests=value)
    assert read_limits(headers).requests == (Window(500, 60, 499),)
