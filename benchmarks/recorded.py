"""What providers really announced and charged, against what we read and estimate.

    python benchmarks/recorded.py [--json]

Goes over the recorded responses of tests/data/ratelimit-samples.csv. The recordings hold no text, so
each request is rebuilt from its number of bytes, messages and tools; a response has no bytes recorded
and is rebuilt from the input tokens that its usage reports, which checks what is charged on top.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from throttled_openai._control.cost_model import ProviderCosts
from throttled_openai._protocol.estimate import estimate
from throttled_openai._protocol.headers import Announcement, read_limits
from throttled_openai._protocol.providers import OPENAI, Provider, provider_of

Row = dict[str, str]

SAMPLES: Final = Path(__file__).parents[1] / "tests" / "data" / "ratelimit-samples.csv"
DIMENSIONS: Final = ("requests", "tokens")
PATHS: Final = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
}
# Until then `max_tokens`, or 16, was charged too (reference, 1.3).
OUTPUT_FREE: Final = "2025-03-20"
RESERVING: Final = ProviderCosts(replace(OPENAI, reserves_output=True))

PERIODS: Final = (1.0, 10.0, 60.0, 3600.0, 86_400.0, 2_592_000.0)
UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DURATION: Final = re.compile(r"([\d.]+)(ms|h|m|s)")


@dataclass
class Group:
    """Recorded attempts of one kind, and how far the estimates of their tokens are off."""

    target: int | None = None
    errors: list[float] = field(default_factory=list)

    def within(self, tokens: int) -> int:
        return sum(abs(error) <= tokens for error in self.errors)

    @property
    def worst(self) -> float:
        return max(self.errors, key=abs)

    @property
    def missed(self) -> bool:
        return self.target is not None and abs(self.worst) > self.target


def number(row: Row, column: str) -> int:
    return int(row[column] or 0)


# --- headers ----------------------------------------------------------------------


def headers_of(row: Row) -> dict[str, str]:
    told = {
        f"x-ratelimit-{role}-{dimension}": row[f"{role}_{dimension}"]
        for role in ("limit", "remaining", "reset")
        for dimension in DIMENSIONS
        if row[f"{role}_{dimension}"]
    }
    if "azure.com" in row["host"]:
        told["apim-request-id"] = "0"  # all of Azure's responses have one
    return told


def parses(row: Row, announcement: Announcement) -> bool:
    """Whether exactly the recorded limits were read, with what was left of them."""
    for dimension, windows in zip(DIMENSIONS, (announcement.requests, announcement.tokens), strict=True):
        if not row[f"limit_{dimension}"]:
            if windows:
                return False
            continue
        limit, remaining = number(row, f"limit_{dimension}"), number(row, f"remaining_{dimension}")
        if len(windows) != 1 or windows[0].limit != limit:
            return False
        # The time to full tells fractions of what was rounded down.
        if windows[0].remaining is None or not remaining <= windows[0].remaining <= remaining + 1:
            return False
    return True


def shown_period(row: Row, dimension: str) -> float | None:
    """The only period whose bucket fills what is missing in the time to full; None: several or none do.

    What is left is rounded down to units, the time to milliseconds (reference, 0.1).
    """
    reset = row[f"reset_{dimension}"]
    parts = DURATION.findall(reset)
    if not row[f"limit_{dimension}"] or "".join(amount + unit for amount, unit in parts) != reset:
        return None  # not told, or a bare number, which has no unit
    seconds = sum(float(amount) * UNITS[unit] for amount, unit in parts)
    limit = number(row, f"limit_{dimension}")
    most = limit - number(row, f"remaining_{dimension}")
    least = max(most - 1, int(dimension == "requests"))  # the attempt itself is missing
    if not seconds or not most:
        return None
    fitting = [
        period
        for period in PERIODS
        if (seconds - 0.001) * limit <= period * most and period * least <= (seconds + 0.001) * limit
    ]
    return fitting[0] if len(fitting) == 1 else None


def check_headers(rows: list[Row]) -> dict[str, Any]:
    unread: list[Row] = []
    wrong: list[dict[str, Any]] = []
    shown = 0
    for row in rows:
        announcement = read_limits(headers_of(row))
        if not parses(row, announcement):
            unread.append(row)
            continue
        for dimension, windows in zip(DIMENSIONS, (announcement.requests, announcement.tokens), strict=True):
            period = shown_period(row, dimension)
            if period is not None:
                shown += 1
                if windows[0].period != period:
                    wrong.append({"row": row, "dimension": dimension, "shown": period, "read": windows[0].period})
    return {"rows": len(rows), "unread": unread, "shown": shown, "wrong": wrong}


# --- costs ------------------------------------------------------------------------


def texts(size: int, count: int) -> list[str]:
    return ["x" * (size // count + (index < size % count)) for index in range(count)]


def body_of(row: Row) -> dict[str, Any]:
    body: dict[str, Any] = {"model": row["model"]}
    if row["n"]:
        body["n"] = number(row, "n")
    if row["max_tokens"]:
        body["max_tokens"] = number(row, "max_tokens")
    most = "max_output_tokens" if row["endpoint"] == "responses" else "max_completion_tokens"
    if row["max_completion_or_output_tokens"]:
        body[most] = number(row, "max_completion_or_output_tokens")
    if number(row, "n_tools"):
        body["tools"] = [{"type": "function"}] * number(row, "n_tools")
    size, count = number(row, "utf8_bytes"), max(1, number(row, "n_items"))
    match row["endpoint"]:
        case "chat":
            body["messages"] = [{"role": "user", "content": text} for text in texts(size, count)]
        case "completions":
            body["prompt"] = texts(size, count)
        case "embeddings":
            body["input"] = texts(size, count)
        case "responses":
            body["input"] = "x" * 4 * (number(row, "usage_in") - 7)  # 3 + 4 for the message (reference, 7)
    return body


def charged(row: Row) -> int | None:
    """What was taken for an attempt that found a full bucket; None: not told, or it may not have."""
    if not row["limit_tokens"] or not row["remaining_tokens"]:
        return None
    if shown_period(row, "tokens") not in {None, 60.0}:
        return None  # a month's bucket still misses what was used weeks ago
    return number(row, "limit_tokens") - number(row, "remaining_tokens")


def kind_of(row: Row, provider: Provider) -> tuple[str, int | None] | None:
    """Name of the group and its target; None: the request cannot be rebuilt."""
    endpoint, functions = row["endpoint"], number(row, "n_tools")
    if provider is OPENAI and endpoint == "responses":
        known = bool(row["usage_in"] and row["model"])  # without a model it was a template
    elif provider is OPENAI:
        known = bool(row["utf8_bytes"]) and row["plain_text_only"] == "1"
    else:  # schemas are real tokens, and not recorded
        known = bool(row["utf8_bytes"]) and not (functions and provider.charges == "usage")
    if not known:
        return None
    if provider is not OPENAI:
        return f"{provider.name} {endpoint} {row['date_utc'][:4]}", None
    if endpoint == "responses":
        models = "reasoning models" if row["model"].startswith("gpt-5") else "other models"
        return f"openai responses, {models}, {'functions' if functions else 'no functions'}", None
    if endpoint == "embeddings":
        return "openai embeddings", 1
    era = "since" if row["date_utc"] >= OUTPUT_FREE else "until"
    return f"openai {endpoint}, text, {era} {OUTPUT_FREE}", 2 if (endpoint, era) == ("chat", "since") else None


def check_costs(rows: list[Row]) -> tuple[dict[str, Group], int]:
    groups: dict[str, Group] = defaultdict(Group)
    left_out = 0
    for row in rows:
        provider = provider_of(f"https://{row['host']}/v1")
        kind = kind_of(row, provider)
        cost = charged(row) if provider.charges == "estimate" else number(row, "usage_in")
        if kind is None or cost is None or row["status"] != "200":
            left_out += 1
            continue
        body = body_of(row)
        if kind[0].endswith(f"until {OUTPUT_FREE}"):
            body.pop("max_completion_tokens", None)  # ignored then
            ours = RESERVING.cost(estimate(PATHS[row["endpoint"]], body))
        else:
            ours = estimate(PATHS[row["endpoint"]], body, provider).input
        group = groups[kind[0]]
        group.target = kind[1]
        group.errors.append(ours - cost)
    return dict(sorted(groups.items())), left_out


# --- speed ------------------------------------------------------------------------


def best_time(body: object, runs: int) -> float:
    """Seconds of processor time for one estimate, the best of many."""
    times = []
    for _ in range(runs):
        began = time.thread_time()
        for _ in range(10):
            estimate("/chat/completions", body)
        times.append((time.thread_time() - began) / 10)
    return min(times)


def check_speed() -> dict[str, float]:
    def chat(*contents: object) -> dict[str, Any]:
        return {"model": "gpt-4o", "messages": [{"role": "user", "content": content} for content in contents]}

    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    per_kb = {
        "ASCII": chat("x" * 1_000_000),
        "Cyrillic": chat("я" * 500_000),
        "Chinese": chat("語" * 333_333),
        "emoji": chat("🙂" * 250_000),
        "an image as base64": chat([{"type": "text", "text": "What is it?"}, image]),
        "1,000 messages of 1 KB": chat(*["x" * 1000] * 1000),
    }
    speed = {f"us per KB, 1 MB of {name}": best_time(body, 5) * 1e3 for name, body in per_kb.items()}
    return {"us for one short message": best_time(chat("x" * 400), 100) * 1e6, **speed}


# --- report -----------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="Estimates and header readings against recorded traffic.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    with SAMPLES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    options = parser.parse_args()
    headers = check_headers(rows)
    groups, left_out = check_costs(rows)
    speed = check_speed()
    targets = [name for name, group in groups.items() if group.target is not None]
    missed = [f"{name}: off by {groups[name].worst:+g}" for name in targets if groups[name].missed]
    if len(targets) < 2:
        missed.append("no chat or no embeddings among the recordings")
    if headers["unread"] or not rows:
        missed.append(f"{len(headers['unread'])} of {len(rows)} rows not read")
    if headers["wrong"] or not headers["shown"]:
        missed.append(f"{len(headers['wrong'])} of {headers['shown']} periods wrong")
    if options.json:
        costs = {
            name: {
                "rows": len(group.errors),
                "within_1": group.within(1),
                "within_2": group.within(2),
                "worst": group.worst,
                "target": group.target,
            }
            for name, group in groups.items()
        }
        print(
            json.dumps(
                {"headers": headers, "costs": costs, "left_out": left_out, "speed": speed, "missed": missed}, indent=2
            )
        )
        return 1 if missed else 0
    right = headers["shown"] - len(headers["wrong"])
    print(
        f"{len(rows) - len(headers['unread'])} of {len(rows)} rows read, {right} of {headers['shown']} periods right\n"
    )
    print(f"{'tokens at admission':<52} {'rows':>5} {'within 1':>9} {'within 2':>9} {'worst':>6} {'target':>7}")
    for name, group in groups.items():
        target = "" if group.target is None else f"{group.target:>7}"
        print(
            f"{name:<52} {len(group.errors):>5} {group.within(1):>9} {group.within(2):>9} {group.worst:>+6g} {target}"
        )
    print(f"{'(nothing to compare with, or not to be rebuilt)':<52} {left_out:>5}\n")
    for name, value in speed.items():
        print(f"{name:<52} {value:>8.3f}")
    for problem in missed:
        print(f"MISSED {problem}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
