"""Request -> estimate: what an attempt takes from the token limit; response -> usage: what it took.

Every formula is the provider's own arithmetic, fitted to recorded traffic; the
section numbers are those of docs/provider-semantics.md. No tokenizer: OpenAI
itself charges a quarter of the UTF-8 bytes (1.3), and one 100 kB prompt would
hold the event loop for 6 ms (7). Whether output is taken too, and how far off
a guess of real tokens is, is learnt: see cost_model.py.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final, NamedTuple

from .providers import OPENAI, Provider

# A token is taken to be four bytes of UTF-8, not four characters: over 100
# samples the fitted coefficient of bytes is 0.25000 (1.3).
BYTES_PER_TOKEN: Final = 4

# An image costs this whatever its size (1.3). Also the price of what cannot be
# read: sound, a file, an iterator that must not be consumed.
OPAQUE_TOKENS: Final = 765

# The Responses API charges the real input tokens plus this (38 of 42 samples),
# or the second number with any function tool (24 of 24) (1.3).
RESPONSES_TOKENS: Final = 19
RESPONSES_FUNCTIONS_TOKENS: Final = 217

# Tokens of a chat above those of its text, for each message and once. OpenAI's
# arithmetic at admission (1.3) is taken for what is not known. Groq's and Azure's
# are fitted to 13 and to 14 tokens for a message of 34 bytes (CSV of 2024, of
# 2026); all of those had one message, so the 4 is that of real tokens.
_CHAT: Final = (1, 2)
_CHAT_AT: Final = {"azure": (4, 2), "groq": (4, 1)}
# Of real tokens, in 215 of 215 recorded usages (7).
_REAL_CHAT: Final = (4, 3)

_ABSENT: Final = object()

# More values than any real body has; ends the walk over one that contains itself.
_MOST_VALUES: Final = 200_000

# The API's own bound of `n`.
_MOST_CHOICES: Final = 128

# Where messages, items and their parts keep text. The calls of tools cost
# nothing by OpenAI's arithmetic (1.3), but are real tokens.
_TEXT: Final = frozenset({"content", "text", "refusal", "output", "arguments", "thinking"})
_REAL_TEXT: Final = _TEXT | {"tool_calls", "function", "custom", "name"}
# Any of these makes an object a message, an item or a part.
_PART: Final = frozenset({"content", "text", "type"})

# The endpoints that run a model, by the first word of their path.
_METERED: Final = {
    "audio": frozenset({"audio/speech", "audio/transcriptions", "audio/translations"}),
    "chat": frozenset({"chat/completions"}),
    "completions": frozenset({"completions"}),
    "embeddings": frozenset({"embeddings"}),
    "images": frozenset({"images/edits", "images/generations", "images/variations"}),
    "moderations": frozenset({"moderations"}),
    "responses": frozenset({"responses", "responses/compact"}),
}

_METERED_ENDPOINTS: Final = frozenset().union(*_METERED.values())

# What a base ends with: `v1`, `v1beta`, `openai`, Vertex's `endpoints/openapi`.
_VERSION: Final = re.compile(r"v\d{1,3}(?:\.\d)?(?:(?:alpha|beta|preview)\d*)?")
_DEPLOYED: Final = re.compile(r"/deployments/([^/]*)", re.IGNORECASE)
_BASES: Final = frozenset({"openai", "openapi"})

# Below these words no POST counts against RPM or TPM, even one that names a
# model (an assistant, a fine-tuning job, a realtime session). Runs of a thread
# are the exception and handled apart.
_UNMETERED: Final = frozenset(
    {
        "agents",
        "assistants",
        "batches",
        "chatkit",
        "containers",
        "conversations",
        "evals",
        "files",
        "fine-tunes",
        "fine_tuning",
        "live",
        "models",
        "organization",
        "projects",
        "realtime",
        "skills",
        "threads",
        "uploads",
        "vaults",
        "vector_stores",
    }
)


class Estimate(NamedTuple):
    """What one attempt may take from the token limit.

    `input`: tokens taken at admission, without any output.
    `output`: most output tokens the request allows, of all its answers; 0: it does not tell.
    `choices`: answers it asks for; 0 where no text is written, as for embeddings.
    `surcharge`: tokens of `input` that are no input, only charged on top of it.
    `real`: `input` is a guess of the real tokens, which usage can correct, not the provider's own estimate.
    `whole`: all of the input could be read.
    """

    input: int
    output: int
    choices: int = 0
    surcharge: int = 0
    real: bool = False
    whole: bool = True


class Usage(NamedTuple):
    """Tokens that a response reports; `output` with reasoning, `cached` the part of `input` that a cache had."""

    input: int
    output: int
    cached: int = 0


def is_metered(method: str, path: str, body: object) -> bool:
    """Whether the attempt runs a model, and so counts against RPM and TPM.

    A POST to an endpoint we do not know counts if it names a model.
    """
    if method.upper() != "POST" or path.startswith(("ws://", "wss://")):
        return False
    endpoint = _endpoint(path)
    root, _, rest = endpoint.partition("/")
    if root in _METERED:
        return endpoint in _METERED[root]
    if root == "threads":
        return rest.endswith(("runs", "/submit_tool_outputs"))
    return root not in _UNMETERED and _field(body, "model") is not None


def model_of(path: str, body: object) -> str:
    """Name of the model whose limits apply: the Azure deployment's, else the body's, else the endpoint's."""
    deployed = _DEPLOYED.search(path.partition("?")[0])
    if deployed:
        return deployed[1] or "unknown"
    model = _field(body, "model")
    if isinstance(model, str) and model:
        return model
    return _endpoint(path) or "unknown"


