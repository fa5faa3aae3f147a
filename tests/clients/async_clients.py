"""What the tests of asynchronous clients share: simulated servers, and the names of our arguments."""

from throttled_openai.simulator import Fault, Simulator

OURS = {
    "throttle",
    "dialect",
    "pool",
    "rpm",
    "tpm",
    "rpd",
    "tpd",
    "limits",
    "max_concurrency",
    "max_refusals",
    "enforce",
    "shared",
    "shared_fallback",
    "priority",
    "max_wait",
    "max_queued",
}


def server(**options):
    """Every answer takes exactly one second."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def blocked(**options):
    """A server whose first metered attempt never ends."""
    return server(faults=[Fault("hang", last=0)], **options)


def windows(client):
    """Limits that each budget has, as (dimension, per minute)."""
    return [
        [(window.dimension, window.limit) for window in budget.windows] for budget in client.throttle.stats().budgets
    ]
