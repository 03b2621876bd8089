"""Row 6: calibration on the user's examples, and its refusal on a mismatch."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from pydantic import BaseModel

from cascade import Cascade, ConfigurationError, ThresholdPolicy
from cascade.errors import CalibrationMismatchError
from tests.acceptance import commands, edition
from tests.acceptance.commands import World, says, sure
from tests.acceptance.upstream import Answer

UNSEEN = range(1_000, 1_040)


def test_a_calibrated_confidence_is_a_probability(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in UNSEEN])
    assert all(result.calibrated for result in results)
    assert {
        entry.decision.calibrated
        for result in results
        for entry in edition.entries_of(result)
        if entry.decision
    } == {True}
    off = [abs((r.confidence or 0) - sure(i)) for r, i in zip(results, UNSEEN, strict=True)]
    assert mean(off) < mean(abs(says(i) - sure(i)) for i in UNSEEN) / 2


def test_without_a_calibration_no_confidence_is_called_one(world: World) -> None:
    with Cascade(*world.tiers()) as cascade:
        result = cascade.invoke("Capital 1000?")
    assert (result.calibrated, result.decision.calibrated) == (False, False)
    assert "uncalibrated" in result.decision.reason


def test_each_model_is_asked_each_example_once(world: World) -> None:
    asked = {(seen.model, seen.last) for seen in world.upstream.asked()}
    wanted = {(m, f"Capital {i}?") for m in ("small", "large") for i in range(200)}
    assert wanted <= asked


def test_the_quality_of_the_confidence_is_told_on_rows_that_did_not_fit_it(world: World) -> None:
    quality = world.made.json["quality"]
    assert 0.5 < quality["auroc"] < 1
    assert quality["ece"] < quality["ece_raw"]
    assert quality["n"] <= 100


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_calibration_is_a_file(world: World, as_path: Any) -> None:
    with Cascade(*world.tiers(), calibrator=as_path(world.calibration)) as cascade:
        assert cascade.invoke("Capital 7?").calibrated


@pytest.mark.parametrize(("rate", "least", "most"), [(0.25, 0.05, 0.5), (0.75, 0.5, 0.95)])
def test_an_escalation_budget_is_about_the_share_that_is_escalated(
    world: World, rate: float, least: float, most: float
) -> None:
    options = {"calibrator": world.calibration, "escalation_budget": rate}
    with Cascade(*world.tiers(), **options) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in range(1_000, 1_100)])
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


def test_it_is_refused_for_another_large_model(world: World) -> None:
    small, _ = world.tiers()
    with pytest.raises(CalibrationMismatchError, match="large"):
        Cascade(small, world.upstream.tier("another"), calibrator=world.calibration)


def test_it_is_refused_for_other_weights_of_the_same_name(world: World) -> None:
    changed = json.loads(world.calibration.read_text())
    assert changed["small"]["digest"] is not None
    changed["small"]["digest"] = "sha256:of-last-month"
    path = world.calibration.with_name("old.json")
    path.write_text(json.dumps(changed))
    with (
        Cascade(*world.tiers(), calibrator=path) as cascade,
        pytest.raises(CalibrationMismatchError, match=r"digest|weights"),
    ):
        cascade.invoke("Capital 7?")


def test_another_system_message_has_no_confidence_and_is_escalated(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration) as cascade:
        result = cascade.invoke([("system", "Be rude."), ("human", "Capital 7?")])
    assert (result.tier, result.confidence, result.calibrated) == ("large", None, False)
    assert "system message" in result.decision.reason


def test_a_file_that_is_no_calibration_is_named(world: World, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"broken\.json"):
        Cascade(*world.tiers(), calibrator=path)


@pytest.mark.parametrize("option", [{"escalation_budget": 0.2}, {"max_harm": 0.1}])
def test_what_needs_a_calibration_says_so(world: World, option: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="calibrat"):
        Cascade(*world.tiers(), **option)


def test_only_one_option_decides(world: World) -> None:
    options: dict[str, Any] = {"policy": ThresholdPolicy(0.6), "escalation_budget": 0.1}
    with pytest.raises(ConfigurationError, match="policy"):
        Cascade(*world.tiers(), calibrator=world.calibration, **options)


# --- making one


def calibrate(world: World, examples: Path, *options: object, code: int = 0) -> commands.Done:
    models = ("--small", "ollama:small", "--large", "ollama:large")
    out = examples.with_name("calibration.json")
    given = ("calibrate", examples, *models, "--out", out, *options)
    return commands.cascade(*given, code=code, OLLAMA_HOST=world.upstream.url)


def test_too_few_examples_are_refused_before_a_model_is_asked(world: World, tmp_path: Path) -> None:
    asked = len(world.upstream.seen)
    done = calibrate(world, commands.write_examples(tmp_path / "e.jsonl", range(15)), code=2)
    assert "15" in done.err
    assert len(world.upstream.seen) == asked


def test_without_references_the_large_models_answer_counts_as_right(
    world: World, tmp_path: Path
) -> None:
    examples = commands.write_examples(tmp_path / "e.jsonl", range(60), reference=None)
    calibrate(world, examples, "--agree-with-large")
    with Cascade(*world.tiers(), calibrator=tmp_path / "calibration.json") as cascade:
        assert cascade.invoke("Capital 7?").confidence is not None


def test_a_second_run_pays_for_nothing_again(world: World, tmp_path: Path) -> None:
    examples = commands.write_examples(tmp_path / "e.jsonl", range(40))
    calibrate(world, examples)
    first, asked = (tmp_path / "calibration.json").read_text(), len(world.upstream.asked())
    calibrate(world, examples)
    assert len(world.upstream.asked()) == asked
    kept, made = json.loads(first), json.loads((tmp_path / "calibration.json").read_text())
    assert kept["quality"] == made["quality"]


def test_examples_that_fail_are_asked_again_the_next_time(world: World, tmp_path: Path) -> None:
    examples = commands.write_examples(tmp_path / "e.jsonl", range(40))
    world.upstream.next("small", Answer("too long", status=400))
    done = calibrate(world, examples)
    assert "failed" in done.err
    asked = len(world.upstream.asked("small"))
    calibrate(world, examples)
    assert len(world.upstream.asked("small")) == asked + 1


# --- what the first edition does not have


@edition.fails_on_first("there is no such method")
def test_a_cascade_is_calibrated_in_one_line(world: World) -> None:
    rows = [json.loads(line) for line in world.examples.read_text().splitlines()[:60]]
    with Cascade(*world.tiers()) as cascade:
        made = cascade.calibrate(rows)
    with Cascade(*world.tiers(), calibrator=made) as cascade:
        assert cascade.invoke("Capital 1000?").confidence is not None
