"""No headers, however broken, announce an impossible limit or take long to read."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from header_samples import NOTHING, NOW, all_headers, announced, assert_possible, names, values
from throttled_openai._protocol.durations import DAY, parse_duration
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.refusals import read_refusal


@given(all_headers)
def test_no_headers_announce_an_impossible_limit(headers):
    assert_possible(read_limits(headers))


@given(st.lists(st.tuples(names.map(str.encode), values.map(lambda v: v.encode("utf-8", "replace"))), max_size=14))
def test_no_headers_of_an_http_client_announce_an_impossible_limit(raw):
    assert_possible(read_limits(httpx.Headers(raw)))


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=6))
def test_headers_of_random_bytes_announce_nothing(raw):
    assert read_limits(httpx.Headers(raw)) == NOTHING


@given(values)
def test_no_duration_is_negative_or_endless(text):
    seconds = parse_duration(text)
    assert seconds is None or 0 <= seconds <= 31 * DAY


@pytest.mark.parametrize("piece", ["1", "1,", '"a";q=5;w=60,', "1h", ";", "=", ",", "9h9m", "x-ratelimit-limit-"])
def test_hostile_headers_are_read_in_no_time(piece):
    text = piece * (65_000 // len(piece))
    headers = announced(limit_requests="5", remaining_requests="4", reset_requests=text, limit_tokens=text)
    headers |= {"ratelimit": text, "ratelimit-policy": text, "ratelimit-limit": text, "retry-after": text, text: "1"}
    headers |= {f"x-ratelimit-limit-tokens-{number}-second": text for number in range(1, 200)}
    start = time.perf_counter()
    read_refusal(429, headers, None, wall_now=NOW)
    read_limits(headers)
    assert time.perf_counter() - start < 0.5
