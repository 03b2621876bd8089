"""What checking a draft cost counts as the draft's cost."""

from __future__ import annotations

from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.recorded import record_pair


def row(name: str, **check: float | None) -> Transcript:
    tokens = {"input_tokens": 1, "output_tokens": 1}
    small = Outcome(correct=1, cost_usd=1.0, **tokens, **check)
    large = Outcome(correct=1, cost_usd=10.0, **tokens)
    models = {"small": small, "large": large}
    return Transcript(dataset="d", id=name, prompt="q", models=models)


def test_the_price_of_a_check_is_paid_with_the_draft() -> None:
    found = record_pair([row("a"), row("b", check_cost_usd=0.5)], "small", "large")
    assert found.small_cost.tolist() == [1.0, 1.5]


def test_a_check_of_unknown_cost_leaves_the_row_out() -> None:
    found = record_pair([row("a"), row("b", check_cost_usd=None)], "small", "large")
    assert (len(found), found.left_out) == (1, 1)
