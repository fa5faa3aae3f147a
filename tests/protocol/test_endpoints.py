"""Which attempts are metered, and for which model."""

import pytest

from throttled_openai._protocol.endpoints import is_metered, model_of
from throttled_openai._protocol.estimate import estimate


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/responses",
        "/responses/compact",
        "/images/generations",
        "/images/edits",
        "/images/variations",
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/moderations",
        "/threads/runs",
        "/threads/thread_1/runs",
        "/threads/thread_1/runs/run_1/submit_tool_outputs",
        "https://host/v1/chat/completions",
        "/openai/deployments/x/chat/completions?api-version=2024-06-01",
    ],
)
def test_requests_that_run_a_model_are_metered(path):
    assert is_metered("post", path, {})
    assert is_metered("POST", path, None)
    assert not is_metered("GET", path, {"model": "gpt-4o"})


@pytest.mark.parametrize(
    "path",
    [
        "/files",
        "/uploads",
        "/uploads/upload_1/parts",
        "/batches",
        "/fine_tuning/jobs",
        "/vector_stores/vs_1/files",
        "/assistants",
        "/threads",
        "/threads/thread_1/messages",
        "/threads/thread_1/runs/run_1",
        "/threads/thread_1/runs/run_1/cancel",
        "/evals",
        "/evals/eval_1/runs",
        "/containers",
        "/conversations",
        "/realtime/sessions",
        "/realtime/client_secrets",
        "/live/sessions/sess_1/accept",
        "/organization/admin_api_keys",
        "/responses/resp_1/cancel",
        "/responses/input_tokens",
        "/chat/completions/chatcmpl_1",
        "/audio/voices",
        "wss://api.openai.com/v1/responses",
        "ws://localhost/v1/realtime?model=gpt-realtime",
    ],
)
def test_requests_that_run_no_model_are_not_metered(path):
    assert not is_metered("post", path, {"model": "gpt-4o"})


BASES = [
    "",
    "/v1",
    "/V1",
    "/openai/v1",
    "/v1beta/openai",
    "/api/projects/P/openai/v1",
    "/chat/v1",
    "/files/v1",
    "/models/v1",
    "/live/containers",
    "/v1/organization/team/gateway",
    "/v1/acc0/gateway/openai",
    "/v1/acc0/gateway/compat",
    "/v1/projects/p/locations/l/endpoints/openapi",
    "/openai/deployments/files",
    "/team/files/v2.1",
]


@pytest.mark.parametrize("base", [*BASES, *(f"https://files.host:8080{base}" for base in BASES)])
def test_an_endpoint_is_at_the_end_of_a_path_whatever_its_base(base):
    for endpoint in ("chat/completions", "embeddings", "responses", "images/edits", "audio/speech", "Chat/Completions"):
        for end in ("", "/", "?api-version=1", "/?a=b/files"):
            path = f"{base}/{endpoint}{end}"
            assert is_metered("POST", path, {"model": "m"}), path
    model = "files" if "/deployments/" in base else "m"
    assert model_of(f"{base}/chat/completions", {"model": "m"}) == model
    assert estimate(f"{base}/responses", {"input": "hi"}).input == estimate("/responses", {"input": "hi"}).input


@pytest.mark.parametrize("base", [*BASES[1:9], "https://host/v1", "/openai/deployments/chat"])
def test_requests_that_run_no_model_are_not_metered_below_any_base_path(base):
    if base != "/live/containers":
        for endpoint in ("files", "fine_tuning/jobs", "responses/resp_1/cancel", "chat/completions/chatcmpl_1"):
            assert not is_metered("POST", f"{base}/{endpoint}", {"model": "m"}), endpoint
        assert is_metered("POST", f"{base}/rerank", {"model": "m"})


def test_a_deployment_is_read_in_any_case():
    assert model_of("/OpenAI/Deployments/Mine/chat/completions?x=/deployments/no", {"model": "m"}) == "Mine"


def test_an_unknown_post_is_metered_if_it_names_a_model():
    assert is_metered("post", "/videos", {"model": "sora-2"})
    assert is_metered("post", "https://host/v2/rerank", {"model": "rerank-1"})
    assert not is_metered("post", "/videos/video_1/remix", {"prompt": "…"})
    assert not is_metered("post", "/whatever", None)


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/chat/completions", {"model": "gpt-4o"}, "gpt-4o"),
        ("/openai/deployments/mine/chat/completions?api-version=1", {}, "mine"),
        ("/openai/deployments/mine/chat/completions", {"model": "gpt-4o"}, "mine"),
        ("https://x.openai.azure.com/openai/deployments/mine", {}, "mine"),
        ("/images/generations", {"prompt": "…"}, "images/generations"),
        ("https://host/v1/images/generations?x=1", None, "images/generations"),
        ("https://host/v2/rerank", {"model": ""}, "rerank"),
        ("/chat/completions", {"model": 5}, "chat/completions"),
        ("", None, "unknown"),
        ("https://host", None, "unknown"),
    ],
)
def test_every_attempt_has_a_model(path, body, model):
    assert model_of(path, body) == model
