"""Usage: the tokens that a response reports."""

from typing import NamedTuple

from .fields import fields_of, token_count


class Usage(NamedTuple):
    """Tokens that a response reports.

    `output` includes reasoning. `cached` is the part of `input` that came from a cache.
    """

    input: int
    output: int
    cached: int = 0


def read_usage(data: object) -> Usage | None:
    """The usage in a response, or in the last event of a stream; None if it reports none."""
    field = fields_of(data)
    usage = field("usage")
    if usage is None:
        response = field("response")
        usage = None if response is None else fields_of(response)("usage")
    if usage is None:
        return None
    field = fields_of(usage)
    # Servers use either pair of names; some send both, with the same numbers.
    input_tokens = _larger(field("prompt_tokens"), field("input_tokens"))
    output_tokens = _larger(field("completion_tokens"), field("output_tokens"))
    total = token_count(field("total_tokens"))
    if input_tokens is None:
        if output_tokens is None and total is None:
            return None
        input_tokens = max(0, (total or 0) - (output_tokens or 0))
    # xAI and Gemini count reasoning in the total only.
    output = max(output_tokens or 0, (total or 0) - input_tokens)
    details = field("prompt_tokens_details") or field("input_tokens_details")
    cached = None if details is None else token_count(fields_of(details)("cached_tokens"))
    cached = cached or token_count(field("prompt_cache_hit_tokens")) or 0
    read = token_count(field("cache_read_input_tokens"))
    if read and not cached:
        cached = read
        if field("prompt_tokens") is None:  # Anthropic's own format: `input_tokens` leaves out everything cached
            input_tokens += read + (token_count(field("cache_creation_input_tokens")) or 0)
    return Usage(input_tokens, output, min(cached, input_tokens))


def _larger(one: object, other: object) -> int | None:
    first, second = token_count(one), token_count(other)
    return first if second is None else second if first is None else max(first, second)
