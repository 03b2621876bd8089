"""Runs as the ledger tells them: its entries, put together again by run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from cascade.ledger.tags import NO_TAGS
from cascade.ledger.verdicts import FEEDBACK, agreed, judge_in, wrong_in
from cascade.state import Action, LedgerEntry

Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""How a run ended: with a draft, with the large model's answer, with none on purpose, with a
person's; `shadow` is the large model's with a draft beside it; `degraded` asked the large model,
which could not be had, so that a draft was returned, or another large model answered; `cached`
took the answer of an earlier run; `unfinished` has no answer in the ledger: it failed or was
cancelled."""

REVIEW = "review"
"""Node of the entry of a large call that was shown the draft: its answer is the run's, and what the
large model alone would have cost is an estimate."""

ANSWERING = ("expert", REVIEW)
"""Nodes of the entries of the large model's answers."""

FALLBACK = "fallback"
"""Node of the entry of a step that led on where the large model could not be had; its one signal
names the step (`draft`, `queue`, `ask` or `STAND_IN`) with the seconds that were waited."""

STAND_IN = "other"
"""Step in which another large model answers. Its call is an entry of the node `expert` under its
own name, and what the large model would have cost is an estimate in the entry of the step."""

OUTAGE = "outage"
"""Node of the entry of a question that goes on because the tier that was to draft it is down; the
tier is that one."""

SHED = "shed"
"""Node of the entry of work that was left out under pressure; its one signal names the kind
(`audit`, `shadow` or `signal`) with the pressure."""

CACHE = "cache"
"""Node of the entry of an answer that was taken from a cache."""


def outcome_of(
    action: Action | None,
    *,
    asked: bool,
    answered: bool,
    shadow: bool,
    cached: bool = False,
    fell_back: bool = False,
) -> Outcome:
    """How a run ended.

    Args:
        action: of the last decision about its draft.
        asked: whether the large model was asked for the answer.
        answered: whether it gave one.
        shadow: whether a draft was made beside it.
        cached: whether the answer of an earlier run was taken.
        fell_back: whether a step of the fallback led on.
    """
    if cached:
        return "cached"
    if shadow:
        return "shadow"
    if answered:
        return "escalated"
    if fell_back and action not in ("abstain", "ask"):
        return "degraded"
    names: dict[Action | None, Outcome] = {
        "accept": "accepted",
        "abstain": "abstained",
        "ask": "person",
        "escalate": "degraded" if asked else "unfinished",
    }
    return names.get(action, "unfinished")


@dataclass(slots=True)
class Run:
    """What the ledger knows of one run.

    Attributes:
        decided: the entry of the last decision about its draft.
        draft: the last draft's entry.
        expert: the large model's entry, where it answered.
        audit: the entry of the finished audit or shadow comparison.
        audit_call: the large model's entry in the audit.
        said: what users said of its answer, by who did: whether it is wrong, or None where that was
            taken back.
    """

    run_id: str
    begun_at: datetime
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    entries: list[LedgerEntry] = field(default_factory=list)
    decided: LedgerEntry | None = None
    draft: LedgerEntry | None = None
    expert: LedgerEntry | None = None
    audit: LedgerEntry | None = None
    audit_call: LedgerEntry | None = None
    said: dict[str, bool | None] = field(default_factory=dict)

    def add(self, entry: LedgerEntry) -> None:
        """One more entry of this run, in the order of their times."""
        self.entries.append(entry)
        answered = entry.outcome == "ok" and entry.model is not None
        if entry.action is not None:
            self.decided = entry
        if entry.node in ("draft", "shadow") and answered:
            self.draft = entry
        elif entry.node in ANSWERING and answered:
            self.expert = entry
        elif entry.node == "audit" and answered and self.audit_call is None:
            self.audit_call = entry
        elif entry.node == FALLBACK and STAND_IN in (entry.signals or ()):
            self.expert = None  # what answered was another model
        elif entry.node == FEEDBACK:
            self.said[judge_in(entry)] = wrong_in(entry)
        if entry.large_usd is not None or entry.loss is not None:
            self.audit = entry

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        nodes = {entry.node for entry in self.entries}
        return outcome_of(
            self.decided.action if self.decided else None,
            asked=not nodes.isdisjoint(ANSWERING),
            answered=self.expert is not None,
            shadow="shadow" in nodes,
            cached=CACHE in nodes,
            fell_back=FALLBACK in nodes,
        )

    @property
    def said_wrong(self) -> bool | None:
        """What users say of its answer; None where none does, or they differ."""
        return agreed(self.said.values())

    @property
    def audited(self) -> bool:
        """Whether what the large model alone costs is known from an audit."""
        return self.audit is not None and self.audit.node == "audit"

    @property
    def large_usd(self) -> Decimal | None:
        """What the large model alone costs for this request, where that was measured."""
        if self.audit is not None:
            return self.audit.large_usd
        measured = self.expert is not None and self.expert.node != REVIEW
        return self.expert.baseline_usd if measured and self.expert is not None else None


def runs_of(entries: Iterable[tuple[LedgerEntry, Mapping[str, str]]]) -> dict[str, Run]:
    """Runs by their id, from entries with their tags, ordered by time."""
    runs: dict[str, Run] = {}
    for entry, tags in entries:
        run = runs.get(entry.run_id)
        if run is None:
            if entry.node == FEEDBACK:  # its run was before these entries
                continue
            run = runs[entry.run_id] = Run(entry.run_id, entry.at, tags)
        run.add(entry)
    return runs
