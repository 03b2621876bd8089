"""Records that travel with a question: usage, completions, assessments, decisions, entries.

Tokens: `input_tokens` includes `cached_tokens` and `cache_write_tokens`; `output_tokens` includes
`reasoning_tokens`.
Money: US dollars as `Decimal`, or None where unknown. Unknown is not zero.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    ToolCall,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Basis = Literal["measured", "estimated", "unknown"]
"""Where a money figure comes from; on every one of them."""

Action = Literal["accept", "escalate", "observe", "abstain", "ask"]
"""Actions of a deferral policy; `observe` takes one more signal, `ask` hands the draft to a
person."""

_counter = itertools.count()
_process = os.urandom(6).hex()


def new_id() -> str:
    """A unique id; later ones sort after earlier ones of the same process."""
    # The process id is there for a fork, which shares all the rest with its parent.
    return f"{time.time_ns():016x}-{_process}{os.getpid():x}-{next(_counter):x}"


class Record(BaseModel):
    """Base of the frozen records that cross a boundary."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Record):
    """Tokens of one call as the provider counted them; None where it did not say."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    reasoning_tokens: int | None = Field(default=None, ge=0)
    cache_write_tokens: int | None = Field(default=None, ge=0)
    cache_write_1h_tokens: int | None = Field(default=None, ge=0)
    """Of `cache_write_tokens`, those that are kept for an hour (Anthropic), at another price."""

    @property
    def known(self) -> bool:
        """True if the call can be priced."""
        return self.input_tokens is not None and self.output_tokens is not None

    @property
    def metadata(self) -> UsageMetadata | None:
        """LangChain's form of it, where it is known; details without a report are left out."""
        read, written = self.input_tokens, self.output_tokens
        if read is None or written is None:
            return None
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        inputs = InputTokenDetails()
        if self.cached_tokens is not None:
            inputs["cache_read"] = self.cached_tokens
        if self.cache_write_tokens is not None:
            inputs["cache_creation"] = self.cache_write_tokens
        if inputs:
            usage["input_token_details"] = inputs
        if self.reasoning_tokens is not None:
            usage["output_token_details"] = OutputTokenDetails(reasoning=self.reasoning_tokens)
        return usage


class TokenLogprob(NamedTuple):
    """One token of an answer with its natural log-probability.

    `top` holds the most likely tokens at that place, as (token, logprob); it may be empty.
    In JSON a token is the array `[token, logprob, top]`: recordings hold thousands.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


def _read_messages(kept: Any) -> Any:
    return messages_from_dict(kept) if kept and isinstance(kept[0], dict) else kept


Trajectory = Annotated[
    tuple[AnyMessage, ...], BeforeValidator(_read_messages), PlainSerializer(messages_to_dict)
]
"""Messages of an agent's run; in JSON as LangChain writes them down."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Answer of a model to one request.

    Attributes:
        text: the answer without thinking.
        model: as the provider named it in its reply.
        logprobs: of the tokens of `text`; None when the provider returned none.
        call_logprobs: of the tokens of names and argument values of its tool calls; None also
            when they could not be told from other tokens.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter` or the provider's word;
            `stopped` where it was stopped from this side before its end.
        busy_ms: time in which the model computed, where the provider says (local models).
        cached: taken from a cache of answers; `usage` is that of the answer when it was made.
        tier: that really answered; the kernel stamps it below all middleware.
        added_tokens: of its prompt, those that middleware added (examples): the large model alone
            would not read them.
        trajectory: where the tier is an agent, the messages of its run: calls, results, answer.
        cost_usd: what it cost, where the model has measured that itself (a cascade as a tier).
    """

    text: str
    model: str
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    thinking: str | None = None
    latency_ms: float = 0.0
    busy_ms: float | None = None
    cached: bool = False
    call_logprobs: tuple[TokenLogprob, ...] | None = None
    tier: str = ""
    added_tokens: int = 0
    trajectory: Trajectory = ()
    cost_usd: Decimal | None = None

    @property
    def asked_usage(self) -> Usage:
        """Its tokens without those that middleware added to the prompt."""
        usage = self.usage
        if not self.added_tokens or usage.input_tokens is None:
            return usage
        asked = max(0, usage.input_tokens - self.added_tokens)
        cached = None if usage.cached_tokens is None else min(usage.cached_tokens, asked)
        return usage.model_copy(update={"input_tokens": asked, "cached_tokens": cached})

    @property
    def decisive_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """The log-probabilities of what the answer decides: of its calls, where it makes any."""
        return self.call_logprobs if self.tool_calls else self.logprobs

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the tools that it calls, in order."""
        return tuple(call["name"] for call in self.tool_calls)

    @property
    def transcript(self) -> str:
        """The answer as text for a reader: its text, then its tool calls written out."""
        calls = (f"{call['name']}({json.dumps(call['args'])})" for call in self.tool_calls)
        return "\n".join([*([self.text] if self.text.strip() else []), *calls])

    def to_message(self, tier: str) -> AIMessage:
        """The answer as a LangChain message, with usage where it is known."""
        told = {"model_name": self.model, "finish_reason": self.finish_reason, "tier": tier}
        return AIMessage(
            content=self.text,
            tool_calls=list(self.tool_calls),
            response_metadata=told,
            usage_metadata=self.usage.metadata,
        )


@dataclass(frozen=True, slots=True)
class Assessment:
    """Knowledge of the self-check about a draft.

    Attributes:
        signals: name → value; a signal that could not be taken is absent.
        confidence: P(draft is correct), or a raw score in [0, 1] while `calibrated` is False.
        missing: why there is no confidence, where there is none.
        objection: a fact that rules the draft out whatever the confidence, such as invalid JSON.
        p_large: P(the large model is right) on this question, where a calibration knows it.
        taken: names of the signals taken so far.
    """

    signals: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    calibrated: bool = False
    missing: str | None = None
    objection: str | None = None
    p_large: float | None = None
    taken: tuple[str, ...] = ()


class Decision(Record):
    """Decision of the deferral policy about a draft, with the figures it rests on.

    `expected_cost_*_usd` are the two sides that the economic rule compares: dollars of money
    spent plus dollars of expected error. `tier` names where to escalate to, when that is not
    simply the next tier. One that is `once` holds for this run alone, as time was short or a person
    said so: no cache may keep its answer. The verifier adds the `signals` that it rests on; the
    audit middleware the `audit_rate`, the chance with which an accepted draft is audited.
    """

    action: Action
    reason: str
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    confidence: float | None = Field(default=None, ge=0, le=1)
    calibrated: bool = False
    tier: str | None = None
    expected_cost_accept_usd: Decimal | None = None
    expected_cost_escalate_usd: Decimal | None = None
    once: bool = False
    signals: Mapping[str, float] | None = None
    audit_rate: float | None = None


class Certificate(Record):
    """Proof about a threshold, on labelled drafts that the calibrator never saw.

    For every threshold τ' ≥ `threshold` the Clopper–Pearson upper bound on the joint harm
    R(τ') = P(accept ∧ wrong) is at most `max_harm`; R is monotone in τ, so no correction for
    many looks is needed (fixed-sequence testing; arXiv 2101.02703, 2407.18370).

    Attributes:
        max_harm: α, the promised bound per request.
        delta: δ, the chance that the promise does not hold.
        n: labelled drafts used.
        errors: accepted and wrong among them.
        coverage: share of them that is accepted.
        bound: upper bound of the harm at `threshold`.
        valid_until: the promise is void afterwards; None for no end.
    """

    threshold: float
    max_harm: float
    delta: float
    n: int
    errors: int
    coverage: float
    bound: float
    valid_until: datetime | None = None
