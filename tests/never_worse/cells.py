"""The grid: cells of a server's behaviour, a load and a client's settings, and a selection that covers all pairs."""

import dataclasses
import itertools
import random
from dataclasses import dataclass

from .answers import BODIES, FAULTS, HEADERS, KINDS, REDIRECTS, STATUSES, answer
from .calls import LOADS, SEAMS, WAYS
from .server import Bucket, Room, Server
from .timing import ANNOUNCED, TIMINGS

LIMITS = {
    "none": lambda: None,
    "10 a second": lambda: Bucket(10.0, 10),
    "room for 5": lambda: Room(5),
}
# Limits that a user sets, none of which this server's calls reach.
CONFIGURED = {
    "nothing": {},
    "rpm and tpm": {"rpm": 60_000, "tpm": 10_000_000},
    "rpm": {"rpm": 6_000},
    "max_refusals=0": {"max_refusals": 0},
}
LATENCY = 0.1


@dataclass(frozen=True)
class Cell:
    """One experiment. The names are those of the tables."""

    kind: str = "429"
    body: str = "bare"
    header: str = "none"
    timing: str = "once"
    limit: str = "none"
    announced: str = "nothing"
    load: str = "dozen"
    way: str = "plain"
    retries: int = 2
    timeout: float | None = None
    configured: str = "nothing"
    seam: str = "class"

    def __str__(self):
        """What differs from the default."""
        told = [f"{field.name}={value}" for field, value in self._fields() if value != field.default]
        return ", ".join(told) or "default"

    def _fields(self):
        return [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]

    @property
    def pairs(self):
        return itertools.combinations([(field.name, value) for field, value in self._fields()], 2)

    @property
    def answer(self):
        return answer(self.kind, self.body, self.header)

    @property
    def calls(self):
        return LOADS[self.load][1]

    def server(self):
        announce = ANNOUNCED[self.announced]
        return Server(self.answer, TIMINGS[self.timing], latency=LATENCY, announce=announce, limit=LIMITS[self.limit]())

    @property
    def sensible(self):
        """The same cell without what has no meaning in it, so that none is tried twice."""
        changed = {}
        if self.kind in FAULTS or self.kind in REDIRECTS:
            changed |= {"body": "bare", "header": "none"}
        if self.limit != "none":
            changed["timing"] = "never"
            if not self.answer.refuses or self.kind in ("402", "413"):
                changed |= {"kind": "429", "header": "none"}
        elif self.timing == "never":
            changed["timing"] = "once"
        if self.kind in ("hang", "stalls", "connect timeout") and self.timeout is None:
            changed["timeout"] = 5.0
        return dataclasses.replace(self, **changed)


AXES = {
    "kind": list(KINDS),
    "body": list(BODIES),
    "header": list(HEADERS),
    "timing": list(TIMINGS),
    "limit": list(LIMITS),
    "announced": list(ANNOUNCED),
    "load": list(LOADS),
    "way": list(WAYS),
    "retries": [2, 0],
    "timeout": [None, 5.0],
    "configured": list(CONFIGURED),
    "seam": list(SEAMS),
}
# Most cells are about a refusal without a limit behind it, as most statuses are no refusals.
_OFTEN = {
    "kind": ["429"] * 8 + ["503"] * 4,
    "limit": ["none"] * 4,
    "announced": ["nothing"] * 8,
    "configured": ["nothing"] * 3,
}


def selection(count, seed):
    """`count` cells, each chosen of forty at random for the pairs of settings that no earlier one has."""
    chance, seen, chosen = random.Random(seed), set(), []
    while len(chosen) < count:
        drawn = [_draw(chance) for _ in range(40)]
        best = max(drawn, key=lambda cell: sum(pair not in seen for pair in cell.pairs))
        seen.update(best.pairs)
        chosen.append(best)
    return list(dict.fromkeys(chosen))


def _draw(chance):
    values = {name: chance.choice([*axis, *_OFTEN.get(name, ())]) for name, axis in AXES.items()}
    return Cell(**values).sensible


def core(load):
    """Each kind of answer alone, once and for good, as a program meets it that gathers or goes one by one."""
    for kind, (timing, how) in itertools.product(KINDS, (("once", load), ("always", load), ("once", "sequential"))):
        if how == "sequential" and kind in STATUSES and not KINDS[kind].refuses:
            continue  # says nothing about the calls after it
        way = "stream" if kind in FAULTS and kind not in ("connect", "connect timeout", "disconnect") else "plain"
        yield Cell(kind=kind, timing=timing, load=how, way=way).sensible


def refusals(load):
    """What a refusal may say and ask for, once and for good; and what an answer may announce."""
    for status, timing in itertools.product(("429", "503"), ("once", "always")):
        yield from (Cell(kind=status, timing=timing, body=body, load=load) for body in BODIES)
        yield from (Cell(kind=status, timing=timing, header=header, load=load) for header in HEADERS)
    for announced, kind in itertools.product(ANNOUNCED, ("429", "200")):
        yield Cell(kind=kind, timing="first of each", announced=announced, load=load)
    yield from (Cell(kind="200", announced=announced, load="sequential") for announced in ANNOUNCED)


def grid(count, seed, load="dozen"):
    """Every cell of the two lists, and `count` chosen ones."""
    return list(dict.fromkeys([*core(load), *refusals(load), *selection(count, seed)]))


__all__ = ["AXES", "CONFIGURED", "STATUSES", "Cell", "grid"]
