"""The ledger entries of the agents: of a call, and of a node that asked no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

from langchain_core.messages import BaseMessage

from cascade.agents.outlook import Outlook
from cascade.errors import ModelError, NotSentError
from cascade.ledger import ListPrice, Pricing
from cascade.ledger.runs import CACHE
from cascade.ledger.shadow_cache import CHARACTERS_PER_TOKEN, characters
from cascade.models import Request
from cascade.models.versions import is_another
from cascade.state import Basis, Completion, Draft, LedgerEntry, Run, StateUpdate, Usage
from cascade.tiers import OpenTier


def free_entry(run: Run, node: str, tier: str | None, note: str = "") -> LedgerEntry:
    """The entry of a node that asked no model."""
    nothing = Decimal(0)
    return LedgerEntry(
        run_id=run.id, node=node, tier=tier, cost_usd=nothing, saved_usd=nothing, note=note
    )


def not_sent_entry(run: Run, node: str, tier: str, error: NotSentError) -> LedgerEntry:
    """The entry of a call that was not sent, since its tier is to be left alone for now."""
    entry = free_entry(run, node, tier, str(error))
    return entry.model_copy(update={"outcome": "not_sent"})


def cache_entry(
    run_id: str, tier: str | None, made_by: str | None, cost_usd: Decimal | None
) -> LedgerEntry:
    """The entry of an answer that was taken from a cache of answers.

    Costs nothing and earns nothing: the large model alone, behind the same cache, would have
    answered from it too. What the cache itself spared is in the note.

    Args:
        run_id: of the run that asked.
        tier: which had answered.
        made_by: the run that made the answer.
        cost_usd: what that run cost.
    """
    nothing = Decimal(0)
    spared = "an unknown amount" if cost_usd is None else f"${cost_usd:f}"
    return LedgerEntry(
        run_id=run_id,
        node=CACHE,
        tier=tier,
        cost_usd=nothing,
        saved_usd=nothing,
        baseline_usd=nothing,
        note=f"the answer of run {made_by} from the cache; asking again had cost {spared}",
        # Executed again after a crash, the same hit is counted once.
        attempt_id=f"{CACHE}-{run_id}",
    )


@dataclass(slots=True)
class Call:
    """A call that was sent.

    Attributes:
        sent_at: its price is the one of this time.
        begun: the same by the caller's clock, in seconds.
        arrived: characters of the answer that were heard.
    """

    tier: OpenTier
    request: Request
    node: str
    run: Run
    attempt_id: str | None
    begun: float
    on_text: Callable[[str], None] | None = None
    sent_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    arrived: int = 0

    def hear(self, text: str) -> None:
        """Count a piece of the answer and pass it on."""
        self.arrived += len(text)
        if self.on_text is not None:
            self.on_text(text)

    @property
    def pricing(self) -> Pricing:
        """What the tier cost when it was asked."""
        return self.tier.pricing.at(self.sent_at)


class Reviewed(Protocol):
    """A draft that the large model was shown with its question."""

    @property
    def draft(self) -> Draft:
        """What it was shown."""
        ...

    @property
    def messages(self) -> Sequence[BaseMessage]:
        """The conversation without the draft: what it alone would have been asked."""
        ...

    def approves(self, completion: Completion) -> bool:
        """Whether this answer lets the draft stand."""
        ...


@dataclass(slots=True)
class Accounts:
    """Makes the entries of calls. What it learned from earlier ones is its guess where a cost is
    unknown.

    Attributes:
        outlook: knows what the large model alone costs; without it, what it really cost.
    """

    outlook: Outlook | None = None
    _means: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def answered(
        self,
        call: Call,
        completion: Completion,
        latency_ms: float,
        *,
        is_baseline: bool = False,
        review: Reviewed | None = None,
    ) -> LedgerEntry:
        """The entry of a call that was answered.

        Args:
            call: what was asked.
            completion: the answer.
            latency_ms: wall time.
            is_baseline: the answer is what the cascade is compared with: it earns what the large
                model alone would have paid for it.
            review: the answer approves of a draft or corrects it: it earns an estimate of what
                the large model alone would have paid, never its own cost.
        """
        if completion.cached:
            return _cached(call, latency_ms)
        usage, made = completion.usage, len(completion.tool_calls)
        pricing = call.pricing
        cost = pricing.cost(usage, completion.busy_ms, made)
        # Only time can be paid for anyway; tokens are billed one by one.
        timed = completion.busy_ms is not None
        marginal = pricing.marginal(usage, completion.busy_ms, made) if timed else cost
        update: StateUpdate = {
            "tool_calls": made,
            "marginal_usd": None if marginal == cost else marginal,
            "note": "" if cost is not None else _why_unknown(call.tier, pricing, completion),
        }
        if _is_another(call.tier, completion):
            said = f"answered by {completion.model!r:.80}, which was not asked"
            update["note"] = "; ".join(filter(None, (update["note"], said)))
            if cost is not None and isinstance(pricing, ListPrice):  # of the model that was asked
                update |= {"cost_basis": "estimated", "basis": "estimated"}
        if cost is None:
            written = len(completion.transcript) + len(completion.thinking or "")
            output = usage.output_tokens
            known = written // CHARACTERS_PER_TOKEN + 1 if output is None else output
            update["assumed_usd"] = self._assumed(call, usage, known)
        else:
            self._learn(call, usage, cost)
        entry = _entry(call, usage, latency_ms, cost, pricing, **update)
        if review is not None:
            return self._as_review(call, completion, entry, review)
        return self._as_baseline(call, completion, entry) if is_baseline else entry

    def stopped(
        self, call: Call, completion: Completion, latency_ms: float, reason: str
    ) -> LedgerEntry:
        """The entry of a call whose answer was stopped from this side.

        Usage comes at the end of a stream, so only the tokens heard are known; a price by the
        hour takes the wall time until then, which is no measurement of the busy time.
        """
        usage, pricing = completion.usage, call.pricing
        busy_ms = latency_ms if call.tier.model.local else None
        cost, marginal = pricing.cost(usage, busy_ms), pricing.marginal(usage, busy_ms)
        update: StateUpdate = {"note": reason, "outcome": "cancelled"}
        if cost is None:
            update["assumed_usd"] = self._assumed(call, usage, usage.output_tokens)
        else:
            update |= {"cost_basis": "estimated", "basis": "estimated"}
            update["marginal_usd"] = None if marginal == cost else marginal
        return _entry(call, usage, latency_ms, cost, pricing, **update)

    def failed(self, call: Call, error: BaseException, latency_ms: float) -> LedgerEntry:
        """The entry of a call that failed or was cancelled; a refusal is not billed."""
        refused = isinstance(error, ModelError) and error.billed is False
        cancelled = isinstance(error, asyncio.CancelledError)
        note = str(error) if isinstance(error, ModelError) else repr(error)
        note = "cancelled while it ran" if cancelled else note
        if call.arrived:
            note = f"{note.rstrip('.')}; {call.arrived:,} characters had arrived"
        usage = Usage(input_tokens=0, output_tokens=0) if refused else Usage()
        cost = Decimal(0) if refused else None
        outcome: Literal["failed", "cancelled"] = "cancelled" if cancelled else "failed"
        update: StateUpdate = {"note": note, "outcome": outcome}
        if not refused:
            update["assumed_usd"] = self._assumed(call, usage)
        return _entry(call, usage, latency_ms, cost, call.pricing, **update)

    def _as_baseline(self, call: Call, completion: Completion, entry: LedgerEntry) -> LedgerEntry:
        cost = baseline = entry.cost_usd
        if self.outlook is not None:
            baseline = self.outlook.measured(
                completion.usage,
                call.request.messages,
                busy_ms=completion.busy_ms,
                tool_calls=entry.tool_calls,
            )
        saved = None if cost is None or baseline is None else baseline - cost
        update: StateUpdate = {"baseline_usd": baseline, "saved_usd": saved}
        if saved:
            note = "the large model alone would have found more of the prompt in its cache"
            update |= {"basis": "estimated", "note": note}
        return entry.model_copy(update=update)

    def _as_review(
        self, call: Call, completion: Completion, entry: LedgerEntry, review: Reviewed
    ) -> LedgerEntry:
        approved = review.approves(completion)
        said = f"{'approved' if approved else 'corrected'} the draft of {review.draft.tier}"
        update: StateUpdate = {"note": "; ".join(filter(None, (said, entry.note)))}
        if self.outlook is None:
            return entry.model_copy(update=update | {"baseline_usd": None, "saved_usd": None})
        earned = self.outlook.reviewed(
            review.draft,
            completion,
            entry.cost_usd,
            review.messages,
            call.request.messages,
            approved=approved,
        )
        return entry.model_copy(update=update | earned)

    def _assumed(self, call: Call, usage: Usage, output: int | None = None) -> Decimal | None:
        """Dollars that a call of unknown cost is taken to have cost; None where nobody can say.

        The prompt by its characters, the answer as long as is known, or usual, or allowed, and at
        least what had arrived; where that gives no cost (a price by the hour), what a call of
        this tier costs on average.
        """
        size = characters(call.request.messages)
        # A ratio of means: in a mean of ratios, short prompts would count as much as long ones.
        counted, written = self._mean(call, "input"), self._mean(call, "characters")
        per_character = counted / written if counted and written else 1 / CHARACTERS_PER_TOKEN
        if output is None:
            usual = self._mean(call, "output")
            likely = call.request.max_tokens or 0 if usual is None else round(usual)
            output = max(likely, call.arrived // CHARACTERS_PER_TOKEN)
        known = usage.input_tokens
        tokens = round(size * per_character) + 1 if known is None else known
        assumed = call.pricing.cost(Usage(input_tokens=tokens, output_tokens=output))
        if assumed is not None:
            return assumed
        mean = self._mean(call, "dollars")
        return None if mean is None else Decimal(str(mean))

    def _learn(self, call: Call, usage: Usage, cost: Decimal) -> None:
        counted = usage.input_tokens is not None
        seen = {
            "output": usage.output_tokens,
            "input": usage.input_tokens,
            "characters": characters(call.request.messages) if counted else None,
            "dollars": float(cost),
        }
        for name, value in seen.items():
            if value is not None:
                n, mean = self._means.get((call.tier.name, name), (0, 0.0))
                self._means[call.tier.name, name] = (n + 1, mean + (value - mean) / (n + 1))

    def _mean(self, call: Call, name: str) -> float | None:
        found = self._means.get((call.tier.name, name))
        return None if found is None else found[1]


def _entry(
    call: Call,
    usage: Usage,
    latency_ms: float,
    cost: Decimal | None,
    pricing: Pricing,
    **more: Any,
) -> LedgerEntry:
    basis: Basis = "unknown" if cost is None else "measured"
    fields = {
        "run_id": call.run.id,
        "node": call.node,
        "tier": call.tier.name,
        "model": call.tier.model.name,
        **usage.__dict__,
        "latency_ms": latency_ms,
        "cost_usd": cost,
        "saved_usd": None if cost is None else -cost,
        "cost_basis": basis,
        "basis": basis,
        "price": pricing.source,
        "attempt_id": call.attempt_id,
    }
    return LedgerEntry(**{**fields, **more})


def _cached(call: Call, latency_ms: float) -> LedgerEntry:
    """Nobody was asked. It earns nothing: the large model alone, behind the same cache, would have
    found its answer there too.
    """
    usage = Usage(input_tokens=0, output_tokens=0)
    note = "taken from the cache of its chat model"
    return _entry(call, usage, latency_ms, Decimal(0), call.pricing, note=note)


def _is_another(tier: OpenTier, completion: Completion) -> bool:
    """Whether another model answered than was asked, where only the reply can say which."""
    model = tier.model
    told_apart = model.real and model.weights_path is None
    return told_apart and is_another(model.model, completion.model)


def _why_unknown(tier: OpenTier, pricing: Pricing, completion: Completion) -> str:
    """Why the cost of an answer is unknown: its price, or what the provider left out."""
    if pricing.cost(Usage(input_tokens=0, output_tokens=0), 0.0) is None:
        return f"{tier.model.name}: {pricing.source}"
    missing = "its usage" if not completion.usage.known else "how long it was busy"
    return f"{tier.model.name} did not report {missing}"
