"""The state of the graph and the records that travel in it.

Tokens: `input_tokens` includes `cached_tokens` and `cache_write_tokens`; `output_tokens` includes
`reasoning_tokens`.
Money: US dollars as `Decimal`, or None where nobody knows. Unknown is not zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AIMessage, AnyMessage, ToolCall
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema
from typing_extensions import TypedDict  # of typing's own, pydantic makes no schema in 3.11

Basis = Literal["measured", "estimated", "unknown"]
"""Where a money figure comes from; on every one of them."""

Action = Literal["accept", "escalate", "observe", "abstain", "ask"]
"""What a deferral policy may say; `observe` takes one more signal, `ask` hands the draft to a
person."""

Stay = Literal["answer", "abstain"]
"""What becomes of a question that has to stay on this machine where no tier on it is good enough:
the draft is the answer all the same, marked as degraded, or there is none."""


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

    @property
    def known(self) -> bool:
        """Whether the call can be priced."""
        return self.input_tokens is not None and self.output_tokens is not None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer with its natural log-probability.

    `top` holds the most likely tokens at that place, as (token, logprob); it may be empty.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """In JSON a token is the array `[token, logprob, top]`: recordings hold thousands."""
        del source
        array = handler.generate_schema(tuple[str, float, tuple[tuple[str, float], ...]])
        return core_schema.no_info_after_validator_function(
            lambda items: cls(*items),
            array,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda token: (token.token, token.logprob, token.top)
            ),
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered to one request.

    Attributes:
        text: the answer without thinking.
        model: the model as the provider named it in its reply.
        logprobs: one per token of `text`, thinking and tool-call tokens left out;
            None when the provider returned none.
        call_logprobs: one per token of the names and argument values of its tool calls; None when
            the provider returned none, or they could not be told from other tokens.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter` or the provider's word.
        latency_ms: wall time of the call.
        busy_ms: time in which the model computed, where the provider says (local models).
        cached: whether it was taken from a cache of answers, so that nobody was asked; `usage` is
            then that of the answer when it was made.
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
        usage = self.usage
        message = AIMessage(
            content=self.text,
            tool_calls=list(self.tool_calls),
            response_metadata={
                "model_name": self.model,
                "finish_reason": self.finish_reason,
                "tier": tier,
            },
        )
        if usage.input_tokens is not None and usage.output_tokens is not None:
            message.usage_metadata = {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "input_token_details": {
                    "cache_read": usage.cached_tokens or 0,
                    "cache_creation": usage.cache_write_tokens or 0,
                },
                "output_token_details": {"reasoning": usage.reasoning_tokens or 0},
            }
        return message


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer from a tier that is not the last.

    Attributes:
        tier: that gave it.
        completion: the answer.
        stopped: why it was not written to its end, where it was stopped.
        example_tokens: of its prompt, those of examples: the large model alone would read none.
        doubt: why nothing is to rely on it, whatever its signals say."""

    tier: str
    completion: Completion
    stopped: str | None = None
    example_tokens: int = 0
    doubt: str | None = None

    @property
    def usage(self) -> Usage:
        """Its tokens without those of the examples."""
        usage = self.completion.usage
        if not self.example_tokens or usage.input_tokens is None:
            return usage
        asked = max(0, usage.input_tokens - self.example_tokens)
        cached = None if usage.cached_tokens is None else min(usage.cached_tokens, asked)
        return usage.model_copy(update={"input_tokens": asked, "cached_tokens": cached})


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the self-check knows about a draft.

    Attributes:
        signals: name → value; a signal that could not be taken is absent.
        confidence: P(draft is correct), or a raw score in [0, 1] while `calibrated` is False.
        missing: why there is no confidence, where there is none.
        objection: a fact that rules the draft out whatever the confidence
            (empty answer, invalid JSON), or None.
        p_large: P(the large model is right) on this question, where a calibration knows it.
        interval: a range for the confidence as wide as the labels are few, where known.
        taken: names of the signals taken so far.
        withheld: whether the objection is that its irreversible call was not accepted.
    """

    signals: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    calibrated: bool = False
    missing: str | None = None
    objection: str | None = None
    p_large: float | None = None
    interval: tuple[float, float] | None = None
    taken: tuple[str, ...] = ()
    withheld: bool = False


class Decision(Record):
    """What the deferral policy decided about a draft, and on which figures.

    `expected_cost_*_usd` are the two sides that the economic rule compares: dollars of money
    spent plus dollars of expected error. `tier` names where to escalate to, when that is not
    simply the next tier. One that is `once` holds for this run alone, as time was short or a person
    said so: its answer is none for the next who asks.
    """

    action: Action
    reason: str
    threshold: float | None = None
    confidence: float | None = None
    calibrated: bool = False
    tier: str | None = None
    expected_cost_accept_usd: Decimal | None = None
    expected_cost_escalate_usd: Decimal | None = None
    once: bool = False


class Certificate(Record):
    """What was proved about a threshold on labelled drafts that the calibrator never saw.

    For every threshold τ' ≥ `threshold` the Clopper–Pearson upper bound on the joint harm
    R(τ') = P(accept ∧ wrong) is at most `max_harm`; R is monotone in τ, so no correction for
    many looks is needed (fixed-sequence testing; arXiv 2101.02703, 2407.18370).

    Attributes:
        threshold: accept at this confidence and above.
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

    def expired(self, now: datetime) -> bool:
        """Whether the promise is void at `now`."""
        return self.valid_until is not None and now >= self.valid_until


class LedgerEntry(Record):
    """What one node spent and saved in one run; a failed attempt is an entry of its own.

    `saved_usd` follows DESIGN's node view: a node's cost counts against the saving, accepting
    a draft earns the baseline, the large model's own answer is its own baseline (0; below it where
    turns that it was not asked would have warmed its cache).
    An answer of the large model that saw the draft (node `review`) earns an estimate as well; one
    that was asked for beside a draft and is not used (node `hedge`) is pure cost. What
    another large model in its place earns is an estimate in the entry of node `fallback`, whose
    signal names the step; `outage` says that a tier that was to draft is down, `shed` what was left
    out under pressure.
    `baseline_usd` is the earned baseline before the node's own cost, None where unknown;
    `baseline_low_usd` to `baseline_high_usd` is its 95 % range where it is an estimate.
    `cost_basis` says how `cost_usd` is known; `basis` is the weakest of all figures here.
    `outcome` says how the call ended: ok, failed, cancelled; `not_sent` is none, since its tier was
    to be left alone: it has no `model` and cost nothing.

    Of a call: `price` says where its price came from; `marginal_usd` is its cost without the
    hardware, where that differs; `assumed_usd` is what budgets count where `cost_usd` is unknown;
    `attempt_id` is that of the call, where a crash-safe store knew of it before it was sent;
    `prompt_hash` and `answer_hash` tell equal texts from others without keeping them.

    Of a decision (nodes `verify`, `ask`, `shadow`): `action`, `confidence`, `calibrated`, the
    `signals`, and `audit_rate`, the chance with which an accepted draft was to be audited.

    Of a finished audit or shadow run: `large_usd` is what the large model alone costs for this
    request, measured, and `loss` how much better its answer is than the draft, in [−1, 1].
    """

    run_id: str
    node: str
    tier: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    tool_calls: int = 0
    latency_ms: float = 0.0
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    baseline_usd: Decimal | None = Decimal(0)
    cost_basis: Basis = "measured"
    basis: Basis = "measured"
    outcome: Literal["ok", "failed", "cancelled", "not_sent"] = "ok"
    note: str = ""
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    attempt_id: str | None = None
    price: str | None = None
    marginal_usd: Decimal | None = None
    assumed_usd: Decimal | None = None
    baseline_low_usd: Decimal | None = None
    baseline_high_usd: Decimal | None = None
    prompt_hash: str | None = None
    answer_hash: str | None = None
    action: Action | None = None
    confidence: float | None = None
    calibrated: bool = False
    signals: Mapping[str, float] | None = None
    audit_rate: float | None = None
    large_usd: Decimal | None = None
    loss: float | None = Field(default=None, ge=-1, le=1)


@dataclass(frozen=True, slots=True)
class Run:
    """One question on its way through the graph.

    `question_id` is the id of the last message when the run began: a state whose last message
    has another id holds a finished or abandoned run, and a new one begins.
    `tier` is the index of the tier that answers next; `begun_at` is in seconds since 1970; in a
    `shadow` run the large model answers first, and a draft is made beside it; one that is
    `local_only` asks no model that is elsewhere. `asked` are the tiers that were asked before the
    present one.
    """

    id: str
    question_id: str
    tier: int = 0
    begun_at: float = 0.0
    shadow: bool = False
    local_only: Stay | None = None
    asked: tuple[str, ...] = ()


class CascadeInput(TypedDict):
    """What the graph takes: a conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def append_entries(kept: list[LedgerEntry], new: list[LedgerEntry]) -> list[LedgerEntry]:
    """One ledger after the other, with each entry once.

    An entry can come a second time: a subgraph returns all that it was given, and a node that
    LangGraph answers from its cache writes what it wrote when it was paid.
    """
    runs = {entry.run_id for entry in new}
    known: dict[tuple[str, datetime], list[LedgerEntry]] = {}
    for entry in kept:
        if entry.run_id in runs:
            known.setdefault((entry.run_id, entry.at), []).append(entry)
    return kept + [e for e in new if e not in known.get((e.run_id, e.at), ())]


class CascadeState(TypedDict):
    """What the agents share. `messages` and `ledger` grow; the rest is replaced.

    `proposal` is an answer that waits for a person, where one has to approve of it.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    run: Run
    draft: Draft | None
    assessment: Assessment | None
    decision: Decision
    degraded: bool
    ledger: Annotated[list[LedgerEntry], append_entries]
    proposal: NotRequired[AIMessage | None]


StateUpdate = dict[str, Any]
"""What a node returns: new values for some keys of `CascadeState`."""

CHECKPOINT_TYPES: tuple[type, ...] = (
    Run,
    Draft,
    Completion,
    Usage,
    TokenLogprob,
    Assessment,
    Decision,
    LedgerEntry,
)
"""The records that a checkpoint may hold. LangGraph warns of types that a checkpointer was not
told about: `InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))`.
"""
