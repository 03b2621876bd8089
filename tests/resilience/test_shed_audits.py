"""What audits say stays true where their chance is lowered under pressure.

Drafts are worse under pressure here: an estimate that forgot the lowered chance would be too good.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cascade import Cascade, MemoryLedger, Price, Shedding, Tier
from cascade.agents.auditor import Auditor
from cascade.agents.watching import Case
from cascade.evaluation.audit.estimates import horvitz_thompson, quality_loss
from cascade.evaluation.audit.intervals import Sample
from cascade.ledger.draws import drawn
from cascade.state import Assessment, Decision, Draft, Run
from cascade.testing import ScriptedModel, reply

N, SEEDS = 600, 200
RATE, KEPT = 0.4, 0.25
WRONG = {False: 0.04, True: 0.4}
"""Share of wrong drafts while it is quiet, and under pressure."""


def audited_cascade(load: list[float], store: MemoryLedger) -> Cascade:
    return Cascade(
        Tier(
            ScriptedModel([reply("Canberra", probability=0.95)], returns_logprobs=True),
            price=Price(input=1, output=1),
        ),
        Tier(ScriptedModel(["Canberra"]), price=Price(input=100, output=100)),
        ledger=store,
        audit_rate=RATE,
        shedding=Shedding(load=lambda: load[0], audits_kept=KEPT),
    )


def chances(auditor: Auditor) -> dict[bool, float]:
    """The chance that the cascade's own auditor gives a draft: while it is quiet, and not."""
    draft, decision = Draft("small", reply("x")), Decision(action="accept", reason="so")
    case = Case(Run(id="r", question_id="q"), [], draft, Assessment(), decision)
    found = {p: auditor.audit_rate(replace(case, audits_kept=KEPT if p else 1.0)) for p in (0, 1)}
    return {bool(pressed): rate for pressed, rate in found.items() if rate is not None}


class Day:
    """Accepted drafts of one day, half of them under pressure, and which of them were audited."""

    def __init__(self, rates: dict[bool, float], seed: int) -> None:
        rng = np.random.default_rng(seed)
        pressed = rng.random(N) < 0.5
        wrong = rng.random(N) < np.where(pressed, WRONG[True], WRONG[False])
        self.loss = wrong.astype(np.float64)
        given = np.where(pressed, rates[True], rates[False])
        audited = [drawn(f"{seed}-{i}", rate) for i, rate in enumerate(given)]
        self.sample = Sample(given, np.array(audited))

    @property
    def found(self) -> Any:
        return self.loss[self.sample.audited]


@pytest.fixture(scope="module")
def days() -> list[Day]:
    cascade = audited_cascade([0.0], MemoryLedger())
    auditor = cascade._oversight.auditor
    assert auditor is not None
    rates = chances(auditor)
    return [Day(rates, seed) for seed in range(SEEDS)]


def test_the_loss_is_estimated_without_bias(days: list[Day]) -> None:
    off = [horvitz_thompson(day.found, day.sample) - day.loss.mean() for day in days]
    error = np.std(off) / SEEDS**0.5
    assert abs(np.mean(off)) < 3 * error
    assert error < 0.01


def test_whoever_forgets_the_lowered_chance_finds_too_little(days: list[Day]) -> None:
    off = [day.found.mean() - day.loss.mean() for day in days]
    assert np.mean(off) < -0.08


def test_the_interval_has_the_truth_in_it_as_often_as_it_says(days: list[Day]) -> None:
    inside = 0
    for day in days:
        found = quality_loss(day.found, day.sample, requests=N)
        inside += found.low <= day.loss.mean() <= found.high
    assert inside >= 0.9 * SEEDS


async def test_a_run_is_audited_exactly_where_its_written_chance_draws_it() -> None:
    load, store = [0.0], MemoryLedger()
    cascade = audited_cascade(load, store)
    for i in range(120):
        load[0] = float(i % 2)
        await cascade.ainvoke(f"question {i}")
    await cascade.audits_done()
    await cascade.aclose()
    chances = {e.run_id: e.audit_rate for e in store.entries if e.node == "verify"}
    audited = {e.run_id for e in store.entries if e.node == "audit"}
    assert sorted(set(chances.values()), key=str) == [RATE * KEPT, RATE]
    assert audited == {run for run, chance in chances.items() if drawn(run, chance)}
    shed = {e.run_id for e in store.entries if e.node == "shed"}
    assert shed == {run for run, chance in chances.items() if chance == RATE * KEPT}
