"""Goodput, the gaps between chunks, and the command line in a report."""

import itertools
import statistics

from benched import about
from throttled_openai._commands.bench.bounds import Bounds
from throttled_openai._commands.bench.call import TimedCall
from throttled_openai._commands.bench.command_line import command_line
from throttled_openai._commands.bench.figures import MeasuredWindow, figures
from throttled_openai._commands.bench.load import arrivals


def log():
    """Four answers, the last of one token, and a failure: instants as `vllm bench serve` would log them."""
    calls = [
        TimedCall(float(at), float(at), float(at), at + first, at + took, output_tokens=tokens, gaps=gaps)
        for at, first, took, tokens, gaps in [
            (0, 0.1, 0.5, 5, [0.1, 0.1, 0.1, 0.1]),
            (1, 0.3, 0.7, 3, [0.2, 0.2]),
            (2, 0.1, 2.1, 3, [1.0, 1.0]),
            (3, 0.2, 0.2, 1, []),
        ]
    ]
    return [*calls, TimedCall(4.0, 4.0, 4.0, None, 4.1, failure="InternalServerError (500)")]


def test_the_figures_are_those_of_vllms_definitions():
    found = figures(log(), MeasuredWindow(0.0, 10.0), Bounds.of(["ttft:250", "tpot:150", "e2el:2000"]))
    done = log()[:4]
    first = [call.first_at - call.sent_at for call in done]
    whole = [call.done_at - call.sent_at for call in done]
    # (latency - TTFT) / (tokens - 1), of answers of more than one token.
    each = [
        (latency - ttft) / (call.output_tokens - 1)
        for call, ttft, latency in zip(done, first, whole, strict=True)
        if call.output_tokens > 1
    ]
    gaps = list(itertools.chain.from_iterable(call.gaps for call in done))
    for ours, theirs in [
        (found.first_token, first),
        (found.per_output_token, each),
        (found.between_chunks, gaps),
        (found.latency, whole),
    ]:
        assert ours.mean == about(statistics.fmean(theirs))
        assert ours.deviation == about(statistics.pstdev(theirs))
        cuts = statistics.quantiles(theirs, n=100, method="inclusive")
        assert [ours.at(percent) for percent in (50, 95, 99)] == about([cuts[49], cuts[94], cuts[98]])
    # The first is good, and the last, whose one token has no time per token; the failure counts against it.
    assert (found.good, found.goodput, found.good_share) == (2, 0.2, 0.4)


def test_bursty_arrivals_have_gamma_distributed_distances():
    for burstiness in (0.25, 4.0):
        at = arrivals(10, 1000, 3, burstiness)
        gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert len(at) == 10_000
        assert 0 <= at[0] <= at[-1] < 1000
        # The coefficient of variation of a gamma distribution is one over the root of its shape.
        assert statistics.stdev(gaps) / statistics.mean(gaps) == about(burstiness**-0.5, rel=0.1)


def test_the_command_line_shows_no_secret():
    said = command_line(["bench", "--base-url", "http://me:pw@host/v1?key=pw", "--extra", '{"a": "pw"}', "--extr=pw"])
    assert said == "throttled-openai bench --base-url http://host/v1 --extra ... --extr=..."
    assert command_line(["bench", "--model=sk-pw", "sk-pw"]) == "throttled-openai bench --model=... ..."
