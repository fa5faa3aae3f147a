"""Which provider a base URL belongs to, and how it counts."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from throttled_openai._protocol.providers import OPENAI, PROVIDERS, provider_named, provider_of


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mtls-us.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1/", "azure"),
        ("https://mine.cognitiveservices.azure.com/openai", "azure"),
        ("https://mine.services.ai.azure.com/models", "azure"),
        ("https://mine.openai.azure.us/openai", "azure"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://codestral.mistral.ai/v1", "mistral"),
        ("https://api.cerebras.ai/v1", "cerebras"),
        ("https://api.anthropic.com/v1/", "anthropic"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.together.ai/v1", "together"),
        ("https://api.fireworks.ai/inference/v1", "fireworks"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://eu.openrouter.ai/api/v1", "openrouter"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://api.x.ai/v1", "xai"),
        ("https://us-east-1.api.x.ai/v1", "xai"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.perplexity.ai", "perplexity"),
        ("https://integrate.api.nvidia.com/v1", "nvidia"),
        ("https://inference.do-ai.run/v1", "digitalocean"),
        ("https://api.tokenfactory.nebius.com/v1/", "nebius"),
        ("https://api.studio.nebius.ai/v1/", "nebius"),
    ],
)
def test_a_company_is_known_by_its_host(url, name):
    assert provider_of(url) is PROVIDERS[name]
    assert provider_of(url).hosted


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://LOCALHOST/v1",
        "http://127.0.0.1:8000/v1",
        "http://0.0.0.0:4000",
        "http://[::1]:8000/v1",
        "http://[fe80::1%25eth0]:8000/v1",
        "http://[fd00::7]/v1",
        "http://10.1.2.3/v1",
        "http://user:p@ss@10.1.2.3/v1",
        "http://172.16.0.9:8000/v1",
        "http://192.168.1.20:30000/v1",
        "http://100.64.0.1/v1",  # Tailscale
        "http://vllm:8000/v1",
        "http://gpu-box/v1",
        "http://studio.local:1234/v1",
        "http://nas.lan/v1",
        "http://nas.home.arpa/v1",
        "http://host.docker.internal:8080/v1",
        "http://vllm.models.svc:8000/v1",
        "http://vllm.models.svc.cluster.local/v1",
        "http+unix://%2Fvar%2Frun%2Fmodel.sock/v1",
        "unix:///run/model.sock",
    ],
)
def test_a_server_of_ones_own_is_known_by_its_address(url):
    assert provider_of(url).name == "self-hosted"
    assert not provider_of(url).hosted


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.com/v1",
        "https://8.8.8.8/v1",
        "https://[2606:4700:4700::1111]/v1",
        "https://api.openai.com.example.com/v1",
        "https://notx.ai/v1",
        "https://fakeapi.openai.com/v1",
        "https://openai.com/v1",
        "https://example.com/api.openai.com",
        "https://example.com/?u=https://api.openai.com",
        "https://example.com#@api.openai.com",
        "https://api.openai.com@example.com/v1",
        "https://",
        "https://:443",
        "http://[",
        "http://[]/v1",
        "",
        ".",
    ],
)
def test_any_other_host_is_unknown_and_may_be_ones_own(url):
    assert provider_of(url).name == "unknown"
    assert not provider_of(url).hosted


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://API.GROQ.COM/openai/v1",
        "https://api.groq.com:8443/v1",
        "https://user:pass@word@api.groq.com/v1",
        "https://api.groq.com./v1",
        "https://api.groq.com?x=1",
        "https://api.groq.com#x",
        "  https://api.groq.com/v1 ",
        "api.groq.com/openai/v1",
        "api.groq.com:443",
        "//api.groq.com/v1",
        "api.groq.com",
    ],
)
def test_a_host_is_read_however_the_url_is_written(url):
    assert provider_of(url).name == "groq"


@given(
    st.one_of(
        st.text(),
        st.builds(
            "".join,
            st.lists(st.sampled_from(["http", "unix", "://", "/", "[", "]", ":", "@", "%", ".", "1", "a", "::"])),
        ),
    )
)
@example("http://[::1")
@example("http://1.2.3")
@example("http://999.1.1.1")
@example("http://a..b")
@example("\x00://\ud800")
def test_no_url_makes_it_fail(url):
    assert provider_of(url) in PROVIDERS.values()


def test_a_provider_is_found_by_its_name():
    for name, provider in PROVIDERS.items():
        assert provider.name == name
        assert provider_named(name) is provider


@pytest.mark.parametrize("name", ["OpenAI", "", "gpt-4o", None, []])
def test_another_name_is_an_error_that_lists_the_names(name):
    with pytest.raises(ValueError, match=r"'openai', 'azure', .*'litellm', 'self-hosted', 'unknown', 'vllm', .*; got"):
        provider_named(name)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        PROVIDERS["mine"] = OPENAI


def test_what_is_known_of_output_at_admission():
    known = {name: provider.reserves_output for name, provider in PROVIDERS.items()}
    assert {name for name, reserves in known.items() if reserves} == {"cerebras", "groq"}
    assert {name for name, reserves in known.items() if reserves is None} == {
        *("azure", "digitalocean", "litellm", "nebius", "nvidia", "together", "unknown")
    }


def test_the_providers_that_charge_real_usage():
    usage = {provider for provider in PROVIDERS.values() if provider.charges == "usage"}
    assert {provider.name for provider in usage} == {"anthropic", "fireworks", "gemini", "mistral", "xai"}
    assert {provider.name for provider in usage if provider.counts_output} == {"mistral", "xai"}
    assert {provider.name for provider in usage if not provider.counts_cached} == {"anthropic"}


@pytest.mark.parametrize("name", ["vllm", "sglang", "ollama", "llama.cpp", "tgi", "nim"])
def test_a_server_of_ones_own_may_be_named(name):
    assert provider_named(name) is PROVIDERS["self-hosted"]
