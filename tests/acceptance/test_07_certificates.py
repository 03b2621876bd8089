"""Row 7: certificates, which bound P(accepted and wrong) per request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError
from tests.acceptance import commands, edition
from tests.acceptance.commands import World, sure

UNSEEN = range(2_000, 2_200)


def certificates(world: World) -> dict[float, Any]:
    return {made["max_harm"]: made for made in world.made.json["certificates"]}


def test_each_bound_that_was_asked_for_is_proved_on_rows_that_fitted_nothing(world: World) -> None:
    found = certificates(world)
    assert set(found) == {0.2, 0.15}
    for bound, made in found.items():
        assert made["bound"] <= bound
        assert made["errors"] / made["n"] < made["bound"]
        assert made["n"] <= 100
    assert found[0.15]["threshold"] >= found[0.2]["threshold"]


@pytest.mark.parametrize("max_harm", [0.2, 0.15])
def test_a_certified_cascade_keeps_its_bound_on_questions_that_nobody_saw(
    world: World, max_harm: float
) -> None:
    options: dict[str, Any] = {"calibrator": world.calibration, "max_harm": max_harm}
    with Cascade(*world.tiers(), **options) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in UNSEEN])
    accepted = [i for i, r in zip(UNSEEN, results, strict=True) if r.tier == "small"]
    assert accepted
    assert sum(1 - sure(i) for i in accepted) / len(results) <= max_harm


def test_its_threshold_is_that_of_the_certificate(world: World) -> None:
    threshold = certificates(world)[0.2]["threshold"]
    with Cascade(*world.tiers(), calibrator=world.calibration, max_harm=0.2) as cascade:
        for result in cascade.batch([f"Capital {i}?" for i in range(3_000, 3_020)]):
            assert result.decision.threshold == pytest.approx(threshold)
            assert (result.tier == "small") == ((result.confidence or 0) >= threshold)


def test_a_wider_bound_than_asked_for_is_never_taken(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"0\.05"):
        Cascade(*world.tiers(), calibrator=world.calibration, max_harm=0.05)


def test_a_narrower_certificate_serves_a_wider_bound(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration, max_harm=0.5) as cascade:
        assert cascade.invoke("Capital 7?").decision.threshold is not None


@pytest.mark.parametrize("max_harm", [0, 1, -0.1, 1.5])
def test_a_bound_that_is_no_probability_is_refused(world: World, max_harm: float) -> None:
    with pytest.raises(ConfigurationError, match="max_harm"):
        Cascade(*world.tiers(), calibrator=world.calibration, max_harm=max_harm)


def test_what_a_certificate_does_not_cover_is_escalated(world: World) -> None:
    """A conversation with another system message has no confidence that anything was proved of."""
    with Cascade(*world.tiers(), calibrator=world.calibration, max_harm=0.2) as cascade:
        result = cascade.invoke([("system", "Be rude."), ("human", "Capital 7?")])
    assert (result.tier, result.escalated) == ("large", True)


def test_a_certificate_ends(world: World) -> None:
    made = json.loads(world.calibration.read_text())
    for certificate in made["certificates"]:
        certificate["valid_until"] = "2026-01-01T00:00:00Z"
    path = world.calibration.with_name("ended.json")
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigurationError, match="ended"):
        Cascade(*world.tiers(), calibrator=path, max_harm=0.2)


# --- bounds that cannot be proved


def recorded(world: World, folder: Path, n: int, wrong: int, *options: object) -> commands.Done:
    """Calibrate on recorded answers, of which the first ones are wrong."""
    path = folder / "recorded.jsonl"
    rows = [
        {
            "dataset": "made",
            "id": f"q{i}",
            "prompt": f"Capital {i}?",
            "models": {
                "ollama:small": {
                    "correct": float(i >= wrong),
                    "input_tokens": 3,
                    "output_tokens": 2,
                    "cost_usd": 0.00001,
                    "confidence": 0.4 + 0.55 * i / n,
                    "features": {"logprob_mean": -0.9 + 0.85 * i / n},
                },
                "ollama:large": {
                    "correct": 1.0,
                    "input_tokens": 3,
                    "output_tokens": 2,
                    "cost_usd": 0.0001,
                },
            },
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ("--small", "ollama:small", "--large", "ollama:large")
    given = ("calibrate", path, "--recorded", *models, "--out", folder / "c.json", *options)
    return commands.cascade(*given, code=None, OLLAMA_HOST=world.upstream.url)


def test_a_bound_that_cannot_be_proved_is_refused_with_the_labels_that_it_takes(
    world: World, tmp_path: Path
) -> None:
    done = recorded(world, tmp_path, 100, 25, "--max-harm", "0.001", "--json")
    assert done.code == 1
    (refusal,) = done.json["refusals"]
    (needed,) = re.findall(r"bring ([\d,]+)", refusal)
    assert 2_302 <= int(needed.replace(",", "")) <= 4_700  # ln(0.1) ÷ ln(0.999) to prove it
    assert done.json["certificates"] == []
    assert (tmp_path / "c.json").exists()


@pytest.mark.parametrize(("max_harm", "proved"), [(0.0441, False), (0.06, True)])
def test_a_sample_without_an_error_proves_no_less_than_its_size_allows(
    world: World, tmp_path: Path, max_harm: float, proved: bool
) -> None:
    """50 rows prove 1 − 0.1^(1/50) = 4.5 % with 90 % confidence."""
    done = recorded(world, tmp_path, 100, 3, "--max-harm", max_harm, "--json")
    made = done.json["certificates"]
    assert bool(made) == proved
    assert all(each["bound"] >= 1 - 0.1 ** (1 / each["n"]) - 1e-9 for each in made)


def test_a_smaller_chance_of_failing_takes_a_higher_threshold(world: World, tmp_path: Path) -> None:
    thresholds = []
    for delta in ("0.2", "0.01"):
        done = recorded(world, tmp_path, 400, 100, "--max-harm", "0.1", "--delta", delta, "--json")
        (made,) = done.json["certificates"]
        assert made["delta"] == float(delta)
        thresholds.append(made["threshold"])
    assert thresholds[0] < thresholds[1]


def test_the_ledger_says_which_decisions_were_certified(world: World) -> None:
    with Cascade(*world.tiers(), calibrator=world.calibration, max_harm=0.2) as cascade:
        result = cascade.invoke("Capital 7?")
    (decision,) = [e.decision for e in edition.entries_of(result) if e.node == "verify"]
    assert decision is not None
    assert decision.calibrated
    assert decision.confidence == result.confidence
