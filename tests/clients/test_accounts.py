"""Accounts: a server, and key, organization and project there, have budgets of their own, in every client."""

import asyncio
import importlib
import logging
import os
from types import SimpleNamespace

import openai
import pytest
from openai import AsyncOpenAI

import throttled_openai
from scripted import FAMILIES, HI, URL, Script, http_client, now, refuses, say, throttled
from throttled_openai import AccountBlocked, Limits, Throttle, wrap_http_client
from throttled_openai._clients.credentials import credentials_of
from throttled_openai._clients.shared import Throttles, shared
from throttled_openai._protocol.account import Account, CredentialSource, account_at, credentials_in
from throttled_openai.simulator import Simulator, virtual_run

BILLED = refuses(code="insufficient_quota", kind="insufficient_quota")
HTTP = importlib.import_module(FAMILIES[-1])


def changed_key(client):
    client.api_key = "sk-other"
    return client


OTHERS = {
    "api_key": lambda client: client.with_options(api_key="sk-other"),
    "api_key assigned later": changed_key,
    "callable api_key": lambda client: client.with_options(api_key=giver_of("sk-other")),
    "organization": lambda client: client.with_options(organization="org-other"),
    "project": lambda client: client.with_options(project="proj-other"),
    "base_url": lambda client: client.with_options(base_url="http://elsewhere/v1"),
    "port": lambda client: client.with_options(base_url="http://server:8080/v1"),
    "scheme": lambda client: client.with_options(base_url="https://server/v1"),
    "default header": lambda client: client.with_options(default_headers={"authorization": "Bearer sk-other"}),
    "default api-key header": lambda client: client.with_options(default_headers={"Api-Key": "other"}),
}
SAME = {
    "path": lambda client: client.with_options(base_url="http://server/v2"),
    "timeout": lambda client: client.with_options(timeout=3),
    "the same key": lambda client: client.with_options(api_key="sk-test"),
    "the same key as a header": lambda client: client.with_options(default_headers={"AUTHORIZATION": "Bearer sk-test"}),
    "another header": lambda client: client.with_options(default_headers={"x-trace": "1"}),
}


def giver_of(key):
    async def give():
        return key

    return give


async def blocked(script):
    """A client whose account has just been refused for billing."""
    client = throttled(script)
    with pytest.raises(openai.RateLimitError):
        await say(client)
    return client


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_account_is_not_blocked(other):
    async def main():
        script = Script(BILLED, BILLED)
        client = other(await blocked(script))
        assert (await say(client)).choices
        assert len(script.seen) == 3

    virtual_run(main())


@pytest.mark.parametrize("same", SAME.values(), ids=SAME)
def test_the_same_account_is_blocked_however_it_is_named(same):
    async def main():
        client = same(await blocked(Script(BILLED, BILLED)))
        with pytest.raises(AccountBlocked):
            await say(client)

    virtual_run(main())


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer sk-other"}, {"OpenAI-Organization": "o"}, {"openai-project": "p"}, {"api-key": "k"}],
)
def test_a_call_that_names_another_account_in_its_headers_is_not_blocked(headers):
    async def main():
        client = await blocked(Script(BILLED, BILLED))
        assert (await say(client, extra_headers=headers)).choices
        with pytest.raises(AccountBlocked):
            await say(client)
        with pytest.raises(AccountBlocked):
            await say(client, extra_headers={"Authorization": "Bearer sk-test"})

    virtual_run(main())


def test_a_pause_is_of_one_account():
    async def main():
        client = throttled(Script(refuses(headers={"retry-after": "60"})))
        waiting = asyncio.create_task(say(client))
        await asyncio.sleep(1)
        await say(client.with_options(api_key="sk-other"))
        assert now() == 1
        await waiting
        assert now() >= 60

    virtual_run(main())


