"""`responsible-request`: the SDK's client with requests spaced evenly, and few at once.

Its README: for commercial APIs a fixed rate, `rr.AsyncOpenAI(throttle=rr.ThrottleConfig.fixed(rpm))`;
for shared servers, and by default, a rate led by latency up to `max_rpm`. It knows no tokens: a limit
of them is told as requests of the mean size. Told nothing: 60 a minute, as its README's example has it.
"""

import responsible_request as rr

from comparison.job import ask

PACKAGE = "responsible-request"
REQUIREMENTS = ("openai>=3", "responsible-request")
VARIANTS = {"responsible-request, fixed": {}, "responsible-request, load-aware": {"fixed": False}}
GRID = {"share": [1.0, 0.9], "untold": [600.0, 1800.0], "at_once": [16, 32, 320], "max_retries": [10]}


async def run(job, *, fixed=True, share=1.0, untold=60.0, at_once=32, max_retries=2):
    told = [job.rpm] if job.rpm else []
    if job.tpm:
        told.append(job.tpm * len(job.calls) / sum(call.size for call in job.calls))
    rpm = share * min(told) if told else untold
    throttle = rr.ThrottleConfig.fixed(rpm, max_concurrency=at_once) if fixed else rr.ThrottleConfig(max_rpm=rpm)
    http_client = rr.http_client(throttle, transport=job.transport and job.transport("httpx2"))
    async with rr.AsyncOpenAI(
        api_key="none", base_url=job.base_url, max_retries=max_retries, http_client=http_client
    ) as client:
        await job.each(lambda call: ask(client, call))