def estimate(path: str, body: object, provider: Provider = OPENAI) -> Estimate:
    """Tokens the provider will charge for an attempt; of all numbers, none is below 0.

    Within 2 tokens of every recorded plain-text chat attempt at OpenAI since
    2025-03-20, when it stopped counting `max_tokens`; tool schemas are not counted
    there either. What cannot be seen from here (a previous response, a prompt
    template, a thread, sound to transcribe) is not in the estimate: too little is
    put right by the next announcement, too much would slow us down for good.
    """
    root = _endpoint(path).partition("/")[0]
    real = provider.charges == "usage"
    if root == "responses":
        return _responses(body, real=real)
    if root == "embeddings":
        size, tokens, whole = _measure(_field(body, "input"))
        return Estimate(round(size / BYTES_PER_TOKEN) + tokens, 0, real=real, whole=whole)
    if root == "completions":
        return _completions(body, real=real)
    if _field(body, "messages") is not None:
        return _chat(body, provider, real=real)
    # Images, audio, moderations, runs of threads, and whatever else takes text under the usual names.
    size, tokens, whole = _measure([_field(body, name) for name in ("prompt", "input", "instructions")])
    writes = root == "threads"
    return Estimate(
        size // BYTES_PER_TOKEN + tokens,
        _most_output(body) if writes else 0,
        choices=int(writes),
        real=real,
        whole=whole and root == "moderations",
    )


def estimate_tokens(path: str, body: object) -> int:
    """Tokens that OpenAI will charge at admission, at least 0."""
    return estimate(path, body).input


def read_usage(data: object) -> Usage | None:
    """Usage that a response or the last event of a stream reports; None if it reports none."""
    usage = _field(data, "usage")
    if usage is None:
        usage = _field(_field(data, "response"), "usage")
    if usage is None:
        return None
    field = _fields(usage)
    # Either pair of names; some servers send both, with the same numbers.
    taken = _most(field("prompt_tokens"), field("input_tokens"))
    given = _most(field("completion_tokens"), field("output_tokens"))
    total = _count(field("total_tokens"))
    if taken is None:
        if given is None and total is None:
            return None
        taken = max(0, (total or 0) - (given or 0))
    # xAI and Gemini leave reasoning out of the output, not out of the total.
    output = max(given or 0, (total or 0) - taken)
    details = field("prompt_tokens_details") or field("input_tokens_details")
    cached = _count(_field(details, "cached_tokens")) or _count(field("prompt_cache_hit_tokens")) or 0
    read = _count(field("cache_read_input_tokens"))
    if read and not cached:
        cached = read
        if field("prompt_tokens") is None:  # Anthropic's own: its input is what no cache had
            taken += read + (_count(field("cache_creation_input_tokens")) or 0)
    return Usage(taken, output, min(cached, taken))


def used_tokens(data: object) -> int | None:
    """All tokens a response or the last event of a stream reports; None if it reports none."""
    usage = read_usage(data)
    return None if usage is None else usage.input + usage.output


def _chat(body: object, provider: Provider, *, real: bool) -> Estimate:
    messages = _field(body, "messages")
    size, tokens, whole = _measure(messages, _REAL_TEXT if real else _TEXT, items=True)
    count = len(messages) if isinstance(messages, (list, tuple)) else 1
    choices = _choices(body)
    each, once = _REAL_CHAT if real else _CHAT_AT.get(provider.name, _CHAT)
    if real:
        size += _schema_bytes(body)
        further = 0
    else:
        further = choices - 1  # (1.3)
    tokens += size // BYTES_PER_TOKEN + each * count + once + further
    return Estimate(tokens, choices * _most_output(body), choices, real=real, whole=whole)


