"""Lines of a batch file: which are requests, and why the others are not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import VLLM, request
from throttled_openai.batch._request import (
    LONGEST,
    PATHS,
    BadLineError,
    guessed_path,
    is_batch_line,
    read_body,
    read_request,
)

GOOD = request(1)


def line(**changes):
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not None}).encode()


def refused(raw):
    with pytest.raises(BadLineError) as error:
        read_request(raw, 1, {})
    return error.value


@pytest.mark.parametrize("told", VLLM, ids=lambda told: told["custom_id"])
def test_the_example_lines_of_vllms_documentation_are_requests(told):
    found = read_request(json.dumps(told).encode(), 7, {})
    assert (found.line, found.custom_id) == (7, told["custom_id"])
    assert found.path == told["url"].removeprefix("/v1")
    assert json.loads(found.content) == found.body == told["body"]


def test_a_body_is_sent_as_it_was_written():
    body = '{ "model":"m",  "messages" : [{"content": "\\u00e9\U0001f600"}], "top_p": 1.50, "n" : 1e0 }'
    raw = f'\ufeff  {{"body": {body}, "url": "/v1/chat/completions"  ,"method":"POST","custom_id":"a"}}\r'.encode()
    assert read_request(raw, 1, {}).content == body.encode()


def test_of_a_field_that_comes_twice_the_last_one_counts_as_in_json():
    raw = b'{"custom_id":"a","url":"/v1/embeddings","body":{"model":"x"},"body":{"model":"y","input":"z"}}'
    found = read_request(raw, 1, {})
    assert (found.body["model"], found.content) == ("y", b'{"model":"y","input":"z"}')


@pytest.mark.parametrize(
    "told",
    [
        '{"body":BODY,"url":"/v1/embeddings","custom_id":"a"}',
        '{"custom_id":"a","url":"/v1/embeddings","body" : BODY  }',
        '{"custom_id":"\\"body\\":3","url":"/v1/embeddings","body":BODY,"more":{"body":{}}}',
        '{"more":"body","custom_id":"a","url":"/v1/embeddings","body":BODY}',
        '{"more":["body"],"custom_id":"a","url":"/v1/embeddings","body":BODY}',
        '{"more":{"body":1},"custom_id":"a","url":"/v1/embeddings","\\u0062ody":BODY}',
        '{"custom_id":"body","url":"/v1/embeddings","b\\u006Fdy":BODY}',
        '{"more":"}","custom_id":"a","url":"/v1/embeddings","body":BODY}',
    ],
)
def test_a_body_is_found_wherever_it_stands(told):
    body = '{"model" :"m", "input":"\\"body\\" } ]"}'
    assert read_request(told.replace("BODY", body).encode(), 1, {}).content == body.encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prefix", ["/v1", "", "v1"])
def test_each_endpoint_with_and_without_its_version(path, prefix):
    assert read_request(line(url=prefix + path), 1, {}).path == path


@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        (b"{", "invalid_json", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"{'a': 1}", "invalid_json", "Expecting property name"),
        (b'{"custom_id": "a"} x', "invalid_json", "Extra data"),
        (b'{"custom_id": "a" "b": 1}', "invalid_json", "Expecting ',' delimiter"),
        (b'{"custom_id"', "invalid_json", "Expecting ':' delimiter"),
        (b'{"a": NaN}', "invalid_json", "NaN is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json", "a number is too long"),
        (b'{"a": ' + b"[" * 100_000, "invalid_json", "nested too deeply"),
        (b"[1]", "invalid_json", "is a list, not an object"),
        (b'"secret"', "invalid_json", "is a text, not an object"),
        (b"{}", "invalid_custom_id", "custom_id is missing"),
        (b'{"a": "\xff"}', "invalid_utf8", "is not UTF-8 at byte 8"),
        (line(custom_id=""), "invalid_custom_id", "must be a text"),
        (line(custom_id=5), "invalid_custom_id", "must be a text, not a number"),
        (line(method="GET"), "invalid_method", "must be POST"),
        (line(method=1), "invalid_method", "must be POST"),
        (line(url=None), "invalid_url", "url is missing"),
        (line(url=["x"]), "invalid_url", "must be a text, not a list"),
        (line(url="/v1/files"), "invalid_url", "must be one of /v1/chat/completions"),
        (line(body=None), "invalid_body", "body is missing"),
        (line(body="secret"), "invalid_body", "must be an object, not a text"),
        (line(body={}), "invalid_model", "model is missing"),
        (line(body={"model": 3}), "invalid_model", "must be a text, not a number"),
        (line(body={"model": "m", "stream": True}), "invalid_body", "asks for a stream"),
    ],
)
def test_a_line_that_is_no_request_says_why_and_nothing_of_its_text(raw, code, says):
    error = refused(raw)
    assert error.code == code
    assert says in str(error)
    assert "secret" not in str(error)


def test_a_bad_line_keeps_its_custom_id_where_it_has_one():
    assert refused(line(url="/v1/files")).custom_id == "request-1"
    assert refused(line(custom_id=5)).custom_id is None


def test_fields_for_every_body_go_over_its_own():
    found = read_request(line(), 1, {"model": "other", "service_tier": "flex"})
    assert json.loads(found.content) == found.body == {**GOOD["body"], "model": "other", "service_tier": "flex"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": []}, "/chat/completions"),
        ({"prompt": "x"}, "/completions"),
        ({"input": "x"}, "/responses"),
        ({"input": "x", "prompt": {"id": "pmpt"}}, "/responses"),
    ],
)
def test_a_body_shows_its_endpoint_by_its_fields(body, path):
    assert guessed_path({"model": "m", **body}) == path


def test_an_input_for_a_model_of_embeddings_or_moderation_is_one_for_that():
    assert guessed_path({"model": "text-embedding-3-small", "input": "x"}) == "/embeddings"
    assert guessed_path({"model": "omni-moderation-latest", "input": "x"}) == "/moderations"


def test_a_bare_body_is_a_request_named_by_its_line():
    raw = b'{"model": "text-embedding-ada-002",  "input": "0\\n"}\n'
    found = read_body(raw, 3, None, {})
    assert (found.custom_id, found.path, found.content) == ("line-3", "/embeddings", raw.strip())
    with pytest.raises(BadLineError, match="neither messages nor input nor prompt"):
        read_body(b'{"model": "m"}', 1, None, {})


def test_batch_lines_bodies_and_neither():
    assert is_batch_line(line()) is True
    assert is_batch_line(b'{"model": "m", "input": "x"}') is False
    assert is_batch_line(b'{"name": "x"}') is None
    assert is_batch_line(b"nothing") is None


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text()
values = st.recursive(scalars, lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=8)


@settings(max_examples=40)
@given(values)
def test_any_content_of_a_line_fails_that_line_only(value):
    whole = json.dumps(value).encode()
    for raw in (whole, line(body=value), line(custom_id=value), line(url=value), line(method=value)):
        try:
            found = read_request(raw, 1, {})
        except BadLineError:
            continue
        assert json.loads(found.content) == found.body


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_request(raw):
    assert refused(raw).code


def test_no_line_may_be_of_any_length():
    assert LONGEST == 64 * 1024 * 1024
