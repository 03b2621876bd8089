"""What outlives a process: audits drawn and not done, and what was learned from others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import messages_from_dict, messages_to_dict

from cascade.agents.base import Task
from cascade.agents.outlook import Outlook
from cascade.agents.watching import Case
from cascade.ledger.recorder import AuditStore, LedgerStore
from cascade.ledger.texts import Pending
from cascade.state import Assessment, Completion, Decision, Draft, LedgerEntry, Record, Run
from cascade.tiers import OpenTier

STALE = timedelta(minutes=10)
"""An audit that was drawn so long ago and is not done belongs to a process that has died."""

MOST_CALLS = 9
"""Failed calls after which an audit is given up: three attempts in three processes."""

RECALLED = timedelta(days=30)
"""Audits older than this say little about how long the large model's answers are today."""

_LENGTHS = ("prompt_tokens", "draft_tokens", "large_tokens")


@runtime_checkable
class QueryStore(LedgerStore, Protocol):
    """A store that can be asked what is in it."""

    async def query(self, selection: Any) -> Sequence[LedgerEntry]:
        """The entries that a `cascade.ledger.store.Selection` means."""
        ...


@runtime_checkable
class LeftoverStore(AuditStore, QueryStore, Protocol):
    """A store in which audits outlive the process, and that can say what was done already."""


class Leftover(Record):
    """All that an audit needs, as JSON in a pending audit.

    Attributes:
        cascade: identifies the models; another cascade must not do this audit.
        messages: the conversation in LangChain's form.
    """

    cascade: str
    run: Run
    messages: list[dict[str, Any]]
    draft: Draft
    assessment: Assessment
    decision: Decision
    audit_rate: float
    baseline_usd: Decimal | None
    task: Task

    @property
    def case(self) -> Case:
        """The case as the auditor had it."""
        return Case(
            self.run,
            tuple(messages_from_dict(self.messages)),
            self.draft,
            self.assessment,
            self.decision,
            self.audit_rate,
            self.baseline_usd,
            self.task,
        )


def identity(tiers: Sequence[OpenTier]) -> str:
    """What tells a cascade from others that write to the same ledger."""
    return " > ".join(f"{tier.name}={tier.model.name}" for tier in tiers)


def pending_of(case: Case, cascade: str) -> Pending:
    """The case, to be written down.

    Raises:
        ValueError: the task holds what is no JSON.
    """
    assert case.audit_rate is not None, "only what was drawn is pending"
    messages = messages_to_dict(list(case.messages))
    left = Leftover(
        cascade=cascade,
        run=case.run,
        # What is no JSON, such as a tool's artifact, is not sent to models either.
        messages=json.loads(json.dumps(messages, default=str, skipkeys=True)),
        draft=case.draft,
        assessment=case.assessment,
        decision=case.decision,
        audit_rate=case.audit_rate,
        baseline_usd=case.baseline_usd,
        task=case.task,
    )
    return Pending(run_id=case.run.id, payload=left.model_dump_json())


async def release(store: AuditStore, audits: Sequence[Pending]) -> None:
    """Give back what was claimed and belongs to another cascade."""
    if not audits:
        return
    for audit in audits:
        store.drop_pending(audit.run_id)
    await store.pending()  # a drop that is written together with a put would win
    for audit in audits:
        store.put_pending(audit)


async def is_over(store: LeftoverStore, run_id: str) -> bool:
    """Whether an audit has its result, or has failed often enough."""
    from cascade.ledger.store import Selection  # noqa: PLC0415 - not needed at start

    entries = await store.query(Selection(run_id=run_id, node="audit"))
    failed = sum(entry.outcome != "ok" for entry in entries)
    return failed >= MOST_CALLS or any(is_result(entry) for entry in entries)


def is_result(entry: LedgerEntry) -> bool:
    """Whether an entry is the result of an audit, not one of its calls, made or not sent."""
    return entry.node == "audit" and entry.model is None and entry.outcome == "ok"


def lengths_of(case: Case, large: Completion) -> dict[str, float]:
    """The lengths that an audit has seen, for the signals of its result; empty where unknown."""
    usage, written = case.draft.usage, large.usage.output_tokens
    if not case.audit_rate or not usage.known or written is None:
        return {}
    lengths = (usage.input_tokens or 0, usage.output_tokens or 0, written)
    weight = 1.0 / case.audit_rate
    return dict(zip(_LENGTHS, lengths, strict=True)) | {"weight": weight}


async def recall(store: QueryStore, outlook: Outlook) -> None:
    """Learn from the audits that earlier processes have made with the same large model."""
    from cascade.ledger.store import Selection  # noqa: PLC0415 - not needed at start

    since = datetime.now(UTC) - RECALLED
    entries = await store.query(Selection(node="audit", since=since))
    large = outlook.tiers[-1].model.name
    asked = {entry.run_id for entry in entries if entry.model == large}
    for entry in entries:
        if is_result(entry) and entry.run_id in asked:
            learn(outlook, entry.signals or {})


def learn(outlook: Outlook, lengths: Mapping[str, float]) -> None:
    """Learn from the lengths of one audit, where it has them."""
    if "large_tokens" in lengths:
        prompt, draft, large = (int(lengths[name]) for name in _LENGTHS)
        outlook.learn(prompt, draft, large, lengths["weight"])
