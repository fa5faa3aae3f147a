"""Estimate: the tokens that an attempt will take from the token limit.

Every formula is the provider's own arithmetic, fitted to the attempts recorded in tests/data/ratelimit-samples.csv.
No tokenizer is needed: OpenAI itself charges a quarter of the UTF-8 bytes, and a tokenizer would hold the event loop
for 6 ms with a prompt of 100 kB. `_control.cost_model` learns whether output is charged as well, and how far a guess of
real tokens is off.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from .endpoints import endpoint_in
from .fields import field, fields_of, items_of, token_count
from .providers import OPENAI, Provider
from .text_size import ALL_TEXT, TEXT, measure, schema_size

# Four bytes of UTF-8, not four characters: over 100 samples the fitted coefficient of bytes is 0.25000.
BYTES_PER_TOKEN: Final = 4

# The Responses API charges the real input tokens plus 19 (38 of 42 samples), or plus 217 with any function tool
# (24 of 24).
RESPONSES_TOKENS: Final = 19
RESPONSES_FUNCTIONS_TOKENS: Final = 217

# Tokens of a chat beyond those of its text: for each message, and once. OpenAI's arithmetic at admission is the
# default. Groq's and Azure's are fitted to 13 and to 14 tokens for a message of 34 bytes (samples of 2024 and 2026);
# all of those had one message, so the 4 for each further one is that of real tokens.
_CHAT: Final = (1, 2)
_CHAT_AT: Final = {"azure": (4, 2), "groq": (4, 1)}
# Of real tokens, in 215 of 215 recorded usages.
_REAL_CHAT: Final = (4, 3)

# The API's own bound of `n`.
_MOST_CHOICES: Final = 128


class Estimate(NamedTuple):
    """What one attempt may take from the token limit.

    `input`: tokens taken at admission, without any output.
    `output`: the most output tokens that the request allows, of all its answers; 0 if it sets no maximum.
    `choices`: answers it asks for; 0 where no text is written, as for embeddings.
    `surcharge`: the part of `input` that is no real input, but charged on top of it.
    `real`: `input` is a guess of the real tokens, which usage can correct, not the provider's own estimate.
    `whole`: all of the input could be read.
    """

    input: int
    output: int
    choices: int = 0
    surcharge: int = 0
    real: bool = False
    whole: bool = True


def estimate(path: str, body: object, provider: Provider = OPENAI) -> Estimate:
    """Tokens the provider will charge for an attempt; no number is below 0.

    It is within 2 tokens of every recorded plain-text chat attempt at OpenAI since 2025-03-20, when OpenAI stopped
    counting `max_tokens`; OpenAI does not count tool schemas either. Input that the request only refers to (a
    previous response, a prompt template, a thread, sound to transcribe) is not in the estimate: too low an estimate
    is put right by the next announced limit, too high a one would slow us down for good.
    """
    root = endpoint_in(path).partition("/")[0]
    real = provider.charges == "usage"
    get = fields_of(body)
    if root == "responses":
        return _responses(body, get, real=real)
    if root == "embeddings":
        size, tokens, whole = measure(get("input"))
        return Estimate(round(size / BYTES_PER_TOKEN) + tokens, 0, real=real, whole=whole)
    if root == "completions":
        return _completions(get, real=real)
    if get("messages") is not None:
        return _chat(body, get, provider, real=real)
    # Images, audio, moderations, runs of threads, and unknown endpoints that take text under the usual names.
    size, tokens, whole = measure([get("prompt"), get("input"), get("instructions")])
    writes = root == "threads"
    return Estimate(
        size // BYTES_PER_TOKEN + tokens,
        _most_output(get) if writes else 0,
        choices=int(writes),
        real=real,
        whole=whole and root == "moderations",
    )


def estimate_tokens(path: str, body: object) -> int:
    """Tokens that OpenAI will charge at admission, at least 0."""
    return estimate(path, body).input


def _chat(body: object, get: Callable[[str], object], provider: Provider, *, real: bool) -> Estimate:
    messages = get("messages")
    size, tokens, whole = measure(messages, ALL_TEXT if real else TEXT, items=True)
    count = len(messages) if isinstance(messages, (list, tuple)) else 1
    choices = _choices(get)
    each, once = _REAL_CHAT if real else _CHAT_AT.get(provider.name, _CHAT)
    if real:
        size += schema_size(body)
    else:
        once += choices - 1  # OpenAI adds one token for each further answer
    tokens += size // BYTES_PER_TOKEN + each * count + once
    return Estimate(tokens, choices * _most_output(get), choices, real=real, whole=whole)


def _completions(get: Callable[[str], object], *, real: bool) -> Estimate:
    """A quarter of the bytes, rounded up, and one token for each further answer, which the one sample of two fits."""
    prompt = get("prompt")
    size, tokens, whole = measure(prompt)
    choices = _choices(get)
    if isinstance(prompt, (list, tuple)) and prompt and not isinstance(prompt[0], int):
        choices *= len(prompt)
    tokens += -(-size // BYTES_PER_TOKEN) + choices - 1
    return Estimate(tokens, choices * _most_output(get), choices, real=real, whole=whole)


def _responses(body: object, get: Callable[[str], object], *, real: bool) -> Estimate:
    """Real tokens of the input, and a constant where the provider charges an estimate."""
    items = get("input")
    size, tokens, whole = measure([items, get("instructions")], ALL_TEXT, items=True)
    count = len(items) if isinstance(items, (list, tuple)) else 1
    each, once = _REAL_CHAT
    tokens += (size + schema_size(body)) // BYTES_PER_TOKEN + each * count + once
    kinds = [field(tool, "type") for tool in items_of(get("tools"))]
    surcharge = 0
    if not real:
        surcharge = RESPONSES_FUNCTIONS_TOKENS if "function" in kinds else RESPONSES_TOKENS
    # Input that the server adds itself: an earlier response, a template, what its own tools find.
    hidden = any(get(name) is not None for name in ("previous_response_id", "conversation", "prompt"))
    return Estimate(
        tokens + surcharge,
        _most_output(get),
        choices=1,
        surcharge=surcharge,
        real=True,
        whole=whole and not hidden and all(kind == "function" for kind in kinds),
    )


def _choices(get: Callable[[str], object]) -> int:
    """Answers that a request asks for, or from which it has the server choose."""
    given = [n for n in (get("n"), get("best_of")) if isinstance(n, int) and 1 <= n <= _MOST_CHOICES]
    return max(given, default=1)


def _most_output(get: Callable[[str], object]) -> int:
    """The most tokens of one answer; 0 if the request sets no maximum."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        count = token_count(get(name))
        if count is not None:
            return count
    return 0
