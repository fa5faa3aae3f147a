"""Numbers in messages: without an exponent, and near the value."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import throttled_openai
from throttled_openai import RequestTooLarge
from throttled_openai._numbers import literal, number

SOURCE = Path(throttled_openai.__file__).parent


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2_000_000, "2,000,000"),
        (2e6, "2,000,000"),
        (0.85, "0.85"),
        (12.5, "12.5"),
        (3.0, "3"),
        (0, "0"),
        (0.0004, "0.0004"),
    ],
)
def test_a_number_is_shown_as_people_write_it(value, shown):
    assert number(value) == shown


@given(st.floats(min_value=-1e15, max_value=1e15))
def test_a_number_has_no_exponent_and_is_near_the_value(value):
    shown = number(value)
    assert re.fullmatch(r"-?[0-9,]+(\.[0-9]+)?", shown)
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.006, abs=0.0001)


@given(st.one_of(st.integers(0, 10**15), st.floats(min_value=1e-4, max_value=1e15)))
def test_a_literal_is_the_value_in_code(value):
    assert float(literal(value)) == value
    assert "e" not in literal(value) or value < 1e-4


def test_messages_of_large_limits_have_no_exponent():
    assert "admits at most 2,000,000" in str(RequestTooLarge(tokens=3_000_000, limit=2e6, model="m"))


def test_the_version_is_the_distributions():
    assert re.match(r"\d+\.\d+", throttled_openai.__version__)


@pytest.mark.parametrize("room", ["_admission", "_clients", "_control", "_exchange", "_protocol", "batch"])
def test_no_message_formats_a_number_so_that_it_may_get_an_exponent(room):
    found = [path.name for path in (SOURCE / room).glob("*.py") if re.search(r":g\}|%g", path.read_text())]
    assert found == []
