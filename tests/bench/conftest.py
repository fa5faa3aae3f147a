"""No test reaches a real account."""

import pytest

from benched import KEY


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    """Replace the account of the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
