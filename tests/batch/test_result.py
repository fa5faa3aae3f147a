"""Lines of the output: OpenAI's format, and what can be read back of them."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai.batch import BatchResult
from throttled_openai.batch._result import encoded, written

RUN = "0a1b2c3d"
SERVED = BatchResult(12, "request-1", 200, "req_1", {"choices": []})


def test_a_line_is_openais_batch_output():
    told = json.loads(encoded(SERVED, RUN))
    assert list(told) == ["id", "custom_id", "response", "error"]
    assert told["id"] == "batch_req_0a1b2c3d_12"
    assert told["response"] == {"status_code": 200, "request_id": "req_1", "body": {"choices": []}}
    assert told["error"] is None


def test_an_answer_is_kept_as_the_server_wrote_it():
    raw = b'{"choices": [ 1.50, "\\u00e9" ]}'
    assert raw in encoded(SERVED, RUN, raw)


def test_an_answer_of_several_lines_becomes_one():
    line = encoded(SERVED, RUN, b'{\r\n "choices": []\n}')
    assert line.count(b"\n") == 1
    assert json.loads(line)["response"]["body"] == {"choices": []}


def test_a_refusal_is_an_answer_and_only_what_got_none_is_an_error():
    refused = BatchResult(1, "a", 400, "req", {"error": {"message": "no"}})
    assert json.loads(encoded(refused, RUN))["error"] is None
    lost = BatchResult(1, "a", error={"code": "timeout", "message": "late"})
    assert json.loads(encoded(lost, RUN))["response"] is None
    assert not refused.ok
    assert not lost.ok
    assert SERVED.ok


def test_an_answer_without_a_request_id_has_the_results_own():
    line = json.loads(encoded(BatchResult(3, "a", 200, None, {}), RUN))
    assert line["response"]["request_id"] == line["id"]


values = st.recursive(
    st.none() | st.text() | st.integers(), lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=8
)


@settings(max_examples=40)
@given(
    line=st.integers(1, 10**12),
    custom_id=st.none() | st.text(),
    status=st.none() | st.integers(200, 599),
    body=values,
    error=st.none() | st.dictionaries(st.text(), st.text()),
)
def test_a_written_result_is_read_back(line, custom_id, status, body, error):
    error = error if status is not None else {"code": "x"}
    result = BatchResult(line, custom_id, status, "req", body, error)
    found = written(encoded(result, RUN))
    assert found == (RUN, line, json.dumps(custom_id).encode(), result.ok)


@settings(max_examples=40)
@given(st.integers(0, 400))
def test_a_torn_line_is_not_one(cut):
    whole = encoded(BatchResult(1, 'a"b', 200, "req", {"text": '"error":null}\n"'}), RUN)
    assert written(whole[: min(cut, len(whole) - 1)]) is None


def test_zeros_that_a_power_cut_left_are_not_a_line():
    whole = encoded(SERVED, RUN)
    assert written(whole[:80] + bytes(20) + whole[100:]) is None


def test_a_line_of_another_program_is_not_a_result():
    assert written(b'{"id":"vllm-1","custom_id":"a","response":null,"error":null}\n') is None
    assert written(b"\n") is None
