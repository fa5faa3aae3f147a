"""What the end of a body says, without parsing all of it."""

import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai._protocol.stream_tail import KEPT, Tail, last_usage
from throttled_openai._protocol.usage import Usage, read_usage

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17, "prompt_tokens_details": {"cached_tokens": 4}}
CHAT = {"id": "1", "choices": [{"message": {"content": 'the "usage": {"prompt_tokens": 99} of it'}}], "usage": USAGE}


def sse(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def test_the_tail_finds_the_same_usage_as_parsing_the_whole_body():
    assert last_usage(json.dumps(CHAT).encode()) == read_usage(CHAT) == Usage(12, 5, 4)
    assert last_usage(json.dumps(CHAT, indent=4).encode()) == Usage(12, 5, 4)
    assert last_usage(json.dumps({"usage": USAGE, **CHAT}).encode()) == Usage(12, 5, 4)


def test_what_people_write_is_no_usage():
    for text in ('"usage": {"prompt_tokens": 1}', '\\"usage\\": {"prompt_tokens": 1}', "usage"):
        assert last_usage(json.dumps({"content": text}).encode()) is None


def test_other_things_of_that_name_are_passed_over():
    assert last_usage(b'{"usage": {"prompt_tokens": 3}, "metadata": {"usage": "much"}}') == Usage(3, 0)
    assert last_usage(b'{"usage": {"prompt_tokens": 3}, "x": {"usage": null}, "y": ["usage"]}') == Usage(3, 0)
    assert last_usage(b'{"usage": {"prompt_tok') is None
    assert last_usage(b"") is None


def test_the_last_event_with_usage_counts():
    body = sse(
        {"usage": None}, {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}, {"usage": USAGE}, {"usage": None}
    )
    assert last_usage(body) == Usage(12, 5, 4)
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 2}}}
    assert last_usage(sse(done)) == Usage(7, 2)


texts = st.text(st.sampled_from('a"\\usage:{} \u00e9\n'), max_size=30)


@settings(deadline=None, derandomize=True)
@given(st.lists(texts, max_size=5), st.booleans(), st.lists(st.integers(0, 400), max_size=12))
def test_usage_is_found_wherever_a_stream_is_split(contents, tells, cuts):
    events = [{"choices": [{"delta": {"content": text}}], "usage": None} for text in contents]
    body = sse(*events, *([{"choices": [], "usage": USAGE}] if tells else []))
    tail, at = Tail(), 0
    for cut in [*sorted(cuts), len(body)]:
        tail.add(body[at:cut])
        at = max(at, min(cut, len(body)))
    assert tail.usage == (Usage(12, 5, 4) if tells else None)
    assert len(tail._kept) <= KEPT


def test_an_error_in_a_stream_is_a_refusal_if_it_says_so():
    tail = Tail()
    tail.add(sse({"choices": []}))
    assert tail.refusal is None
    tail.add(b'data: {"error": {"code": "rate_limit_exceeded", "message": "Rate limit reached"}}\n\n')
    assert tail.refusal is not None
    other = Tail()
    other.add(sse({"type": "response.created", "response": {"error": None, "usage": None}}))
    other.add(b'data: {"error": {"message": "The server had an error"}}\n\n')
    assert other.refusal is None


def test_a_large_body_is_not_parsed():
    body = json.dumps({"data": [{"embedding": [0.123456789] * 100_000}], "usage": USAGE}).encode()
    parsed = min(_seconds(json.loads, body) for _ in range(3))
    assert last_usage(body) == Usage(12, 5, 4)
    assert min(_seconds(last_usage, body) for _ in range(3)) < parsed / 10


def _seconds(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


DEEP = 100_000


def test_a_usage_nested_too_deeply_is_passed_over():
    deep = b'{"usage":' * DEEP + b"1" + b"}" * DEEP
    assert last_usage(deep) is None
    assert last_usage(b'{"usage": {"prompt_tokens": 3}, "x": {"usage": ' + b"[" * DEEP) == Usage(3, 0)
    assert last_usage(b'{"usage": ' + b"9" * 4_000 + b"}") is None
    began = time.perf_counter()
    assert last_usage(b'"usage":[' * DEEP) is None
    assert time.perf_counter() - began < 0.5


def test_an_event_nested_too_deeply_is_passed_over():
    tail = Tail()
    tail.add(b'data: {"error": ' + b"[" * DEEP + b"\n\n")
    assert tail.refusal is None
    tail.add(b'data: {"error": {"code": "rate_limit_exceeded", "message": "Rate limit reached"}}\n\n')
    assert tail.refusal is not None
