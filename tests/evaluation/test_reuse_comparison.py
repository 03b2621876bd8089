"""Writing anew against approving or correcting the draft, on recorded questions."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cascade import Cascade
from cascade.cli import evaluate
from cascade.errors import ConfigurationError
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.evaluating import evaluate as evaluated
from cascade.evaluation.recorded import record_pair
from cascade.evaluation.reuse import LEAST_REVIEWS, compare, with_draft
from cascade.evaluation.text import reviews_words
from cascade.policies.reuse import VERSION, Reuse
from cascade.testing import ScriptedModel
from tests.evaluation.recordings import rows, write

APP = typer.Typer()
APP.command()(evaluate.evaluate)


def shown(
    n: int = 200,
    *,
    approved: float = 0.6,
    worse: float = 0.0,
    cost: tuple[float, float] = (0.00004, 0.00015),
    instruction: int | None = VERSION,
) -> list[Transcript]:
    """Rows whose large model has also answered with the draft before it: for (approved,
    corrected) dollars, and `worse` so often wrong where it is right alone."""
    rng = np.random.default_rng(3)
    found = []
    for row in rows(n):
        yes = bool(rng.random() < approved)
        right = row.models["large"].correct * float(rng.random() >= worse)
        told = Outcome(
            correct=right,
            input_tokens=100,
            output_tokens=6,
            cost_usd=cost[0] if yes else cost[1],
            approved=yes,
            instruction=instruction,
        )
        models = {**row.models, with_draft("large"): told}
        found.append(row.model_copy(update={"models": models}))
    return found


def run(arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, shlex.split(arguments))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.output.replace("│", " ").split())


def test_what_costs_less_and_is_as_right_pays() -> None:
    found = compare(shown(), "small", "large")
    share = found.approved.value
    assert found.n == 200
    assert found.cost.value == pytest.approx(share * 0.4 + (1 - share) * 1.5)
    assert found.quality.value == 0
    assert found.cost.low < found.cost.value < found.cost.high < 1
    assert found.evidence.pays
    assert found.evidence.approval_rate == share
    assert "Reusing drafts pays" in reviews_words(found)


def test_what_is_cheaper_and_worse_does_not_pay() -> None:
    found = compare(shown(worse=0.1), "small", "large")
    assert found.cost.high < 1
    assert found.quality.high < 0
    assert not found.evidence.pays
    assert "is not shown to pay" in reviews_words(found)


def test_a_loss_within_the_tolerance_is_as_good() -> None:
    assert compare(shown(worse=0.1), "small", "large", tolerance=0.3).evidence.pays


def test_a_difference_within_the_noise_shows_nothing() -> None:
    """20 questions, of which half are approved: about as dear as writing anew."""
    found = compare(shown(20, approved=0.5), "small", "large")
    assert found.cost.low < 1 < found.cost.high
    assert not found.evidence.pays


def test_nothing_approved_costs_the_drafts_that_were_read() -> None:
    found = compare(shown(approved=0.0), "small", "large")
    assert (found.approved.value, found.approved_right) == (0.0, None)
    assert found.cost.value == pytest.approx(1.5)
    assert "drafts approved: 0.0%" in reviews_words(found)


def test_rows_without_a_cost_or_a_verdict_are_left_out() -> None:
    given = shown(60)
    broken: list[Transcript] = []
    for i, row in enumerate(given):
        told = row.models[with_draft("large")]
        change: dict[str, Any] = [{"cost_usd": None}, {"approved": None}, {}][i % 3]
        models = {**row.models, with_draft("large"): told.model_copy(update=change)}
        broken.append(row.model_copy(update={"models": models}))
    assert compare(broken, "small", "large").n == 20


def test_too_few_rows_say_nothing() -> None:
    with pytest.raises(ConfigurationError, match=f"19 rows .* needs {LEAST_REVIEWS}"):
        compare(shown(19), "small", "large")


def test_two_instructions_are_not_mixed() -> None:
    with pytest.raises(ConfigurationError, match=r"\['1', '2'\]: compare one at a time"):
        compare([*shown(30), *shown(30, instruction=2)], "small", "large")


def test_answers_that_cost_nothing_cannot_be_compared() -> None:
    free = [
        row.model_copy(
            update={
                "models": {
                    name: outcome.model_copy(update={"cost_usd": 0.0})
                    for name, outcome in row.models.items()
                }
            }
        )
        for row in shown(30)
    ]
    with pytest.raises(ConfigurationError, match="cost nothing"):
        compare(free, "small", "large")


def test_an_evaluation_compares_on_what_its_cascade_would_escalate() -> None:
    found = evaluated(record_pair(shown(400), "small", "large"))
    assert found.reviews is not None
    assert found.reviews.escalated
    assert LEAST_REVIEWS <= found.reviews.n < found.test_rows


def test_where_too_few_are_escalated_all_rows_are_compared() -> None:
    found = evaluated(record_pair(shown(60), "small", "large"))
    assert found.reviews is not None
    assert not found.reviews.escalated
    assert found.reviews.n == 60


def test_an_answer_with_the_draft_is_no_model_that_could_help() -> None:
    recorded = record_pair(shown(60), "small", "large")
    assert recorded.candidates == []


def test_recordings_without_it_are_evaluated_as_before() -> None:
    assert evaluated(record_pair(rows(80), "small", "large")).reviews is None


def test_the_command_prints_the_comparison_and_writes_it_for_a_cascade(tmp_path: Path) -> None:
    recording = write(tmp_path / "shown.jsonl", shown(160))
    evidence = tmp_path / "reuse.json"
    said = run(f"{recording} --reuse {evidence}")
    assert "with the draft" in said
    assert Reuse.load(evidence).large == "large"
    document = json.loads(run(f"{recording} --json"))
    assert document["reviews"]["evidence"] == json.loads(evidence.read_text())
    small = ScriptedModel("x", name="small")
    large = ScriptedModel("x", name="large")
    with pytest.raises(ConfigurationError, match="Compare again"):
        Cascade(small, large, reuse=evidence)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    recording = write(tmp_path / "two.jsonl", rows(80))
    said = run(f"{recording} --reuse {tmp_path / 'reuse.json'}", code=2)
    assert "does not say how large answered with the draft of small" in said
    assert not (tmp_path / "reuse.json").exists()
