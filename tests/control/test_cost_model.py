"""What a budget learns of its provider's arithmetic."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from throttled_openai._control.cost_model import FIRST_OUTPUT, LEAST_RATIO, MOST_RATIO, PRESUMED, ProviderCosts
from throttled_openai._protocol.estimate import Estimate
from throttled_openai._protocol.providers import OPENAI, PROVIDERS
from throttled_openai._protocol.usage import Usage

AZURE = PROVIDERS["azure"]
CEREBRAS = PROVIDERS["cerebras"]
MISTRAL = PROVIDERS["mistral"]
ANTHROPIC = PROVIDERS["anthropic"]

# A chat of 1,000 tokens that may answer with 1,000 more, and one that tells no maximum.
ASKED = Estimate(1000, 1000, choices=1)
OPEN = Estimate(1000, 0, choices=1)
REAL = Estimate(1000, 1000, choices=1, real=True)
# A response: 19 of its 1,019 are charged on top of its real tokens.
RESPONSE = Estimate(1019, 1000, choices=1, surcharge=19, real=True)

counts = st.integers(0, 10**12)
estimates = st.builds(
    lambda estimate, surcharge: estimate._replace(surcharge=min(surcharge, estimate.input)),
    st.builds(Estimate, counts, counts, choices=st.integers(0, 300_000), real=st.booleans(), whole=st.booleans()),
    st.sampled_from([0, 19, 217]),
)
usages = st.builds(lambda taken, given, cached: Usage(taken, given, min(taken, cached)), counts, counts, counts)
providers = st.sampled_from(list(PROVIDERS.values()))


# --- what is presumed ----------------------------------------------------------------

UNSURE = [provider for provider in PROVIDERS.values() if provider.reserves_output is None or not provider.hosted]


@pytest.mark.parametrize("provider", UNSURE, ids=lambda provider: provider.name)
def test_where_nothing_is_known_reserving_is_presumed_from_the_first_announced_level_on(provider):
    costs = ProviderCosts(provider)
    assert costs.cost(ASKED) == 1000
    costs.presume()
    assert costs.cost(ASKED) == 2000
    assert costs.cost(OPEN) == 1000


@pytest.mark.parametrize("provider", [each for each in PROVIDERS.values() if each not in UNSURE], ids=lambda p: p.name)
def test_nothing_is_presumed_of_a_provider_that_is_known(provider):
    costs = ProviderCosts(provider)
    before = costs.cost(ASKED)
    costs.presume()
    assert costs.cost(ASKED) == before


def test_the_presumption_ends_with_the_levels_that_show_nothing():
    costs = ProviderCosts(AZURE)
    for _ in range(PRESUMED - 1):
        costs.presume()
    assert costs.cost(ASKED) == 2000
    costs.presume()
    assert costs.cost(ASKED) == 1000
    costs.presume()
    assert costs.cost(ASKED) == 1000


@pytest.mark.parametrize(("charged", "count"), [(2000.0, 1), (1000.0, 3)])
def test_levels_that_show_the_price_end_the_presumption_for_good(charged, count):
    costs = ProviderCosts(AZURE)
    for _ in range(count):
        costs.presume()
        costs.learn_charge(charged, ASKED, 1.0)
    for _ in range(PRESUMED):
        costs.presume()
    assert costs.cost(ASKED) == charged


# --- what is debited -----------------------------------------------------------------


def test_output_costs_nothing_where_it_is_not_reserved():
    assert ProviderCosts(OPENAI).cost(ASKED) == 1000
    assert ProviderCosts(AZURE).cost(ASKED) == 1000  # not known: no, until learnt


def test_the_most_output_costs_where_it_is_reserved():
    assert ProviderCosts(CEREBRAS).cost(ASKED) == 2000


def test_an_answer_without_a_maximum_reserves_the_providers_default():
    assert ProviderCosts(CEREBRAS).cost(OPEN) == 1016
    assert ProviderCosts(CEREBRAS).cost(OPEN._replace(choices=3)) == 1048
    assert ProviderCosts(CEREBRAS).cost(Estimate(1000, 0)) == 1000  # an embedding writes nothing
    assert ProviderCosts(PROVIDERS["groq"]).cost(OPEN) == 1000


def test_where_usage_is_charged_an_attempt_costs_the_usual_answer():
    costs = ProviderCosts(MISTRAL)
    assert costs.cost(REAL) == 1000 + FIRST_OUTPUT
    for _ in range(100):
        costs.learn_usage(REAL, Usage(1000, 600))
    assert costs.cost(REAL) == pytest.approx(1600, abs=1)


def test_the_usual_answer_is_bounded_by_what_the_request_allows():
    assert ProviderCosts(MISTRAL).cost(REAL._replace(output=100)) == 1100
    assert ProviderCosts(MISTRAL).cost(REAL._replace(output=0)) == 1000 + FIRST_OUTPUT
    assert ProviderCosts(MISTRAL).cost(Estimate(1000, 0, real=True)) == 1000  # an embedding


def test_each_answer_counts():
    costs = ProviderCosts(MISTRAL)
    for _ in range(100):
        costs.learn_usage(REAL._replace(choices=5), Usage(1000, 500))
    assert costs.cost(REAL._replace(choices=2, output=0)) == pytest.approx(1200, abs=1)


@pytest.mark.parametrize("name", ["anthropic", "gemini", "fireworks"])
def test_output_costs_nothing_where_the_limit_is_one_of_input(name):
    assert ProviderCosts(PROVIDERS[name]).cost(REAL) == 1000


@given(providers, estimates, st.lists(st.tuples(estimates, usages, st.floats(), st.floats()), max_size=8))
def test_a_cost_is_never_negative_or_infinite(provider, estimate, seen):
    costs = ProviderCosts(provider)
    for other, usage, charged, noise in seen:
        costs.learn_usage(other, usage)
        costs.learn_charge(charged, other, noise)
        costs.learn_requested(charged, other)
        final = costs.final_cost(other, usage)
        assert final is None or 0 <= final < math.inf
    assert 0 <= costs.cost(estimate) < math.inf
    assert LEAST_RATIO * 0.999 <= costs.ratio <= MOST_RATIO * 1.001


# --- what was taken in the end ---------------------------------------------------------


def test_usage_is_what_was_taken_where_it_is_charged():
    assert ProviderCosts(MISTRAL).final_cost(REAL, Usage(11, 67)) == 78  # recorded: query-cost 78
    assert ProviderCosts(MISTRAL).final_cost(REAL, Usage(11, 67, cached=10)) == 78


def test_only_input_that_no_cache_had_was_taken_at_anthropic():
    assert ProviderCosts(ANTHROPIC).final_cost(REAL, Usage(1000, 67, cached=900)) == 100


def test_an_estimate_stays_what_was_taken():
    assert ProviderCosts(OPENAI).final_cost(ASKED, Usage(900, 67)) is None
    assert ProviderCosts(CEREBRAS).final_cost(ASKED, Usage(900, 67)) is None


def test_a_response_has_taken_its_real_input_and_what_is_charged_on_top():
    assert ProviderCosts(OPENAI).final_cost(RESPONSE, Usage(900, 67)) == 919
    assert ProviderCosts(CEREBRAS).final_cost(RESPONSE, Usage(900, 67)) == 1919


# --- the ratio -------------------------------------------------------------------------


def test_one_response_moves_the_ratio_by_about_a_tenth():
    costs = ProviderCosts(MISTRAL)
    costs.learn_usage(Estimate(100, 0, choices=1, real=True), Usage(200, 0))
    assert costs.ratio == pytest.approx(1.1)


def test_a_tiny_prompt_says_little_about_a_long_one():
    costs = ProviderCosts(MISTRAL)
    costs.learn_usage(Estimate(8, 0, choices=1, real=True), Usage(2, 0))
    assert 0.98 < costs.ratio < 1
    costs.learn_usage(Estimate(10_000, 0, choices=1, real=True), Usage(20_000, 0))
    assert costs.ratio > 1.8


@given(st.floats(0.3, 3.9), st.randoms(use_true_random=False))
def test_the_ratio_converges_whatever_the_sizes(truth, chance):
    costs = ProviderCosts(MISTRAL)
    for _ in range(100):
        size = round(10 ** chance.uniform(2, 5))
        costs.learn_usage(Estimate(size, 0, choices=1, real=True), Usage(round(truth * size), 50))
    assert costs.ratio == pytest.approx(truth, rel=0.02)


def test_the_ratio_makes_costs_add_up_to_what_was_used():
    chance = random.Random(1)
    costs = ProviderCosts(ANTHROPIC)
    paid = used = 0.0
    for number in range(2000):
        size = round(10 ** chance.uniform(1, 5))
        estimate = Estimate(size, 0, choices=1, real=True)
        usage = Usage(round(size * chance.uniform(1.2, 1.8)) + 3, 100)
        if number >= 100:
            paid += costs.cost(estimate)
            used += usage.input
        costs.learn_usage(estimate, usage)
    assert paid == pytest.approx(used, rel=0.03)


def test_the_ratio_is_bounded():
    costs = ProviderCosts(MISTRAL)
    for _ in range(200):
        costs.learn_usage(REAL, Usage(10**12, 0))
    assert costs.ratio == pytest.approx(MOST_RATIO)
    for _ in range(200):
        costs.learn_usage(REAL, Usage(1, 0))
    assert costs.ratio == pytest.approx(LEAST_RATIO)


def test_openais_own_estimate_of_a_chat_is_not_calibrated():
    costs = ProviderCosts(OPENAI)
    for _ in range(100):
        costs.learn_usage(ASKED, Usage(2000, 100))
    assert costs.cost(ASKED) == 1000
    assert costs.cost(RESPONSE) == 1019


def test_a_response_is_calibrated_but_not_what_is_charged_on_top():
    costs = ProviderCosts(OPENAI)
    for _ in range(200):
        costs.learn_usage(RESPONSE, Usage(2000, 100))
    assert costs.cost(RESPONSE) == pytest.approx(2019)
    assert costs.cost(ASKED) == 1000


@pytest.mark.parametrize("estimate", [REAL._replace(whole=False), REAL._replace(input=0), RESPONSE._replace(input=19)])
def test_what_could_not_be_read_is_no_error_of_the_ratio(estimate):
    costs = ProviderCosts(MISTRAL)
    costs.learn_usage(estimate, Usage(2000, 100))
    assert costs.ratio == 1


def test_usage_without_input_is_no_error_of_the_ratio():
    costs = ProviderCosts(MISTRAL)
    costs.learn_usage(REAL, Usage(0, 100))
    assert costs.ratio == 1


# --- whether output is reserved, from what was charged ------------------------------------


@pytest.mark.parametrize("provider", [AZURE, OPENAI, replace(MISTRAL, reserves_output=False)])
def test_reserving_is_learnt_from_three_charges(provider):
    costs = ProviderCosts(provider)
    for _ in range(2):
        costs.learn_charge(2000, ASKED, 10)
        assert not costs.reserves_output
    costs.learn_charge(2000, ASKED, 10)
    assert costs.reserves_output
    assert costs.cost(ASKED) == 2000


@pytest.mark.parametrize("provider", [CEREBRAS, PROVIDERS["groq"]])
def test_not_reserving_is_learnt_from_three_charges(provider):
    costs = ProviderCosts(provider)
    for _ in range(3):
        assert costs.reserves_output
        costs.learn_charge(1000, ASKED, 10)
    assert costs.cost(ASKED) == 1000


@pytest.mark.parametrize("between", [1000, 1300, 1500, 1700, 2300, 5000, -1000, math.nan, math.inf])
def test_the_three_have_to_agree(between):
    costs = ProviderCosts(AZURE)
    for charged in (2000, 2000, between, 2000, 2000):
        costs.learn_charge(charged, ASKED, 10)
        assert not costs.reserves_output


@pytest.mark.parametrize(
    ("estimate", "noise"),
    [
        (ASKED, 200),  # 1,000 of output is not four times 200 and the doubt about the input
        (ASKED, math.inf),
        (ASKED, math.nan),
        (ASKED, -1),
        (ASKED._replace(output=100), 0),
        (ASKED._replace(input=10_000), 0),
        (OPEN, 0),
    ],
)
def test_an_unclear_charge_says_nothing(estimate, noise):
    costs = ProviderCosts(AZURE)
    for _ in range(50):
        costs.learn_charge(estimate.input + (estimate.output or 16), estimate, noise)
    assert not costs.reserves_output


def test_unclear_charges_between_clear_ones_do_not_matter():
    costs = ProviderCosts(AZURE)
    for _ in range(3):
        costs.learn_charge(2000, ASKED, 10)
        costs.learn_charge(1000, ASKED, 500)
    assert costs.reserves_output


@given(
    st.booleans(),
    st.floats(0, 1e4),
    st.lists(
        st.tuples(st.integers(1, 10**5), st.integers(0, 10**5), st.floats(-1, 1), st.floats(-0.1, 0.1)), max_size=50
    ),
)
def test_noise_within_its_bounds_never_changes_what_is_true(reserves, noise, attempts):
    costs = ProviderCosts(replace(AZURE, reserves_output=reserves))
    for taken, output, error, wrong in attempts:
        truth = taken * (1 + wrong) + (output if reserves else 0)
        costs.learn_charge(truth + error * noise, Estimate(taken, output, choices=1), noise)
        assert costs.reserves_output is reserves


@pytest.mark.parametrize("reserves", [True, False])
def test_normal_noise_does_not_change_what_is_true_in_100_000_charges(reserves):
    chance = random.Random(7)
    costs = ProviderCosts(replace(AZURE, reserves_output=reserves))
    for _ in range(100_000):
        noise = 10 ** chance.uniform(0, 3)
        estimate = Estimate(chance.randrange(1, 2000), chance.choice([0, 16, 256, 1024, 4096]), choices=1)
        truth = estimate.input + (estimate.output if reserves else 0)
        costs.learn_charge(truth + chance.gauss(0, noise), estimate, noise)
        assert costs.reserves_output is reserves


@given(st.booleans(), st.integers(1, 10**5), st.integers(1, 20), st.floats(0, 1e4), st.floats(-1, 1))
def test_three_clear_charges_always_teach_the_truth(truth, taken, times, noise, error):
    output = math.ceil(4 * (noise + 0.1 * taken)) * times
    estimate = Estimate(taken, output, choices=1)
    costs = ProviderCosts(replace(AZURE, reserves_output=not truth))
    for _ in range(3):
        costs.learn_charge(taken + (output if truth else 0) + error * noise, estimate, noise)
    assert costs.reserves_output is truth


def test_a_reserve_is_seen_in_the_sum_of_many_attempts():
    costs = ProviderCosts(AZURE)
    total = Estimate(50 * 20, 50 * 256, choices=50)
    for _ in range(3):
        costs.learn_charge(50 * 276 + 40, total, 100)
    assert costs.reserves_output


def test_charges_are_compared_with_the_calibrated_input():
    costs = ProviderCosts(MISTRAL)
    for _ in range(100):
        costs.learn_usage(REAL, Usage(2000, 100))
    for _ in range(3):
        costs.learn_charge(2000, REAL, 10)
    assert not costs.reserves_output


# --- the same from refusals -------------------------------------------------------------


def test_one_refusal_with_the_requested_tokens_is_enough():
    costs = ProviderCosts(AZURE)
    costs.learn_requested(2000, ASKED)
    assert costs.reserves_output
    costs.learn_requested(1000, ASKED)
    assert not costs.reserves_output


@given(st.booleans(), st.integers(1, 10**5), st.floats(-0.3, 0.3), st.floats(1, 10))
@example(truth=True, taken=1, wrong=-0.3, times=1)
def test_a_refusal_decides_though_the_input_is_30_percent_off(truth, taken, wrong, times):
    output = math.ceil((2 * (0.3 * taken + 8) + 1) * times)
    costs = ProviderCosts(replace(AZURE, reserves_output=not truth))
    costs.learn_requested(round(taken * (1 + wrong)) + (output if truth else 0), Estimate(taken, output, choices=1))
    assert costs.reserves_output is truth


@given(st.booleans(), estimates, st.floats())
def test_a_refusal_that_fits_neither_changes_nothing(reserves, estimate, requested):
    error = 0.3 * estimate.input + 8
    reserve = estimate.output or 16 * estimate.choices
    assume(not abs(requested - estimate.input) <= error)
    assume(not abs(requested - estimate.input - reserve) <= error)
    costs = ProviderCosts(replace(AZURE, reserves_output=reserves))
    costs.learn_requested(requested, estimate)
    assert costs.reserves_output is reserves


@pytest.mark.parametrize("estimate", [ASKED._replace(output=500), ASKED._replace(whole=False), OPEN])
def test_a_refusal_that_may_be_either_changes_nothing(estimate):
    costs = ProviderCosts(AZURE)
    costs.learn_requested(estimate.input + (estimate.output or 16), estimate)
    assert not costs.reserves_output


def test_a_refusal_starts_the_count_of_charges_again():
    costs = ProviderCosts(AZURE)
    for charged in (2000, 2000):
        costs.learn_charge(charged, ASKED, 10)
    costs.learn_requested(1000, ASKED)
    costs.learn_charge(2000, ASKED, 10)
    assert not costs.reserves_output


# --- what a cache had -------------------------------------------------------------------


def test_where_a_cache_is_free_an_attempt_costs_what_it_is_not_expected_to_have():
    costs = ProviderCosts(ANTHROPIC)
    prompt = Estimate(50_000, 0, choices=1, real=True)
    assert costs.cost(prompt) == 50_000
    costs.learn_usage(prompt, Usage(50_000, 100, cached=48_000))
    assert costs.cost(prompt) < 3_000
    for _ in range(50):
        costs.learn_usage(prompt, Usage(50_000, 100, cached=48_000))
    assert costs.cost(prompt) == pytest.approx(2_000, rel=0.01)
    for _ in range(50):
        costs.learn_usage(prompt, Usage(50_000, 100))
    assert costs.cost(prompt) == pytest.approx(50_000, rel=0.01)


def test_long_prompts_that_are_cached_are_not_priced_by_the_short_ones_beside_them():
    costs = ProviderCosts(ANTHROPIC)
    long, short = Estimate(50_000, 0, choices=1, real=True), Estimate(200, 0, choices=1, real=True)
    for _ in range(20):
        costs.learn_usage(short, Usage(200, 100))
    costs.learn_usage(long, Usage(50_000, 100, cached=48_000))
    for _ in range(5):
        costs.learn_usage(short, Usage(200, 100))
    assert costs.cost(long) < 5_000


def test_what_a_cache_had_is_learnt_also_where_the_input_could_not_be_read():
    costs = ProviderCosts(ANTHROPIC)
    partly = Estimate(50_000, 0, choices=1, real=True, whole=False)
    costs.learn_usage(partly, Usage(50_000, 100, cached=48_000))
    assert costs.cost(partly) < 3_000


@pytest.mark.parametrize("provider", [MISTRAL, OPENAI, CEREBRAS])
def test_elsewhere_a_cache_changes_nothing(provider):
    costs, other = ProviderCosts(provider), ProviderCosts(provider)
    costs.learn_usage(REAL, Usage(1000, 100, cached=960))
    other.learn_usage(REAL, Usage(1000, 100))
    assert costs.cost(REAL) == other.cost(REAL)
