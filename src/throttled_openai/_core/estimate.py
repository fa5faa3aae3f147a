"""Request -> cost: what the server will charge when it admits an attempt.

Every formula is the provider's own arithmetic, fitted to recorded traffic; the
section numbers are those of docs/provider-semantics.md. No tokenizer: OpenAI
itself charges a quarter of the UTF-8 bytes (1.3), and one 100 kB prompt would
hold the event loop for 6 ms (7).
"""

from collections.abc import Mapping
from typing import Final

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

# More values than any real body has; ends the walk over one that contains itself.
_MOST_VALUES: Final = 200_000

_MEDIA: Final = frozenset(
    {
        "computer_screenshot",
        "file",
        "image",
        "image_file",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
    }
)

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
    """Name of the model whose limits apply: the body's, the Azure deployment's, else the endpoint's."""
    model = _field(body, "model")
    if isinstance(model, str) and model:
        return model
    _, _, deployed = path.partition("/deployments/")
    return deployed.partition("?")[0].partition("/")[0] or _endpoint(path) or "unknown"


def estimate_tokens(path: str, body: object) -> int:
    """Tokens the server will charge at admission, at least 0.

    Within 2 tokens of every recorded plain-text chat attempt since 2025-03-20,
    when OpenAI stopped counting `max_tokens`; tool schemas are not counted
    either. What cannot be seen from here (a previous response, a prompt
    template, a thread) is not estimated.
    """
    endpoint = _endpoint(path)
    root = endpoint.partition("/")[0]
    if root == "responses":
        return _responses(body)
    if root == "embeddings":
        size, tokens = _measure(_field(body, "input"))
        return round(size / BYTES_PER_TOKEN) + tokens
    if root == "completions":
        size, tokens = _measure(_field(body, "prompt"))
        return -(-size // BYTES_PER_TOKEN) + tokens
    if _field(body, "messages") is not None:
        return _chat(body)
    # Images, audio, moderations, and whatever else takes text under the usual names.
    size, tokens = _measure([_field(body, name) for name in ("prompt", "input", "instructions")])
    return size // BYTES_PER_TOKEN + tokens


def used_tokens(body: object) -> int | None:
    """Tokens a response or the last event of a stream reports; None if it reports none."""
    usage = _field(body, "usage")
    if usage is None:
        usage = _field(_field(body, "response"), "usage")
    total = _count(_field(usage, "total_tokens"))
    if total is not None:
        return total
    # Either pair of names; some servers send both, with the same numbers.
    for names in (("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")):
        told = [count for name in names if (count := _count(_field(usage, name))) is not None]
        if told:
            return sum(told)
    return None


def _chat(body: object) -> int:
    """`bytes // 4 + messages + 2`, and one for each further choice (1.3)."""
    messages = _field(body, "messages")
    size, tokens = _measure(messages)
    count = len(messages) if isinstance(messages, (list, tuple)) else 1
    n = _field(body, "n")
    further = n - 1 if isinstance(n, int) and 1 <= n <= 128 else 0  # 128 is the API's own bound
    return size // BYTES_PER_TOKEN + tokens + count + 2 + further


def _responses(body: object) -> int:
    """Real input tokens and a constant; real ones are `3 + 4 * messages` above their text (1.3, 7)."""
    items = _field(body, "input")
    size, tokens = _measure([items, _field(body, "instructions")])
    count = len(items) if isinstance(items, (list, tuple)) else 1
    tools = _field(body, "tools")
    functions = isinstance(tools, (list, tuple)) and any(_field(tool, "type") == "function" for tool in tools)
    constant = RESPONSES_FUNCTIONS_TOKENS if functions else RESPONSES_TOKENS
    return size // BYTES_PER_TOKEN + tokens + 3 + 4 * count + constant


def _measure(content: object) -> tuple[int, int]:
    """UTF-8 bytes of the text in `content`, and tokens of what is not text.

    Walks strings, lists, messages and their parts; never an iterator, which it
    would consume. Without recursion, because depth is the sender's choice.
    """
    size = tokens = 0
    left = _MOST_VALUES
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            size += _utf8_bytes(value)
        elif isinstance(value, (list, tuple)):
            if value and isinstance(value[0], int):  # a prompt that is already tokens
                tokens += len(value)
                continue
            left -= len(value)
            if left > 0:
                stack.extend(value)
        elif value is None or isinstance(value, (int, float)):
            pass
        elif isinstance(value, (dict, Mapping)) or hasattr(value, "content") or hasattr(value, "text"):
            left -= 1
            if left <= 0:
                break
            if _is_media(value):
                tokens += OPAQUE_TOKENS
            else:
                stack += [_field(value, name) for name in ("content", "text", "refusal", "output", "arguments")]
        else:
            tokens += OPAQUE_TOKENS
    return size, tokens


def _is_media(part: object) -> bool:
    kind = _field(part, "type")
    return isinstance(kind, str) and kind in _MEDIA


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
    # dict is a Mapping, but recognised three times faster.
    if isinstance(value, (dict, Mapping)):
        return value.get(name)
    return getattr(value, name, None)


def _count(value: object) -> int | None:
    """`value` if it is a number of tokens that an attempt can have used, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e12:
        return value
    return None


def _endpoint(path: str) -> str:
    """Endpoint that a path names: `chat/completions`, `responses/resp_1/cancel`.

    Bases differ by provider (`/v1`, `/openai/v1`, `/v1beta/openai`, `/api/v1`,
    `/openai/deployments/{name}`), so it starts at the first word we know, or
    after the base where we know none.
    """
    path = path.partition("?")[0]
    if "://" in path:
        path = path.partition("://")[2].partition("/")[2]
    _, deployments, deployed = path.partition("/deployments/")
    if deployments:
        path = deployed.partition("/")[2]
    words = [word for word in path.split("/") if word]
    for index, word in enumerate(words):
        if word in _METERED or word in _UNMETERED:
            return "/".join(words[index:])
    bases = [index for index, word in enumerate(words) if word == "openai" or _is_version(word)]
    return "/".join(words[bases[-1] + 1 :] if bases else words)


def _is_version(word: str) -> bool:
    return word[:1] == "v" and word[1:2].isdigit()
