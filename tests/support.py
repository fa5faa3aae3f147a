"""What the tests of admission share: a loop with virtual time, a throttle without jitter, one call."""

import asyncio
import functools

from throttled_openai import Limits, Throttle
from throttled_openai._core.headers import Announcement, Window
from throttled_openai._core.refusals import Refusal
from throttled_openai._permit import Call, Manners, Outcome
from throttled_openai.simulator._clock import virtual_run

ORDINARY = Manners()


def virtual(test):
    """Run an async test on a loop whose time starts at 0 and jumps to the next timer."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        return virtual_run(test(*args, **kwargs))

    return run


def now():
    return asyncio.get_running_loop().time()


def timers():
    """Instants of the timers that are set on the running loop."""
    return sorted(handle.when() for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled())


def throttle(limits=None, **options):
    """A throttle without jitter."""
    made = Throttle(limits, **options)
    made.random = lambda: 0.0
    return made


async def proven(limits=None, **options):
    """A throttle whose server has accepted a call before, so that its whole burst may leave; 100 s later."""
    made = throttle(limits, **options)
    await call(made, tokens=0)
    await asyncio.sleep(100)
    return made


async def admit(t, tokens=1, model="m", **manners):
    return await t.admit(Call(model, tokens, Manners(**manners) if manners else ORDINARY))


async def call(t, tokens=1, *, seconds=0.0, model="m", outcome=Outcome.SUCCESS, refusal=None, **manners):
    """One call of `seconds`; the instant it was admitted."""
    permit = await admit(t, tokens, model, **manners)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        permit.settle(Outcome.IGNORED)
        raise
    permit.settle(outcome, refusal)
    return permit.admitted_at


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


def refusal(dimension=None, retry_after=None, *, kind="rate", period=None):
    return Refusal(kind, dimension, retry_after, period)


__all__ = [
    "Call",
    "Limits",
    "Manners",
    "Outcome",
    "Throttle",
    "admit",
    "announcement",
    "call",
    "gather",
    "now",
    "proven",
    "refusal",
    "start",
    "throttle",
    "ticks",
    "timers",
    "virtual",
    "virtual_run",
]
