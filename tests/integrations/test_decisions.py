"""Decision models as signals and verifiers, and a cascade as a decision model."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Box, Choice, Noul
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade import Cascade, Price
from cascade.errors import ConfigurationError, ModelError
from cascade.integrations.langchain import CascadeDecisionModel, DecisionSignal, DecisionVerifier
from cascade.models.base import guard
from cascade.testing import reply

Q = "What is the capital of Australia?"
Pair = Callable[..., Cascade]
PRICE = Price(input=1, output=2)
WHICH = Choice(instructions="Which model?", criteria={"fast": None, "powerful": None})


@pytest.fixture(autouse=True)
def _decisions_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "forbidden", False)


@pytest.mark.parametrize("p", [0.9, 0.2])
def test_it_is_a_verifier_by_whose_probability_the_policy_decides(pair: Pair, p: float) -> None:
    judge = CascadeDecisionModel(cascade=pair(reply("Yes", probability=p)))
    draft = reply("Sydney", probability=0.5)
    result = pair(draft, verifier=DecisionVerifier(judge, price=PRICE)).invoke(Q)
    assert (result.tier, result.calibrated) == ("small" if p > 0.8 else "large", False)
    assert result.confidence == pytest.approx(p)
    calls = [(e.model, e.cost_usd) for e in result.ledger if e.node == "verify" and e.model]
    assert calls == [("cascade:cascade", Decimal("0.000012"))]


@pytest.mark.parametrize("question", [Box(instructions="Where?"), WHICH])
def test_a_question_without_a_probability_is_refused(pair: Pair, question: Any) -> None:
    decides = CascadeDecisionModel(cascade=pair("Canberra"))
    with pytest.raises(ConfigurationError, match="label that stands for a correct draft"):
        DecisionSignal(decides, question, correct="best")
    with pytest.raises(ConfigurationError, match="not its name"):
        DecisionSignal("openai:gpt-5.1")


# --- a cascade as a decision model

STATES: list[Any] = [Q, HumanMessage(Q), [HumanMessage(Q)], [{"role": "user"}], {"question": Q}]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_its_confidence_in_a_draft_is_the_answer(pair: Pair, state: Any, how: str) -> None:
    model = CascadeDecisionModel(cascade=pair(reply("Sydney", probability=0.3)))
    asked: Any = {"state": state, "questions": {"right": Noul(instructions="?"), "who": WHICH}}
    response = model.invoke(asked) if how == "invoke" else await model.ainvoke(asked)
    assert response.nouls["right"].noul == pytest.approx(0.3)
    who = response.choices["who"]
    assert (who.choice, who.confidence) == ("powerful", pytest.approx(0.7))
    assert response.usage == {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}
    large = model.cascade.tiers[-1].model
    assert large.requests == []  # type: ignore[attr-defined]


def test_an_accepted_draft_chooses_the_small_one(pair: Pair) -> None:
    model = CascadeDecisionModel(cascade=pair(reply("Canberra", probability=0.9)))
    who = model.invoke({"state": Q, "questions": {"who": WHICH}}).choices["who"]
    assert (who.choice, who.probabilities["powerful"]) == ("fast", pytest.approx(0.1))


def test_a_draft_that_is_ruled_out_has_no_chance(pair: Pair) -> None:
    model = CascadeDecisionModel(cascade=pair(""))
    response = model.invoke({"state": Q, "questions": {"right": Noul(instructions="?")}})
    assert response.nouls["right"].noul == 0.0


def test_what_has_no_confidence_is_an_error(pair: Pair) -> None:
    cascade = pair(reply("Canberra", probability=None), signals=["logprobs"])
    with pytest.raises(ModelError, match="no confidence in a draft: logprobs did not come back"):
        CascadeDecisionModel(cascade=cascade).invoke({"state": Q, "questions": {"who": WHICH}})


@pytest.mark.parametrize(
    "question", [Box(instructions="?"), Choice(instructions="?", criteria={"one": None})]
)
def test_other_questions_are_refused(pair: Pair, question: Any) -> None:
    model = CascadeDecisionModel(cascade=pair("Canberra"))
    with pytest.raises(ConfigurationError, match=r"a label for each tier.*small, large"):
        model.invoke({"state": Q, "questions": {"q": question}})


def test_langchains_router_chooses_by_it(pair: Pair) -> None:
    def says(text: str) -> Any:
        return GenericFakeChatModel(messages=iter([AIMessage(text)]))

    choices = {
        "fast": ModelChoice(says("fast"), None),
        "powerful": ModelChoice(says("strong"), None),
    }
    classifier = CascadeDecisionModel(cascade=pair(reply("Sydney", probability=0.3)))
    with pytest.warns(Warning, match="ModelRouterMiddleware"):
        router = ModelRouterMiddleware(choices=choices, instructions="?", classifier=classifier)
    agent: Any = create_agent(says("none"), middleware=[router])
    last: BaseMessage = agent.invoke({"messages": [HumanMessage(Q)]})["messages"][-1]
    assert last.text == "strong"
