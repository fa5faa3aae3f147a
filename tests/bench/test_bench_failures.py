"""Failed calls, interrupted steps, and parameters that servers reject."""

import json

import pytest

from benched import about, measured, planned, simulator
from scripted import Says, Script, refuses, throttled
from support import virtual_run
from throttled_openai._commands.bench.call import TimedCall
from throttled_openai._commands.bench.endpoint import Endpoint
from throttled_openai._commands.bench.measure import FirstCallError, report_of
from throttled_openai._commands.bench.plan import UsageError
from throttled_openai.simulator import Fault


def test_refused_attempts_are_counted():
    server = simulator(max_in_flight=4, announce=False)
    _, (step,) = measured(server, "--concurrency=8", "--duration=10")
    found = step.figures()
    assert found.refused_attempts == server.refused > 0
    assert found.failed == {}
    assert found.latency.max == about(1.0)  # not the refused attempt's, nor the wait after it


def test_failed_calls_are_counted_by_class_and_not_tried_again():
    server = simulator()
    server.faults = [Fault("status", status=500, first=1, last=3), Fault("disconnect", first=4, last=4)]
    _, (step,) = measured(server, "--concurrency=1", "--calls=10")
    found = step.figures()
    assert server.attempts == 11
    assert found.done == 6
    assert found.failed == {"InternalServerError (500)": 3, "APIConnectionError (RemoteProtocolError)": 1}
    assert found.trouble == 0.4


def test_a_server_that_hangs_is_not_waited_for_for_ever():
    server = simulator()
    server.faults = [Fault("hang", first=5, last=5)]
    _, (step,) = measured(server, "--concurrency=2", "--duration=10")
    found = step.figures()
    assert found.unfinished == 1
    assert found.seconds == 10
    # One of the two slots is lost from the third second on.
    assert 10 <= found.done <= 14


def test_a_step_whose_calls_never_end_is_not_recommended():
    server = simulator()
    server.faults = [Fault("hang", first=50, share=0.5)]
    plan, steps = measured(server, "--sweep=2,8", "--duration=20")
    assert steps[1].figures().unfinished > 0
    assert report_of(plan, steps).recommendation.point.concurrency == 2


def test_calls_longer_than_the_measured_time_are_not_measured():
    server = simulator(latency=30.0)
    with pytest.raises(FirstCallError, match=r"took 30\.0 s, longer than the 5 s .* --duration of 300"):
        measured(server, "--sweep=auto", "--duration=5")
    assert server.attempts == 1
    # Those that come at their own rate begin in time, whenever they end.
    plan, steps = measured(simulator(latency=30.0), "--rate=2", "--duration=5")
    report = report_of(plan, steps)
    assert report.steps[0].figures.done == 10
    assert "Calls took up to 30.0 s (median of a step), much of the 5.0 s measured" in report.as_text()


def test_in_short_calls_nothing_is_rough():
    plan, steps = measured(simulator(), "--concurrency=4", "--duration=10")
    assert "rough" not in report_of(plan, steps).as_text()


def test_a_step_of_few_calls_is_not_swept_at_a_high_concurrency():
    assert planned("--sweep=auto", "--calls=100").most == 10
    assert planned("--sweep=2,10", "--calls=100").sweep == (2, 10)
    with pytest.raises(UsageError, match=r"100 calls in a step are too few to see 11 in flight: .* of 110"):
        planned("--sweep=2,11", "--calls=100")
    with pytest.raises(UsageError, match="of 10 or more"):
        planned("--sweep=auto", "--calls=9")


def test_ctrl_c_keeps_the_results_so_far():
    server = simulator()
    plan, steps = measured(server, "--sweep=2,4", "--duration=10", "--warm-up=0", stop_after=16.5)
    first, second = (step.figures() for step in steps)
    assert (first.done, first.unfinished) == (20, 0)
    assert second.unfinished == 4
    assert second.done in {17, 18, 19, 20}
    assert server.in_flight == 0
    report = report_of(plan, steps, interrupted=True)
    assert report.recommendation is None  # a part of a sweep gives no advice
    assert json.loads(report.as_json())["interrupted"] is True
    assert "Interrupted" in report.as_text()


