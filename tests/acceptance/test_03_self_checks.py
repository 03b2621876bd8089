"""Row 3: self-checks by log-probs, P(True), words, consistency, agreement, schema or test."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import BaseModel

from cascade import Cascade, CascadeResult
from cascade.confidence import Agreement
from tests.acceptance.setups import CHEAP, entries_of, tries
from tests.acceptance.upstream import Answer, Upstream, failure

QUESTION = "What is the capital of Australia?"


def ask(upstream: Upstream, **options: Any) -> CascadeResult:
    with Cascade(upstream.tier("small", price=CHEAP), upstream.tier("large"), **options) as cascade:
        return cascade.invoke(QUESTION)


# --- log-probs


@pytest.mark.parametrize(("p", "tier"), [(0.801, "small"), (0.799, "large")])
def test_by_default_a_geometric_mean_of_eight_tenths_and_above_is_accepted_for_no_call(
    upstream: Upstream, p: float, tier: str
) -> None:
    upstream.says("small", Answer("It is Canberra", p=p))
    result = ask(upstream)
    assert (result.tier, result.calibrated) == (tier, False)
    assert result.confidence == pytest.approx(p)
    assert f"{p:.3f}" in result.decision.reason
    assert len(upstream.asked("small")) == 1
    assert sum(e.cost_usd or 0 for e in entries_of(result) if e.node == "self_check") == 0


# --- P(True) and words


@pytest.mark.parametrize(("verdict", "tier"), [("True", "small"), ("False", "large")])
@pytest.mark.parametrize("silent", ["a server", "a chat model"])
def test_a_model_without_log_probs_is_asked_once_whether_its_draft_is_true(
    upstream: Upstream, silent: str, verdict: str, tier: str
) -> None:
    upstream.next("small", *(Answer(text, p=None) for text in ("Canberra", verdict)))
    chat = FakeListChatModel(responses=["Canberra", verdict])
    small = chat if silent == "a chat model" else upstream.tier("small")
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.calibrated) == (tier, False)
    calls = [entry.node for entry in entries_of(result) if entry.model]
    assert calls == ["draft", "self_check", "expert"][: 2 + result.escalated]


@pytest.mark.parametrize(("says", "p", "p_true"), [("True", 0.7, 0.7), ("False", 0.7, 0.3)])
def test_p_true_is_the_mass_on_true_not_the_word_that_was_drawn(
    upstream: Upstream, says: str, p: float, p_true: float
) -> None:
    upstream.next("small", "Canberra", Answer(says, p=p, tokens=(40, 1)))
    result = ask(upstream, signals=["p_true"])
    assert result.confidence == pytest.approx(p_true, abs=0.01)
    assert upstream.asked("small")[1].is_check
    assert "Canberra" in "".join(upstream.asked("small")[1].texts)
    (check,) = [e for e in entries_of(result) if e.node == "self_check" and e.model]
    assert str(check.saved_usd) == "-0.0000044"


@pytest.mark.parametrize(("says", "score"), [("85%", 0.85), ("I would rather not say", None)])
def test_a_percentage_that_the_model_names_is_a_score(
    upstream: Upstream, says: str, score: float | None
) -> None:
    upstream.next("small", "Canberra", says)
    result = ask(upstream, signals=["verbalised"])
    assert (result.confidence, result.escalated) == (score, score is None)


# --- samples


@pytest.mark.parametrize(
    ("others", "tier"), [(["Canberra"], "small"), (["Sydney", "Perth", "Sydney"], "large")]
)
def test_samples_that_agree_are_a_score(upstream: Upstream, others: list[str], tier: str) -> None:
    upstream.next("small", *[Answer(text, p=None) for text in ["Canberra", *others]])
    upstream.says("small", Answer(others[-1], p=None))
    assert ask(upstream, signals=["self_consistency"], threshold=0.6).tier == tier
    assert 2 < len(upstream.asked("small")) <= 6


@pytest.mark.parametrize(("other", "tier"), [("It is CANBERRA.", "small"), ("Sydney", "large")])
def test_another_cheap_model_that_agrees_is_a_score(
    upstream: Upstream, other: str, tier: str
) -> None:
    upstream.says("small", "It is Canberra")
    upstream.says("other", other)
    agreement = Agreement(upstream.tier("other", price=CHEAP))
    result = ask(upstream, signals=[agreement])
    assert (result.tier, result.confidence) == (tier, float(tier == "small"))


# --- facts: schema and tests


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize(
    ("draft", "tier"),
    [
        ('{"name": "C", "people": 450000}', "small"),
        ('{"name": "C"}', "large"),
        ("{", "large"),
        (" ", "large"),
    ],
)
def test_a_draft_that_breaks_the_schema_is_escalated_however_sure(
    upstream: Upstream, draft: str, tier: str
) -> None:
    upstream.says("small", Answer(draft, p=0.999))
    upstream.says("large", '{"name": "C", "people": 450000}')
    result = ask(upstream, response_format=City)
    assert (result.tier, result.parsed) == (tier, City(name="C", people=450_000))


@pytest.mark.parametrize(
    ("value", "tier"),
    [(0.9, "small"), (0.1, "large"), (True, "small"), (None, "large"), (87, "large")],
)
def test_a_function_of_the_users_is_a_signal(upstream: Upstream, value: Any, tier: str) -> None:
    heard: list[tuple[str, str]] = []

    def knows_cities(question: str, answer: str) -> Any:
        heard.append((question, answer))
        return value

    upstream.says("small", Answer("Canberra", p=None))
    result = ask(upstream, signals=[knows_cities])
    expected = None if value is None else float(value)
    assert ("knows_cities=87 is outside [0, 1]" in result.decision.reason) == (value == 87)
    assert (result.tier, result.confidence) == (tier, None if value == 87 else expected)
    (decided,) = [e.decision for e in entries_of(result) if e.node == "verify"]
    assert dict((decided and decided.signals) or {}).get("knows_cities") == expected
    assert heard == [(QUESTION, "Canberra")]


def test_a_check_that_fails_leaves_a_question_with_an_answer(upstream: Upstream) -> None:
    upstream.next("small", "Canberra", failure(503))
    assert ask(upstream, signals=["p_true"], middleware=[tries(1)]).tier == "large"
