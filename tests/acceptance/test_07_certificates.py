"""Row 7: certificates, which bound P(accepted and wrong) per request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError
from tests.acceptance.commands import Done, World, calibrate, outcomes, sure

UNSEEN = range(2_000, 2_200)


def certified(world: World, max_harm: float, **options: Any) -> Cascade:
    given: dict[str, Any] = {"calibrator": world.calibration, **options}
    return Cascade(*world.tiers(), max_harm=max_harm, **given)


def test_each_bound_is_proved_on_rows_that_fitted_nothing(world: World) -> None:
    found = {made["max_harm"]: made for made in world.made.json["certificates"]}
    assert set(found) == {0.2, 0.15}
    for bound, made in found.items():
        assert made["errors"] / made["n"] < made["bound"] <= bound
        assert made["n"] <= 100
    assert found[0.15]["threshold"] >= found[0.2]["threshold"]


@pytest.mark.parametrize("max_harm", [0.2, 0.15])
def test_a_certified_cascade_keeps_its_bound_on_questions_that_nobody_saw(
    world: World, max_harm: float
) -> None:
    with certified(world, max_harm) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in UNSEEN])
    (made,) = [m for m in world.made.json["certificates"] if m["max_harm"] == max_harm]
    accepted = []
    for i, result in zip(UNSEEN, results, strict=True):
        assert result.decision.threshold == pytest.approx(made["threshold"])
        assert (result.tier == "small") == ((result.confidence or 0) >= made["threshold"])
        accepted += [i] if result.tier == "small" else []
    assert 0 < sum(1 - sure(i) for i in accepted) / len(results) <= max_harm


def test_a_narrower_certificate_serves_a_wider_bound_and_never_the_other_way(world: World) -> None:
    with certified(world, 0.5) as cascade:
        assert cascade.invoke("Capital 7?").decision.threshold is not None
        # Nothing was proved of a conversation with another system message.
        assert cascade.invoke([("system", "Be rude."), ("human", "Capital 7?")]).tier == "large"
    with pytest.raises(ConfigurationError, match=r"0\.05"):
        certified(world, 0.05)


def test_a_certificate_ends(world: World) -> None:
    made = json.loads(world.calibration.read_text())
    for certificate in made["certificates"]:
        certificate["valid_until"] = "2026-01-01T00:00:00Z"
    path = world.calibration.with_name("ended.json")
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigurationError, match="ended"):
        certified(world, 0.2, calibrator=path)


# --- bounds that cannot be proved


def recorded(world: World, folder: Path, n: int, wrong: int, *options: object) -> Done:
    """Calibrate on recorded answers, of which the first ones are wrong."""
    rows = ((0.4 + 0.55 * i / n, i >= wrong) for i in range(n))
    file = outcomes(folder / "recorded.jsonl", rows)
    return calibrate(file, world.upstream, "--recorded", *options, "--json", code=None)


def test_a_bound_that_cannot_be_proved_is_refused_with_the_labels_that_it_takes(
    world: World, tmp_path: Path
) -> None:
    done = recorded(world, tmp_path, 100, 25, "--max-harm", "0.001")
    (refusal,) = done.json["refusals"]
    (needed,) = re.findall(r"bring ([\d,]+)", refusal)
    assert 2_302 <= int(needed.replace(",", "")) <= 4_700  # ln(0.1) ÷ ln(0.999) to prove it
    assert (done.code, done.json["certificates"]) == (1, [])
    assert (tmp_path / "made.json").exists()


@pytest.mark.parametrize(("max_harm", "proved"), [(0.0441, False), (0.06, True)])
def test_a_sample_without_an_error_proves_no_less_than_its_size_allows(
    world: World, tmp_path: Path, max_harm: float, proved: bool
) -> None:
    """50 rows prove 1 − 0.1^(1/50) = 4.5 % with 90 % confidence."""
    made = recorded(world, tmp_path, 100, 3, "--max-harm", max_harm).json["certificates"]
    assert bool(made) == proved
    assert all(each["bound"] >= 1 - 0.1 ** (1 / each["n"]) - 1e-9 for each in made)


def test_a_smaller_chance_of_failing_takes_a_higher_threshold(world: World, tmp_path: Path) -> None:
    thresholds = []
    for delta in ("0.2", "0.01"):
        done = recorded(world, tmp_path, 240, 60, "--max-harm", "0.1", "--delta", delta)
        thresholds += [made["threshold"] for made in done.json["certificates"]]
    assert thresholds == sorted(set(thresholds))
    assert len(thresholds) == 2