def _completions(body: object, *, real: bool) -> Estimate:
    """`ceil(bytes / 4)` (1.3), and one for each further answer, as of a chat: the one sample with two fits."""
    prompt = _field(body, "prompt")
    size, tokens, whole = _measure(prompt)
    choices = _choices(body)
    if isinstance(prompt, (list, tuple)) and prompt and not isinstance(prompt[0], int):
        choices *= len(prompt)
    tokens += -(-size // BYTES_PER_TOKEN) + choices - 1
    return Estimate(tokens, choices * _most_output(body), choices, real=real, whole=whole)


def _responses(body: object, *, real: bool) -> Estimate:
    """Real tokens of the input, and at OpenAI a constant; `real`: without that (1.3, 7)."""
    items = _field(body, "input")
    size, tokens, whole = _measure([items, _field(body, "instructions")], _REAL_TEXT, items=True)
    count = len(items) if isinstance(items, (list, tuple)) else 1
    each, once = _REAL_CHAT
    tokens += (size + _schema_bytes(body)) // BYTES_PER_TOKEN + each * count + once
    kinds = [_field(tool, "type") for tool in _items(_field(body, "tools"))]
    surcharge = 0
    if not real:
        surcharge = RESPONSES_FUNCTIONS_TOKENS if "function" in kinds else RESPONSES_TOKENS
    # What the server adds itself: an earlier response, a template, what its own tools find.
    hidden = any(_field(body, name) is not None for name in ("previous_response_id", "conversation", "prompt"))
    return Estimate(
        tokens + surcharge,
        _most_output(body),
        choices=1,
        surcharge=surcharge,
        real=True,
        whole=whole and not hidden and all(kind == "function" for kind in kinds),
    )


def _choices(body: object) -> int:
    """Answers that a request asks for, or has made to choose from."""
    field = _fields(body)
    told = [n for n in (field("n"), field("best_of")) if isinstance(n, int) and 1 <= n <= _MOST_CHOICES]
    return max(told, default=1)


def _most_output(body: object) -> int:
    """Most tokens of one answer; 0: not told."""
    field = _fields(body)
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        count = _count(field(name))
        if count is not None:
            return count
    return 0


class _Parts(list[object]):
    """A list in a field of texts: its elements are parts, rather than messages or items."""


def _measure(content: object, names: frozenset[str] = _TEXT, *, items: bool = False) -> tuple[int, int, bool]:
    """UTF-8 bytes of the text in `content`, tokens of what is not text, and whether all could be read.

    `items`: `content` is messages, or items of the Responses API, some of which have no text at all.
    """
    walk = _Walk(names)
    walk.stack.append(content if items or not isinstance(content, (list, tuple)) else _Parts(content))
    while walk.stack and walk.left > 0:
        walk.read(walk.stack.pop())
    return walk.size, walk.tokens + OPAQUE_TOKENS * walk.opaque, not walk.opaque and walk.left > 0


class _Walk:
    """A walk through strings, lists, messages and their parts; never an iterator, which it would consume.

    Without recursion, because depth is the sender's choice. A part that has none of the names of texts is
    opaque, whatever its type: providers have `video_url`, `audio_url`, `image_embeds` and more.
    """

    __slots__ = ("left", "names", "opaque", "size", "stack", "tokens")

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.size = self.tokens = self.opaque = 0
        self.left = _MOST_VALUES
        self.stack: list[object] = []

    def read(self, value: object) -> None:
        if isinstance(value, str):
            self.size += _utf8_bytes(value)
        elif isinstance(value, (list, tuple)):
            self._read_list(value)
        elif value is not None and not isinstance(value, (int, float)):
            fields = value if isinstance(value, dict) else _part_fields(value)
            if fields is None:
                self.opaque += 1
            else:
                self._read_fields(fields)

    def _read_list(self, values: list[object] | tuple[object, ...]) -> None:
        if values and isinstance(values[0], int):  # a prompt that is already tokens
            self.tokens += len(values)
            return
        self.left -= len(values)
        if self.left <= 0:
            return
        if type(values) is _Parts:
            for part in values:
                self._read_part(part)
        else:
            self.stack += values

    def _read_part(self, part: object) -> None:
        if isinstance(part, str):
            self.size += len(part) if part.isascii() else _utf8_bytes(part)
        elif isinstance(part, (list, tuple)):
            self.stack.append(part if part and isinstance(part[0], int) else _Parts(part))
        elif isinstance(part, dict):
            if part and self.names.isdisjoint(part):
                self.opaque += 1
            else:
                self.stack.append(part)
        elif part is not None and not isinstance(part, (int, float)):
            fields = _part_fields(part)
            if fields is None or self.names.isdisjoint(fields):
                self.opaque += 1
            else:
                self.stack.append(fields)

    def _read_fields(self, fields: dict[str, object]) -> None:
        self.left -= 1 + len(fields)
        if self.left <= 0:
            return
        for name, part in fields.items():
            if name in self.names:
                if isinstance(part, str) and part.isascii():  # most are
                    self.size += len(part)
                elif isinstance(part, (list, tuple)):
                    self.stack.append(_Parts(part))
                else:
                    self.stack.append(_Parts((part,)) if isinstance(part, dict) else part)


def _part_fields(value: object) -> dict[str, object] | None:
    """What a message, item or part keeps that is no dict: one of the SDK's models, say; None: it is none."""
    fields = getattr(value, "__dict__", None)  # pydantic needs 3 us to find that a field does not exist
    if isinstance(fields, dict) and not _PART.isdisjoint(fields):
        return fields
    if isinstance(value, Mapping) or hasattr(value, "content") or hasattr(value, "text"):
        return {name: part for name in ("type", *_REAL_TEXT) if (part := _field(value, name)) is not None}
    return None


def _schema_bytes(body: object) -> int:
    """UTF-8 bytes of the names, texts and schemas of functions: about what the model is shown of them."""
    tools = _items(_field(body, "tools"))
    functions = [*_items(_field(body, "functions")), *(_field(tool, "function") or tool for tool in tools)]
    size = 0
    left = _MOST_VALUES
    stack = [_field(function, name) for function in functions for name in ("name", "description", "parameters")]
    while stack and left > 0:
        value = stack.pop()
        if isinstance(value, str):
            size += _utf8_bytes(value)
        elif isinstance(value, dict):
            left -= 1 + 2 * len(value)
            if left > 0:
                stack += value
                stack += value.values()
        elif isinstance(value, (list, tuple)):
            left -= 1 + len(value)
            if left > 0:
                stack += value
    return size


def _items(value: object) -> list[object] | tuple[object, ...]:
    return value if isinstance(value, (list, tuple)) else ()


def _utf8_bytes(text: str) -> int:
    # An ASCII string knows that it is one and is not copied. Others are, a slice
    # at a time: a megabyte at once costs twice as much. A lone surrogate counts
    # its three bytes; refusing it is the SDK's business.
    if text.isascii():
        return len(text)
    slices = (text[start : start + 8192] for start in range(0, len(text), 8192))
    return sum(len(part.encode("utf-8", "surrogatepass")) for part in slices)


def _field(value: object, name: str) -> object:
    """`value[name]` of a mapping, `value.name` of a model object, else None."""
    if isinstance(value, dict):
        return value.get(name)
    # Not plain getattr: pydantic needs 3 us to find that a field does not exist.
    extra = getattr(value, "__pydantic_extra__", _ABSENT)
    if extra is not _ABSENT:
        fields = vars(value)
        return fields[name] if name in fields else _field(extra, name)
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)


