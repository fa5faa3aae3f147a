"""What the tests of the bench share: plans, and steps that run in virtual time."""

import argparse
import asyncio
from html.parser import HTMLParser

import pytest

from scripted import URL, http_client, throttled
from support import virtual_run
from throttled_openai._commands.bench import cli as _cli
from throttled_openai._commands.bench.call import hooks
from throttled_openai._commands.bench.measure import measure
from throttled_openai._commands.bench.plan import BenchPlan, plan_of
from throttled_openai._commands.bench.sweep import Goals
from throttled_openai.simulator import Simulator

KEY = "sk-bench-secret"
ANYTHING = Goals()
about = pytest.approx


def simulator(**options):
    """Answers in exactly a second: its head after 0.3 s, and five events at equal distances."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, "completion_tokens": 2, "seed": 1, **options})


def planned(*arguments):
    parser = argparse.ArgumentParser()
    _cli.add_arguments(parser)
    return plan_of(parser.parse_args(["--model=m", f"--base-url={URL}", "--seed=7", *arguments]))


def on(server, plan):
    """The plan with its client in front of a server in memory."""

    class Here(BenchPlan):
        def client(self):
            http = http_client(server, event_hooks=hooks())
            return throttled(server, http_client=http, max_retries=0, **self.limits)

    return Here(**{name: getattr(plan, name) for name in BenchPlan.__dataclass_fields__})


def measured(server, *arguments, stop_after=None):
    """The plan and its steps, in virtual time."""
    plan, steps = on(server, planned(*arguments)), []

    async def run():
        await asyncio.wait_for(measure(plan, steps), stop_after)

    try:
        virtual_run(run())
    except TimeoutError:
        assert stop_after is not None
    return plan, steps


def figures_of(server, *arguments):
    _, (step,) = measured(server, *arguments)
    return step.figures()


class Page(HTMLParser):
    """Whether every element is closed, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes
        if name != "meta":
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.text.append(text)