def test_each_account_of_a_throttle_has_the_limits_for_itself():
    async def main(**options):
        throttle = Throttle(**options)
        one, other = (throttled(Simulator(), api_key=key, throttle=throttle) for key in ("a", "b"))
        for client in (one, other):
            client.throttle._dispatcher.random = lambda: 0.0
        await asyncio.gather(*(say(client) for client in (one, other) for _ in range(3)))
        return now()

    for options in ({"rpm": 60}, {"limits": Limits(rpm=60)}, {"limits": {"gpt-4o": Limits(rpm=60)}}):
        assert virtual_run(main(**options)) == pytest.approx(2, abs=1.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_http_client_distinguishes_accounts_by_their_requests(family):
    async def main():
        script = Script(BILLED, BILLED)
        view = wrap_http_client(http_client(script, family))
        stock = AsyncOpenAI(api_key="sk-test", base_url=URL, http_client=view, max_retries=0)
        for _ in range(2):
            with pytest.raises(openai.RateLimitError):
                await say(stock)
        with pytest.raises(AccountBlocked):
            await say(stock)
        assert (await say(stock.with_options(api_key="sk-other"))).choices
        assert (await say(stock.with_options(base_url="http://elsewhere/v1"))).choices
        assert (await say(stock.with_options(organization="org"))).choices

    virtual_run(main())


def test_clients_of_one_account_have_one_budget():
    async def main():
        simulator = Simulator(rpm=60, burst=1.0)
        one, two = throttled(simulator, rpm=60), throttled(simulator, rpm=60)
        assert one.throttle is two.throttle
        await asyncio.gather(*(say(client) for client in (one, two) for _ in range(4)))
        assert simulator.refused <= 1
        assert now() > 5

    virtual_run(main())


def test_a_wrapped_client_and_one_made_of_our_class_have_one_budget():
    async def main():
        stock = AsyncOpenAI(api_key="sk-test", base_url=URL, http_client=http_client(Script()))
        assert throttled_openai.wrap(stock).throttle is throttled(Script()).throttle

    virtual_run(main())


def test_other_limits_are_another_budget_and_one_line_says_so(caplog):
    async def main():
        with caplog.at_level(logging.INFO, "throttled_openai"):
            one, two, three = (throttled(Script(), rpm=rpm) for rpm in (60, 60, 70))
            assert one.throttle is two.throttle is not three.throttle
            assert [record.getMessage().count("other limits") for record in caplog.records] == [1]
            assert throttled(Script(), rpm=70).throttle is three.throttle
            assert len(caplog.records) == 1

    virtual_run(main())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Limits(rpm=5), Limits(rpm=5), True),
        (Limits(rpm=5), Limits(rpm=6), False),
        ({"a": Limits(rpm=5), "b": Limits(rpm=5)}, {"b": Limits(rpm=5), "a": Limits(rpm=5)}, True),
        ({"a": Limits(rpm=5), "b": Limits(rpm=5)}, dict.fromkeys("ab", Limits(rpm=5)), False),
    ],
)
def test_equal_limits_are_the_same_limits(one, other, same):
    async def main():
        clients = [throttled(Script(), limits=limits) for limits in (one, other)]
        assert (clients[0].throttle is clients[1].throttle) is same

    virtual_run(main())


def test_a_throttle_of_ones_own_is_not_shared():
    async def main():
        throttle = Throttle(rpm=60)
        assert throttled(Script(), throttle=throttle).throttle is throttle
        assert throttled(Script(), rpm=60).throttle is not throttle

    virtual_run(main())


def test_after_the_last_client_is_closed_the_next_begins_anew():
    async def main():
        one, two = throttled(Script()), throttled(Script())
        first = one.throttle
        assert two.throttle is first
        await one.close()
        assert throttled(Script()).throttle is first
        shared.forget()

        async with throttled(Script()) as three:
            second = three.throttle
        assert throttled(Script()).throttle is not second

    virtual_run(main())


