"""Cascades of scripted models, asked by either driver."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Tier
from cascade.ledger.base import LEASE, Job
from cascade.models.base import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel

PRICE = Price(input=1, output=1)

both_drivers = pytest.mark.parametrize("driver", ["loop", "graph"])


def small(text: str = "Canberra", p: float = 0.95, **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="small", logprobs=p, **options)


def large(text: str = "Canberra", **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="large", **options)


class Keeping(MemoryLedger):
    """A ledger in memory that keeps jobs as one in a database does."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}

    def put_job(self, job: Job) -> None:
        self.jobs.setdefault(job.run_id, job)

    async def claim_jobs(
        self, kind: str, older_than: timedelta = timedelta(), *, lease: timedelta = LEASE
    ) -> list[Job]:
        del lease
        until = datetime.now(UTC) - older_than
        return [job for job in self.jobs.values() if job.kind == kind and job.at <= until]

    def drop_job(self, kind: str, run_id: str) -> None:
        del kind
        self.jobs.pop(run_id, None)

    def changed(self, run_id: str, **fields: Any) -> None:
        """As if a job had been put in another way."""
        self.jobs[run_id] = replace(self.jobs[run_id], **fields)


class Held(ScriptedModel):
    """Answers once it is released, in whichever loop it is asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked, self.release = threading.Event(), threading.Event()

    async def _complete(self, request: Request) -> Completion:
        self.asked.set()
        await asyncio.to_thread(self.release.wait, 30)
        return await super()._complete(request)


def pair(
    drafts: Any = None, answers: Any = None, *, price: Price | None = PRICE, **options: Any
) -> Cascade:
    """A cascade of two models with a price; drafts are accepted unless they say otherwise."""
    first, last = drafts or small(), answers or large()
    return Cascade(Tier(first, price=price), Tier(last, price=price), **options)


async def ask(
    cascade: Cascade, question: Any, driver: str = "loop", **settings: Any
) -> CascadeResult:
    if driver == "loop":
        return await cascade.ainvoke(question, **settings)
    messages = [HumanMessage(question)] if isinstance(question, str) else list(question)
    given: Any = {"messages": messages, "settings": settings or None}
    return cascade.read(await cascade.graph.ainvoke(given))


def of(ledger: MemoryLedger, node: str) -> list[Any]:
    return [entry for entry in ledger.entries if entry.node == node]


def losses(ledger: MemoryLedger, node: str = "audit") -> list[float | None]:
    """Of results: entries of calls have none."""
    return [entry.loss for entry in of(ledger, node) if entry.model is None and not entry.decision]


def questions(model: ScriptedModel) -> list[str]:
    return [str(request.messages[-1].text) for request in model.requests]
