"""Field cases, section E: what one account learnt is not another's; two clients of one account share one limit."""

import asyncio

import pytest

from scripted import URL
from throttled_openai import ThrottledAsyncOpenAI

from .calls import KEY, http_client
from .promise import SLACK
from .script import Scripted, answered, call, ends, gather, play, says
from .server import Bucket

UNPAID = says(429, '{"error":{"message":"quota","type":"insufficient_quota","code":"insufficient_quota"}}')
PAUSED = says(429, '{"error":{"message":"later"}}', retry_after="100")
OTHERS = {
    "key": lambda client: client.with_options(api_key="sk-other"),
    "organization": lambda client: client.with_options(organization="org-other"),
    "project": lambda client: client.with_options(project="proj-other"),
    "base_url": lambda client: client.with_options(base_url="http://other/v1"),
    "port": lambda client: client.with_options(base_url="http://server:8080/v1"),
    "header": lambda client: client.with_options(default_headers={"Authorization": "Bearer sk-other"}),
    "header of one call": lambda client: client,
}


def _set(client, key):
    client.api_key = key
    return client


def first_account_only(said):
    """Refuses the account that asked first, whatever it is; the others are served."""
    known = []

    def choose(attempt):
        headers = attempt.request.headers
        names = ("authorization", "openai-organization", "openai-project")
        account = (attempt.request.url.host, attempt.request.url.port, *(headers.get(name) for name in names))
        known.append(account)
        return said if account == known[0] else None

    return Scripted(choose)


@pytest.mark.parametrize("said", [UNPAID, PAUSED], ids=["billing", "pause"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_refusal_of_another_account_holds_no_call(other, said):
    async def two(client):
        refused = asyncio.create_task(ends(call(client, 0), within=300.0))
        await asyncio.sleep(1.0)
        more = {"extra_headers": {"Authorization": "Bearer sk-other"}} if other == "header of one call" else {}
        served = await gather(OTHERS[other](client), 5, **more)
        refused.cancel()
        return served

    played = play(two, first_account_only(said))

    assert answered(played.gave) == 5
    assert played.took <= 1.0 + SLACK


@pytest.mark.parametrize("said", [UNPAID, PAUSED], ids=["billing", "pause"])
def test_a_key_that_is_set_on_the_client_is_another_account(said):
    async def two(client):
        refused = asyncio.create_task(ends(call(client, 0), within=300.0))
        await asyncio.sleep(1.0)
        served = await gather(_set(client, "sk-other"), 5)
        refused.cancel()
        return served

    played = play(two, first_account_only(said))

    assert answered(played.gave) == 5
    assert played.took <= 1.0 + SLACK


def test_two_clients_of_one_account_keep_one_limit():
    bucket = Bucket(10.0, 10)
    server = Scripted(lambda attempt: says(429, retry_after_ms="100") if bucket.refuses(attempt.at) else None)

    async def two(client):
        other = ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http_client(server), rpm=600)
        ours, others = await asyncio.gather(gather(client, 60), gather(other, 60))
        return ours + others

    played = play(two, server, rpm=600)

    assert answered(played.gave) == 120
    assert played.attempts <= 120 + 12 or played.warnings


def test_two_accounts_of_one_server_have_a_limit_each():
    buckets = {}

    def choose(attempt):
        bucket = buckets.setdefault(attempt.request.headers["authorization"], Bucket(10.0, 10))
        return says(429, retry_after_ms="100") if bucket.refuses(attempt.at) else None

    server = Scripted(choose)

    async def two(client):
        other = client.with_options(api_key="sk-2")
        ours, others = await asyncio.gather(gather(client, 60), gather(other, 60))
        return ours + others

    played = play(two, server, rpm=600)

    assert answered(played.gave) == 120
    assert played.took <= 6.0 + SLACK


@pytest.mark.parametrize("retries", [0, 2])
def test_each_attempt_has_a_fresh_token(retries):
    """A token lives for 0.6 s; the first attempt is refused for a second."""
    issued = {}

    async def token():
        at = asyncio.get_running_loop().time()
        issued[f"token-{at}"] = at
        return f"token-{at}"

    def choose(attempt):
        age = attempt.at - issued[attempt.request.headers["authorization"].removeprefix("Bearer ")]
        if age > 0.6:
            return says(401, '{"error":{"message":"expired"}}')
        return says(429, '{"error":{"message":"later"}}', retry_after="1") if attempt.number == 0 else None

    async def one(client):
        return await gather(client, 1)

    played = play(one, Scripted(choose), api_key=token, max_retries=retries)

    assert answered(played.gave) == 1
