"""Azure: budgets of each deployment at each endpoint, tokens fetched late, windows and headers as Azure has them."""

import asyncio

import openai
import pytest

from scripted import HI, Script, http_client, now, say, without_jitter
from throttled_openai import Limits, Throttle, ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from throttled_openai.simulator import Simulator, virtual_run

EAST, WEST = "https://east.openai.azure.com", "https://west.openai.azure.com"


def azure(server, endpoint=EAST, **options):
    given = {"api_key": "k", "api_version": "2024-10-21", "http_client": http_client(server), **options}
    if "base_url" not in given:
        given["azure_endpoint"] = endpoint
    return without_jitter(ThrottledAsyncAzureOpenAI(**given))


def server(**options):
    return Simulator(**{"dialect": "azure", "latency": 1.0, "latency_sigma": 0.0, **options})


def names(client):
    return {budget.name for budget in client.throttle.stats().budgets}


def test_it_is_azures_client_with_its_types_and_arguments():
    client = azure(server())
    assert isinstance(client, openai.AsyncAzureOpenAI)
    again = client.with_options(timeout=3)
    assert (type(again), again.throttle, again.timeout) == (ThrottledAsyncAzureOpenAI, client.throttle, 3)
    assert client.with_throttle(priority=3).throttle is client.throttle


def test_it_takes_settings_from_the_environment_as_azures_client_does(monkeypatch):
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", EAST)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    client = ThrottledAsyncAzureOpenAI(rpm=60)
    assert str(client.base_url) == f"{EAST}/openai/"


def test_each_deployment_at_each_endpoint_has_a_budget_of_its_own():
    async def main():
        throttle = Throttle(rpm=60)
        east, west = (azure(server(), endpoint, throttle=throttle) for endpoint in (EAST, WEST))
        await asyncio.gather(*(say(client, model=model) for client in (east, west) for model in ("a", "b-0613", "b")))
        assert now() == pytest.approx(1.0)  # each was the first of its budget
        assert names(east) == {
            f"{place}.openai.azure.com/{model}" for place in ("east", "west") for model in ("a", "b-0613", "b")
        }

    virtual_run(main())


def test_a_deployment_in_the_address_goes_over_the_model_that_is_asked_for():
    async def main():
        simulator = server()
        client = azure(simulator, azure_deployment="mine")
        await say(client, model="gpt-4o")
        await client.responses.create(model="gpt-4o", input="hi")
        assert names(client) == {"east.openai.azure.com/mine", "east.openai.azure.com/gpt-4o"}
        assert set(simulator.stats()["models"]) == {"mine", "gpt-4o"}

    virtual_run(main())


def test_the_newer_address_of_azure_counts_by_deployment_with_openais_own_client_too():
    async def main():
        client = without_jitter(
            ThrottledAsyncOpenAI(api_key="k", base_url=f"{EAST}/openai/v1/", http_client=http_client(server()))
        )
        await say(client, model="mine")
        assert names(client) == {"east.openai.azure.com/mine"}

    virtual_run(main())


def test_limits_are_written_for_a_deployment_anywhere_or_at_one_endpoint():
    async def main():
        limits = {"mine": Limits(rpm=600), "west.openai.azure.com/mine": Limits(rpm=60)}
        throttle = Throttle(limits)
        for endpoint, model in ((EAST, "mine"), (WEST, "mine"), (EAST, "mine-2024-08-06")):
            await say(azure(server(), endpoint, throttle=throttle), model=model)
        found = {budget.name: [window.limit for window in budget.windows] for budget in throttle.stats().budgets}
        assert found == {
            "mine": [600],
            "west.openai.azure.com/mine": [60],
            "east.openai.azure.com/mine-2024-08-06": [],  # the name of a deployment says nothing of a family
        }

    virtual_run(main())


def test_a_gateway_with_a_name_of_its_own_is_azure_all_the_same():
    async def main():
        client = azure(server(), "https://gateway.example.com")
        await say(client, model="mine")
        assert names(client) == {"gateway.example.com/mine"}
        other = azure(server(), "https://gateway.example.com:8443", dialect="openai")
        await say(other, model="mine")
        assert names(other) == {"mine"}

    virtual_run(main())


def test_a_token_is_fetched_when_a_permit_is_held_and_for_every_attempt():
    async def main():
        asked = []

        async def token():
            asked.append((now(), client.throttle.in_flight, client.throttle.waiting))
            return f"token-{len(asked)}"

        simulator = server(rpm=60, burst=1.0)
        client = azure(simulator, api_key=None, azure_ad_token_provider=token, limits=Limits(rpm=60, burst=1))
        await asyncio.gather(*(say(client, model="mine") for _ in range(5)))
        assert [round(at, 2) for at, _, _ in asked] == pytest.approx([0, 1, 2, 3, 4], abs=0.1)
        assert all(in_flight >= 1 for _, in_flight, _ in asked)
        assert [waiting for _, _, waiting in asked[1:]] == [3, 2, 1, 0]

    virtual_run(main())


def test_a_provider_that_fails_gives_the_permit_back():
    async def main():
        def token():
            raise RuntimeError("no identity")

        client = azure(server(), api_key=None, azure_ad_token_provider=token, rpm=60)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="no identity"):
                await say(client, model="mine")
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)
        assert now() < 0.1  # what was not sent was given back

    virtual_run(main())


@pytest.mark.parametrize("window", [1.0, 10.0])
def test_its_short_windows_are_kept(window):
    """Azure looks at requests in windows of 1 or 10 s."""

    async def main():
        simulator = server(rpm=600, fixed_window=window)
        client = azure(simulator)
        await asyncio.gather(*(say(client, model="mine") for _ in range(600)))
        stats = simulator.stats()
        assert stats["succeeded"] == 600
        assert now() < 75
        return stats["refused"]

    assert virtual_run(main()) < 40


def test_a_refusal_in_azures_words_is_waited_out():
    async def main():
        simulator = server(rpm=60, burst=1.0, announce=False)
        client = azure(simulator, max_retries=0)
        await asyncio.gather(*(say(client, model="mine") for _ in range(10)))
        assert simulator.stats()["succeeded"] == 10
        assert now() < 15

    virtual_run(main())


def test_streams_and_embeddings_go_through_deployments():
    async def main():
        simulator = server()
        client = azure(simulator, rpm=6000)
        stream = await client.chat.completions.create(model="mine", messages=HI, stream=True)
        assert [chunk async for chunk in stream]
        await client.embeddings.create(model="other", input=["one", "two"])
        assert names(client) == {"east.openai.azure.com/mine", "east.openai.azure.com/other"}
        assert client.throttle.in_flight == 0

    virtual_run(main())


def test_keys_are_in_no_error():
    async def main():
        client = azure(Script(), api_key="secret-key", max_wait=0.5, limits=Limits(rpm=1, burst=1))
        first, late = await asyncio.gather(*(say(client, model="m") for _ in range(2)), return_exceptions=True)
        del first
        assert isinstance(late, openai.APITimeoutError)
        assert "secret" not in f"{late!r} {late} {late.request.headers} {late.request.url}"
        assert str(late.request.url).startswith(EAST)

    virtual_run(main())
