"""All types of parameters of the SDK, transformed by us and by the SDK: `test_parameters.py` runs this in a process.

With `PARAMETERS=40` it tries forty values of each type instead of one.
"""

import asyncio
import importlib
import os
import pkgutil
import random
import sys
from datetime import date, datetime
from typing import Annotated, Literal, get_args, get_origin

import openai
import openai.types
import typing_extensions
from openai._utils import _transform as sdk
from openai.types.chat import ChatCompletionMessage

from every_model import WORDS, anything, assert_same, outcome
from throttled_openai._clients import parameters

CASES = int(os.environ.get("PARAMETERS", "1"))
OMIT = getattr(openai, "omit", openai.NOT_GIVEN)
# As callers may give them, and no JSON.
UNUSUAL = (
    ChatCompletionMessage.construct(role="assistant", content="x", new=1),
    datetime(2024, 2, 3),  # noqa: DTZ001
    date(2024, 2, 3),
    ("a", 1),
    b"bytes",
    OMIT,
    openai.NOT_GIVEN,
    {1: "a"},
)


def types():
    for _, name, _ in pkgutil.walk_packages(openai.types.__path__, "openai.types."):
        importlib.import_module(name)
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("openai.types")]
    found = {each for module in modules for each in vars(module).values() if typing_extensions.is_typeddict(each)}
    return [each for each in found if each.__module__.startswith("openai.types") and "Connection" not in each.__name__]


def some(type_, rng, share, depth=0):  # noqa: PLR0911
    if rng.random() < share:
        return rng.choice((*UNUSUAL, anything(rng), anything(rng)))
    origin, args = get_origin(type_), get_args(type_)
    if origin in {Annotated, typing_extensions.Required, typing_extensions.NotRequired}:
        return some(args[0], rng, share, depth)
    if typing_extensions.is_typeddict(type_):
        hints = typing_extensions.get_type_hints(type_, include_extras=True)
        names = [name for name in hints if rng.random() < (0.7 if depth < 3 else 0.2)]
        made = {name: some(hints[name], rng, share, depth + 1) for name in names}
        return {**made, rng.choice(WORDS): anything(rng)} if rng.random() < share else made
    if origin is Literal:
        return rng.choice(args)
    if origin is dict:
        return {rng.choice(WORDS): some(args[1], rng, share, depth + 1) for _ in range(rng.randrange(3))}
    if isinstance(origin, type) and len(args) == 1:  # list, Iterable, Sequence
        items = [some(args[0], rng, share, depth + 1) for _ in range(rng.randrange(4 if depth < 4 else 2))]
        return tuple(items) if rng.random() < share else items
    if args:  # a union
        return some(rng.choice(args), rng, share, depth + 1)
    return {str: rng.choice(WORDS), int: 1, float: rng.choice((1, 1.5)), bool: True}.get(type_) or anything(rng, 1)


def copied(data):
    """The containers; `Omit()` equals only itself."""
    if type(data) is dict:
        return {key: copied(value) for key, value in data.items()}
    return [copied(each) for each in data] if type(data) is list else data


def lists_of(data):
    """Identities of all lists and dicts in it."""
    found = {id(data)} if isinstance(data, list | dict) else set()
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return found.union(*map(lists_of, parts))


async def compare(type_, data):
    """Whether ours transformed it."""
    before = copied(data)
    theirs = outcome(sdk.transform, data=copied(data), expected_type=type_)
    ours = parameters._copy_of(data, type_)
    assert_same(data, before)
    if ours is None:
        return False
    assert_same(ours, theirs)
    assert_same(ours, await sdk.async_transform(copied(data), type_))
    assert not lists_of(ours) & lists_of(data), "not a copy"
    return True


async def main():
    rng = random.Random(int(os.environ.get("PARAMETERS_SEED", "1")))
    every = sorted(types(), key=lambda each: (each.__module__, each.__qualname__))
    inert = sum(map(parameters._is_inert, every))
    ours = tried = plain = plain_ours = 0
    for type_ in every:
        for number in range(CASES):
            data = some(type_, rng, share := (0.0, 0.02, 0.1, 0.3)[(number + tried) % 4])
            if isinstance(data, dict):
                try:
                    taken = await compare(type_, data)
                except AssertionError as error:
                    raise AssertionError(f"{type_} {data}") from error
                tried, ours = tried + 1, ours + taken
                plain, plain_ours = plain + (share == 0.0), plain_ours + (share == 0.0 and taken)
    print(openai.__version__, f"{inert} of {len(every)} types; {ours} of {tried} values, {plain_ours} of {plain} plain")
    assert inert > 0.95 * len(every)
    assert plain_ours > 0.9 * plain


if __name__ == "__main__":
    asyncio.run(main())
