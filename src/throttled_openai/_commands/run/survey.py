"""The survey of an input: its errors, its tokens, and the time and money it needs. Nothing is sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from throttled_openai._protocol.estimate import estimate
from throttled_openai._protocol.providers import OPENAI
from throttled_openai._protocol.usage import Usage
from throttled_openai._stats import spell
from throttled_openai.batch._ids import Ids, check_unique
from throttled_openai.batch._request import BadLineError

if TYPE_CHECKING:
    from throttled_openai._limits import LimitsBook
    from throttled_openai._protocol.providers import Provider
    from throttled_openai.batch._input import Input
    from throttled_openai.batch._prices import Prices
    from throttled_openai.batch._request import Request

# Invalid lines that are listed one by one.
SHOWN: Final = 20


@dataclass(slots=True)
class Load:
    """The requests of one model, in sum. `charged`: tokens that they take from the token limit.

    `most_output`: the most output tokens that they allow. `open_ended`: requests that set no such maximum.
    """

    model: str
    requests: int = 0
    charged: int = 0
    input_tokens: int = 0
    most_output: int = 0
    open_ended: int = 0


@dataclass(slots=True)
class Survey:
    """The results of a survey. `bad`: line number and reason of the first invalid lines."""

    requests: int = 0
    blank: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    bad_counts: Counter[str] = field(default_factory=Counter)
    loads: dict[str, Load] = field(default_factory=dict)

    @property
    def bad_lines(self) -> int:
        return self.bad_counts.total()

    def problems(self) -> str:
        """The invalid lines, and how many there are."""
        lines = [f"line {line} {reason}" for line, reason in self.bad]
        if self.bad_lines > len(self.bad):
            lines.append(f"... and {self.bad_lines - len(self.bad):,} more")
        counts = ", ".join(f"{count:,} x {code}" for code, count in self.bad_counts.most_common())
        lines.append(
            f"{self.requests:,} requests are good, {self.bad_lines:,} lines are not" + (f": {counts}" if counts else "")
        )
        return "\n".join(lines)


def survey(source: Input, provider: Provider = OPENAI, *, limit: int | None = None) -> Survey:
    """Read all of `source`, or its first `limit` requests. Raises `InputError`."""
    found, ids = Survey(), Ids()
    try:
        for chunk in source.chunks():
            for record in chunk:
                if limit is not None and found.requests >= limit:
                    return found
                try:
                    request = source.request(record)
                    if request is None:
                        found.blank += 1
                        continue
                    check_unique(ids, request)
                except BadLineError as error:
                    found.bad_counts[error.code] += 1
                    if len(found.bad) < SHOWN:
                        found.bad.append((record[0], str(error)))
                    continue
                _add(found, request, provider)
    finally:
        ids.close()
    return found


def _add(found: Survey, request: Request, provider: Provider) -> None:
    model = request.body["model"]
    load = found.loads.setdefault(model, Load(model))
    cost = estimate(request.path, request.body, provider)
    found.requests += 1
    load.requests += 1
    load.charged += cost.input + (cost.output if provider.reserves_output else 0)
    load.input_tokens += cost.input - cost.surcharge
    load.most_output += cost.output
    load.open_ended += cost.choices > 0 and not cost.output


def seconds_of(load: Load, book: LimitsBook) -> tuple[float, str] | None:
    """Seconds that the requests of a model need at its known limits, and which limit binds; None if none is known."""
    _, _, limits = book.find(load.model)
    if limits is None:
        return None
    times = []
    for what, amount, each, period in (
        ("request limit", load.requests, limits.rpm, 60.0),
        ("token limit", load.charged, limits.tpm, 60.0),
        ("request limit per day", load.requests, limits.rpd, 86_400.0),
        ("token limit per day", load.charged, limits.tpd, 86_400.0),
    ):
        if each is not None:
            times.append((amount * period / each, what))
    return max(times, default=None)


def plan(found: Survey, book: LimitsBook, prices: Prices | None) -> str:
    """A description of what a run would send, and of the time and money it needs."""
    lines = [found.problems()] if found.bad_counts else [f"{found.requests:,} requests"]
    times: dict[int, float] = {}
    cost, unpriced = 0.0, []
    for load in found.loads.values():
        lines.append(
            f"    {load.model}: {load.requests:,} requests, about {load.input_tokens:,} tokens in, "
            f"at most {load.most_output:,} out"
        )
        if load.open_ended:
            lines.append(f"        {load.open_ended:,} of them set no maximum for their answers")
        took = seconds_of(load, book)
        if took is None:
            lines.append("        its limits are not known: the run learns them from the server")
        else:
            lines.append(f"        {spell(took[0])} at its limits; the {took[1]} binds")
            key = id(book.find(load.model)[2]) if not book.is_each(load.model) else id(load)
            times[key] = times.get(key, 0.0) + took[0]
        price = None if prices is None else prices.of(load.model)
        if price is None:
            unpriced.append(load.model)
        else:
            cost += price.of(Usage(load.input_tokens, load.most_output))
    if times:
        lines.append(f"time: {spell(max(times.values()))} at least, by the limits that are known")
    if prices is not None:
        without = f", without {', '.join(unpriced[:5])}, which have no price" if unpriced else ""
        lines.append(f"cost: at most {cost:,.4f}{without}, without answers that have no maximum")
    lines.append("nothing was sent")
    return "\n".join(lines)
