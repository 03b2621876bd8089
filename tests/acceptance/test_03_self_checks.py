"""Row 3: self-checks by log-probs, P(True), words, consistency, agreement, schema or test."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import BaseModel

from cascade import Cascade, CascadeResult, ConfigurationError, Price
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Seen, Upstream

QUESTION = "What is the capital of Australia?"
FREE = Price(input=1, output=1)


def ask(upstream: Upstream, question: str = QUESTION, **options: Any) -> CascadeResult:
    with edition.cascade(
        upstream.tier("small", price=FREE), upstream.tier("large"), **options
    ) as c:
        return c.invoke(question)


def signals_of(result: CascadeResult) -> dict[str, float]:
    (decided,) = [e.decision for e in edition.entries_of(result) if e.node == "verify"]
    assert decided is not None
    return dict(decided.signals)


# --- log-probs


def test_the_raw_score_is_the_geometric_mean_probability_of_the_tokens(upstream: Upstream) -> None:
    upstream.says("small", "It is Canberra", p=0.9)
    result = ask(upstream)
    assert result.confidence == pytest.approx(0.9)
    assert result.calibrated is False
    assert "0.900" in result.decision.reason
    assert signals_of(result)["logprob_mean"] == pytest.approx(math.log(0.9))


@pytest.mark.parametrize(("p", "tier"), [(0.801, "small"), (0.799, "large")])
def test_by_default_a_score_of_eight_tenths_and_above_is_accepted(
    upstream: Upstream, p: float, tier: str
) -> None:
    upstream.says("small", "Canberra", p=p)
    assert ask(upstream).tier == tier


def test_log_probs_cost_no_call(upstream: Upstream) -> None:
    upstream.says("small", "Canberra", p=0.9)
    checks = [e for e in edition.entries_of(ask(upstream)) if e.node == "self_check"]
    assert [(e.cost_usd, e.model) for e in checks] in ([], [(0, None)])
    assert upstream.models() == ["small"]


@pytest.mark.parametrize("value", [0.5, -9999.0, None])
def test_a_log_prob_that_cannot_be_one_is_missing(upstream: Upstream, value: Any) -> None:
    """vLLM writes −9999 where it has none; a missing score is never a low or a high one."""
    body = f"""{{"model": "small", "choices": [{{"index": 0, "finish_reason": "stop",
        "message": {{"role": "assistant", "content": "Canberra"}}, "logprobs": {{"content":
        [{{"token": "Canberra", "logprob": {"null" if value is None else value}}}]}}}}],
        "usage": {{"prompt_tokens": 5, "completion_tokens": 1}}}}"""
    upstream.next("small", Answer(raw=body))
    upstream.says("small", "True", p=0.99)
    result = ask(upstream, signals=["logprobs"])
    assert (result.confidence, result.tier) == (None, "large")


# --- P(True) and words


@pytest.mark.parametrize(("verdict", "tier"), [("True", "small"), ("False", "large")])
def test_a_model_without_log_probs_is_asked_once_whether_its_draft_is_true(
    upstream: Upstream, verdict: str, tier: str
) -> None:
    model = FakeListChatModel(responses=["Canberra", verdict])
    with Cascade(model, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.calibrated) == (tier, False)
    calls = [e.node for e in edition.entries_of(result) if e.model]
    assert calls == ["draft", "self_check", "expert"][: 2 if tier == "small" else 3]


@pytest.mark.parametrize(("says", "p"), [("True", 0.7), ("False", 0.3)])
def test_p_true_is_the_mass_on_true_not_the_word_that_was_drawn(
    upstream: Upstream, says: str, p: float
) -> None:
    upstream.says(
        "small",
        lambda seen: (
            Answer(says, p=p if says == "True" else 1 - p)
            if seen.is_check
            else Answer("Canberra", p=0.9)
        ),
    )
    result = ask(upstream, signals=["p_true"])
    assert result.confidence == pytest.approx(p, abs=0.01)


def test_a_check_is_paid_and_booked(upstream: Upstream) -> None:
    upstream.says("small", Answer("True", p=0.9, tokens=(40, 1)))
    result = ask(upstream, signals=["p_true"])
    (check,) = [e for e in edition.entries_of(result) if e.node == "self_check" and e.model]
    assert (str(check.cost_usd), str(check.saved_usd)) == ("0.000041", "-0.000041")


def test_a_percentage_that_the_model_names_is_a_score(upstream: Upstream) -> None:
    upstream.next("small", "Canberra", "85%")
    result = ask(upstream, signals=["verbalised"])
    assert (result.confidence, result.tier) == (pytest.approx(0.85), "small")


def test_a_percentage_that_cannot_be_read_is_missing_and_escalates(upstream: Upstream) -> None:
    upstream.next("small", "Canberra", "I would rather not say")
    result = ask(upstream, signals=["verbalised"])
    assert (result.confidence, result.tier) == (None, "large")


# --- samples


@pytest.mark.parametrize(
    ("others", "tier"), [(["Canberra"] * 4, "small"), (["Sydney", "Perth", "Sydney"], "large")]
)
def test_samples_that_agree_are_a_score(upstream: Upstream, others: list[str], tier: str) -> None:
    upstream.next("small", *[Answer(text, p=None) for text in ["Canberra", *others]])
    upstream.says("small", others[-1], p=None)
    result = ask(upstream, signals=["self_consistency"], threshold=0.6)
    assert result.tier == tier
    assert len(upstream.asked("small")) <= 6


@pytest.mark.parametrize(("other", "tier"), [("It is CANBERRA.", "small"), ("Sydney", "large")])
def test_another_cheap_model_that_agrees_is_a_score(
    upstream: Upstream, other: str, tier: str
) -> None:
    upstream.says("small", "It is Canberra")
    upstream.says("other", other)
    agreement = edition.signal("Agreement", upstream.tier("other", price=FREE))
    result = ask(upstream, signals=[agreement])
    assert (result.tier, result.confidence) == (tier, 1.0 if tier == "small" else 0.0)
    assert len(upstream.asked("other")) == 1


def test_a_paid_signal_is_taken_only_where_asked_for(upstream: Upstream) -> None:
    upstream.says("small", "Canberra", p=0.85)
    ask(upstream)
    assert upstream.models() == ["small"]


# --- facts: schema and tests


class City(BaseModel):
    name: str
    people: int


def test_a_draft_that_breaks_the_schema_is_escalated_however_sure(upstream: Upstream) -> None:
    upstream.says("small", '{"name": "Canberra"}', p=0.999)
    upstream.says("large", '{"name": "Canberra", "people": 450000}')
    result = ask(upstream, response_format=City)
    assert (result.tier, result.parsed) == ("large", City(name="Canberra", people=450_000))


def test_a_draft_that_keeps_the_schema_is_accepted_and_parsed(upstream: Upstream) -> None:
    upstream.says("small", '{"name": "Canberra", "people": 450000}', p=0.99)
    result = ask(upstream, response_format=City)
    assert (result.tier, result.parsed) == ("small", City(name="Canberra", people=450_000))


def test_an_empty_draft_is_escalated_however_sure(upstream: Upstream) -> None:
    upstream.says("small", Answer(" ", p=0.999))
    assert ask(upstream).tier == "large"


@pytest.mark.parametrize(("value", "tier"), [(0.9, "small"), (0.1, "large"), (True, "small")])
def test_a_function_of_the_users_is_a_signal(
    upstream: Upstream, value: float | bool, tier: str
) -> None:
    heard: list[tuple[str, str]] = []

    def knows_cities(question: str, answer: str) -> float | bool:
        heard.append((question, answer))
        return value

    upstream.says("small", "Canberra", p=None)
    result = ask(upstream, signals=[knows_cities])
    assert (result.tier, result.confidence) == (tier, float(value))
    assert heard == [(QUESTION, "Canberra")]
    assert signals_of(result)["knows_cities"] == float(value)


def test_a_signal_that_says_none_is_missing(upstream: Upstream) -> None:
    def silent(question: str, answer: str) -> None:
        del question, answer

    upstream.says("small", "Canberra", p=None)
    result = ask(upstream, signals=[silent])
    assert (result.confidence, result.tier) == (None, "large")
    assert "silent" not in signals_of(result)


def test_free_signals_stand_beside_each_other(upstream: Upstream) -> None:
    upstream.says("small", "I am not sure, perhaps Canberra", p=0.9)
    found = signals_of(ask(upstream, signals=["logprobs", "text", "prompt"]))
    assert {"logprob_mean", "logprob_min", "prompt_words"} <= set(found)
    assert upstream.models() in (["small"], ["small", "large"])


def test_an_unknown_signal_is_refused_by_name(upstream: Upstream) -> None:
    with pytest.raises(ConfigurationError, match="luck"):
        Cascade(upstream.tier("small"), upstream.tier("large"), signals=["luck"])


def test_a_check_that_fails_leaves_a_question_with_an_answer(upstream: Upstream) -> None:
    def says(seen: Seen) -> Answer:
        return Answer("no", status=400) if seen.is_check else Answer("Canberra", p=None)

    upstream.says("small", says)
    upstream.says("large", "Canberra it is")
    assert ask(upstream).answer == "Canberra it is"
