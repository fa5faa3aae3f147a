"""Limits and queue options are checked where they are written, and the message says what to write."""

import math

import pytest

from throttled_openai import Limits, Throttle, ThrottledAsyncOpenAI
from throttled_openai._admission.call import QueueOptions
from throttled_openai._limits import LimitsBook, family_of


def client(**options):
    return ThrottledAsyncOpenAI(api_key="x", **options)


# --- numbers --------------------------------------------------------------------------------------

OUT_OF_RANGE = [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf]
NOT_A_NUMBER = ["500", True, False, [500], {"rpm": 500}, 5j]
PER_PERIOD = ["rpm", "tpm", "rpd", "tpd"]


@pytest.mark.parametrize("make", [Limits, Throttle, client])
@pytest.mark.parametrize("name", PER_PERIOD)
@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_a_limit_out_of_range_is_a_value_error(make, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be positive and finite: write a positive number such as 500"):
        make(**{name: value})


@pytest.mark.parametrize("make", [Limits, Throttle, client])
@pytest.mark.parametrize("name", PER_PERIOD)
@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_a_limit_that_is_no_number_is_a_type_error(make, name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a positive number such as 500.*got "):
        make(**{name: value})


@pytest.mark.parametrize("name", PER_PERIOD)
def test_a_limit_too_large_for_a_float_is_a_value_error(name):
    with pytest.raises(ValueError, match=rf"^{name} must be positive and finite"):
        Limits(**{name: 10**400})


@pytest.mark.parametrize("value", [*OUT_OF_RANGE, 60.1])
def test_a_burst_out_of_range_is_a_value_error(value):
    with pytest.raises(ValueError, match=r"^burst must be between 0 and 60: write seconds of the limit, such as 0.85"):
        Limits(burst=value)


@pytest.mark.parametrize("value", ["1", True, [1]])
def test_a_burst_that_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^burst must be seconds of the limit"):
        Limits(burst=value)


def test_sensible_limits_are_taken_as_they_are():
    limits = Limits(rpm=500, tpm=30_000.5, rpd=1, tpd=1e12, burst=60)
    assert (limits.rpm, limits.tpm, limits.rpd, limits.tpd, limits.burst) == (500, 30_000.5, 1, 1e12, 60)
    assert Limits() == Limits(rpm=None, tpm=None, rpd=None, tpd=None)


@pytest.mark.parametrize("make", [Throttle, client])
@pytest.mark.parametrize("value", [0, -1])
def test_a_concurrency_below_one_is_a_value_error(make, value):
    with pytest.raises(ValueError, match=r"^max_concurrency must be at least 1: write a number of calls such as 100"):
        make(max_concurrency=value)


@pytest.mark.parametrize("make", [Throttle, client])
@pytest.mark.parametrize("name", ["max_concurrency", "max_refusals"])
@pytest.mark.parametrize("value", ["10", 10.5, True, math.inf, math.nan, [10]])
def test_a_count_that_is_no_whole_number_is_a_type_error(make, name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a number .*such as .*; got "):
        make(**{name: value})


@pytest.mark.parametrize("make", [Throttle, client])
def test_max_refusals_may_be_0_but_not_negative(make):
    make(max_refusals=0)
    with pytest.raises(ValueError, match=r"^max_refusals must be at least 0: write a number such as 20, or 0 to see"):
        make(max_refusals=-1)


# --- queue_options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [QueueOptions, client, client().with_throttle])
@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_a_max_wait_out_of_range_is_a_value_error(make, value):
    with pytest.raises(ValueError, match=r"^max_wait must be positive and finite: write seconds such as 30.0, or None"):
        make(max_wait=value)


@pytest.mark.parametrize("make", [QueueOptions, client, client().with_throttle])
@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_a_max_wait_that_is_no_number_is_a_type_error(make, value):
    with pytest.raises(TypeError, match=r"^max_wait must be seconds such as 30.0, or None"):
        make(max_wait=value)


@pytest.mark.parametrize("make", [QueueOptions, client, client().with_throttle])
@pytest.mark.parametrize("value", [0, -1])
def test_a_max_queued_below_one_is_a_value_error(make, value):
    with pytest.raises(ValueError, match=r"^max_queued must be at least 1: write a number of calls such as 1000"):
        make(max_queued=value)


@pytest.mark.parametrize("make", [QueueOptions, client, client().with_throttle])
@pytest.mark.parametrize("value", ["10", 10.5, True, math.inf, math.nan])
def test_a_max_queued_that_is_no_whole_number_is_a_type_error(make, value):
    with pytest.raises(TypeError, match=r"^max_queued must be a number of calls such as 1000"):
        make(max_queued=value)


@pytest.mark.parametrize("make", [QueueOptions, client, client().with_throttle])
@pytest.mark.parametrize("value", ["high", 1.5, True, math.nan])
def test_a_priority_that_is_no_whole_number_is_a_type_error(make, value):
    with pytest.raises(TypeError, match=r"^priority must be a whole number, higher goes first; got"):
        make(priority=value)


def test_a_priority_may_be_negative_and_what_is_not_given_stays():
    patient = client(priority=-5, max_wait=30).with_throttle(max_queued=10)
    assert patient._queue_options == QueueOptions(priority=-5, max_wait=30, max_queued=10)


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Throttle, client])
@pytest.mark.parametrize("value", [500, "gpt-4o", [Limits(rpm=1)], Limits])
def test_limits_of_another_type_are_a_type_error_that_shows_both_forms(make, value):
    expected = r"^limits must be Limits\(rpm=\.\.\., tpm=\.\.\.\) or a mapping such as \{\"gpt-4o\": Limits\("
    with pytest.raises(TypeError, match=expected):
        make(limits=value)


@pytest.mark.parametrize("make", [Throttle, client])
@pytest.mark.parametrize("value", [{"rpm": 500}, 500, None, "500"])
def test_a_value_in_the_mapping_that_is_no_limits_is_a_type_error(make, value):
    with pytest.raises(TypeError, match=r"^limits\['gpt-4o'\] must be Limits\(rpm=\.\.\., tpm=\.\.\.\), got "):
        make(limits={"gpt-4o": value})


def test_unknown_keys_of_a_dict_in_place_of_limits_are_named():
    with pytest.raises(TypeError, match=r"got dict; unknown: rmp \(known: rpm, tpm, rpd, tpd, burst\)"):
        Throttle({"gpt-4o": {"rmp": 500, "tpm": 30_000}})


def test_limits_written_as_a_dict_of_numbers_are_a_type_error():
    with pytest.raises(TypeError, match=r"must be Limits\(rpm="):
        Throttle({"rpm": 500, "tpm": 30_000})


@pytest.mark.parametrize("key", [None, 5, ""])
def test_a_key_that_is_no_model_name_is_a_type_error(key):
    with pytest.raises(TypeError, match=r"^limits must map model names to Limits; got the key "):
        Throttle({key: Limits(rpm=5)})


@pytest.mark.parametrize("make", [Limits, Throttle, client, QueueOptions])
def test_an_unknown_argument_is_a_type_error(make):
    with pytest.raises(TypeError, match="rmp"):
        make(rmp=500)


def test_limits_are_written_by_name():
    with pytest.raises(TypeError, match="positional"):
        Limits(500)


@pytest.mark.parametrize("make", [Throttle, client])
@pytest.mark.parametrize("name", PER_PERIOD)
def test_limits_and_a_shortcut_at_once_are_a_value_error(make, name):
    with pytest.raises(ValueError, match=r"^write either limits=Limits\(rpm=\.\.\., tpm=\.\.\.\) or rpm=.*not both$"):
        make(limits=Limits(rpm=5), **{name: 500})


def test_a_throttle_and_limits_at_once_are_a_value_error_that_names_them():
    with pytest.raises(ValueError, match=r"^a throttle has its own limits: give rpm, max_concurrency to Throttle"):
        client(throttle=Throttle(), rpm=5, max_concurrency=3)


def test_a_throttle_of_another_type_is_a_type_error():
    with pytest.raises(TypeError, match=r"^throttle must be a throttled_openai\.Throttle, got dict$"):
        client(throttle={"rpm": 5})


# --- which model has which ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4-0613", "gpt-4"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("chatgpt-4o-latest", "chatgpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("", ""),
        ("ft:", "ft:"),
    ],
)
def test_the_family_of_a_model(model, family):
    assert family_of(model) == family


