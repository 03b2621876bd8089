"""The demo with a scripted small model; the large one's answers are the packaged recording."""

from __future__ import annotations

import pytest

from cascade.demo import open_cascade, questions
from cascade.errors import ConfigurationError


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
    with open_cascade("ollama:any") as cascade:
        tier = cascade.tiers[-1]
    assert tier.model.name == "replay:qwen2.5-coder-0.5b-instruct-q4_k_m"
    assert "set by you" in tier.pricing.source
