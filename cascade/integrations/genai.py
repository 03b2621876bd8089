"""OpenTelemetry's semantic conventions for generative AI, as far as a cascade speaks them.

Source of the names: https://opentelemetry.io/docs/specs/semconv/gen-ai/ (spans, agent spans,
metrics), version 1.41; they are marked as in development there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.integrations.totals import RunFacts
from cascade.ledger import LedgerView
from cascade.ledger.view import weakest
from cascade.observing import ObservedCall, ObservedNode, ObservedRun
from cascade.state import Completion, LedgerEntry

Attributes = dict[str, str | bool | int | float | Sequence[str]]
"""What OpenTelemetry takes as attributes; it has no decimals, so money is a float here."""

AGENT_PROVIDER = "agent-cascade"

_PROVIDERS = {
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""Our prefixes → the well-known values of `gen_ai.provider.name`, where they differ."""

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def known(values: Mapping[str, Any]) -> Attributes:
    """The attributes that have a value; unknown ones are left out, not written as zero."""
    return {
        key: float(value) if isinstance(value, Decimal) else value
        for key, value in values.items()
        if value is not None
    }


def run_attributes(run: ObservedRun) -> Attributes:
    """Of the span of a run, when it begins."""
    tags = {f"cascade.tag.{name}": value for name, value in run.tags.items()}
    return known(
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": AGENT_PROVIDER,
            "gen_ai.agent.name": run.cascade,
            "gen_ai.conversation.id": run.conversation,
            "cascade.run_id": run.id,
            **tags,
        }
    )


def ended_attributes(run: ObservedRun, facts: RunFacts) -> Attributes:
    """Of the span of a run, when it has ended."""
    decision = run.ending.decision if run.ending else None
    calls = [entry for entry in run.entries if entry.model is not None]
    return known(
        {
            "gen_ai.usage.input_tokens": _total([call.input_tokens for call in calls]),
            "gen_ai.usage.output_tokens": _total([call.output_tokens for call in calls]),
            "cascade.outcome": facts["outcome"],
            "cascade.tier": facts["tier"],
            "cascade.escalated": facts["escalated"],
            "cascade.confidence": facts["confidence"],
            "cascade.calibrated": facts["calibrated"],
            "cascade.action": decision.action if decision else None,
            "cascade.reason": decision.reason if decision else None,
            "cascade.cost_usd": facts["cost_usd"],
            "cascade.saved_usd": facts["saved_usd"],
            "cascade.basis": facts["basis"],
        }
    )


def call_attributes(call: ObservedCall) -> Attributes:
    """Of the span of a call, when it begins."""
    return known(
        {
            **metric_attributes(call),
            "gen_ai.request.max_tokens": call.max_tokens,
            "gen_ai.request.temperature": call.temperature,
            "cascade.run_id": call.run_id,
            "cascade.node": call.node,
            "cascade.tier": call.tier,
        }
    )


def answered_attributes(completion: Completion) -> Attributes:
    """Of the span of a call that was answered."""
    usage = completion.usage
    reasons = None if completion.finish_reason is None else [completion.finish_reason]
    return known(
        {
            "gen_ai.response.model": completion.model,
            "gen_ai.response.finish_reasons": reasons,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
    )


def money_attributes(entry: LedgerEntry) -> Attributes:
    """Cost and saving of a ledger entry, each left out where it is unknown."""
    return known(
        {
            "cascade.cost_usd": entry.cost_usd,
            "cascade.saved_usd": entry.saved_usd,
            "cascade.basis": entry.basis,
        }
    )


def node_attributes(node: ObservedNode) -> Attributes:
    """Of the span of a node, when it has ended: its money, and what it decided."""
    if not node.entries:
        return {}
    ledger = LedgerView(node.entries)
    attributes = known(
        {
            "cascade.cost_usd": ledger.cost_usd,
            "cascade.saved_usd": ledger.saved_usd,
            "cascade.basis": weakest((ledger.cost_basis, ledger.saved_basis)),
        }
    )
    return attributes | _decision(node.entries[-1])


def _decision(entry: LedgerEntry) -> Attributes:
    return known(
        {
            "cascade.tier": entry.tier,
            "cascade.action": entry.action,
            "cascade.reason": (entry.note or None) if entry.action else None,
            "cascade.confidence": entry.confidence,
            "cascade.calibrated": None if entry.confidence is None else entry.calibrated,
            "cascade.audit_rate": entry.audit_rate,
            "cascade.large_usd": entry.large_usd,
            "cascade.loss": entry.loss,
        }
    )


def metric_attributes(call: ObservedCall) -> Attributes:
    """Of a call, in metrics: only what has few values."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(call.provider, call.provider),
        "gen_ai.request.model": call.model,
    }


def messages_json(messages: Sequence[BaseMessage], finish_reason: str | None = None) -> str:
    """Messages in the form of `gen_ai.input.messages` and `gen_ai.output.messages`."""
    written = []
    for message in messages:
        role = _ROLES.get(message.type, message.type)
        one: dict[str, Any] = {"role": role, "parts": _parts(message)}
        if finish_reason is not None:
            one["finish_reason"] = finish_reason
        written.append(one)
    return json.dumps(written, ensure_ascii=False)


def _parts(message: BaseMessage) -> list[dict[str, Any]]:
    text = str(message.text)
    if isinstance(message, ToolMessage):
        return [{"type": "tool_call_response", "id": message.tool_call_id, "response": text}]
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
    if isinstance(message, AIMessage):
        parts += [
            {"type": "tool_call", "id": c["id"], "name": c["name"], "arguments": c["args"]}
            for c in message.tool_calls
        ]
    return parts


def _total(counts: Sequence[int | None]) -> int | None:
    return sum(c for c in counts if c is not None) if counts and None not in counts else None
