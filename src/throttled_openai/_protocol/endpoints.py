"""Endpoints: what a request asks for, whether that counts against the limits, and for which model."""

import re
from functools import lru_cache
from typing import Final

from .fields import field

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

# Below these words no POST counts against RPM or TPM, even one that names a model (an assistant, a fine-tuning
# job, a realtime session). Runs of a thread are the exception, see `is_metered`.
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

# The last word of a base path: `v1`, `v1beta`, `openai`, Vertex's `endpoints/openapi`.
_VERSION: Final = re.compile(r"v\d{1,3}(?:\.\d)?(?:(?:alpha|beta|preview)\d*)?")
_BASES: Final = frozenset({"openai", "openapi"})

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]*)", re.IGNORECASE)


def is_metered(method: str, path: str, body: object) -> bool:
    """Whether the attempt runs a model, and so counts against RPM and TPM.

    A POST to an endpoint we do not know counts if it names a model.
    """
    if method.upper() != "POST" or path.startswith(("ws://", "wss://")):
        return False
    endpoint = endpoint_in(path)
    root, _, rest = endpoint.partition("/")
    if root in _METERED:
        return endpoint in _METERED[root]
    if root == "threads":
        return rest.endswith(("runs", "/submit_tool_outputs"))
    return root not in _UNMETERED and field(body, "model") is not None


def model_of(path: str, body: object) -> str:
    """Name of the model whose limits apply: the Azure deployment's, else the body's, else the endpoint's."""
    deployment = _DEPLOYMENT.search(path.partition("?")[0])
    if deployment:
        return deployment[1] or "unknown"
    model = field(body, "model")
    if isinstance(model, str) and model:
        return model
    return endpoint_in(path) or "unknown"


@lru_cache(maxsize=256)  # three look-ups an attempt, and few paths
def endpoint_in(path: str) -> str:
    """The endpoint at the end of a path or URL, in lower case: `chat/completions`, `responses/resp_1/cancel`.

    The base before it may be anything: `/v1`, `/openai/v1`, `/v1beta/openai`, `/api/projects/{name}/openai/v1`,
    `/openai/deployments/{name}`, `/v1/{account}/{gateway}/openai`, even `/chat/v1`. An endpoint that runs a model is
    recognised by the last words of the path. Any other starts at the first known word after the base, or right
    after the base.
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
