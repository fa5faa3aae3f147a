"""What an error body says -> whether the account has to pay first.

Providers have no common word for it, and texts about rates speak of credits and billing too. So a code has
to name a debt, or a text has to say that the money is used up; and a text that names a rate or a wait is
about that, whatever else it mentions. The texts are quoted in tests/test_bodies.py.
"""

import re
from typing import Final

from .error_body import ErrorBody

_FLAGS: Final = re.ASCII | re.IGNORECASE

# Codes, types and statuses that are about money: a balance, credits, a bill, what may be spent.
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
# Quotas: of money at OpenAI, Moonshot, new-api; of tokens per minute at DashScope, with OpenAI's words.
_QUOTA: Final = re.compile(
    r"insufficient_?(?:[a-z]{1,12}_)?quota(?:_?error)?|exceeded_current_quota(?:_error)?|organization_usage_limit_exceeded",
    re.ASCII,
)
# new-api and one-api compare the price of this call with what is left: a cheaper one may go.
_PRICED: Final = re.compile(r"insufficient_(?:user|token)_quota|pre_consume_token_quota_failed", re.ASCII)

# Gemini's "check your plan and billing details" is its text for every rate limit, OpenRouter's "add 10 credits"
# one of the ways to a higher one: what is said to be used up has to be the money itself.
_MONEY: Final = r"(?:balance|credits?|funds)"
_LIMIT: Final = r"(?:spend|spending|budget|billing|credit) (?:limit|cap)"
_BE: Final = r"(?:is|are|was|has been|have been)"
# Credits of an hour, a day or a week come back; what else precedes them does not matter.
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
            r"\bfree allocated quota exceeded\b",  # DashScope, where tokens without "free" are those per minute
            # Zhipu, new-api and their like: the balance does not suffice, the account is in debt, top up.
            "\u4f59\u989d\u4e0d\u8db3|\u6b20\u8d39|\u7528\u6237\u989d\u5ea6\u4e0d\u8db3",
        )
    ),
    _FLAGS,
)

# OpenRouter, of a call that another account or a smaller request could pay: its size against what is left.
_ONE_CALL: Final = re.compile(
    r"\bfewer max_tokens\b|\bcan only afford\b|tokens? limit exceeded: [\d,]{1,20} > [\d,]{1,20}"
    r"|\btoken capacity required, [\d,]{1,20} available\b",
    _FLAGS,
)
# A gateway's words for what one of its providers said: the next call may go to another one.
_RELAYED: Final = re.compile(r"\blitellm\.|\b[A-Za-z]{2,30}Exception - |\bprovider\b|\bupstream\b", _FLAGS)


def is_billing_code(code: str) -> bool:
    return bool(_OWED.fullmatch(code) or _QUOTA.fullmatch(code) or _PRICED.fullmatch(code))


def is_one_calls(message: str) -> bool:
    """Whether it is the price of this call that is too high, and others may be paid for."""
    return _ONE_CALL.search(message) is not None


def is_billing(status: int, said: ErrorBody) -> bool:
    """Whether nothing is served until somebody pays, whatever the text says besides."""
    return status == 402 or any(map(_OWED.fullmatch, said.codes))


def may_be_billing(said: ErrorBody) -> bool:
    """Whether it is billing too, unless the text names a rate or a wait."""
    quota = any(_QUOTA.fullmatch(code) or _PRICED.fullmatch(code) for code in said.codes)
    return quota or _SPENT.search(said.message) is not None


def is_certain(said: ErrorBody) -> bool:
    """Whether a verdict of billing holds for the next call too, as far as the words tell."""
    if said.relayed or _RELAYED.search(said.message) or any(map(_PRICED.fullmatch, said.codes)):
        return False
    owed = any(code != "402" and (_OWED.fullmatch(code) or _QUOTA.fullmatch(code)) for code in said.codes)
    return owed or _SPENT.search(said.message) is not None
