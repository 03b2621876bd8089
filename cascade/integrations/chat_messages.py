"""The answer of a cascade as a message of a chat model, with what it took to get there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from cascade.agents.border import LOCAL_ONLY
from cascade.agents.steps import STEP
from cascade.ledger import LedgerView
from cascade.result import CascadeResult
from cascade.state import LedgerEntry, TokenLogprob


def answer_message(result: CascadeResult) -> AIMessage:
    """The whole answer.

    `usage_metadata` is the sum over all calls of the run whose usage is known; those of which it
    is not are counted in `response_metadata["unknown_usage"]`.
    """
    message = AIMessage(
        content=result.answer,
        tool_calls=list(result.message.tool_calls),
        response_metadata=metadata_of(result) | _logprobs(result),
    )
    message.usage_metadata = usage_of(result.ledger)
    return message


def last_chunk(result: CascadeResult, shown: str) -> AIMessageChunk:
    """What a stream that has shown a part of the answer ends with."""
    return AIMessageChunk(
        content=result.answer[len(shown) :],
        tool_call_chunks=list(_call_chunks(result.message)),
        response_metadata=metadata_of(result) | _logprobs(result),
        usage_metadata=usage_of(result.ledger),
        chunk_position="last",
    )


def _call_chunks(message: AIMessage) -> Iterator[ToolCallChunk]:
    for index, call in enumerate(message.tool_calls):
        arguments = json.dumps(call["args"], ensure_ascii=False)
        yield tool_call_chunk(name=call["name"], args=arguments, id=call["id"], index=index)


def usage_of(entries: Iterable[LedgerEntry]) -> UsageMetadata | None:
    """The tokens of all calls whose usage is known; None when it is of none."""
    known = [entry for entry in entries if entry.model is not None and _is_known(entry)]
    if not known:
        return None
    tokens_in, tokens_out = _sum(known, "input_tokens"), _sum(known, "output_tokens")
    usage = UsageMetadata(
        input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out
    )
    read, write = _details(known, "cached_tokens"), _details(known, "cache_write_tokens")
    reasoning = _details(known, "reasoning_tokens")
    inputs = InputTokenDetails()
    if read is not None:
        inputs["cache_read"] = read
    if write is not None:
        inputs["cache_creation"] = write
    if inputs:
        usage["input_token_details"] = inputs
    if reasoning is not None:
        usage["output_token_details"] = OutputTokenDetails(reasoning=reasoning)
    return usage


def metadata_of(result: CascadeResult) -> dict[str, Any]:
    """Who answered, how sure the cascade was, and what it cost; plain JSON.

    Dollars are floats, for reading; the exact ones are in the ledger under `run_id`.
    """
    ledger, decision = result.ledger, result.decision
    answered = result.message.response_metadata
    # What later calls of the same conversation go by.
    remembered = {key: answered[key] for key in (LOCAL_ONLY, STEP) if key in answered}
    return {
        **remembered,
        "model_name": answered.get("model_name") or result.tier,
        "finish_reason": answered.get("finish_reason"),
        "tier": result.tier,
        "escalated": result.escalated,
        "degraded": result.degraded,
        "abstained": result.abstained,
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "action": decision.action,
        "reason": decision.reason,
        "run_id": result.run_id,
        "cost_usd": dollars_or_none(ledger.cost_usd),
        "cost_basis": ledger.cost_basis,
        "saved_usd": dollars_or_none(ledger.saved_usd),
        "saved_basis": ledger.saved_basis,
        "tiers": _by_tier(ledger),
        "unknown_usage": sum(not _is_known(entry) for entry in _calls(ledger)),
    }


def _logprobs(result: CascadeResult) -> dict[str, Any]:
    tokens = result.message.response_metadata.get("logprobs")
    return {} if tokens is None else {"logprobs": {"content": openai_logprobs(tokens)}}


def openai_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """The log-probabilities of an answer's tokens in OpenAI's form."""
    return [
        {
            **_token(token.token, token.logprob),
            "top_logprobs": [_token(*alternative) for alternative in token.top],
        }
        for token in tokens
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _by_tier(ledger: LedgerView) -> dict[str, dict[str, Any]]:
    tiers: dict[str, list[LedgerEntry]] = {}
    for entry in _calls(ledger):
        tiers.setdefault(entry.tier or "", []).append(entry)
    return {
        tier: {
            "model": entries[-1].model,
            "calls": len(entries),
            "usage": usage_of(entries),
            "cost_usd": dollars_or_none(LedgerView(entries).cost_usd),
        }
        for tier, entries in tiers.items()
    }


def _calls(ledger: LedgerView) -> list[LedgerEntry]:
    return [entry for entry in ledger if entry.model is not None]


def _is_known(entry: LedgerEntry) -> bool:
    return entry.input_tokens is not None and entry.output_tokens is not None


def _sum(entries: Iterable[LedgerEntry], field: str) -> int:
    return sum(getattr(entry, field) or 0 for entry in entries)


def _details(entries: list[LedgerEntry], field: str) -> int | None:
    """A sum of counts that not every provider reports; None when none did."""
    if all(getattr(entry, field) is None for entry in entries):
        return None
    return _sum(entries, field)


def dollars_or_none(amount: Decimal | None) -> float | None:
    """Dollars for reading."""
    return None if amount is None else float(amount)
