"""What an answer says about itself beside the text: who gave it, how sure it is, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cascade._printable import printable
from cascade.agents.steps import STEP
from cascade.integrations.chat_messages import dollars_or_none, metadata_of
from cascade.ledger import LedgerView, weakest
from cascade.result import CascadeResult
from cascade.state import Action, Basis


class TierShare(BaseModel):
    """What one tier had to do with an answer."""

    model: str | None = Field(description="As its provider names it.")
    calls: int
    usage: dict[str, Any] | None = Field(description="Tokens of the calls of which they are known.")
    cost_usd: float | None


class CascadeReport(BaseModel):
    """The extension `cascade` of an answer. Dollars are null where nobody knows them."""

    model_config = ConfigDict(extra="allow")

    run_id: str = Field(description="Of the run in the ledger.")
    tier: str = Field(description="Who gave the answer.")
    model_name: str = Field(description="Its model.")
    escalated: bool = Field(description="Whether a tier above the first was needed.")
    degraded: bool = Field(description="A larger tier was needed and could not be had.")
    abstained: bool = Field(description="There is no answer, on purpose.")
    confidence: float | None = Field(description="Of the last draft that was judged.")
    calibrated: bool = Field(description="Whether `confidence` is a probability.")
    action: Action
    reason: str = Field(description="Why it was decided like this.")
    cost_usd: float | None = Field(description="Of all calls of the run.")
    cost_basis: Basis
    saved_usd: float | None = Field(description="Against the large model alone; below 0: lost.")
    saved_basis: Basis
    basis: Basis = Field(description="The weaker of the two.")
    tiers: dict[str, TierShare] = Field(description="All calls of the run, by tier.")
    unknown_usage: int = Field(description="Calls whose tokens are not known.")


class Usage(BaseModel):
    """Tokens in OpenAI's form."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, int] | None = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


def report_of(results: Sequence[CascadeResult]) -> dict[str, Any]:
    """The extension of an answer; of several that of the first, the sums of all, and `runs`."""
    reports = [_report(result) for result in results]
    if len(reports) == 1:
        return reports[0]
    ledger = LedgerView(entry for result in results for entry in result.ledger)
    sums = {
        "cost_usd": dollars_or_none(ledger.cost_usd),
        "cost_basis": ledger.cost_basis,
        "saved_usd": dollars_or_none(ledger.saved_usd),
        "saved_basis": ledger.saved_basis,
        "basis": weakest((ledger.cost_basis, ledger.saved_basis)),
    }
    return {**reports[0], **sums, "runs": reports}


def _report(result: CascadeResult) -> dict[str, Any]:
    report = metadata_of(result)
    report.pop(STEP, None)  # for a chat model that sees its own conversation again
    report["basis"] = weakest((report["cost_basis"], report["saved_basis"]))
    return report


def headers_of(results: Sequence[CascadeResult], request_id: str | None = None) -> dict[str, str]:
    """The same in headers, as far as it is short; what is unknown is left out."""
    ledger = LedgerView(entry for result in results for entry in result.ledger)
    first = results[0]
    told: dict[str, object] = {
        "X-Cascade-Run-Id": first.run_id,
        "X-Cascade-Tier": _ascii(first.tier),
        "X-Cascade-Escalated": str(first.escalated).lower(),
        "X-Cascade-Confidence": None if first.confidence is None else f"{first.confidence:.4f}",
        "X-Cascade-Calibrated": str(first.calibrated).lower(),
        "X-Cascade-Cost-Usd": _amount(ledger.cost_usd),
        "X-Cascade-Saved-Usd": _amount(ledger.saved_usd),
        "X-Cascade-Basis": weakest((ledger.cost_basis, ledger.saved_basis)),
        "X-Request-Id": request_id,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def usage_of(results: Sequence[CascadeResult]) -> dict[str, Any] | None:
    """The tokens of the answers' own calls, summed; None where one of them is not known.

    Rejected drafts and checks are not in it: they have other prices, and a client that watches
    its context would count the prompt twice. They are in the extension, by tier.
    """
    given = [result.message.usage_metadata for result in results]
    known = [usage for usage in given if usage is not None]
    if len(known) < len(given):
        return None
    cached = sum(u.get("input_token_details", {}).get("cache_read", 0) for u in known)
    reasoning = sum(u.get("output_token_details", {}).get("reasoning", 0) for u in known)
    prompt = sum(usage["input_tokens"] for usage in known)
    completion = sum(usage["output_tokens"] for usage in known)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def finish_reason_of(result: CascadeResult) -> FinishReason:
    """Why the answer ended, in OpenAI's words."""
    if result.message.tool_calls:
        return "tool_calls"
    reason = result.message.response_metadata.get("finish_reason")
    if reason == "length":
        return "length"
    return "content_filter" if reason == "content_filter" else "stop"


def refusal_of(result: CascadeResult) -> str | None:
    """What a client is told where the cascade gives no answer on purpose."""
    return f"No answer: {result.decision.reason}." if result.abstained else None


def details_of(result: CascadeResult) -> Mapping[str, Any]:
    """`logprobs` and `thinking` of the answer, where its tier told them."""
    return result.message.response_metadata


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"


def _ascii(text: str) -> str:
    return printable(text).encode("ascii", "replace").decode()
