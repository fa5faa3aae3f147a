"""Recorded and random headers, for the tests of headers, durations and refusals."""

import csv
from email.utils import formatdate
from pathlib import Path

from hypothesis import strategies as st

from throttled_openai._protocol.durations import DAY
from throttled_openai._protocol.headers import Announcement

NOTHING = Announcement((), ())
NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z
with (Path(__file__).parents[1] / "data" / "ratelimit-samples.csv").open(encoding="utf-8") as file:
    SAMPLES = list(csv.DictReader(file))


def announced(**told):
    """Headers of the OpenAI family: `limit_requests="500"` and so on."""
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in told.items()}


def recorded(row):
    names = [f"{role}_{what}" for what in ("requests", "tokens") for role in ("limit", "remaining", "reset")]
    told = {name: row[name] for name in names if row[name]}
    if "azure" in row["host"]:  # the recording lacks Azure's period headers
        told |= {"renewalperiod_requests": "60", "renewalperiod_tokens": "60"}
    return announced(**told)


BROKEN = ["", "-5", "0", "nan", "inf", "1e400", "1e3", "+5", "0x10", "1_000", "٣٠٠", "²", "500, 500", "500,500"]
BROKEN += ["9" * 16, "9" * 5000, "0.5", "null", "\udcff", "5 5", "[]"]
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.integers(1, 10**6).map(str),
    st.builds("{}{}".format, st.integers(0, 10**7), st.sampled_from(["ms", "s", "m", "h", ".5s", "m1s"])),
    st.sampled_from(["1e400", "nan", "-0", "9" * 400, "٣", "500, 500", "1.5s", "5ms", "7m12s", "0s", "2026-05-28"]),
    st.sampled_from([str(int(NOW)), str(int(NOW) * 1000), formatdate(NOW, usegmt=True), '"a";q=5;w=60', '"a";r=0;t=9']),
)
values = st.one_of(numbers, st.text(max_size=40), st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
WHATS = [
    "requests",
    "tokens",
    "project-tokens",
    "req-10-second",
    "tokens-month",
    "tokens-per-day",
    "tokens-prompt",
    "minute",
]
names = st.sampled_from(
    [
        *announced(
            **{f"{role}-{what}": "" for role in ("limit", "remaining", "reset", "renewalperiod") for what in WHATS}
        ),
        *(f"anthropic-ratelimit-{x}-{role}" for x in ("requests", "input-tokens") for role in ("limit", "remaining")),
        *(f"llm_provider-x-ratelimit-{role}-requests" for role in ("limit", "remaining", "reset")),
        *("ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
        *("x-ratelimit-limit", "x-ratelimit-reset", "retry-after", "retry-after-ms", "date", "x-ms-region"),
    ]
)
all_headers = st.dictionaries(st.one_of(names, st.text(max_size=20)), values, max_size=14)


def assert_possible(announcement):
    for windows in announcement:
        for window in windows:
            assert 1 <= window.limit < 1e15
            assert 0 < window.period <= 31 * DAY
            assert window.remaining is None or 0 <= window.remaining <= window.limit
        assert len({window.period for window in windows}) == len(windows)
