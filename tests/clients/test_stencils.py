"""Requests made from a stencil are those of the SDK, to the last byte; the unusual is the SDK's own."""

import importlib
import json
import logging
import random

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai._models import FinalRequestOptions

from scripted import FAMILIES, URL
from throttled_openai import (
    AsyncThrottledMixin,
    ThrottledAsyncAzureOpenAI,
    ThrottledAsyncOpenAI,
    ThrottledOpenAI,
)
from throttled_openai._clients import stencils

CLIENTS = [(ThrottledAsyncOpenAI, AsyncOpenAI), (ThrottledOpenAI, OpenAI)]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "häi \U0001f600"}], "temperature": 0.5, "stop": None}


def http_client(kind, family=FAMILIES[-1], **options):
    module = importlib.import_module(family)
    transport = module.MockTransport(lambda request: module.Response(200, json={}))
    return (module.Client if issubclass(kind, OpenAI) else module.AsyncClient)(transport=transport, **options)


def make(kind, family=FAMILIES[-1], **options):
    return kind(**{"api_key": "sk", "base_url": URL, "http_client": http_client(kind, family), **options})


def options_of(body=None, **more):
    return FinalRequestOptions.construct(
        **{"method": "post", "url": "/chat/completions", "json_data": CHAT if body is None else body, **more}
    )


def told(request):
    """All of a request that can be seen."""
    stream = type(request.stream), b"".join(request.stream)
    extensions = repr(request.extensions)
    kinds = type(request), request.headers.encoding, vars(request).keys()
    return request.method, request.url, request.headers.raw, request.content, stream, extensions, kinds


def sdks(client, options, retries=0):
    """The request of the SDK's own method."""
    return super(stencils_base(client), client)._build_request(options, retries_taken=retries)


def stencils_base(client):
    return next(each for each in type(client).__mro__ if each.__name__ == "ThrottledBase")


def proven(client):
    return sum(each is not None and each.proven for each in (client._stencils or {}).values())


def warm(client, *options):
    for each in options or (options_of(),):
        for _ in range(3):
            client._build_request(each)


@pytest.fixture
def filled(monkeypatch):
    """Counts the requests made from stencils."""
    count, fill = [], stencils.Stencil.fill

    def note(self, content):
        count.append(self.proven)
        return fill(self, content)

    monkeypatch.setattr(stencils.Stencil, "fill", note)
    return lambda: count.count(True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "stock"), CLIENTS)
def test_of_each_shape_the_third_request_is_ours_and_equal_to_the_sdks(kind, stock, family, filled):
    client = make(kind, family)
    rng = random.Random(1)
    for number in range(150):
        url = rng.choice(["/chat/completions", "/responses", "/embeddings"])
        timeout = rng.choice([600, 600.0, None, openai.Timeout(5, read=7), openai.NOT_GIVEN])
        body = {"model": "m", "input": ["x" * rng.randrange(2000)] * rng.randrange(3), "n": number}
        options = options_of(body, url=url, timeout=timeout)
        retries = rng.choice([0, 0, 1])
        assert told(client._build_request(options, retries_taken=retries)) == told(sdks(client, options, retries))
    assert filled() > 5
    one, other = client._build_request(options), client._build_request(options)
    assert one.headers is not other.headers
    assert one.extensions is not other.extensions
    assert one.extensions["timeout"] is not other.extensions["timeout"]


@pytest.mark.parametrize("timeout", [openai.NOT_GIVEN, openai.Timeout(5, read=7), 3, None])
def test_the_usual_timeouts_have_stencils(timeout, filled):
    client = make(ThrottledAsyncOpenAI)
    warm(client, options_of(timeout=timeout))
    assert filled() == 1


def change_own_headers(client):
    client._custom_headers["X-One"] = "2"


def change_headers_by_replacing_one(client):
    client._custom_headers.pop("X-One")
    client._custom_headers["X-Two"] = "1"


def omit_a_header(client):
    client._custom_headers["OpenAI-Organization"] = openai.Omit()


def change_http_headers(client):
    client._client.headers["X-Http"] = "3"


def change_the_key(client):
    client.api_key = "other"


def change_the_project(client):
    client.project = "p"


def change_the_address(client):
    client.base_url = "http://other/v2"


def change_the_timeout(client):
    client.timeout = 7


def change_the_timeout_to_a_float(client):
    client.timeout = 600.0


def change_the_http_client(client):
    client._client = http_client(type(client), headers={"X-New": "1"})


def add_a_query(client):
    client._custom_query["a"] = "b"


def add_a_http_query(client):
    client._client.params = {"a": "b"}


def add_a_cookie(client):
    client._client.cookies.set("a", "b")


def add_an_idempotency_header(client):
    client._idempotency_header = "Idempotency-Key"


