"""A run that waits between its draft and the decision is the run that it would have been."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.cache.memory import InMemoryCache

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.ledger import LedgerView
from cascade.pausing import Paused
from cascade.policies import GivenPolicy, Situation
from cascade.result import CascadeResult
from cascade.state import Assessment, Decision
from cascade.testing import ScriptedModel, reply

QUESTION = [("system", "Be brief."), ("human", "What is the capital of Australia?")]
OF_ITS_TIME = {"run_id", "at", "latency_ms", "attempt_id"}

Action = Literal["accept", "escalate"]


class Says:
    """Decides the same of every draft."""

    def __init__(self, action: Action) -> None:
        self.action = action

    def decide(self, situation: Situation) -> Decision:
        """Say it."""
        return Decision(action=self.action, reason="so", confidence=situation.assessment.confidence)


def pair(probability: float = 0.7, *, down: bool = False, **options: Any) -> Cascade:
    def draft(request: Any) -> Any:
        if down:
            raise ModelUnavailableError("down", model="small", billed=False)
        return reply("Sydney it is", probability=probability)

    small = ScriptedModel(draft, name="small", returns_logprobs=True)
    large = ScriptedModel(["Canberra"], name="large")
    prices = Price(input=1, output=2), Price(input=30, output=60)
    return Cascade(
        Tier(small, price=prices[0]), Tier(large, price=prices[1]), resilience=None, **options
    )


def entries(ledger: MemoryLedger) -> list[dict[str, Any]]:
    return [entry.model_dump(exclude=OF_ITS_TIME) for entry in ledger.entries]


async def drafted(cascade: Cascade) -> Paused:
    paused = await cascade.adraft(QUESTION)
    assert isinstance(paused, Paused)
    return paused


@given(st.floats(0.01, 1.0), st.sampled_from(["accept", "escalate"]))
@settings(max_examples=20, deadline=None)
async def test_it_ends_as_it_would_have_without_waiting(probability: float, action: Action) -> None:
    at_once, later = MemoryLedger(), MemoryLedger()
    expected = await pair(probability, policy=Says(action), ledger=at_once).ainvoke(QUESTION)
    paused = await drafted(pair(probability, ledger=later))
    kept = Paused.load(json.loads(json.dumps(paused.dump())))
    assert kept == paused
    decision = Decision(action=action, reason="so")
    found = await pair(probability, ledger=later).adecide(QUESTION, kept, decision)
    assert entries(later) == entries(at_once)
    assert len({entry.run_id for entry in later.entries}) == 1
    for name in ("answer", "tier", "escalated", "confidence", "calibrated", "decision"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.ledger.saved_usd == LedgerView(later.entries).saved_usd


async def test_no_draft_is_made_twice_and_no_large_model_asked_before_the_decision() -> None:
    cascade = pair()
    paused = await drafted(cascade)
    small, large = (tier.model for tier in cascade.tiers)
    assert isinstance(small, ScriptedModel)
    assert isinstance(large, ScriptedModel)
    assert (len(small.requests), len(large.requests)) == (1, 0)
    await cascade.adecide(QUESTION, paused, Decision(action="escalate", reason="so"))
    assert (len(small.requests), len(large.requests)) == (1, 1)


async def test_where_no_draft_could_be_had_it_can_only_be_escalated() -> None:
    cascade = pair(down=True)
    paused = await drafted(cascade)
    assert (paused.at, paused.draft) == ("expert", None)
    with pytest.raises(ConfigurationError, match="no draft to accept: escalate"):
        await cascade.adecide(QUESTION, paused, Decision(action="accept", reason="so"))
    found = await cascade.adecide(QUESTION, paused, Decision(action="escalate", reason="so"))
    assert (found.answer, found.escalated) == ("Canberra", True)


async def test_what_stands_in_the_way_of_a_decision_is_told_and_asks_nobody() -> None:
    cascade = pair(drift="large_only", ledger=MemoryLedger())
    paused = await drafted(cascade)
    assert cascade.drift is not None
    cascade.drift._guard.caution = "large_only"
    with pytest.raises(ConfigurationError, match="only the large model answers"):
        await cascade.adecide(QUESTION, paused, Decision(action="accept", reason="so"))
    large = cascade.tiers[-1].model
    assert isinstance(large, ScriptedModel)
    assert large.requests == []


async def test_a_cache_that_knows_the_answer_leaves_nothing_to_decide() -> None:

    cascade = pair(0.95, cache=InMemoryCache())
    await cascade.ainvoke(QUESTION)
    found = await cascade.adraft(QUESTION)
    assert isinstance(found, CascadeResult)
    assert found.cached


def test_a_given_policy_decides_nothing_by_itself() -> None:
    with pytest.raises(ConfigurationError, match="with given"):
        GivenPolicy().decide(Situation(Assessment(confidence=0.5)))
