"""The report: the settings, the results and the recommendation, as JSON and as text."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from throttled_openai._commands.versions import versions

from .notes import notes_on
from .tables import goodput_lines, limit_lines, single_table, sweep_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .step_result import StepResult
    from .sweep import Recommendation


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows. `settings`: plain values, without prompt text and keys."""

    settings: dict[str, Any]
    steps: Sequence[StepResult]
    recommendation: Recommendation | None = None
    interrupted: bool = False
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    host: str = field(default_factory=lambda: f"{platform.node()} ({platform.system()}, {os.cpu_count()} cores)")
    command: str = ""
    """The command line that made it, without what may be secret."""
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def swept(self) -> bool:
        return self.settings["sweep"] is not None

    @property
    def code(self) -> str | None:
        """The line of code that applies the recommendation."""
        if self.recommendation is None:
            return None
        options = [f"max_concurrency={self.recommendation.point.concurrency}"]
        rpm = self.rpm
        if rpm is not None:
            options.append(f"rpm={rpm:.0f}")
        return f"ThrottledAsyncOpenAI({', '.join(options)})"

    @property
    def rpm(self) -> float | None:
        """The limit on requests per minute, announced or configured; None: not known."""
        rates = [window.limit for step in self.steps for window in step.limits
                 if window.dimension == "requests" and window.period == 60]  # fmt: skip
        return min(rates, default=None)

    @property
    def title(self) -> str:
        return f"{self.settings['model']} at {self.settings['base_url']}"

    @property
    def subtitle(self) -> str:
        settings = self.settings
        kind = (
            "embeddings"
            if settings["endpoint"] == "embeddings"
            else f"chat, {'streamed' if settings['stream'] else 'whole'}"
        )
        with_usage = [step.figures for step in self.steps if step.figures.mean_prompt_tokens is not None]
        if not with_usage:
            return kind
        prompt, answer = with_usage[-1].mean_prompt_tokens, with_usage[-1].mean_output_tokens
        # Without usage from the server the prompt counts 0 tokens, which is not known rather than true.
        tokens = [f"{prompt:.0f} tokens of prompt" if prompt else "", f"{answer:.0f} of answer" if answer else ""]
        return ", ".join([kind, *filter(None, tokens)])

    @property
    def notes(self) -> list[str]:
        """What the numbers leave out, and what may be wrong with them."""
        chosen = None if self.recommendation is None else self.recommendation.point.concurrency
        return list(notes_on(self.steps, chosen, interrupted=self.interrupted))

    def as_json(self) -> str:
        """One object: settings, versions, steps, recommendation, notes. Units are in the names."""
        found = self.recommendation
        whole = {
            "settings": self.settings,
            "date": self.date,
            "host": self.host,
            "command": self.command,
            "versions": self.versions,
            "interrupted": self.interrupted,
            "steps": [step.as_json() for step in self.steps],
            "recommendation": None
            if found is None
            else {"max_concurrency": found.point.concurrency, "rpm": self.rpm, "code": self.code, "reason": str(found)},
            "notes": self.notes,
        }
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"

    def as_text(self) -> str:
        """The report for a terminal."""
        lines = [
            self.title,
            self.subtitle,
            "",
            *(sweep_table(self.steps) if self.swept else single_table(self.steps[0])),
        ]
        if self.swept and (good := goodput_lines(self.steps)):
            lines += ["", *good]
        lines += ["", *limit_lines(self.steps)]
        if self.swept:
            lines += ["", *self.conclusion]
        notes = self.notes
        return "\n".join([*lines, *([""] if notes else []), *notes])

    @property
    def conclusion(self) -> list[str]:
        """What follows from a sweep: a sentence, and a line of code if there is a recommendation."""
        if self.recommendation is not None:
            return [str(self.recommendation), f"In your code: {self.code}"]
        goals = self.settings["goals"]
        if self.interrupted:
            return ["Interrupted before anything could be recommended."]
        if not any(step.figures.done for step in self.steps):
            return ["No call that began in the measured time was answered, so there is nothing to recommend."]
        why = f" ({goals})" if goals else ""
        return [
            f"Nothing to recommend: every step missed the goals{why}, or over 1% of its calls failed or were refused."
        ]