def test_an_interrupted_first_step_recommends_nothing():
    plan, steps = measured(simulator(), "--sweep=2,4", "--duration=10", stop_after=5)
    report = report_of(plan, steps, interrupted=True)
    assert report.recommendation is None
    assert "Interrupted before anything could be recommended." in report.as_text()


# What servers do not take.


def stream(*words):
    frame = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    choices = ({"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words)
    events = "".join(f"data: {json.dumps({**frame, 'choices': [choice]})}\n\n" for choice in choices)
    return Says(200, f"{events}data: [DONE]\n\n".encode(), {"content-type": "text/event-stream"}, delay=1.0)


def thinks(*deltas, tokens, reasoning):
    """A stream with usage: half a second of thought, then a chunk each."""
    frame = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5,
             "completion_tokens_details": {"reasoning_tokens": reasoning}}  # fmt: skip
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events = [json.dumps({**frame, **chunk}) for chunk in [*chunks, {"choices": [], "usage": usage}]]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
    return Says(200, body, {"content-type": "text/event-stream"}, delay=0.5)


@pytest.mark.parametrize(
    ("deltas", "hidden"),
    [
        ([{"content": "yes"}, {"content": "."}], 40),
        ([{"reasoning_content": "hm"}, {"content": "yes"}], 0),
        ([{"reasoning": "hm"}, {"content": "yes"}], 0),
    ],
)
def test_reasoning_that_the_server_keeps_to_itself_is_no_token_between_the_first_and_the_last(deltas, hidden):
    answer = thinks(*deltas, tokens=42, reasoning=40)
    _, (step,) = measured(Script(answer, answer), "--concurrency=1", "--calls=1")
    (call,) = step.calls
    assert (call.output_tokens, call.hidden_tokens) == (42, hidden)
    slow = TimedCall(0.0, 0.0, 0.0, 1.0, 3.0, output_tokens=42, hidden_tokens=hidden)
    assert slow.per_output_token == about(2.0 / (41 - hidden))


def complains(of, status=400):
    return refuses(f"Unknown parameter: '{of}'.", code="unknown_parameter", kind="invalid_request_error", status=status)


def test_without_usage_chunks_are_counted_and_the_report_says_so():
    server = Script(complains("stream_options", 422), *[stream("", "one", "two", "three") for _ in range(4)])
    plan, steps = measured(server, "--concurrency=1", "--calls=3")
    assert ["stream_options" in seen.json for seen in server.seen] == [True, False, False, False, False]
    found = steps[0].figures()
    assert (found.mean_output_tokens, found.output_tokens_counted_by) == (3.0, "chunks")
    report = report_of(plan, steps)
    assert "reports no usage" in report.as_text()
    assert json.loads(report.as_json())["settings"]["left_out"] == ["stream_options"]


@pytest.mark.parametrize(
    ("base_url", "first", "second"),
    [
        ("http://server/v1", "max_tokens", "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens", "max_tokens"),
    ],
)
def test_the_other_name_of_the_most_tokens_is_tried(base_url, first, second):
    server = Script(complains(first), stream("yes"))
    endpoint = Endpoint(base_url, "m", max_tokens=9)

    async def probe():
        async with throttled(server, max_retries=0) as client:
            await endpoint.probe(client, "hi")

    virtual_run(probe())
    assert [seen.json.get(first) for seen in server.seen] == [9, None]
    assert server.seen[1].json[second] == 9


def test_where_the_first_call_fails_nothing_more_is_sent():
    server = Script(*[complains("model") for _ in range(3)])
    with pytest.raises(FirstCallError, match=r"measured: BadRequestError \(400, unknown_parameter\)$"):
        measured(server, "--rate=10", "--duration=10")
    assert len(server.seen) == 2  # the second without what servers may not know


def test_more_of_the_body_is_sent():
    server = Script(*[stream("yes") for _ in range(2)])
    plan, _ = measured(server, '--extra={"ignore_eos": true, "system": "SECRET"}', "--calls=1", "--concurrency=1")
    assert server.seen[1].json["ignore_eos"] is True
    assert plan.settings()["extra"] == {"ignore_eos": True, "system": "..."}
