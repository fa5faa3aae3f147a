"""The usage that a response reports."""

from types import SimpleNamespace

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseUsage

from throttled_openai._protocol.usage import Usage, read_usage


def used_tokens(body):
    usage = read_usage(body)
    return None if usage is None else usage.input + usage.output


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"usage": {"prompt_tokens": 11, "completion_tokens": 67, "total_tokens": 78}}, 78),
        ({"usage": {"input_tokens": 11, "output_tokens": 67}}, 78),
        ({"usage": {"prompt_tokens": 11}}, 11),
        ({"usage": {"prompt_tokens": 11, "completion_tokens": 6, "input_tokens": 11, "output_tokens": 6}}, 17),
        ({"usage": {"total_tokens": 0}}, 0),
        ({"type": "response.completed", "response": {"usage": {"total_tokens": 5}}}, 5),
        (SimpleNamespace(response=SimpleNamespace(usage=SimpleNamespace(total_tokens=5))), 5),
        ({"usage": None, "choices": []}, None),
        ({"usage": {"type": "duration", "seconds": 12}}, None),
        ({}, None),
        (None, None),
        ("usage", None),
        ([], None),
    ],
)
def test_used_tokens_are_what_the_response_reports(body, tokens):
    assert used_tokens(body) == tokens


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 11, "completion_tokens": 67, "total_tokens": 78}, Usage(11, 67)),
        ({"input_tokens": 11, "output_tokens": 67, "total_tokens": 78}, Usage(11, 67)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 11, "output_tokens": 67}, Usage(11, 67)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
        ({"completion_tokens": 8}, Usage(0, 8)),
        ({"total_tokens": 8}, Usage(8, 0)),
        ({"completion_tokens": 3, "total_tokens": 8}, Usage(5, 3)),
        ({"prompt_tokens": 11, "completion_tokens": 67, "total_tokens": 5}, Usage(11, 67)),
        ({"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(11, 0, 9)),
        ({"input_tokens": 11, "input_tokens_details": {"cached_tokens": 9}}, Usage(11, 0, 9)),
        ({"prompt_tokens": 11, "prompt_cache_hit_tokens": 9}, Usage(11, 0, 9)),
        ({"prompt_tokens": 11, "cache_read_input_tokens": 9}, Usage(11, 0, 9)),
        (
            {"input_tokens": 2, "cache_read_input_tokens": 9, "cache_creation_input_tokens": 1, "output_tokens": 3},
            Usage(12, 3, 9),
        ),
        (
            {"input_tokens": 11, "input_tokens_details": {"cached_tokens": 9}, "cache_read_input_tokens": 9},
            Usage(11, 0, 9),
        ),
        ({"prompt_tokens": 11, "cache_read_input_tokens": 99}, Usage(11, 0, 11)),
        ({"prompt_tokens": 11, "prompt_tokens_details": None}, Usage(11, 0)),
        ({"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 99}}, Usage(11, 0, 11)),
        ({"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(11, 0)),
        ({"prompt_tokens": -1, "completion_tokens": "67"}, None),
    ],
)
def test_usage_is_what_the_response_reports(usage, read):
    assert read_usage({"usage": usage}) == read
    assert read_usage({"type": "response.completed", "response": {"usage": usage}}) == read


def test_reasoning_that_only_the_total_contains_is_output():
    """xAI and Gemini leave it out of `completion_tokens`."""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 118}
    assert read_usage({"usage": usage}) == Usage(11, 107)


def test_usage_is_read_from_the_sdks_own_models():
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    body = {"id": "x", "choices": [], "created": 0, "model": "m", "object": "chat.completion", "usage": usage}
    assert used_tokens(ChatCompletion.model_validate(body)) == 3
    usage["prompt_cache_hit_tokens"] = 1  # DeepSeek's, which the SDK's model does not know
    assert read_usage(ChatCompletion.model_validate(body)) == Usage(1, 2, 1)
    assert read_usage(ChatCompletionChunk.model_construct(**{**body, "usage": None})) is None
    details = {"input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens_details": {}}
    whole = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11, **details}
    event = SimpleNamespace(response=SimpleNamespace(usage=ResponseUsage.construct(**whole)))
    assert read_usage(event) == Usage(5, 6, 4)


@pytest.mark.parametrize("value", [-1, 1e400, float("nan"), 10**400, "78", True, 7.5, [], {}])
def test_a_broken_usage_is_no_usage(value):
    assert used_tokens({"usage": {"total_tokens": value}}) is None
    assert read_usage({"usage": {"prompt_tokens": value, "completion_tokens": value}}) is None
    assert read_usage({"usage": {"prompt_tokens": 5, "total_tokens": value}}) == Usage(5, 0)
