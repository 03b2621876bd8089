"""Recorded answers through a real cascade, its auditor and its ledger, to the report.

Both models answered every question, so that the truth is known. A draft is accepted where another
cheap model gave the same answer.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import Cascade, Price, Tier
from cascade.evaluation import Outcome, Transcript, read_transcripts
from cascade.ledger.store import open_store
from cascade.models import Request
from cascade.oversight import Audits
from cascade.report import Report, make_report
from cascade.state import Completion, Usage
from cascade.testing import ScriptedModel, reply

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("CASCADE_DATA", BESIDE))
SMALL, HELPER = "abel-7b", "Mixtral-8x7B-Instruct-v0.1"
LARGE = "gpt-4-1106-preview"
CHEAP, DEAR = Price(input="0.2", output="0.2"), Price(input=10, output=30)
ROWS = 600

pytestmark = pytest.mark.skipif(
    not list(DATA.glob("gsm8k_multi.*")), reason=f"no recordings in {DATA}: set CASCADE_DATA"
)


def said(outcome: Outcome) -> str:
    return (outcome.pred or outcome.output or "").strip()[:20] or "nothing"


def usage(outcome: Outcome) -> Usage:
    return Usage(input_tokens=outcome.input_tokens, output_tokens=outcome.output_tokens)


@dataclass
class Recorded:
    """The rows by their questions; a question is the row's id."""

    rows: dict[str, Transcript] = field(default_factory=dict)

    def model(self, name: str) -> ScriptedModel:
        def answer(request: Request) -> Completion:
            found = self.rows[str(request.messages[-1].text)].models[name]
            return reply(
                said(found),
                model=name,
                probability=0.9,
                input_tokens=found.input_tokens,
                output_tokens=found.output_tokens,
            )

        return ScriptedModel(answer, returns_logprobs=True)

    def accepted(self, question: str) -> bool:
        models = self.rows[question].models
        return said(models[SMALL]) == said(models[HELPER])

    def loss(self, question: str) -> float:
        models = self.rows[question].models
        return models[LARGE].correct - models[SMALL].correct

    async def report(self, rate: float, path: Path) -> Report:
        async with open_store(f"sqlite:///{path / 'ledger.db'}") as store:
            cascade = Cascade(
                small=Tier(self.model(SMALL), name="small", price=CHEAP),
                large=Tier(self.model(LARGE), name="large", price=DEAR),
                verifier=lambda question, _: self.accepted(question),
                audit_rate=Audits(rate, compare=lambda question, *_: self.loss(question)),
                ledger=store,
            )
            for question in self.rows:
                await cascade.ainvoke(question)
            await cascade.aclose()
            return await make_report(store)

    def truth(self, audits_usd: Decimal) -> tuple[Decimal, float]:
        """The saving, audits paid, and the quality lost per request."""
        saved, lost = -audits_usd, 0.0
        for question, row in self.rows.items():
            saved -= CHEAP.cost(usage(row.models[SMALL])) or Decimal(0)
            if self.accepted(question):
                saved += DEAR.cost(usage(row.models[LARGE])) or Decimal(0)
                lost += self.loss(question)
        return saved, lost / len(self.rows)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    wanted = (SMALL, HELPER, LARGE)
    [path] = DATA.glob("gsm8k_multi.*")
    rows = [row for row in read_transcripts(path, models=wanted) if set(wanted) <= set(row.models)]
    return Recorded({row.id: row for row in rows[:ROWS]})


def audits_usd(report: Report) -> Decimal:
    [table] = [table for table in report.tables if table.by == "node"]
    return sum((line.cost_usd for line in table.lines if line.name == "audit"), Decimal(0))


def test_with_every_draft_audited_the_report_is_the_truth(
    recorded: Recorded, tmp_path: Path
) -> None:
    report = asyncio.run(recorded.report(1.0, tmp_path))
    saved, lost = recorded.truth(audits_usd(report))
    assert report.total.saved_measured_usd == saved
    assert report.saving.saving.value == pytest.approx(float(saved))
    assert report.saving.saving.low == pytest.approx(float(saved))
    assert report.status == "measured"
    assert report.quality is not None
    assert report.quality.loss.value == pytest.approx(lost)


def test_with_one_draft_in_five_audited_the_truth_is_near(
    recorded: Recorded, tmp_path: Path
) -> None:
    """Run ids, and so the draws, differ each time: within twice the interval, four deviations."""
    report = asyncio.run(recorded.report(0.2, tmp_path))
    saved, lost = recorded.truth(audits_usd(report))
    assert report.status == "verified"
    assert report.quality is not None
    for figure, truth in ((report.saving.saving, float(saved)), (report.quality.loss, lost)):
        assert abs(figure.value - truth) <= figure.high - figure.low
        assert figure.low < figure.value < figure.high
