"""A shadow start on recorded answers: what it forecasts is what going live then shows."""

from __future__ import annotations

import asyncio
import math
import os
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import Cascade, Price, Tier
from cascade.evaluation.transcripts import Transcript, read_transcripts
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.oversight.readiness import Readiness
from cascade.policies import ThresholdPolicy
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("CASCADE_DATA", BESIDE))
SMALL, LARGE = "Mistral-7B-v0.1", "Yi-34B"
PRICES = {SMALL: Price(input="0.1", output="0.1"), LARGE: Price(input="0.8", output="0.8")}
IN_SHADOW, LIVE = 400, 600

pytestmark = pytest.mark.skipif(
    not list(DATA.glob("lub_mmlu.*")), reason=f"no recordings in {DATA}: set CASCADE_DATA"
)


def recorded() -> dict[str, Transcript]:
    path = next(iter(DATA.glob("lub_mmlu.*")))
    found = {}
    for row in read_transcripts(path, models=(SMALL, LARGE)):
        if {SMALL, LARGE} <= set(row.models) and all(row.models[m].output for m in (SMALL, LARGE)):
            found[row.id] = row
        if len(found) == IN_SHADOW + LIVE:
            break
    return found


def model(name: str, rows: dict[str, Transcript]) -> Tier:
    """A question is the row's id; the probability is that of the chosen option."""

    def answer(request: Request) -> Completion:
        outcome = rows[str(request.messages[-1].text)].models[name]
        options = [float(x) for x in outcome.signals["option_logprobs"]]  # type: ignore[union-attr]
        p = math.exp(max(options)) / sum(map(math.exp, options))
        assert outcome.output is not None
        return reply(outcome.output, probability=p, input_tokens=outcome.input_tokens)

    return Tier(ScriptedModel(answer, name=name, returns_logprobs=True), price=PRICES[name])


async def shadow(rows: dict[str, Transcript], ids: list[str]) -> Readiness:
    cascade = Cascade(model(SMALL, rows), model(LARGE, rows), mode="shadow", ledger=MemoryLedger())
    await cascade.abatch(ids)
    return await cascade.readiness(max_loss=0.05)


def test_what_is_forecast_is_what_going_live_shows() -> None:
    rows = recorded()
    ids = list(rows)
    assert len(ids) == IN_SHADOW + LIVE
    found = asyncio.run(shadow(rows, ids[:IN_SHADOW]))
    assert (found.requests, found.compared) == (IN_SHADOW, IN_SHADOW)
    forecast = found.proposed
    assert forecast is not None
    assert forecast.threshold is not None
    live = Cascade(
        model(SMALL, rows),
        model(LARGE, rows),
        calibrator=found.calibration,
        policy=ThresholdPolicy(forecast.threshold),
    )
    results = asyncio.run(live.abatch(ids[IN_SHADOW:]))
    assert all(result.calibrated for result in results)
    spent = sum(result.ledger.known_cost_usd for result in results)
    bill, lost = Decimal(0), 0
    for row_id, result in zip(ids[IN_SHADOW:], results, strict=True):
        answer = rows[row_id].models[LARGE]
        bill += (
            PRICES[LARGE].cost(reply(answer.output or "", input_tokens=answer.input_tokens).usage)
            or 0
        )
        lost += result.tier == "small" and result.answer != answer.output
    # Two samples: the interval of their difference is √(1 + n/N) as wide as that of the forecast.
    wider = math.sqrt(1 + forecast.saving.audits / LIVE)
    for truth, figure in (
        (float(1 - spent / bill), forecast.saving),
        (lost / LIVE, forecast.loss),
    ):
        assert abs(truth - figure.value) <= wider * (figure.high - figure.low) / 2
