"""Which refusals are about money, and which only mention it."""

import json

import pytest

from quoted import NO_CREDITS, google_error, new_api, openai_error, refused
from throttled_openai._protocol.refusals import Refusal


@pytest.mark.parametrize(
    "code",
    [
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    ],
)
def test_a_lack_of_money_is_final_whatever_the_headers_say(code):
    for kind in ("insufficient_quota", None):
        refusal = refused(openai_error("…", kind, code), headers={"retry-after": "5"})
        assert refusal == Refusal("billing")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, id="deepseek"),
        pytest.param(
            402, {"error": {"message": "Insufficient credits. Add more using …", "code": 402}}, id="openrouter"
        ),
        pytest.param(402, {"error": {"message": "This request requires more credits", "code": 402}}, id="openrouter"),
        pytest.param(429, google_error(message="Your prepayment credits are depleted."), id="gemini, prepaid"),
        pytest.param(
            429, google_error(message="Your project has exceeded its monthly spending cap."), id="gemini, cap"
        ),
        pytest.param(429, {"error": {"message": "You have run out of credits"}}, id="xai"),
        pytest.param(
            429,
            {
                "code": "Some resource has been exhausted",
                "error": "Your team x has either used all available credits or reached its monthly spending limit. To "
                "continue making API requests, please purchase more credits or raise your spending limit.",
            },
            id="xai, 2026",
        ),
        pytest.param(429, {"error": {"type": "budget_exceeded", "message": "Budget has been exceeded!"}}, id="litellm"),
        pytest.param(
            429,
            {"error": {"message": "ExceededBudget: End User=x over budget. Spend=0.0009, Budget=0.0001", "code": 400}},
            id="litellm, a user",
        ),
        pytest.param(
            429,
            {
                "error": {
                    "type": "exceeded_current_quota_error",
                    "message": "You exceeded your current token quota: <org-x> 0, please check your account balance",
                }
            },
            id="moonshot",
        ),
        pytest.param(
            429,
            {
                "error": {
                    "type": "exceeded_current_quota_error",
                    "message": "Your account x <ak-y> is suspended due to insufficient balance, please recharge your "
                    "account or check your plan and billing details",
                }
            },
            id="moonshot, suspended",
        ),
        pytest.param(
            429,
            {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}},
            id="z.ai",
        ),
        pytest.param(
            429, {"error": {"code": "1113", "message": "\u4f59\u989d\u4e0d\u8db3\u6216\u65e0\u53ef\u7528"}}, id="zhipu"
        ),
        pytest.param(
            429, {"error": {"code": "1113", "message": "\u60a8\u7684\u8d26\u6237\u5df2\u6b20\u8d39"}}, id="zhipu, debt"
        ),
        pytest.param(
            429,
            {"error": {"code": "1309", "message": "Your GLM Coding Plan has expired. Renew it."}},
            id="z.ai, a plan",
        ),
        pytest.param(429, {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"}, id="sub2api"),
        pytest.param(
            429,
            {"error": {"message": "insufficient balance (1008)", "type": "insufficient_balance_error"}},
            id="minimax",
        ),
        pytest.param(
            429,
            {"code": 30011, "message": "Your paid balance is insufficient. Please top up and try again."},
            id="siliconflow",
        ),
        pytest.param(
            429, {"error": {"code": "AccountOverdueError", "message": "…", "type": "Forbidden"}}, id="volcengine"
        ),
        pytest.param(
            429, {"code": "PrepaidBillOverdue", "message": "The prepaid bill is overdue."}, id="dashscope, a bill"
        ),
        pytest.param(
            429, openai_error("Free allocated quota exceeded.", None, "insufficient_quota"), id="dashscope, free tokens"
        ),
        pytest.param(429, {"code": "SPEND_LIMIT_EXCEEDED", "message": "…"}, id="cline"),
        pytest.param(
            402,
            {"error": "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO …"},
            id="hugging face",
        ),
        pytest.param(
            402,
            {"error": {"message": "Credit limit exceeded, please navigate to …", "type": "credit_limit"}},
            id="together",
        ),
        pytest.param(
            429,
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "Your credit balance is too low …"},
            },
            id="anthropic",
        ),
        *(
            pytest.param(429, {"error": {"message": text, "type": "rate_limit_error"}}, id=text)
            for text in (
                "Your free credits have been exhausted.",
                "Credits exhausted",
                "You have no remaining credits.",
                "You don't have enough credits to run this model.",
                "Out of funds",
                "insufficient_funds: top up",
                "Payment required: please add funds to your account.",
                "The workspace has reached its billing cap.",
                "You have hit your spend limit for this project.",
                "Spend limit reached",
                "Monthly budget exceeded for this key",
                "Organization has been restricted due to unpaid invoices.",
                "The request failed because your account has an overdue balance.",
                "YOUR SUBSCRIPTION HAS EXPIRED",
            )
        ),
    ],
)
def test_a_lack_of_money_is_recognised_in_many_wordings(status, body):
    assert refused(body, status, {"retry-after": "5"}) == Refusal("billing")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(402, None, id="bare"),
        pytest.param(402, b"<html>Payment Required</html>", id="a page"),
        pytest.param(402, {"error": {"code": 402}}, id="the status again"),
        pytest.param(402, {"message": "You have reached the limit.", "reason": "MONTHLY_REQUEST_COUNT"}, id="kiro"),
        pytest.param(
            402, {"type": "server_error", "message": "Upstream request failed: Insufficient account funds"}, id="mimo"
        ),
        pytest.param(429, new_api("user quota is not enough (request id: 2024)"), id="one-api"),
        pytest.param(429, new_api("user [1] has 0.098 left, this needs 0.12"), id="new-api"),
        pytest.param(
            429,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 429,
                    "metadata": {"raw": json.dumps(openai_error("…", None, "insufficient_quota"))},
                }
            },
            id="openrouter, its own account there",
        ),
        pytest.param(
            429,
            openai_error("litellm.RateLimitError: XaiException - You have run out of credits", None, None),
            id="litellm",
        ),
    ],
)
def test_a_bare_402_and_a_gateways_quota_are_about_billing(status, body):
    assert refused(body, status) == Refusal("billing")


