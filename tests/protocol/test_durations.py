"""Durations as servers write them: `1m26.4s`, `534ms`, `26.5`."""

import pytest

from header_samples import SAMPLES
from throttled_openai._protocol.durations import DAY, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("120ms", 0.12),
        ("534ms", 0.534),
        ("6s", 6.0),
        ("58.891s", 58.891),
        ("17.563999999s", 17.563999999),
        ("7m12s", 432.0),
        ("1m26.4s", 86.4),
        ("114h18m0s", 411_480.0),
        ("83h10m39.057s", 299_439.057),
        ("1h", 3600.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("5ns", 5e-9),
        ("26.5", 26.5),
        ("3600", 3600.0),
        ("744h", 31 * DAY),
    ],
)
def test_a_duration_is_in_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "s", "ms", "-5s", "-1", "1.s", ".5s", "1 s", "1S", "5d", "745h", "1e3", "nan", "٣s", "²s", "5s\n"]
)
def test_other_texts_are_not_durations(text):
    assert parse_duration(text) is None


def test_every_recorded_reset_is_a_duration():
    resets = [row[name] for row in SAMPLES for name in ("reset_requests", "reset_tokens") if row[name]]
    assert len(resets) == 533
    assert all(parse_duration(reset) is not None for reset in resets)
