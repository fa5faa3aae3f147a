"""Billing: whether an error body says that the account has to pay first.

Providers share no word for it, and texts about rates mention credits and billing too. So a code has to name a debt, or
a text has to say that the money is used up. A text that names a rate or a wait is about that, whatever else it
mentions. tests/protocol/test_refusal_bodies.py quotes the texts.
"""

import re
from typing import Final

from .error_body import ErrorBody

_FLAGS: Final = re.ASCII | re.IGNORECASE

# Codes, types and statuses about money: a balance, credits, a bill, a spending limit.
_OWED: Final = re.compile(
    r"402|payment_?required|arrearage|\w*overdue\w*"
    r"|billing_(?:error|not_active|(?:hard_|soft_)?limit\w*)"
    r"|\w*spend(?:ing)?_limit_(?:exceeded|reached)"
    r"|budget_?exceeded|exceeded_?budget"
    r"|insufficient_?(?:[a-z]{1,12}_)?(?:balance|credits?|funds?)(?:_?error)?"
    r"|(?:not_enough|no)_(?:balance|credits?|funds)"
    r"|credit_?balance_(?:exhausted|depleted|too_low)",
    re.ASCII,
)
# Quotas: of money at OpenAI, Moonshot, new-api and one-api; DashScope uses OpenAI's words for tokens per minute.
_QUOTA: Final = re.compile(
    r"insufficient_?(?:[a-z]{1,12}_)?quota(?:_?error)?|exceeded_current_quota(?:_error)?"
    r"|organization_usage_limit_exceeded|pre_consume_token_quota_failed",
    re.ASCII,
)

# Gemini's "check your plan and billing details" stands in every text about its rate limits, and OpenRouter's "add 10
# credits" is a way to a higher one. So the text has to say that the money itself is used up.
_MONEY: Final = r"(?:balance|credits?|funds)"
_LIMIT: Final = r"(?:spend|spending|budget|billing|credit) (?:limit|cap)"
_BE: Final = r"(?:is|are|was|has been|have been)"
# Credits of an hour, a day or a week come back. Other adjectives do not matter.
_LASTING: Final = r"(?<!hourly )(?<!daily )(?<!weekly )"
_ADJECTIVES: Final = r"(?:(?!hourly|daily|weekly|session)[a-z]{1,12} ){0,3}"
_SPENT: Final = re.compile(
    "|".join(
        (
            rf"\binsufficient[ _](?:account |paid )?{_MONEY}\b",
            rf"(?:not|n't have) (?:enough|sufficient|any) {_MONEY}\b",
            rf"\brequires more {_MONEY}\b|\bmore {_MONEY} are required\b|\bout of {_MONEY}\b",
            rf"\bno (?:more|remaining) {_MONEY}\b|\bno {_MONEY} (?:left|remaining|available)\b",
            rf"{_LASTING}\b{_MONEY} (?:{_BE} )?(?:depleted|exhausted)\b",
            rf"{_LASTING}\b{_MONEY} {_BE} (?:insufficient|used up|too low|not enough|negative)\b",
            rf"\b(?:used|spent|exhausted|consumed)(?: up)? all (?:of )?{_ADJECTIVES}{_MONEY}\b",
            rf"\b(?:reached|exceeded|hit|exhausted) (?:your|its|the|their) {_ADJECTIVES}(?:{_MONEY}|{_LIMIT})\b",
            rf"\b{_LIMIT} (?:{_BE} )?(?:reached|exceeded|hit)\b|\bbilling hard limit has been reached\b",
            rf"(?<!token )(?<!retry )(?<!thinking )\bbudget {_BE} exceeded\b",
            r"\bexceeded ?budget(?::| for\b)|\bover budget\b",
            r"\b(?:monthly|key|user|team|project|spending|max) budget (?:exceeded|exhausted|reached)\b",
            r"\b(?:overdue|unpaid) (?:balance|bill|invoice|payment)s?\b|\bbill is overdue\b",
            r"(?<!no )\bpayment (?:is )?required\b|\b(?:plan|package|subscription|trial) has expired\b",
            r"\bfree allocated quota exceeded\b",  # DashScope; without "free" it is about tokens per minute
            # Zhipu, new-api and similar: the balance is too low, the account is in debt, the quota is too low.
            "\u4f59\u989d\u4e0d\u8db3|\u6b20\u8d39|\u7528\u6237\u989d\u5ea6\u4e0d\u8db3",
        )
    ),
    _FLAGS,
)

# OpenRouter, of a call that costs more than is left; a smaller one may go.
_ONE_CALL: Final = re.compile(
    r"\bfewer max_tokens\b|\bcan only afford\b|tokens? limit exceeded: [\d,]{1,20} > [\d,]{1,20}"
    r"|\btoken capacity required, [\d,]{1,20} available\b",
    _FLAGS,
)


def is_billing_code(code: str) -> bool:
    return bool(_OWED.fullmatch(code) or _QUOTA.fullmatch(code))


def is_about_one_call(message: str) -> bool:
    """Whether only this call costs too much, so that others may still be paid for."""
    return _ONE_CALL.search(message) is not None


def is_billing(status: int, error: ErrorBody) -> bool:
    """Whether the server serves nothing until the account is settled, whatever else the text says."""
    return status == 402 or any(map(_OWED.fullmatch, error.codes))


def may_be_billing(error: ErrorBody) -> bool:
    """Whether the server probably means the same; not so if the text names a rate or a wait."""
    return any(map(_QUOTA.fullmatch, error.codes)) or _SPENT.search(error.message) is not None
