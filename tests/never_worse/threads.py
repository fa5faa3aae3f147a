"""The grid in threads: the same cells and the same promise with synchronous clients, in real time."""

import functools
import importlib
import json
import threading
import time
from unittest import mock

import openai
from openai import OpenAI

import throttled_openai
from scripted import FAMILIES, URL
from throttled_openai import ThrottledOpenAI, wrap

from .calls import KEY, done, failed, request_of
from .run import Run, listening
from .server import good

LATENCY = 0.01
# Seconds of real time after which a call that has not ended is taken to hang.
DEADLINE = 20.0


def _class(**options):
    return ThrottledOpenAI(**options)


def _wrapped(**options):
    return wrap(OpenAI(**options))


def _installed(**options):
    throttled_openai.install()
    try:
        return OpenAI(**options)
    finally:
        throttled_openai.uninstall()


SEAMS = {"class": _class, "wrap()": _wrapped, "install()": _installed}


def transport(server, module):
    made = type("ScriptedTransport", (module.BaseTransport,), {})()
    made.handle_request = functools.partial(_answer, server, module)
    return made


def _answer(server, module, request):
    attempt = server.begin(request, b"".join(request.stream))
    said = attempt.said
    if said.fault == "connect":
        raise module.ConnectError("refused", request=request)
    time.sleep(server.latency)
    if said.fault == "disconnect":
        raise module.RemoteProtocolError("Server disconnected without sending a response.", request=request)
    if said.fault == "hang":
        raise module.ReadTimeout("hangs", request=request)
    assert not said.fault, f"{said.fault} is for asynchronous clients"
    body = json.dumps(good(attempt.call)).encode() if said.body is None else said.body
    return module.Response(said.status, headers={"content-type": "application/json", **said.headers}, content=body)


def run(cell, *, ours, seam="class"):
    """Run the calls of `cell` in as many threads. The SDK's own pauses are short, as time is real."""
    made, server = Run(), cell.server()
    server.latency, server.clock = LATENCY, time.monotonic
    module = importlib.import_module(FAMILIES[-1])
    http = module.Client(transport=transport(server, module), follow_redirects=True)
    options = {"api_key": KEY, "base_url": URL, "http_client": http, "max_retries": cell.retries}
    with (
        mock.patch("openai._base_client.INITIAL_RETRY_DELAY", 0.02),
        listening(made),
        (SEAMS[seam] if ours else OpenAI)(**options) as client,
    ):
        began = time.monotonic()
        # Daemons, so that one that hangs does not keep the process.
        calling = [threading.Thread(target=_one, args=(client, n, made), daemon=True) for n in range(cell.calls)]
        for thread in calling:
            thread.start()
        for thread in calling:
            thread.join(max(0.0, began + DEADLINE - time.monotonic()))
        made.took, made.hung = time.monotonic() - began, cell.calls - len(made.endings)
        made.attempts, made.per_call = len(server.attempts), server.per_call
        if ours:
            stats = client.throttle.stats()
            if stats.waiting or stats.in_flight:
                made.left.append(f"{stats.waiting} waiting, {stats.in_flight} in flight")
    return made


def _one(client, number, made):
    began = time.monotonic()
    try:
        answered = client.chat.completions.create(**request_of(number))
        content = answered.choices[0].message.content if isinstance(answered, openai.BaseModel) else answered
        ending = done(number, content)
    except Exception as error:  # noqa: BLE001  # whatever it is, stock has to raise it too
        ending = failed(error)
    made.seconds.append(time.monotonic() - began)
    made.endings.append(ending)
