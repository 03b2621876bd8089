"""Who watches a cascade: each watcher is told of every decision, and none delays a reply."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from langchain_core.messages import BaseMessage

from cascade.agents.base import Task
from cascade.state import Assessment, Decision, Draft, Run

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class Case:
    """A draft that was decided about.

    Attributes:
        messages: the conversation, its last message being the question.
        audit_rate: the chance with which the accepted draft is to be audited; None where no
            auditor watches, or the draft was not accepted.
        baseline_usd: the estimate that accepting the draft earned in the ledger; None where it is
            unknown.
        task: tools, schema and settings of the question.
        audits_kept: of the chance of an audit, where the cascade is under pressure.
    """

    run: Run
    messages: Sequence[BaseMessage]
    draft: Draft
    assessment: Assessment
    decision: Decision
    audit_rate: float | None = None
    baseline_usd: Decimal | None = None
    task: Task = field(default_factory=Task)
    audits_kept: float = 1.0


class Watcher(Protocol):
    """Watches decisions; called from the event loop, so neither method may block."""

    def audit_rate(self, case: Case) -> float | None:
        """The chance with which to audit this accepted draft, before it is drawn."""
        ...

    def judged(self, case: Case) -> None:
        """A decision was made and is in the ledger."""
        ...


@dataclass(frozen=True, slots=True)
class Sheltered:
    """A watcher whose failures are logged and reach no reply.

    A node that failed with its decision in the ledger would be executed again, and what accepting
    the draft saves would be there twice.
    """

    inner: Watcher

    def audit_rate(self, case: Case) -> float | None:
        """That of the watcher; None where it fails."""
        try:
            return self.inner.audit_rate(case)
        except Exception:
            logger.exception("%s failed: run %s is not audited", self._name, case.run.id)
            return None

    def judged(self, case: Case) -> None:
        """Tell the watcher."""
        try:
            self.inner.judged(case)
        except Exception:
            logger.exception("%s failed at run %s", self._name, case.run.id)

    @property
    def _name(self) -> str:
        return type(self.inner).__name__
