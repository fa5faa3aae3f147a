"""The value that fits a JSON schema."""

import pytest

from throttled_openai.simulator._requests.example import example
from throttled_openai.simulator._requests.fields import BadRequestError


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "some text"),
        ({"type": "string"}, "some text"),
        ({"type": "string", "minLength": 12}, "some text..."),
        ({"type": "string", "maxLength": 4}, "some"),
        ({"format": "date"}, "2026-01-01"),
        ({"type": "integer"}, 1),
        ({"type": "number"}, 1.5),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "multipleOf": 4}, 4),
        ({"type": "number", "minimum": 0, "maximum": 1}, 1),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1}, 0.05),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "string"]}, None),
        ({"const": 7}, 7),
        ({"enum": ["a", "b"]}, "a"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"oneOf": [{"const": "x"}]}, "x"),
        (
            {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1, "b": 2},
        ),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [1, 2, 3]),
        ({"type": "array", "maxItems": 0}, []),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [1, "some text"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}}, {}),
        ({"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}, {"next": None}),
        ({"properties": {"more": {"type": "array", "items": {"$ref": "#"}}}, "required": ["more"]}, {"more": []}),
    ],
)
def test_the_simplest_value_that_fits(schema, value):
    assert example(schema, "schema") == value


# Twice as many parts at each of its thirty levels.
DOUBLING = {f"d{n}": {"properties": {side: {"$ref": f"#/$defs/d{n + 1}"} for side in "ab"}} for n in range(30)}
CHAIN = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(4000)}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"next": {"$ref": "#"}}, "required": ["next"]}, "refers to itself"),
        ({"$ref": "#/$defs/none"}, "there is no #/\\$defs/none"),
        ({"type": "klingon"}, "'klingon' is not a type"),
        ({"type": "object", "properties": {"a": 5}}, "a part of it is not an object"),
        ({"type": "array", "minItems": 10**9}, "at most 1,000"),
        ({"type": "string", "minLength": 10**9}, "at most 1,000"),
        ({"$ref": "#/$defs/d0", "$defs": {**DOUBLING, "d30": {}}}, "too large"),
        ({"$ref": "#/$defs/d0", "$defs": {**CHAIN, "d4000": {}}}, "too large"),
    ],
)
def test_a_schema_that_nothing_fits_is_a_bad_request(schema, says):
    with pytest.raises(BadRequestError, match=says):
        example(schema, "schema")