def _fields(value: object) -> Callable[[str], object]:
    """`_field` of `value`, for several names."""
    return value.get if isinstance(value, dict) else partial(_field, value)


def _most(one: object, other: object) -> int | None:
    first, second = _count(one), _count(other)
    return first if second is None else second if first is None else max(first, second)


def _count(value: object) -> int | None:
    """`value` if it is a number of tokens that an attempt can have used, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e12:
        return value
    return None


@lru_cache(maxsize=256)  # three look-ups an attempt, and few paths
def _endpoint(path: str) -> str:
    """Endpoint that a path names, in lower case: `chat/completions`, `responses/resp_1/cancel`.

    It stands at the end, after a base that may be anything: `/v1`, `/openai/v1`, `/v1beta/openai`,
    `/api/projects/{name}/openai/v1`, `/openai/deployments/{name}`, `/v1/{account}/{gateway}/openai`,
    even `/chat/v1`. Where those that run a model are not at the end, it starts at the first word we
    know after the base, or right after it.
    """
    path = path.partition("?")[0].partition("#")[0]
    if "://" in path:
        path = path.partition("://")[2].partition("/")[2]
    words = [word for word in path.lower().split("/") if word]
    for length in (2, 1):
        ending = "/".join(words[-length:])
        if ending in _METERED_ENDPOINTS:
            return ending
    for index in range(len(words) - 1, -1, -1):
        if words[index] in _BASES or _VERSION.fullmatch(words[index]):
            words = words[index + 1 :]
            break
        if words[index] == "deployments":
            words = words[index + 2 :]
            break
    for index, word in enumerate(words):
        if word in _METERED or word in _UNMETERED:
            return "/".join(words[index:])
    return "/".join(words)
