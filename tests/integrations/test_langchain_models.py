"""The chat model, decision models as signals and verifiers, and a cascade as a decision model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Box, Choice, Noul
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers.context import collect_runs
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ValidationError

from cascade import Cascade, MemoryLedger, Price, tagged
from cascade.errors import ConfigurationError, InputError, ModelError, PersonNeededError
from cascade.integrations.langchain import (
    CascadeChatModel,
    CascadeDecisionModel,
    DecisionSignal,
    DecisionVerifier,
    _settings,
)
from cascade.middleware import Shadow, ToolRisks
from cascade.models.base import Request, guard
from cascade.testing import ScriptedModel, reply

Q = "What is the capital of Australia?"
Pair = Callable[..., Cascade]
SURE, UNSURE = reply("Canberra", probability=0.95), reply("Sydney I think", probability=0.3)


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 460_000


@tool(extras={"risk": "irreversible"})
def delete(path: str) -> str:
    """Delete a file."""
    return path


POPULATION: Any = {"name": "population", "args": {"city": "Canberra"}, "id": "1"}


def requests(cascade: Cascade) -> list[Request]:
    return [request for tier in cascade.tiers for request in tier.model.requests]  # type: ignore[attr-defined]


# --- what an answer says


def test_unknown_usage_is_counted_and_not_invented(pair: Pair) -> None:
    silent = reply("Canberra", probability=0.95, input_tokens=None)
    message = pair(silent).as_chat_model().invoke(Q)
    assert message.usage_metadata is None
    assert message.response_metadata["unknown_usage"] == 1
    assert message.response_metadata["cost_usd"] is None


def test_a_cascade_as_a_tier_costs_what_its_ledger_says(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "forbidden", False)
    outer = Cascade(pair(UNSURE).as_chat_model(), ScriptedModel("x"), verifier=lambda _q, _a: True)
    (draft,) = [entry for entry in outer.invoke(Q).ledger if entry.node == "draft"]
    assert (draft.cost_usd, draft.cost_basis) == (Decimal("0.000028"), "measured")


def test_log_probs_come_in_the_form_of_openai_where_they_are_wanted(pair: Pair) -> None:
    model = pair(SURE).as_chat_model()
    assert "logprobs" not in model.invoke(Q).response_metadata
    (token,) = model.invoke(Q, logprobs=True).response_metadata["logprobs"]["content"]
    assert (token["token"], token["bytes"]) == ("Canberra", [*b"Canberra"])


# --- what a call brings along


def test_settings_of_a_call_come_before_those_that_are_bound(pair: Pair) -> None:
    cascade = pair(SURE)
    model = cascade.as_chat_model().bind(temperature=0.1, max_tokens=7, stop=["."], timeout=9)
    model.invoke(Q)
    model.invoke(Q, temperature=0.5, stop=["\n"], seed=3, think=True)
    first, second = requests(cascade)
    assert (first.temperature, first.max_tokens, first.stop, first.timeout_s) == (0.1, 7, (".",), 9)
    assert (second.temperature, second.stop, second.seed) == (0.5, ("\n",), 3)
    assert dict(second.extra) == {"think": True}


def test_tags_and_the_agents_name_are_in_the_ledger(pair: Pair) -> None:
    store = MemoryLedger()
    model = pair(SURE, ledger=store).as_chat_model()
    with tagged(user="42"):
        model.invoke(Q, {"metadata": {"lc_agent_name": "clerk"}})
    tags = [store.tags[entry.id] for entry in store.entries]
    assert tags == [{"agent": "clerk", "user": "42"}] * len(tags)


CHOICES = [
    ("any", "required"),
    (True, "required"),
    (False, "auto"),
    ("none", "none"),
    ("population", "population"),
    ({"type": "function", "function": {"name": "population"}}, "population"),
    ({"type": "function", "name": "population"}, "population"),
]


@pytest.mark.parametrize(("choice", "read"), CHOICES)
def test_a_choice_of_tools_is_read(choice: Any, read: str) -> None:
    assert _settings({"tools": [population], "tool_choice": choice})["tool_choice"] == read


FORMATS = [
    ({"type": "json_object"}, {"type": "object"}),
    (
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        {"title": "n", "type": "object"},
    ),
    ({"type": "object", "title": "t"}, {"type": "object", "title": "t"}),
]


@pytest.mark.parametrize(("form", "schema"), FORMATS)
def test_a_response_format_is_read(form: Any, schema: Any) -> None:
    assert _settings({"response_format": form})["schema"] == schema


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt-5"}, "model='gpt-5'"),
    ({"tool_choice": "any"}, "tools there are: none"),
    ({"tool_choice": {"type": "function", "function": "pop"}}, "tools there are: none"),
    ({"tools": [population], "tool_choice": "pop"}, "population"),
    ({"response_format": {"type": "json_schema"}}, "response_format has no valid JSON schema"),
    ({"tags": {"a": 1}}, r"tags\['a'\]=1"),
    ({"tools": b""}, "tools=b''"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_a_setting_that_cannot_be_read_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        _settings(given)


def test_no_tools_means_none_also_where_the_cascade_has_some(pair: Pair) -> None:
    cascade = pair(SURE, tools=[population])
    cascade.as_chat_model().bind_tools([]).invoke(Q)
    assert requests(cascade)[0].tools == ()


def test_strict_tools_are_sent_as_such(pair: Pair) -> None:
    cascade = pair(SURE)
    cascade.as_chat_model().bind_tools([population], strict=True).invoke(Q)
    (sent,) = requests(cascade)[0].tools
    assert sent["function"]["strict"] is True


def test_a_conversation_is_known_by_its_thread(pair: Pair) -> None:
    model = pair(SURE, middleware=[Shadow(live_share=0.5)]).as_chat_model()
    tiers = {
        tuple(
            model.invoke(Q, {"metadata": {"thread_id": thread}}).response_metadata["tier"]
            for _ in range(5)
        )
        for thread in "abcdef"
    }
    assert tiers == {("small",) * 5, ("large",) * 5}


async def test_no_message_is_no_question(pair: Pair) -> None:
    model = pair(SURE).as_chat_model()
    for ask in (model.ainvoke([]), anext(aiter(model.astream([])))):
        with pytest.raises(InputError, match="the list of messages is empty"):
            await ask


def test_a_person_cannot_be_asked(pair: Pair) -> None:
    call: Any = {"name": "delete", "args": {"path": "a"}, "id": "1"}
    asks = ToolRisks(irreversible="ask")
    cascade = pair(reply("", tool_calls=[call]), reply("", tool_calls=[call]), middleware=[asks])
    with pytest.raises(PersonNeededError, match=r"cascade\.graph") as raised:
        cascade.as_chat_model().bind_tools([delete]).invoke(Q)
    assert raised.value.run.step == "person"


def test_langchains_cache_is_refused(pair: Pair) -> None:
    with pytest.raises(ValidationError, match=r"Cache\(…\)"):
        pair(SURE).as_chat_model(cache=True)
    assert pair(SURE).as_chat_model(cache=None).cache is False


# --- structured output


@dataclass
class CityData:
    """A city."""

    name: str
    people: int


RIGHT = '{"name": "Canberra", "people": 460000}'
BAD = '{"name": "Canberra", "people": "many"}'


def test_what_cannot_be_read_is_an_error_or_stands_beside_the_message(pair: Pair) -> None:
    model = pair(reply(BAD, probability=0.97), BAD).as_chat_model()
    with pytest.raises(OutputParserException, match="CityData"):
        model.with_structured_output(CityData).invoke(Q)
    read = model.with_structured_output(CityData, include_raw=True).invoke(Q)
    assert read["parsed"] is None
    assert isinstance(read["parsing_error"], OutputParserException)


def test_a_schema_of_something_else_than_an_object_holds(pair: Pair) -> None:
    numbers = {"type": "array", "items": {"type": "integer"}}
    model: Any = pair(reply('["one"]', probability=0.97), "[1, 2]").as_chat_model()
    for method in ("json_schema", "json_mode"):
        assert model.with_structured_output(numbers, method=method).invoke(Q) == [1, 2]
    with pytest.raises(ConfigurationError, match="this schema has json_schema, json_mode"):
        model.with_structured_output(numbers, method="function_calling")


def test_a_function_in_the_format_of_openai_is_a_schema(pair: Pair) -> None:
    function = convert_to_openai_tool(CityData)
    model = pair(reply(RIGHT, probability=0.97)).as_chat_model()
    assert model.with_structured_output(function).invoke(Q) == json.loads(RIGHT)


def test_an_unknown_method_and_no_schema_are_refused(pair: Pair) -> None:
    model: Any = pair(SURE).as_chat_model()
    with pytest.raises(ConfigurationError, match="method='magic'"):
        model.with_structured_output(CityData, method="magic")
    with pytest.raises(ConfigurationError, match="give a pydantic model class"):
        model.with_structured_output(5)


# --- what is around a call


def test_it_says_what_it_is(pair: Pair) -> None:
    model = pair(SURE).as_chat_model()
    assert isinstance(model, CascadeChatModel)
    with collect_runs() as tracing:
        model.invoke(Q)
        CascadeDecisionModel(cascade=model.cascade).invoke({"state": Q, "questions": {}})
    told, judge = ((run.extra or {})["metadata"] for run in tracing.traced_runs)
    assert (told["ls_provider"], judge["ls_provider"], model._llm_type) == ("cascade",) * 3
    assert told["ls_model_name"] == "scripted:small → scripted:large"


# --- decision models

PRICE = Price(input=1, output=2)
WHICH = Choice(instructions="Which model?", criteria={"fast": None, "powerful": None})


@pytest.mark.parametrize("p", [0.9, 0.2])
def test_it_is_a_verifier_by_whose_probability_the_policy_decides(
    pair: Pair, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "forbidden", False)
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