def test_a_snapshot_falls_back_to_its_family_unless_it_has_limits_of_its_own():
    family, snapshot = Limits(rpm=1), Limits(rpm=2)
    book = LimitsBook({"gpt-4o": family, "gpt-4o-2024-08-06": snapshot})
    assert book.find("gpt-4o-2024-08-06")[2] is snapshot
    assert book.find("gpt-4o-2024-05-13")[2] is family
    assert book.find("gpt-4o")[0] == book.find("gpt-4o-2024-05-13")[0] != book.find("gpt-4o-2024-08-06")[0]


def test_one_limits_object_under_several_names_is_one_budget_and_equal_ones_are_not():
    shared = Limits(rpm=5)
    book = LimitsBook({"a": shared, "b": shared, "c": Limits(rpm=5)})
    assert book.find("a") == book.find("b") == (id(shared), "a, b", shared)
    assert book.find("c")[0] != book.find("a")[0]


def test_one_limits_for_everything_is_one_budget():
    book = LimitsBook(Limits(rpm=5))
    assert book.find("a") == book.find("b")


def test_a_model_that_is_not_in_the_mapping_is_learnt_by_itself():
    book = LimitsBook({"a": Limits(rpm=5)})
    assert book.find("b") == ("b", "b", None)


def test_a_mapping_that_is_changed_afterwards_changes_nothing():
    mapping = {"a": Limits(rpm=5)}
    book = LimitsBook(mapping)
    mapping["a"] = "no limits at all"
    assert book.find("a")[2] == Limits(rpm=5)
