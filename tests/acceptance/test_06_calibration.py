"""Row 6: calibration on the user's examples, and its refusal on a mismatch."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from pydantic import BaseModel

from cascade import Cascade
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.middleware import Examples
from cascade.models.ollama import OllamaModel
from tests.acceptance.commands import World, calibrate, questions, says, sure
from tests.acceptance.setups import entries_of
from tests.acceptance.upstream import failure

UNSEEN = range(1_000, 1_060)


def test_a_calibrated_confidence_is_a_probability(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in UNSEEN])
    assert all(result.calibrated and result.decision.calibrated for result in results)
    off = [abs((r.confidence or 0) - sure(i)) for r, i in zip(results, UNSEEN, strict=True)]
    assert mean(off) < mean(abs(says(i) - sure(i)) for i in UNSEEN) / 2
    entries = [entry for result in results for entry in entries_of(result)]
    assert {entry.decision.calibrated for entry in entries if entry.decision} == {True}


def test_without_a_calibration_no_confidence_is_called_one(world: World) -> None:
    result = Cascade(*world.tiers()).invoke("Capital 1000?")
    assert (result.calibrated, result.decision.calibrated) == (False, False)
    assert "uncalibrated" in result.decision.reason


def test_the_quality_of_the_confidence_is_told_on_rows_that_did_not_fit_it(world: World) -> None:
    quality = world.made.json["quality"]
    assert 0.5 < quality["auroc"] < 1
    assert quality["ece"] < quality["ece_raw"]
    assert quality["n"] <= 100
    asked = {(seen.model, seen.last) for seen in world.upstream.asked()}
    assert {(m, f"Capital {i}?") for m in ("small", "large") for i in range(200)} <= asked


@pytest.mark.parametrize(("rate", "least", "most"), [(0.25, 0.05, 0.5), (0.75, 0.5, 0.95)])
def test_an_escalation_budget_is_about_the_share_that_is_escalated(
    world: World, rate: float, least: float, most: float
) -> None:
    given: dict[str, Any] = {"calibrator": str(world.calibration), "escalation_budget": rate}
    with Cascade(*world.tiers(), **given) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in UNSEEN])
    assert least <= mean(result.escalated for result in results) <= most


# --- what it is refused for


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"model": "ollama:other"}, {}),
        ({"max_tokens": 5}, {}),
        ({"temperature": 1.5}, {}),
        ({}, {"response_format": City}),
        ({}, {"signals": ["logprobs", "p_true"]}),
    ],
)
def test_a_calibration_is_refused_for_anything_else(
    world: World, change: dict[str, Any], options: dict[str, Any]
) -> None:
    with pytest.raises(CalibrationMismatchError):
        Cascade(*world.tiers(**change), calibrator=world.calibration, **options)
    another = world.upstream.tier("another")
    with pytest.raises(CalibrationMismatchError, match="large"):
        Cascade(world.tiers()[0], another, calibrator=world.calibration)


def test_it_is_refused_for_other_weights_of_the_same_name(world: World) -> None:
    changed = json.loads(world.calibration.read_text())
    changed["small"]["digest"] = "sha256:of-last-month"
    path = world.calibration.with_name("old.json")
    path.write_text(json.dumps(changed))
    with Cascade(*world.tiers(), calibrator=path) as cascade:
        chat = cascade.as_chat_model()
        for ask, question in (
            (cascade.invoke, "Capital 7?"),
            (chat.invoke, "Capital 7?"),
            (cascade.graph.invoke, {"messages": "Capital 7?"}),
        ):
            with pytest.raises(CalibrationMismatchError, match=r"digest|weights"):
                ask(question)


def test_weights_that_change_later_leave_no_confidence_calibrated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def changed(model: OllamaModel) -> str:
        return "sha256:of-tomorrow"

    monkeypatch.setattr("cascade.middleware.calibrated.CHECK_EVERY_S", 0.0)
    with Cascade(*world.tiers(), calibrator=world.calibration) as cascade:
        before = cascade.invoke("Capital 7?")
        monkeypatch.setattr(OllamaModel, "digest", changed)
        after = cascade.invoke("Capital 7?")
    assert (before.calibrated, after.calibrated) == (True, False)


def test_another_system_message_has_no_confidence_and_is_escalated(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration) as cascade:
        result = cascade.invoke([("system", "Be rude."), ("human", "Capital 7?")])
    assert (result.tier, result.confidence, result.calibrated) == ("large", None, False)
    assert "system message" in result.decision.reason


def test_a_draft_that_was_shown_examples_has_no_calibrated_confidence(world: World) -> None:
    shown = Examples(lambda _: [("human", "Capital 8?"), ("ai", "City 8")])
    with Cascade(*world.tiers(), calibrator=world.calibration, middleware=[shown]) as cascade:
        result = cascade.invoke("Capital 7?")
    assert (result.calibrated, result.decision.calibrated) == (False, False)


# --- making one


def test_without_references_the_large_models_answer_counts_as_right(
    world: World, tmp_path: Path
) -> None:
    examples = questions(tmp_path / "e.jsonl", range(60), reference=None)
    calibrate(examples, world.upstream, "--agree-with-large")
    with Cascade(*world.tiers(), calibrator=tmp_path / "made.json") as cascade:
        assert cascade.invoke("Capital 7?").confidence is not None


def test_a_second_run_asks_again_only_what_failed(world: World, tmp_path: Path) -> None:
    examples = questions(tmp_path / "e.jsonl", range(60))
    world.upstream.next("small", failure(400))
    assert "failed" in calibrate(examples, world.upstream).err
    asked = len(world.upstream.asked("small"))
    for _ in range(2):
        calibrate(examples, world.upstream)
    assert len(world.upstream.asked("small")) == asked + 1


def test_a_cascade_is_calibrated_in_one_line(world: World) -> None:
    rows = [json.loads(line) for line in world.examples.read_text().splitlines()[:60]]
    with Cascade(*world.tiers()) as cascade:
        before = len(world.upstream.seen)
        for given, options in ((rows, {"max_harms": [5]}), (rows[:30], {"max_harms": [0.1]})):
            with pytest.raises(ConfigurationError):
                cascade.calibrate(given, **options)
        assert len(world.upstream.seen) == before  # refused before anything is paid
        made = cascade.calibrate(rows)
    with Cascade(*world.tiers(), calibrator=made) as cascade:
        assert cascade.invoke("Capital 1000?").confidence is not None