CHANGES = [each for name, each in list(globals().items()) if name.split("_")[0] in {"change", "omit", "add"}]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
@pytest.mark.parametrize(("kind", "stock"), CLIENTS)
def test_a_client_changed_in_place_sends_what_the_sdk_would(kind, stock, change, filled):
    client = make(kind, default_headers={"X-One": "1"}, organization="o", timeout=600)
    warm(client)
    assert filled() == 1
    before = told(client._build_request(options_of()))
    change(client)
    options = options_of(idempotency_key="k")
    assert told(client._build_request(options)) != before
    for _ in range(4):
        assert told(client._build_request(options)) == told(sdks(client, options))


@pytest.mark.parametrize(
    "more",
    [
        {"headers": {"X-A": "1"}},
        {"headers": {"Content-Type": "multipart/form-data"}, "files": [("file", ("a", b"x"))]},
        {"params": {"a": 1}},
        {"extra_json": {"a": 1}},
        {"content": b"x", "json_data": None},
        {"json_data": [1]},
        {"json_data": b"x"},
        {"method": "get", "json_data": None},
        {"method": "PUT"},
    ],
    ids=str,
)
def test_an_unusual_request_is_the_sdks_own(more, filled):
    client = make(ThrottledAsyncOpenAI)
    for _ in range(4):
        client._build_request(options_of(**more))
    assert not client._stencils
    assert not filled()


def test_a_body_that_cannot_be_sent_fails_as_with_the_sdk():
    client = make(ThrottledAsyncOpenAI)
    warm(client)
    for bad in (float("nan"), object(), "\ud800"):
        options = options_of({"model": bad})
        with pytest.raises((ValueError, TypeError)) as ours:
            client._build_request(options)
        with pytest.raises((ValueError, TypeError)) as theirs:
            sdks(client, options)
        assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_a_client_without_credentials_fails_as_with_the_sdk():
    client = make(ThrottledAsyncOpenAI)
    warm(client)
    client.api_key = ""
    with pytest.raises(Exception) as theirs:
        sdks(client, options_of())
    with pytest.raises(type(theirs.value)):
        client._build_request(options_of())


class Signing(AsyncOpenAI):
    """Of a library between the SDK and us: its headers depend on the body."""

    def _build_headers(self, options, **more):
        headers = super()._build_headers(options, **more)
        headers["x-digest"] = str(len(json.dumps(options.json_data)))
        return headers


class ThrottledSigning(AsyncThrottledMixin, Signing):
    pass


class Building(AsyncOpenAI):
    def _build_request(self, options, **more):
        request = super()._build_request(options, **more)
        request.headers["x-digest"] = str(len(request.content))
        return request


class ThrottledBuilding(AsyncThrottledMixin, Building):
    pass


@pytest.mark.parametrize("kind", [ThrottledSigning, ThrottledBuilding])
def test_a_class_with_hooks_of_its_own_keeps_them(kind, filled):
    client = make(kind)
    warm(client)
    request = client._build_request(options_of({"model": "longer than before"}))
    assert told(request) == told(sdks(client, options_of({"model": "longer than before"})))
    assert "x-digest" in request.headers
    assert not filled()


def test_a_http_client_with_its_own_requests_keeps_them(filled):
    module = importlib.import_module(FAMILIES[-1])

    class Own(module.AsyncClient):
        def build_request(self, *args, **more):
            request = super().build_request(*args, **more)
            request.headers["x-digest"] = str(len(request.content))
            return request

    client = make(ThrottledAsyncOpenAI, http_client=Own())
    warm(client)
    assert not filled()


def test_azures_requests_are_the_sdks_own(filled):
    client = ThrottledAsyncAzureOpenAI(
        api_key="k", api_version="v", azure_endpoint="http://a", http_client=http_client(AsyncOpenAI)
    )
    warm(client)
    assert not filled()


def test_a_patched_hook_of_the_sdk_is_heeded(monkeypatch, filled):
    client = make(ThrottledAsyncOpenAI)
    warm(client)
    monkeypatch.setattr(AsyncOpenAI, "_validate_headers", lambda *_: None)
    before = filled()
    warm(client)
    assert filled() == before


def test_what_the_sdk_logs_for_a_request_is_logged(caplog, filled):
    client = make(ThrottledAsyncOpenAI)
    warm(client)
    before = filled()
    with caplog.at_level(logging.DEBUG, "openai._base_client"):
        client._build_request(options_of())
    assert caplog.records
    assert filled() == before


def test_stencils_are_few_however_many_shapes_there_are():
    client = make(ThrottledAsyncOpenAI)
    for number in range(1000):
        client._build_request(options_of(url=f"/threads/{number}/messages"))
    assert len(client._stencils) <= 64
