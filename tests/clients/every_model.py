"""All models of the SDK, built from random JSON by us and by the SDK: `test_answer_plans.py` runs this in a process.

With `ANSWERS=40` it tries forty values of each model instead of one.
"""

import copy
import importlib
import math
import os
import pkgutil
import random
import warnings
from datetime import date, datetime
from typing import Annotated, Literal, get_args, get_origin

import openai
import openai.types
import pydantic
from openai import BaseModel
from openai._models import construct_type
from openai.types.responses import ResponseStreamEvent

from throttled_openai._clients import answers

CASES = int(os.environ.get("ANSWERS", "0"))
SEED = int(os.environ.get("ANSWERS_SEED", "1"))
# Share of values that are wrong, unknown or missing.
SHARES = (0.0, 0.03, 0.15, 0.4)
WORDS = ("a", "", "12", "true", "1.5", "2024-02-03", "2024-02-03T04:05:06Z", "stop", "\ud800", "type")


def models():
    """All of the SDK's answers, and unions of them."""
    for _, name, _ in pkgutil.walk_packages(openai.types.__path__, "openai.types."):
        importlib.import_module(name)
    found, left = set(), [BaseModel]
    while left:
        for each in left.pop().__subclasses__():
            if each not in found:
                found.add(each)
                left.append(each)
    ours = [each for each in found if each.__module__.startswith("openai.types")]
    return [*sorted(ours, key=lambda each: (each.__module__, each.__qualname__)), ResponseStreamEvent]


def anything(rng, depth=0):
    kind = rng.randrange(9 if depth < 2 else 7)
    if kind == 7:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 8:
        return {rng.choice(WORDS): anything(rng, depth + 1) for _ in range(rng.randrange(3))}
    plain = (None, True, False, rng.choice((0, 1, -7, 2**53 + 1, 10**400)), rng.choice((0.0, 1.5, math.inf)))
    return (*plain, rng.choice(WORDS), rng.choice(WORDS))[kind]


def some(type_, rng, share, depth=0):  # noqa: PLR0911
    """A JSON value of that type; some of its parts are wrong with probability `share`."""
    if rng.random() < share:
        return anything(rng)
    if get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    origin, args = get_origin(type_), get_args(type_)
    if origin is Literal:
        return rng.choice(args)
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        return an_object(type_, rng, share, depth)
    if origin is list:
        return [some(args[0], rng, share, depth + 1) for _ in range(rng.randrange(3 if depth < 6 else 1))]
    if origin is dict:
        return {rng.choice(WORDS): some(args[1], rng, share, depth + 1) for _ in range(rng.randrange(3))}
    if args:  # a union
        return some(rng.choice(args if depth < 8 else args[-1:]), rng, share, depth + 1)
    values = {str: rng.choice(WORDS), int: rng.randrange(100), float: rng.choice((1, 1.5, 2**53 + 1)), bool: True}
    values |= {datetime: "2024-02-03T04:05:06Z", date: "2024-02-03", type(None): None}
    return values[type_] if type_ in values else anything(rng, 1)


def an_object(model, rng, share, depth):
    made = {}
    for name, field in model.model_fields.items():
        optional = not field.is_required()
        if rng.random() < (share or (0.3 if optional else 0.0)) or (optional and depth > 6):
            continue
        made[field.alias or name] = some(field.annotation, rng, share, depth + 1)
    if rng.random() < share:
        made[rng.choice((*WORDS, *model.model_fields, "_fields_set", "self"))] = anything(rng)
    items = list(made.items())
    rng.shuffle(items)
    return dict(items)


def assert_same(one, other):
    assert type(one) is type(other), (one, other)
    if isinstance(one, BaseModel):
        assert list(one.__dict__) == list(other.__dict__)
        assert_same(one.__dict__, other.__dict__)
        assert one.model_fields_set == other.model_fields_set
        assert_same(one.__pydantic_extra__, other.__pydantic_extra__)
        assert one.__pydantic_private__ == other.__pydantic_private__
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other or (one != one and other != other)  # noqa: PLR0124  # not a number


def dumps(model):
    if not isinstance(model, BaseModel):
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(model.model_dump), outcome(model.model_dump, exclude_unset=True, by_alias=True)


def outcome(function, **arguments):
    try:
        return function(**arguments)
    except Exception as error:  # noqa: BLE001
        return type(error)


def compare(model, data):
    """Whether ours built it; otherwise the SDK does."""
    before = copy.deepcopy(data)
    theirs = outcome(construct_type, type_=model, value=copy.deepcopy(data))
    ours = answers.construct(model, data)
    assert_same(data, before)
    if ours is None:
        return False
    assert_same(ours, theirs)
    for one, other in zip(dumps(ours), dumps(theirs), strict=True):
        assert_same(one, other)
    return True


def main():
    assert answers.known(), f"openai {openai.__version__} constructs its models in another way: {answers.digest()}"
    rng = random.Random(SEED)
    every = models()
    ours = tried = 0
    left = [model for model in every[:-1] if answers._plan_of_fields(model) is None]
    assert len(left) <= 2, left  # those that say of which type their unknown fields are
    for model in every:
        for number in range(CASES or 1):
            share = SHARES[(number if CASES else rng.randrange(4)) % 4]
            for _ in range(2 if CASES else 1):
                data = some(model, rng, share)
                if isinstance(data, dict):
                    tried += 1
                    try:
                        ours += compare(model, data)
                    except AssertionError as error:
                        raise AssertionError(f"{model} {data}") from error
    print(openai.__version__, pydantic.VERSION, len(every), "models", tried, "values", ours, "by us")
    assert ours > 0.97 * tried


if __name__ == "__main__":
    main()
