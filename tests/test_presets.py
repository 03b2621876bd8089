"""Published methods as options of `Cascade`: each runs, and decides as its paper says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, ConfigurationError, Price, Tier, presets
from cascade.confidence.prompt_router import PromptRouter, fit_prompt_router
from cascade.policies import Situation
from cascade.presets import BinPolicy
from cascade.state import Assessment
from cascade.testing import ScriptedModel, reply

RNG = np.random.default_rng(0)


def pair(small: object, **options: object) -> Cascade:
    price = Price(input=1, output=1)
    return Cascade(
        Tier(ScriptedModel(small, returns_logprobs=True), price=price),
        Tier(ScriptedModel(lambda _: "large"), price=price),
        **options,
    )


def test_mixture_of_thought_accepts_at_the_share_of_votes() -> None:
    prompts = ["Think step by step. {question}", "Write a program. {question}"]
    votes = iter(["a"] + ["a"] * 9 + ["b"] * 5 + ["a"] + ["a"] * 8 + ["b"] * 6)
    cascade = pair(lambda _: next(votes), **presets.mixture_of_thought(prompts))
    first, second = cascade.invoke("q"), cascade.invoke("q")
    assert (first.tier, round(first.confidence or 0, 3)) == ("small", round(9 / 14, 3))
    assert (second.tier, round(second.confidence or 0, 3)) == ("large", round(8 / 14, 3))
    assert sum(entry.node == "self_check" for entry in first.ledger) == 14


def test_agreement_needs_every_other_model_to_say_the_same() -> None:
    others = [ScriptedModel(lambda _: "yes", name="b"), ScriptedModel(["yes", "no"], name="c")]
    cascade = pair(lambda _: "Yes.", **presets.agreement_based(others))
    assert [cascade.invoke("q").tier for _ in range(2)] == ["small", "large"]
    with pytest.raises(ConfigurationError, match="at least one other"):
        presets.agreement_based([])


def test_token_quantile_escalates_the_asked_share_by_the_weak_tokens() -> None:
    earlier = [0.1, 0.2, 0.3, 0.4]
    options = presets.token_quantile(earlier, escalation_rate=0.5, quantile=0.0)
    weak = reply("a b", probability=[0.99, 0.2])
    strong = reply("a b", probability=[0.5, 0.5])
    answers = iter([weak, strong])
    cascade = pair(lambda _: next(answers), **options)
    assert [cascade.invoke("q").tier for _ in range(2)] == ["large", "small"]


def test_frugal_gpt_finds_the_best_quality_within_the_budget() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    small, large = np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4)
    costs = {"large_cost": np.full(4, 10.0), "small_cost": np.full(4, 1.0)}
    policy = presets.frugal_gpt(confidence, small, large, budget=6.0, **costs)["policy"]
    assert policy.threshold == 0.8
    policy = presets.frugal_gpt(confidence, small, large, budget=1.0, **costs)["policy"]
    assert policy.threshold == 0.6
    with pytest.raises(ConfigurationError, match="drafts alone cost"):
        presets.frugal_gpt(confidence, small, large, budget=0.5, **costs)


def test_automix_accepts_in_bins_where_escalating_is_not_worth_it() -> None:
    verification = np.repeat([0.1, 0.9], 100)
    small = np.repeat([0.0, 1.0], 100)
    large = np.full(200, 0.9)
    options = presets.automix(
        verification, small, large, price_of_error=1.0, large_cost=0.05, k=4, bins=4
    )
    assert options["policy"].accept == (False, False, True, True)
    hopeless = presets.automix(
        verification, small, small, price_of_error=1.0, large_cost=0.05, k=4, bins=4
    )
    assert all(hopeless["policy"].accept), "where the large model is no better, nothing escalates"
    samples = iter(["a"])
    assert pair(lambda _: next(samples, "b"), **options).invoke("q").tier == "large"


def test_a_bin_policy_escalates_what_is_ruled_out() -> None:
    situation = Situation(Assessment(objection="the answer is empty", confidence=1.0))
    assert BinPolicy((True,)).decide(situation).action == "escalate"


def test_route_llm_sends_the_hard_share_straight_to_the_large_model() -> None:
    easy, hard = "say hello to our guest", "prove the theorem about rings"
    questions = [f"{easy if i % 2 else hard} {i}" for i in range(200)]
    small = np.array([float(i % 2) for i in range(200)])
    options = presets.route_llm(questions, small, np.ones(200), large_share=0.5)
    cascade = pair(lambda _: "small", **options)
    assert cascade.invoke(f"{easy} 301").tier == "small"
    result = cascade.invoke(f"{hard} 300")
    assert result.tier == "large"
    assert [entry.node for entry in result.ledger] == ["route", "expert"]


def test_a_router_survives_its_file(tmp_path) -> None:
    questions = [f"question {i} about {'cats' if i % 2 else 'dogs'}" for i in range(120)]
    small = np.array([float(i % 2) for i in range(120)])
    router = fit_prompt_router(questions, small, np.ones(120), least_gain=0.5, tier="big")
    router.save(tmp_path / "router.json")
    again = PromptRouter.load(tmp_path / "router.json")
    assert again.predict(questions[:5]).tolist() == router.predict(questions[:5]).tolist()
    assert again([HumanMessage("a question about dogs")]) == "big"
    assert again([HumanMessage("a question about cats")]) is None
    (tmp_path / "broken.json").write_text("{}")
    for name in ("broken.json", "absent.json"):
        with pytest.raises(ConfigurationError, match=name):
            PromptRouter.load(tmp_path / name)
    with pytest.raises(ConfigurationError, match="either"):
        fit_prompt_router(questions, small, small)


def test_a_router_of_questions_without_common_words_uses_their_marks() -> None:
    questions = ["?" * (i + 1) for i in range(40)]
    small = np.array([float(i < 20) for i in range(40)])
    router = fit_prompt_router(questions, small, np.ones(40), large_share=0.5)
    assert router.text.dimensions == 0
    assert router.predict(["?"])[0] < router.predict(["?" * 40])[0]


def test_cascade_routing_and_early_abstention_are_policies() -> None:
    options = presets.cascade_routing(price_of_error=0.001)
    assert pair(lambda _: reply("a", probability=0.99), **options).invoke("q").tier == "small"
    options = presets.early_abstention(price_of_error=1e6, price_of_abstaining=0.0)
    result = pair(lambda _: reply("a", probability=0.5), **options).invoke("q")
    assert result.abstained
    assert result.answer == ""
    assert math.isclose(result.confidence or 0, 0.5)