@pytest.mark.parametrize(
    "message",
    [
        NO_CREDITS,
        NO_CREDITS.replace("1056", "0"),
        "Prompt tokens limit exceeded: 36163 > 29652. To increase, visit … and upgrade to a paid account",
        "max_tokens limit exceeded: 100000 > 9577. To increase, visit …",
        "More credits are required to run this request. 128000 token capacity required, 19484 available.",
    ],
)
def test_a_request_that_the_rest_of_the_money_does_not_buy_is_too_large_and_others_may_not_be(message):
    assert refused({"error": {"message": message, "code": 402}}, 402) == Refusal("too_large")
    assert refused({"error": {"message": message, "code": 402}}, 429) == Refusal("too_large")


@pytest.mark.parametrize(
    "message",
    [
        "Add 10 credits to unlock 1000 free model requests",
        "check your billing details",
        "You exceeded your current quota, please check your plan and billing details.",
        "Rate limit reached. You can increase your rate limit by adding a payment method at …/account/billing.",
        "Rate limit reached. Purchase more credits or raise your spending limit for a higher tier.",
        "AI inference rate limit exceeded. Maximum 100 credits per 1 hour or 400 credits per day. Pro models cost 4.",
        "Rate limited. No credits were deducted from your balance.",
        "You have exceeded your rate limit; your remaining credits are not affected.",
        "Too many requests. Your credit balance is not enough for a higher tier. Please try again in 20s.",
        "You have run out of credits for this minute: 100 requests per minute.",
        "Token budget has been exceeded for this window.",
        "Rate limited. There is no payment required to continue.",
        "Too many requests. Load balance and retry.",
        "Your billing cycle limit will reset in 3 days",
        "You've reached your usage limit for this period",
        "Usage limit reached. Top up your credits to continue at once.",
        "Retry budget has been exceeded.",
        "You have reached your hourly credits.",
        "You have used all your daily free credits.",
        "Daily credits exhausted.",
        "Quota exceeded. Insufficient quota for this minute.",
        "We're receiving too many requests at the moment. Please wait a moment and try again.",
        "you (x) have reached your session usage limit, upgrade for higher limits",
        "Resource has been exhausted (e.g. check quota).",
        "Quota exceeded for metric: x/generate_content_free_tier_requests, limit: 20, model: gemini-2.5-flash",
        "Quota exceeded for metric: x/generate_content_free_tier_requests, limit: 0.5, model: gemini-2.5-flash",
        "The limit: 0, they say",
    ],
)
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "429", "quota_exceeded", "credit_limit", None])
def test_money_in_a_text_about_rates_is_not_the_end_of_it(message, code):
    assert refused({"error": {"message": message, "code": code}}).kind == "rate"


@pytest.mark.parametrize(
    "message",
    [
        "Free quota used (30 requests per hour).",
        "You have used your quota. Please try again in 5 minutes.",
        "You exceeded your current requests list.",
        "hour allocated quota exceeded",
    ],
)
@pytest.mark.parametrize("code", ["insufficient_quota", "exceeded_current_quota_error"])
def test_a_quota_that_renews_itself_is_not_about_billing(message, code):
    assert refused(openai_error(message, code, code)).kind == "rate"


@pytest.mark.parametrize("message", ["Rate limit of 10 requests per minute", "try again in 20s"])
@pytest.mark.parametrize("code", ["billing_not_active", "insufficient_balance", "project_spend_limit_exceeded"])
def test_a_code_that_names_the_money_is_about_money_whatever_the_text(message, code):
    assert refused(openai_error(message, None, code)).kind == "billing"


@pytest.mark.parametrize("text", ["Upgrade for more capacity.", "Ask us for a higher capacity.", "Use your capacity."])
def test_an_offer_of_capacity_is_not_overload(text):
    assert refused(openai_error(f"Rate limit reached. {text}")).kind == "rate"
    assert refused(openai_error("Service tier capacity exceeded")).kind == "overload"
