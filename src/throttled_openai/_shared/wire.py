"""The wire: what a process asks of a shared budget, and the answer, as lists of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from throttled_openai._shared.share import Answer, Note

if TYPE_CHECKING:
    from throttled_openai._shared.share import Ask

# Fields of an answer before its slots.
_SLOTS = 22


def write_ask(ask: Ask, clock: str = "") -> list[str]:
    """`clock`: the instant, in place of the store's own clock; for tests."""
    learnt, room, stop = ask.notes
    levels = ["" if level is None else f"{level:.6f}" for level in ask.levels]
    return [
        *(clock, ask.process, f"{ask.horizon:.6f}", str(ask.waiting), str(ask.in_flight)),
        *(f"{ask.held[0]:.6f}", f"{ask.held[1]:.6f}", ask.generation),
        *(f"{rate:.6f}" for rate in ask.rates),
        *(f"{ask.burst:.6f}", f"{ask.spent[0]:.6f}", f"{ask.spent[1]:.6f}", *levels, f"{ask.pause:.6f}"),
        *(str(learnt.version), f"{ask.learnt[0]:.6f}", f"{ask.learnt[1]:.6f}", learnt.text),
        *(str(room.version), room.text, str(stop.version), stop.text, str(ask.wish), ask.name),
        *(f"{tokens:.6f}" for tokens in ask.costs),
    ]


def read_answer(texts: list[str]) -> Answer:
    """Raises `ValueError` or `IndexError` for anything that is no answer."""
    if len(texts) < _SLOTS:
        raise ValueError(f"an answer of {len(texts)} fields")
    numbers = [float(text) for text in texts[2:12]]
    notes = [Note(int(float(texts[at])), texts[at + 1], float(texts[at + 2])) for at in (12, 15, 18)]
    return Answer(
        generation=texts[0],
        live=int(texts[1]),
        pause=numbers[0],
        again=numbers[1],
        rates=tuple(numbers[2:6]),
        spent=(numbers[6], numbers[7]),
        backlog=(numbers[8], numbers[9]),
        notes=(notes[0], notes[1], notes[2]),
        places=int(float(texts[21])),
        slots=[float(text) for text in texts[_SLOTS:]],
    )
