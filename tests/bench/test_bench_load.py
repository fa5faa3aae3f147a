"""The load: what is sent, and when."""

import itertools
import statistics

from hypothesis import given
from hypothesis import strategies as st

from benched import about, figures_of, measured, simulator
from throttled_openai._commands.bench.load import Load, Prompts, arrivals


@given(st.floats(0.1, 200), st.floats(0.5, 30), st.integers(0, 1000))
def test_the_number_of_arrivals_is_rate_times_time(rate, seconds, seed):
    at = arrivals(rate, seconds, seed)
    assert len(at) == round(rate * seconds)
    assert at == sorted(at) == arrivals(rate, seconds, seed)
    assert all(0 <= instant < seconds for instant in at)


def test_arrivals_are_random():
    at = arrivals(10, 500, 3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    # Of a Poisson process mean and deviation of the gaps are the same.
    assert statistics.stdev(gaps) == about(statistics.mean(gaps), rel=0.1)
    assert arrivals(10, 500, 4) != at


def test_no_two_prompts_begin_alike():
    prompts = Prompts(128, 5)
    made = [prompts.next() for _ in range(500)]
    assert len({prompt[:40] for prompt in made}) == 500
    assert {len(prompt.split()) for prompt in made} == {128}
    assert Prompts(128, 6).next() != Prompts(128, 5).next() == made[0]


def test_given_prompts_are_used_in_turn():
    prompts = Prompts(0, 1, ["one", "two"])
    assert [prompts.next() for _ in range(3)] == ["one", "two", "one"]


def test_an_open_loop_sends_at_its_rate_even_if_calls_do_not_end():
    server = simulator(latency=7.0)
    found = figures_of(server, "--rate=10", "--duration=30")
    assert server.attempts == 301  # with the one before all others
    assert (found.done, found.unfinished) == (300, 0)
    assert found.seconds == 30
    assert found.latency.p50 == about(7.0)
    assert found.latency.max == about(7.0)


def test_the_warm_up_of_an_open_loop_does_not_change_the_measured_arrivals():
    server = simulator()
    _, (step,) = measured(server, "--rate=10", "--calls=50", "--warm-up-calls=20", "--warm-up=1")
    assert server.attempts == 71
    assert step.figures().done == 50
    cold = Load(rate=10, calls=50, seed=3)
    warm = Load(rate=10, calls=50, seed=3, warm_up=1, warm_up_calls=20)
    assert [at - 2.0 for at in warm.arrivals[20:]] == about(cold.arrivals)


def test_a_closed_loop_keeps_its_concurrency_in_flight():
    server = simulator()
    _, (step,) = measured(server, "--concurrency=4", "--duration=10", "--warm-up=2")
    found = step.figures()
    assert server.peak_in_flight == 4
    assert found.calls_per_second == about(4.0)
    assert found.mean_in_flight == about(4.0)
    assert found.output_tokens_per_second == about(8.0)
    assert found.queued.max == about(0.0)
    # The head after 0.3 s; then [role, part, part, end, usage, done] 0.7 / 6 apart.
    assert found.first_token.p50 == about(0.3 + 2 * 0.7 / 6)
    assert found.per_output_token.p50 == about(4 * 0.7 / 6)
    assert found.latency.p99 == about(1.0)
    assert found.mean_output_tokens == 2
    assert step.concurrency_limit == 4
    assert step.limits == ()


def test_a_step_measures_its_number_of_calls():
    server = simulator()
    found = figures_of(server, "--concurrency=4", "--calls=40", "--warm-up-calls=8")
    assert server.attempts == 49
    assert found.done == 40


def test_calls_still_waiting_at_the_end_are_not_sent():
    server = simulator(rpm=600)
    _, (step,) = measured(server, "--duration=10")
    found = step.figures()
    (limit,) = step.limits
    assert (limit.limit, limit.dimension, limit.announced) == (600, "requests", True)
    assert found.unfinished == 0
    assert found.done == server.succeeded - 1
    # Its bucket is larger than it refills: 10 a second, and the more from the minute.
    assert found.calls_per_second > 9
    assert found.latency.max == about(1.0)


def test_a_rate_above_the_limit_shows_in_the_latency_from_due():
    server = simulator()
    found = figures_of(server, "--rate=10", "--duration=10", "--rpm=300")
    assert found.done == 100
    assert found.latency.max == about(1.0)  # the server's
    assert found.latency_from_due.max == about(found.queued.max + 1.0)
    assert found.queued.max > 7  # 100 calls at 5 a second, where the last ones are due after 10 s


def test_unstreamed_answers_have_no_first_token():
    found = figures_of(simulator(), "--no-stream", "--concurrency=1", "--calls=3")
    assert found.first_token is found.per_output_token is None
    assert found.latency.p50 == about(1.0)
    assert found.mean_output_tokens == 2


def test_embeddings_have_no_output():
    server = simulator()
    found = figures_of(server, "--endpoint=embeddings", "--concurrency=1", "--calls=3")
    assert {attempt.endpoint for attempt in server.log} == {"embeddings"}
    assert found.output_tokens_per_second == 0.0
    assert found.mean_prompt_tokens == 128
