"""The demo with a scripted small model; the large one's answers are the packaged recording."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from cascade.demo import questions, recorded_large, run_demo
from cascade.errors import ConfigurationError
from cascade.evaluation import read_transcripts
from cascade.evaluation.scorers import get_scorer
from cascade.ledger.prices import Price
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from cascade.tiers import Tier, open_tier


def test_every_question_has_a_recorded_answer_and_most_are_right() -> None:
    examples = questions()
    assert len({example.id for example in examples}) == 240
    assert all(isinstance(example.reference, list) for example in examples)
    assert {len(example.messages) % 2 for example in examples} == {1}


def test_the_first_questions_are_of_all_kinds() -> None:
    kinds = {example.id.rsplit("-", 1)[0] for example in questions(40)}
    assert len(kinds) == 8
    for n in (39, 241):
        with pytest.raises(ConfigurationError, match=f"n={n}: the demo has 240 questions"):
            questions(n)


def test_the_recorded_model_is_named_and_priced() -> None:
    tier = open_tier(recorded_large())
    assert tier.model.name == "replay:qwen2.5-coder-0.5b-instruct-q4_k_m"
    assert "set by you" in tier.pricing.source


def unsure(request: Request) -> Completion:
    """Right half of the time, and as sure of itself as that."""
    asked = str(request.messages[-1].text)
    right = {str(e.messages[-1].text): e.reference for e in questions()}[asked]
    known = random.Random(asked).random() < 0.5
    text = str(right[0]) if known and isinstance(right, list) else "no idea"
    return reply(text, probability=0.95 if known else 0.4)


async def test_both_models_are_recorded_calibrated_and_judged(tmp_path: Path) -> None:
    small = Tier(
        ScriptedModel(unsure, returns_logprobs=True),
        name="small",
        price=Price(input="0.001", output="0.001"),
    )
    seen: list[int] = []
    found = await run_demo(
        tmp_path, n=50, small=small, progress=lambda done: seen.append(done.written)
    )
    assert seen == list(range(1, 51))
    assert found.fitted.calibration.quality.n == 50
    assert found.fitted.evaluation.recommended.cost.value < 1
    rows = list(read_transcripts(found.files["transcripts"]))
    contains = get_scorer("contains")
    for row in rows[:5]:
        large = row.models["replay:qwen2.5-coder-0.5b-instruct-q4_k_m"]
        assert large.correct == (await contains.score(large.output or "", row.reference)).value
    written = found.files["configuration"].read_text()
    assert written.startswith("# A recording answers what was recorded alone")
    made = yaml.safe_load(written)
    assert made["cascades"]["demo"]["tiers"][1]["model"].startswith("replay:/")
    assert len(found.assumptions) == 2

    again = await run_demo(tmp_path, n=50, small=small)
    assert (again.collected.skipped, again.collected.written) == (50, 0)