def test_clients_of_the_next_event_loop_begin_anew_and_those_of_before_go_on():
    client = throttled(Script())

    async def first():
        await say(client)
        return throttled(Script())

    other = virtual_run(first())
    before = client.throttle

    async def second():
        assert client.throttle is other.throttle is before
        made = throttled(Script())
        assert made.throttle is not before
        await say(made)
        assert client.throttle is made.throttle  # one account has one budget again

    virtual_run(second())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_shares_with_clients_of_its_own():
    client = throttled_openai.ThrottledOpenAI(api_key="k")
    throttle = client.throttle
    pid = os.fork()
    if not pid:
        made = [throttled_openai.ThrottledOpenAI(api_key="k").throttle for _ in range(2)]
        os._exit(0 if made[0] is made[1] is not throttle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert throttled_openai.ThrottledOpenAI(api_key="k").throttle is throttle
    client.close()


# --- who an account is ----------------------------------------------------------------------------


def account_of(client, headers=None):
    return account_at(client.base_url, credentials_of(client, headers))


def test_no_account_shows_its_key():
    account = account_of(AsyncOpenAI(api_key="sk-secret", organization="org-secret", http_client=http_client(Script())))
    assert "secret" not in repr(account) + str(account) + repr(tuple(account))
    assert isinstance(account, Account)


def test_both_seams_see_the_same_account():
    client = AsyncOpenAI(api_key="sk-test", organization="org", project="p", base_url=URL)
    request = client._build_request(
        openai._models.FinalRequestOptions(method="post", url="/chat/completions", json_data={"messages": HI})
    )
    assert account_at(request.url, credentials_in(request.headers)) == account_of(client)


def test_keys_that_a_function_gives_change_and_the_account_stays():
    gives = giver_of("a")
    client = AsyncOpenAI(api_key=gives)
    before = account_of(client)
    client.api_key = "a new token"  # as each refresh does
    assert account_of(client) == before == account_of(AsyncOpenAI(api_key=gives))


def test_functions_are_distinguished_by_code_and_closure():
    """Programs make a new function for each client."""
    assert CredentialSource(giver_of("a")) == CredentialSource(giver_of("a"))
    assert hash(CredentialSource(giver_of("a"))) == hash(CredentialSource(giver_of("a")))
    assert CredentialSource(giver_of("a")) != CredentialSource(giver_of("b"))

    def given_by(vault):
        return lambda: vault.token

    vault, other = SimpleNamespace(token="x"), SimpleNamespace(token="y")
    assert CredentialSource(given_by(vault)) == CredentialSource(given_by(vault)) != CredentialSource(given_by(other))

    class Keys:
        def get(self):
            return "key"

    keys = Keys()
    assert CredentialSource(keys.get) == CredentialSource(keys.get)
    assert CredentialSource(keys.get) != CredentialSource(Keys().get)


def test_azure_accounts_are_distinguished_by_their_token_providers():
    def client(**options):
        return openai.AsyncAzureOpenAI(azure_endpoint="https://a.openai.azure.com", api_version="1", **options)

    def give():
        return "token"

    assert account_of(client(azure_ad_token_provider=give)) == account_of(client(azure_ad_token_provider=give))
    assert account_of(client(api_key="a")) == account_of(client(api_key="a"))
    different = [{"api_key": "a"}, {"api_key": "b"}, {"azure_ad_token": "a"}, {"azure_ad_token_provider": give}]
    assert len({account_of(client(**options)) for options in different}) == 4


def request(**headers):
    return credentials_in(HTTP.Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("AWS4-HMAC-SHA256 Credential=AKID/20260101/r/s/aws4_request, Signature=1",
         "AWS4-HMAC-SHA256 Credential=AKID/20260102/r/s/aws4_request, Signature=2", True),
        ("AWS4-HMAC-SHA256 Credential=AKID/20260101/r/s/aws4_request, Signature=1",
         "AWS4-HMAC-SHA256 Credential=AKIE/20260101/r/s/aws4_request, Signature=1", False),
        # {"sub": "me", "exp": 1}, {"sub": "me", "exp": 2}, {"sub": "you", "exp": 1}
        ("Bearer eyJh.eyJzdWIiOiAibWUiLCAiZXhwIjogMX0.x", "Bearer eyJh.eyJzdWIiOiAibWUiLCAiZXhwIjogMn0.y", True),
        ("Bearer eyJh.eyJzdWIiOiAibWUiLCAiZXhwIjogMX0.x", "Bearer eyJh.eyJzdWIiOiAieW91IiwgImV4cCI6IDF9.x", False),
        ("Bearer eyJh.!!!.x", "Bearer eyJh.!!!.y", False),
        ("Bearer sk-a", "Bearer sk-b", False),
    ],
)  # fmt: skip
def test_credentials_that_are_made_anew_are_one_accounts(one, other, same):
    url = HTTP.URL(URL)
    accounts = [account_at(url, request(authorization=value)) for value in (one, other)]
    assert (accounts[0] == accounts[1]) is same


def test_requests_without_credentials_count_for_the_first_account_of_the_server():
    url = HTTP.URL(URL)
    nobody, a, b = (account_at(url, request(**headers)) for headers in ({}, {"api_key": "a"}, {"api_key": "b"}))

    async def main(*order):
        throttle = Throttle()
        lanes = {account: throttle._dispatcher.limiters.find("m", "", account) for account in order}
        assert lanes[nobody] is lanes[a] is not lanes[b]

    for order in ((nobody, a, b), (a, nobody, b), (a, b, nobody)):
        virtual_run(main(*order))


def test_a_client_that_calls_for_many_accounts_keeps_few_throttles():
    throttles = Throttles(None, {}, threads=False)
    url = HTTP.URL(URL)
    for number in range(1000):
        throttles.of(account_at(url, {"api-key": str(number)}))
    assert len(throttles._met) <= 64
    assert sum(map(len, shared._found.values())) <= 65
