"""This library: told what there is to tell, and not told anything."""

from comparison.job import ask
from throttled_openai import Throttle, ThrottledAsyncOpenAI

PACKAGE = "throttled-openai"
REQUIREMENTS = ("openai",)
OURS = True
VARIANTS = {"ThrottledAsyncOpenAI": {}, "ThrottledAsyncOpenAI, told nothing": {"told": False}}


async def run(job, told=True):
    limits = {"rpm": job.rpm, "tpm": job.tpm} if told else {}
    # One of its own, as in a process of its own: clients of one account in one process share otherwise.
    async with job.client(ThrottledAsyncOpenAI, throttle=Throttle(**limits)) as client:
        job.gauge = lambda: next((float(b.concurrency_limit) for b in client.throttle.stats().budgets), None)
        await job.each(lambda call: ask(client, call))
