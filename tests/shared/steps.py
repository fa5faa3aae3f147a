"""What the tests of shared budgets share: one step of a process."""

from throttled_openai._shared.share import Ask, Note


def ask(process="p", *, costs=(), rpm=600, tpm=0, **changes):
    """A step of a process whose limits are per minute."""
    given = {
        "process": process,
        "name": "m",
        "generation": "",
        "horizon": 0.3,
        "held": (0.0, 0.0),
        "spent": (0.0, 0.0),
        "rates": (rpm / 60, tpm / 60, 0.0, 0.0),
        "burst": 0.85,
        "learnt": (0.0, 0.0),
        "levels": (None, None),
        "pause": 0.0,
        "waiting": len(costs),
        "in_flight": 0,
        "wish": len(costs),
        "notes": (Note(), Note(), Note()),
        "costs": list(costs),
    }
    return Ask(**{**given, **changes})
