"""What the tests of admission share: a loop with virtual time, a throttle without jitter, one call, a server."""

import asyncio
import functools
import math

import httpx

from throttled_openai import Limits, Throttle
from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai._protocol.headers import NOTHING, Announcement, Window
from throttled_openai._protocol.refusals import Refusal
from throttled_openai.simulator._clock import virtual_run

ORDINARY = QueueOptions()


def virtual(test):
    """Run an async test on a loop whose time starts at 0 and jumps to the next timer."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        return virtual_run(test(*args, **kwargs))

    return run


def now():
    return asyncio.get_running_loop().time()


def pass_time(seconds):
    """Move the clock of the running loop, and let nothing run meanwhile."""
    asyncio.get_running_loop().jump(seconds)


def timers():
    """Instants of the timers that are set on the running loop."""
    return sorted(handle.when() for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled())


def throttle(limits=None, **options):
    """A throttle without jitter."""
    made = Throttle(limits, **options)
    made._dispatcher.random = lambda: 0.0
    return made


def lane(t, model="m"):
    """The limiter of a model."""
    return t._dispatcher.limiters.find(model)


async def proven(limits=None, **options):
    """A throttle whose server has accepted a call before, so that its whole burst may leave; 100 s later."""
    made = throttle(limits, **options)
    await call(made, tokens=0)
    await asyncio.sleep(100)
    return made


async def admit(t, tokens=1, model="m", **queue_options):
    return await t._dispatcher.admit(Call(model, tokens, QueueOptions(**queue_options) if queue_options else ORDINARY))


async def call(t, tokens=1, *, seconds=0.0, model="m", outcome=Outcome.SUCCESS, refusal=None, **queue_options):
    """One call of `seconds`; the instant it was admitted."""
    permit = await admit(t, tokens, model, **queue_options)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        permit.settle(Outcome.IGNORED)
        raise
    permit.settle(outcome, refusal, refusal and answer())
    return permit.admitted_at


def refuse(permit, told, headers=(), *, code="rate_limit_exceeded"):
    """The server refuses an attempt with the refusal `told`."""
    permit.settle(Outcome.REFUSED, told, answer(headers, code))


def answer(headers=(), code="rate_limit_exceeded", status=429):
    """The response that refuses."""
    body = {"error": {"message": "no", "type": code, "code": code}}
    return httpx.Response(status, headers=dict(headers), json=body, request=httpx.Request("POST", "http://server/v1"))


def start(coroutine):
    return asyncio.get_running_loop().create_task(coroutine)


async def gather(*coroutines):
    return await asyncio.gather(*coroutines)


async def ticks(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


def announcement(*, rpm=None, rpm_left=None, tpm=None, tpm_left=None, period=60.0):
    requests = () if rpm is None else (Window(rpm, period, rpm_left),)
    tokens = () if tpm is None else (Window(tpm, period, tpm_left),)
    return Announcement(requests, tokens)


class Account:
    """What a server truly allows: a bucket that fills at `rate` units a second, exactly; clients cannot see it."""

    def __init__(self, rate, capacity, level=None):
        self.rate = rate
        self.capacity = capacity
        self._level = capacity if level is None else level
        self._at = 0.0

    def level(self, at):
        return min(self.capacity, self._level + self.rate * (at - self._at))

    def take(self, amount, at):
        """Take `amount` if that much is available; returns whether it was."""
        level = self.level(at)
        taken = level >= amount
        self._level, self._at = level - amount * taken, at
        return taken

    def change(self, rate, at):
        """The limit changes; a bucket of a minute keeps its level, as far as it fits."""
        level, size = self.level(at), self.capacity / self.rate
        self.rate, self.capacity = rate, rate * size
        self._level, self._at = min(level, self.capacity), at


async def saturate(t, account, seconds, *, tokens=0, latency=0.5, network=0.02, announce=False, retry_after=False):
    """Ask for more than `account` allows for a while; (instant, accepted) of every attempt, as the server saw it.

    A refusal comes back at once, a success after its latency. What a server that announces has left
    is whole units, as it was when it accepted or refused that attempt.
    """
    loop, log = asyncio.get_running_loop(), []
    dimension, amount = ("tokens", tokens) if tokens else ("requests", 1)

    def arrives(permit):
        accepted = account.take(amount, now())
        log.append((now(), accepted))
        limit, left = account.rate * 60, math.floor(max(0.0, account.level(now())))
        if accepted:
            told = announcement(**{"tpm": limit, "tpm_left": left} if tokens else {"rpm": limit, "rpm_left": left})
            loop.call_later(latency + network, succeeds, permit, told)
        else:
            wait = (amount - account.level(now())) / account.rate if retry_after else None
            headers = {f"x-ratelimit-limit-{dimension}": f"{limit:g}", f"x-ratelimit-remaining-{dimension}": f"{left}"}
            loop.call_later(network, refuse, permit, refusal(dimension, wait), headers if announce else ())

    def succeeds(permit, told):
        if announce:
            permit.observe(told)
        permit.settle(Outcome.SUCCESS)

    end = now() + seconds
    while True:
        asked = start(admit(t, tokens))
        await asyncio.wait([asked], timeout=max(0.0, end - now()))
        if not asked.done():
            asked.cancel()
            return log
        loop.call_later(network, arrives, asked.result())


def goodput(log, start, end, account, tokens=0):
    """What was accepted in [start, end), in shares of what refilled meanwhile."""
    accepted = sum(accepted for at, accepted in log if start <= at < end)
    return accepted * (tokens or 1) / (account.rate * (end - start))


def refused(log, start=0.0, end=math.inf):
    """Share of the attempts in [start, end) that were refused."""
    attempts = [accepted for at, accepted in log if start <= at < end]
    return 1 - sum(attempts) / len(attempts)


def refusal(dimension=None, retry_after=None, *, kind="rate", period=None):
    return Refusal(kind, dimension, retry_after, period)


__all__ = [
    "NOTHING",
    "Account",
    "Call",
    "Limits",
    "Outcome",
    "QueueOptions",
    "Throttle",
    "admit",
    "announcement",
    "answer",
    "call",
    "gather",
    "goodput",
    "lane",
    "now",
    "pass_time",
    "proven",
    "refusal",
    "refuse",
    "refused",
    "saturate",
    "start",
    "throttle",
    "ticks",
    "timers",
    "virtual",
    "virtual_run",
]
