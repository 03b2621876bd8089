"""`local_only`: nothing leaves this machine, whatever is decided and whatever fails."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from cascade import Audits, Cascade, MemoryLedger, Price, Tier, Token, Verdict, build_graph
from cascade.confidence.signals import Agreement
from cascade.errors import (
    ConfigurationError,
    InputError,
    LocalOnlyError,
    ModelUnavailableError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.models import Model
from cascade.models.base import guard
from cascade.models.withheld import WithheldModel
from cascade.oversight import Drift
from cascade.oversight.local import check_local_only
from cascade.policies import CertifiedPolicy, Situation, ThresholdPolicy
from cascade.result import CascadeResult, read_result
from cascade.setup import open_pair_or_tiers
from cascade.state import CHECKPOINT_TYPES, Certificate, Decision, LedgerEntry
from cascade.testing import ScriptedModel, reply
from tests.servers.fake import FakeServer

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
DOWN = ModelUnavailableError("nobody listens", model="m", billed=False)
STAY: Any = {"configurable": {"local_only": True}}
PRICE = Price(input=1, output=1)
CERTIFICATE = Certificate(
    threshold=0.9, max_harm=0.05, delta=0.1, n=100, errors=1, coverage=0.5, bound=0.05
)


def small(probability: float = 0.3, text: str = "Sydney", **options: Any) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability)], name="s", **options)


def large(**options: Any) -> ScriptedModel:
    return ScriptedModel(["Canberra"], name="l", local=False, **options)


def cascade_of(first: Any, last: Any, **options: Any) -> Cascade:
    return Cascade(Tier(first, price=PRICE), Tier(last, price=PRICE), retry_policy=FAST, **options)


def notes(result: CascadeResult, node: str) -> list[str]:
    return [entry.note for entry in result.ledger if entry.node == node]


def reachable(root: object) -> Iterator[object]:
    """Everything that an object holds, as the garbage collector sees it."""
    seen, todo = set(), [root]
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, type | type(gc)):
            continue
        seen.add(id(found))
        yield found
        # A function's globals are not what it holds: they lead to every module there is.
        held = [found.__closure__, found.__defaults__] if _is_function(found) else None
        todo += gc.get_referents(found) if held is None else held


def _is_function(found: object) -> bool:
    return type(found).__name__ == "function"


# --- a graph without a way out -------------------------------------------------------------------


@pytest.mark.parametrize("stays", [True, "answer", "abstain"])
def test_the_compiled_graph_has_no_edge_to_a_remote_tier_and_no_agent_that_holds_one(
    stays: Any,
) -> None:
    far = large()
    cascade = cascade_of(small(), far, local_only=stays)
    drawn = cascade.graph.get_graph()
    assert set(drawn.nodes) == {
        "__start__", "route", "draft", "self_check", "verify", "ask", "__end__",
    }  # fmt: skip
    assert {(edge.source, edge.target) for edge in drawn.edges} == {
        ("__start__", "route"),
        ("route", "draft"),
        ("draft", "self_check"),
        ("self_check", "verify"),
        ("verify", "__end__"),
        ("verify", "ask"),
        ("ask", "__end__"),
    }
    models = [held for held in reachable(cascade.graph) if isinstance(held, Model)]
    assert any(model.local for model in models)
    assert all(model.local or isinstance(model, WithheldModel) for model in models)
    assert not any(model is far for model in models)
    plates = [model for model in models if isinstance(model, WithheldModel)]
    assert {key for plate in plates for key in vars(plate)} <= {
        "provider", "model", "returns_logprobs", "forces_tools",
    }  # fmt: skip


def test_the_walk_finds_a_remote_model_where_there_is_one() -> None:
    far = large()
    cascade = cascade_of(small(), far)
    assert "expert" in cascade.graph.get_graph().nodes
    assert any(held is far for held in reachable(cascade.graph))


async def test_no_request_reaches_the_server_of_a_remote_tier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "forbidden", False)  # the server is the test's own
    with FakeServer() as server:
        elsewhere = Tier(
            "openai:gpt", base_url=server.openai_url, api_key="k", price=PRICE, local=False
        )
        async with Cascade(Tier(small(), price=PRICE), elsewhere, local_only=True) as cascade:
            result = await cascade.ainvoke("Capital of Australia?")
            assert (result.answer, result.tier, result.degraded) == ("Sydney", "small", True)
        async with Cascade(Tier(small(), price=PRICE), elsewhere) as cascade:
            await cascade.ainvoke("Capital of Australia?", STAY)
            assert len(server.received) == 0
            await cascade.ainvoke("Capital of Australia?")
            assert len(server.received) == 1


async def test_a_doubtful_draft_is_the_answer_and_says_why() -> None:
    result = await cascade_of(small(), large(), local_only=True).ainvoke("?")
    assert result.decision.action == "accept"
    assert not result.abstained
    assert not result.escalated
    assert result.decision.reason == (
        "uncalibrated score 0.300 < 0.800; but large must not be asked: the question has to stay "
        "on this machine"
    )
    assert notes(result, "verify") == [result.decision.reason]
    assert notes(result, "route") == ["the cascade is local only: stays on this machine"]


async def test_a_good_draft_is_not_degraded_and_earns_nothing_either() -> None:
    result = await cascade_of(small(0.95), large(), local_only=True).ainvoke("?")
    assert not result.degraded
    assert result.ledger.baseline_usd == 0
    assert result.ledger.saved_usd == -(result.ledger.cost_usd or 0) == Decimal("-0.000011")
    assert result.ledger.saved_basis == "measured"
    assert notes(result, "verify")[0].endswith(
        "; large must not be asked: the question has to stay on this machine"
    )


async def test_abstaining_gives_no_answer() -> None:
    result = await cascade_of(small(), large(), local_only="abstain").ainvoke("?")
    assert (result.answer, result.abstained, result.degraded) == ("", True, False)
    assert (await cascade_of(small(0.95), large(), local_only="abstain").ainvoke("?")).answer


async def test_a_draft_that_is_ruled_out_is_no_answer() -> None:
    cascade = cascade_of(
        small(text="no JSON"), large(), local_only=True, response_format={"type": "object"}
    )
    result = await cascade.ainvoke("?")
    assert (result.answer, result.abstained) == ("", True)


async def test_of_three_tiers_the_second_local_one_is_the_last_and_still_judged() -> None:
    far, middle = large(), small(0.5, "Melbourne")
    tiers = [Tier(small(), name="s"), Tier(middle, name="m"), Tier(far, name="l")]
    result = await Cascade(tiers=tiers, local_only=True).ainvoke("?")
    assert (result.answer, result.tier, result.degraded) == ("Melbourne", "m", True)
    assert result.escalated
    assert result.confidence == pytest.approx(0.5)
    assert "but l must not be asked" in result.decision.reason
    assert not far.requests


async def test_a_tier_elsewhere_between_two_local_ones_is_left_out() -> None:
    far, last = large(), ScriptedModel(["Canberra"], name="big")
    tiers = [Tier(small(), name="s"), Tier(far, name="far"), Tier(last, name="big", price=PRICE)]
    result = await Cascade(tiers=tiers, local_only=True).ainvoke("?")
    assert (result.answer, result.tier, result.degraded) == ("Canberra", "big", False)
    assert not far.requests
    reverse = [Tier(far, name="far"), Tier(last, name="big")]
    cascade = Cascade(tiers=reverse, local_only=True)
    assert "draft" not in cascade.graph.get_graph().nodes
    assert (await cascade.ainvoke("?")).answer == "Canberra"


async def test_where_all_tiers_are_here_nothing_changes_and_savings_are_earned() -> None:
    last = ScriptedModel(["Canberra"], name="l")
    assert (await cascade_of(small(), last, local_only=True).ainvoke("?")).answer == "Canberra"
    result = await cascade_of(small(0.9), last, local_only=True).ainvoke("?")
    assert result.ledger.baseline_usd


async def test_a_draft_that_fails_is_no_reason_to_go_elsewhere() -> None:
    far = large()
    with pytest.raises(ModelUnavailableError, match="nobody listens") as caught:
        await cascade_of(small(failures=[DOWN] * 3), far, local_only=True).ainvoke("?")
    assert not far.requests
    assert caught.value.ledger is not None
    assert len([e for e in caught.value.ledger if e.outcome == "failed"]) == 3


@pytest.mark.parametrize(("stays", "answer"), [("answer", "Sydney"), ("abstain", "")])
async def test_the_draft_before_a_tier_that_failed_is_kept(stays: Any, answer: str) -> None:
    tiers = [
        Tier(small(), name="s"),
        Tier(small(failures=[DOWN] * 3), name="m"),
        Tier(large(), name="l"),
    ]
    cascade = Cascade(tiers=tiers, local_only=stays, retry_policy=FAST)
    shown = [event async for event in cascade.astream("?")]
    result = shown[-1]
    assert isinstance(result, CascadeResult)
    assert (result.answer, result.degraded) == (answer, bool(answer))
    assert "".join(event.text for event in shown if isinstance(event, Token)) == answer
    assert "m failed: nobody listens; but l must not be asked" in result.decision.reason


# --- what is local -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "address", "says", "local"),
    [
        ("openai:m", "http://127.0.0.1:8000/v1", None, True),
        ("openai:m", "http://localhost:8000/v1", None, True),
        ("openai:m", "http://10.0.0.7:8000/v1", None, False),
        ("openai:m", "http://10.0.0.7:8000/v1", True, True),
        ("openai:m", "http://127.0.0.1:4000/v1", False, False),
        ("openai:m", None, None, False),
        ("ollama:m", "http://127.0.0.1:11434", None, True),
        ("ollama:gpt-oss:120b-cloud", "http://127.0.0.1:11434", None, False),
        ("ollama:glm-4.6:cloud", "http://127.0.0.1:11434", None, False),
        ("openai:gpt-oss:120b-cloud", "http://127.0.0.1:11434/v1", None, False),
        ("ollama:m", "http://gpu.example.org:11434", None, False),
    ],
)
def test_a_tier_is_local_where_requests_stay_on_this_machine(
    model: str, address: str | None, says: bool | None, local: bool
) -> None:
    assert Tier(model, base_url=address, api_key="k", local=says).open().local is local


def test_a_langchain_model_is_elsewhere_unless_its_user_says_otherwise() -> None:
    chat = FakeListChatModel(responses=["Canberra"])
    assert not Tier(chat).open().local
    assert Tier(chat, local=True).open().local


def test_without_any_local_tier_there_is_no_cascade() -> None:
    with pytest.raises(ConfigurationError, match=r"no tier is on this machine: small \(scripted"):
        cascade_of(large(), large(), local_only=True)
    with pytest.raises(ConfigurationError, match="no tier is on this machine"):
        cascade_of(large(), large(), private=lambda messages: False)


async def test_a_withheld_model_says_so() -> None:
    plate = WithheldModel(large())
    assert (plate.name, plate.local) == ("scripted:l", False)
    request: Any = None
    with pytest.raises(LocalOnlyError, match="scripted:l was not asked"):
        await plate._complete(request)
    with pytest.raises(LocalOnlyError):
        await anext(plate._stream(request))


# --- what does not go together -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"local_only": "never"}, "local_only is 'never': give True, False, 'answer' or 'abst"),
        ({"local_only": 1.0}, "local_only is 1.0"),
        ({"local_only": True, "audit_rate": 0.1}, r"audit_rate=0.1 asks large \(scripted:l\)"),
        ({"local_only": True, "mode": "shadow"}, "mode='shadow' lets scripted:l answer"),
        ({"local_only": True, "mode": "canary"}, "mode='canary' lets scripted:l answer"),
        ({"local_only": True, "policy": CertifiedPolicy(CERTIFICATE)}, "local_only='abstain'"),
        ({"local_only": True, "signals": [Agreement(large())]}, "asks scripted:l, which is not"),
        ({"private": True}, "private=True: give a function"),
    ],
)
def test_what_cannot_be_kept_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        cascade_of(small(), large(), ledger=MemoryLedger(), **options)


def test_a_judge_elsewhere_and_a_change_of_mode_are_refused_too() -> None:
    audits = Audits(judge=large())
    with pytest.raises(ConfigurationError, match="Give a judge that is here"):
        cascade_of(small(), small(), local_only=True, audit_rate=audits, ledger=MemoryLedger())
    cascade = cascade_of(small(), large(), local_only=True)
    with pytest.raises(ConfigurationError, match="nothing may leave it"):
        cascade.mode = "shadow"
    here = cascade_of(small(), small(), local_only=True, audit_rate=0.1, ledger=MemoryLedger())
    assert here.mode == "live"


def test_drafts_that_are_stopped_early_are_no_answers() -> None:
    options = {"private": None, "local_only": True, "audit_rate": None, "abort": True}
    tiers = open_pair_or_tiers(small(), large(), (), True)
    with pytest.raises(ConfigurationError, match="abort=True stops drafts so that another"):
        check_local_only(options, tiers, ThresholdPolicy())


async def test_a_certificate_goes_with_abstaining() -> None:
    policy = CertifiedPolicy(CERTIFICATE)
    result = await cascade_of(small(), large(), local_only="abstain", policy=policy).ainvoke("?")
    assert result.abstained


async def test_under_a_certificate_a_private_question_is_abstained_from() -> None:
    policy = CertifiedPolicy(CERTIFICATE)
    result = await cascade_of(small(), large(), policy=policy).ainvoke("?", STAY)
    assert result.abstained


async def test_a_watch_for_drift_that_leaves_only_the_large_model_does_not_let_go() -> None:
    far = large()
    cascade = cascade_of(small(0.95), far, private=lambda _: True, drift=Drift())
    assert cascade.drift is not None
    cascade.drift._guard.caution = "large_only"
    result = await cascade.ainvoke("?")
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "only the large model answers; but large must not be asked" in result.decision.reason
    assert not far.requests


# --- one question --------------------------------------------------------------------------------


@pytest.mark.parametrize("stays", ["abstain", "answer", True])
async def test_one_call_stays_here_and_the_next_does_not(stays: Any) -> None:
    far = large()
    cascade = cascade_of(small(), far)
    result = await cascade.ainvoke("?", {"configurable": {"local_only": stays}})
    assert (result.abstained, result.degraded) == (stays == "abstain", stays != "abstain")
    assert notes(result, "route") == ["the call is local only: stays on this machine"]
    assert not far.requests
    assert (await cascade.ainvoke("?", {"configurable": {"local_only": False}})).tier == "large"


async def test_what_the_call_says_has_to_have_a_meaning() -> None:
    with pytest.raises(InputError, match=r'config\["configurable"\]\["local_only"\] is \'yes\''):
        await cascade_of(small(), large()).ainvoke("?", {"configurable": {"local_only": "yes"}})


async def test_a_call_that_has_to_stay_where_no_tier_is_here_fails() -> None:
    for cascade in (cascade_of(large(), large()), Cascade(tiers=[large()])):
        with pytest.raises(ConfigurationError, match="the call is local only, but no tier"):
            await cascade.ainvoke("?", STAY)
    assert (await Cascade(tiers=[small()]).ainvoke("?", STAY)).answer == "Sydney"


async def test_a_call_starts_at_the_first_tier_that_is_here() -> None:
    far, last = large(), ScriptedModel(["Canberra"], name="big")
    cascade = Cascade(tiers=[Tier(far, name="far"), Tier(last, name="big")])
    result = await cascade.ainvoke("?", STAY)
    assert (result.answer, result.decision.reason) == ("Canberra", "it went straight to big")
    assert not far.requests


async def test_a_rule_of_the_users_decides_once_per_question() -> None:
    asked: list[str] = []

    async def private(messages: Any) -> bool:
        asked.append(str(messages[-1].text))
        return "secret" in asked[-1]

    far = large()
    drafts = small(failures=[DOWN])
    cascade = cascade_of(drafts, far, private=private)
    result = await cascade.ainvoke("a secret")
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert notes(result, "route") == ["private: stays on this machine"]
    assert (asked, len(drafts.requests), len(far.requests)) == (["a secret"], 2, 0)
    result = await cascade.ainvoke("hello")
    assert (result.answer, notes(result, "route")) == ("Canberra", ["not private"])


async def test_a_rule_may_say_what_becomes_of_the_question() -> None:
    result = await cascade_of(small(), large(), private=lambda _: "abstain").ainvoke("?")
    assert result.abstained


async def test_a_rule_that_fails_lets_nothing_out() -> None:
    far = large()

    def broken(messages: Any) -> Any:
        raise RuntimeError("no detector")

    with pytest.raises(RuntimeError, match="no detector"):
        await cascade_of(small(), far, private=broken).ainvoke("?")
    wrong: Any = lambda _: "maybe"  # noqa: E731
    with pytest.raises(ConfigurationError, match="returned is a value of type str: give"):
        await cascade_of(small(), far, private=wrong).ainvoke("?")
    assert not far.requests


async def test_the_users_router_cannot_send_it_away() -> None:
    far = large()
    cascade = cascade_of(small(), far, router=lambda _: "large")
    result = await cascade.ainvoke("?", STAY)
    assert (result.tier, result.degraded) == ("small", True)
    assert notes(result, "route") == [
        "the call is local only: stays on this machine; "
        "the router named large, which must not be asked"
    ]
    assert not far.requests
    assert (await cascade.ainvoke("?")).answer == "Canberra"


async def test_a_signal_that_asks_a_model_elsewhere_is_left_out() -> None:
    far, helper = large(), large()
    cascade = cascade_of(small(0.95), far, signals=["logprobs", Agreement(helper)])
    result = await cascade.ainvoke("?", STAY)
    assert result.confidence == pytest.approx(0.95)
    assert not result.degraded
    alone = cascade_of(small(0.95), far, signals=[Agreement(helper)])
    result = await alone.ainvoke("?", STAY)
    assert (result.confidence, result.degraded) == (None, True)
    assert not helper.requests
    assert not far.requests
    await alone.ainvoke("?")
    assert helper.requests


# --- audits and shadow ---------------------------------------------------------------------------


def book(cascade: Cascade) -> list[LedgerEntry]:
    store = cascade._oversight.recorder.store
    assert isinstance(store, MemoryLedger)
    return list(store.entries)


async def test_a_private_question_is_not_audited_with_a_model_elsewhere() -> None:
    far = large()
    cascade = cascade_of(small(0.95), far, audit_rate=1.0, ledger=MemoryLedger())
    await cascade.ainvoke("?", STAY)
    await cascade.audits_done()
    assert not far.requests
    assert [e.audit_rate for e in book(cascade) if e.node == "verify"] == [None]
    await cascade.ainvoke("?")
    await cascade.audits_done()
    assert len(far.requests) == 1


async def test_a_judge_elsewhere_does_not_see_a_private_question() -> None:
    judge = large()
    last = ScriptedModel(["It is Canberra, I am quite sure of that, as everybody knows."])
    audits = Audits(rate=1.0, judge=judge)
    cascade = cascade_of(small(0.95), last, audit_rate=audits, ledger=MemoryLedger())
    await cascade.ainvoke("?", STAY)
    await cascade.audits_done()
    assert len(last.requests) == 1
    assert not judge.requests
    assert "the question has to stay on this machine" in book(cascade)[-1].note


@pytest.mark.parametrize("mode", ["shadow", "canary"])
async def test_in_shadow_a_private_question_is_answered_here(mode: Any) -> None:
    far = large()
    cascade = cascade_of(
        small(), far, mode=mode, canary_share=0.0, ledger=MemoryLedger(),
        private=lambda messages: "secret" in messages[-1].text,
    )  # fmt: skip
    result = await cascade.ainvoke("a secret")
    await cascade.audits_done()
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert not far.requests
    assert not [e for e in book(cascade) if e.node == "shadow"]
    assert (await cascade.ainvoke("hello")).tier == "large"
    await cascade.audits_done()
    assert [e for e in book(cascade) if e.node == "shadow"]


async def test_the_draft_beside_a_private_answer_asks_nobody_elsewhere() -> None:
    helper, last = large(), ScriptedModel(["Canberra"], name="big")
    cascade = cascade_of(
        small(), last, mode="shadow", ledger=MemoryLedger(), signals=[Agreement(helper)]
    )
    assert (await cascade.ainvoke("?", STAY)).answer == "Canberra"
    await cascade.audits_done()
    assert [e for e in book(cascade) if e.node == "shadow"]
    assert not helper.requests


# --- checkpoints, conversations, people ----------------------------------------------------------


def saver() -> InMemorySaver:
    return InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))


def said(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


async def test_a_conversation_that_had_to_stay_stays() -> None:
    far = large()
    graph = cascade_of(small(), far).build_graph().compile(checkpointer=saver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(said("my secret"), {"configurable": {"thread_id": "t", "local_only": True}})
    state = await graph.ainvoke(said("and now?"), thread)
    assert not far.requests
    result = read_result(state, "small", None)
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert notes(result, "route") == ["an earlier question had to stay: stays on this machine"]
    other: Any = {"configurable": {"thread_id": "another"}}
    await graph.ainvoke(said("hello"), other)
    assert len(far.requests) == 1


@pytest.mark.parametrize("stays", ["answer", "abstain"])
async def test_the_conversation_itself_remembers_it(stays: Any) -> None:
    far = large()
    chat = cascade_of(small(), far).as_chat_model()
    talk: list[Any] = [HumanMessage("my secret")]
    talk.append(await chat.ainvoke(talk, {"configurable": {"local_only": stays}}))
    talk.append(HumanMessage("and now?"))
    answer = await chat.ainvoke(talk)
    assert answer.response_metadata["abstained"] is (stays == "abstain")
    assert answer.response_metadata["local_only"] == stays
    assert not far.requests
    assert "local_only" not in (await chat.ainvoke("hello")).response_metadata


async def test_a_graph_around_it_that_keeps_the_conversation_keeps_it_here() -> None:
    far = large()
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", cascade_of(small(), far).graph)
    builder.add_edge(START, "cascade")
    graph = builder.compile(checkpointer=saver())
    await graph.ainvoke(said("my secret"), {"configurable": {"thread_id": "t", "local_only": True}})
    state = await graph.ainvoke(said("and now?"), {"configurable": {"thread_id": "t"}})
    assert state["messages"][-1].text == "Sydney"
    assert not far.requests


async def test_a_run_that_is_resumed_without_saying_so_still_stays() -> None:
    far = large()
    asked: list[Any] = []
    drafts = small(failures=[RuntimeError("killed")])
    builder = cascade_of(drafts, far, private=lambda m: asked.append(m) or True).build_graph()  # type: ignore[func-returns-value]
    graph = builder.compile(checkpointer=saver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    with pytest.raises(RuntimeError, match="killed"):
        await graph.ainvoke(said("my secret"), thread)
    state = await graph.ainvoke(None, thread)
    assert read_result(state, "small", None).degraded
    assert (len(asked), len(drafts.requests), len(far.requests)) == (1, 2, 0)


class AskPerson:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="better ask")


@pytest.mark.parametrize("begun_private", [True, False])
@pytest.mark.parametrize(
    ("resume", "degraded"),
    [("escalate", True), ("accept", False), ({"answer": "Perth"}, False)],
)
async def test_a_person_cannot_send_it_away_either(
    resume: Any, degraded: bool, begun_private: bool
) -> None:
    far = large()
    graph = cascade_of(small(), far, policy=AskPerson()).build_graph().compile(saver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    stay: Any = {"configurable": {"thread_id": "t", "local_only": True}}
    await graph.ainvoke(said("?"), stay if begun_private else thread)
    state = await graph.ainvoke(Command(resume=resume), thread if begun_private else stay)
    result = read_result(state, "small", None)
    assert result.degraded is degraded
    assert not far.requests
    assert result.ledger.baseline_usd == 0
    assert "large must not be asked" in notes(result, "ask")[0]


async def test_a_person_who_wants_more_gets_no_answer_where_abstaining_was_asked_for() -> None:
    cascade = cascade_of(small(), large(), policy=AskPerson(), local_only="abstain")
    graph = cascade.build_graph().compile(saver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(said("?"), thread)
    state = await graph.ainvoke(Command(resume="escalate"), thread)
    assert read_result(state, "small", None).abstained


# --- inside of other things ----------------------------------------------------------------------


async def test_a_graph_around_it_hands_the_word_on() -> None:
    far = large()
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", cascade_of(small(), far).graph)
    builder.add_edge(START, "cascade")
    builder.add_edge("cascade", END)
    state = await builder.compile().ainvoke(said("?"), STAY)
    assert state["messages"][-1].text == "Sydney"
    assert not far.requests


async def test_all_ways_to_ask_a_chat_model_know_the_word() -> None:
    far = large()
    chat = cascade_of(small(), far).as_chat_model()

    def told(message: Any) -> bool:
        return bool(message.response_metadata["degraded"])

    assert told(chat.invoke("?", STAY))
    assert told(await chat.ainvoke("?", STAY))
    assert told(await chat.bind(stop=["x"]).ainvoke("?", STAY))
    assert told(await chat.with_config(STAY).ainvoke("?"))
    assert told(await chat.ainvoke("?", local_only="answer"))
    assert all(told(message) for message in await chat.abatch(["?", "!"], STAY))
    assert "".join(str(chunk.text) for chunk in chat.stream("?", STAY)) == "Sydney"
    assert "".join([str(chunk.text) async for chunk in chat.astream("?", STAY)]) == "Sydney"
    async for _ in chat.astream_events("?", STAY, version="v2"):
        pass
    assert not far.requests
    assert not told(await chat.ainvoke("?"))
    assert len(far.requests) == 1


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_streams_of_blocks_know_the_word_too() -> None:
    far = large()
    chat = cascade_of(small(), far).as_chat_model()
    assert str(chat.stream_events("?", STAY, version="v3").text) == "Sydney"
    assert await (await chat.astream_events("?", STAY, version="v3")).text == "Sydney"
    assert not far.requests


async def test_a_chat_model_in_a_node_knows_what_the_graph_was_told() -> None:
    far = large()
    chat = cascade_of(small(), far).as_chat_model()

    async def node(state: MessagesState) -> Any:
        return {"messages": [await chat.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("n", node)
    builder.add_edge(START, "n")
    state = await builder.compile().ainvoke(said("?"), STAY)
    assert state["messages"][-1].text == "Sydney"
    assert not far.requests


async def test_build_graph_takes_the_same_options() -> None:
    far = large()
    tiers = open_pair_or_tiers(small(), far, ())
    for options in ({"local_only": True}, {"private": lambda _: True}):
        graph = build_graph(tiers, ThresholdPolicy(), **options).compile()  # type: ignore[arg-type]
        state = await graph.ainvoke(said("?"))
        assert isinstance(state["messages"][-1], AIMessage)
        assert state["degraded"]
    assert not far.requests


# --- whatever happens ----------------------------------------------------------------------------

DECISIONS = st.builds(
    Decision,
    action=st.sampled_from(["accept", "escalate", "abstain"]),
    reason=st.just("so"),
    tier=st.sampled_from([None, "b", "c", "d"]),
)
JUDGEMENTS = st.one_of(st.booleans(), st.floats(0, 1), st.builds(Verdict, accept=st.booleans()))
ANSWERS = st.sampled_from(
    [reply("yes", probability=0.9), reply("no", probability=0.1), reply(""), DOWN]
)
SAYS = st.sampled_from([True, "answer", "abstain"])


class Says:
    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def decide(self, situation: Situation) -> Decision:
        return self.decision


@settings(max_examples=150, deadline=None)
@given(
    here=st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    answers=st.lists(ANSWERS, min_size=4, max_size=4),
    decision=DECISIONS,
    judgement=st.none() | JUDGEMENTS,
    named=st.sampled_from([None, "a", "b", "c", "d"]),
    how=st.sampled_from(["call", "rule", "cascade"]),
    says=SAYS,
    mode=st.sampled_from(["live", "shadow"]),
)
async def test_whatever_is_decided_a_private_question_reaches_no_model_elsewhere(
    here: list[bool],
    answers: list[Any],
    decision: Decision,
    judgement: Any,
    named: str | None,
    how: str,
    says: Any,
    mode: Any,
) -> None:
    models = [
        ScriptedModel([answer], local=local, returns_logprobs=True)
        for local, answer in zip(here, answers, strict=True)
    ]
    options: dict[str, Any] = {"call": {}, "rule": {"private": lambda _: says}}.get(
        how, {"local_only": says}
    )
    if judgement is not None:
        options["verifier"] = lambda question, answer: judgement
    if how != "cascade":
        options |= {"mode": mode, "audit_rate": 1.0}
    cascade = Cascade(
        tiers=[Tier(m, name=n, price=PRICE) for n, m in zip("abcd", models, strict=True)],
        policy=Says(decision),
        router=lambda _: named,
        retry_policy=FAST,
        ledger=MemoryLedger(),
        **options,
    )
    config: Any = {"configurable": {"local_only": says}} if how == "call" else None
    with suppress(ModelUnavailableError, ConfigurationError):  # of a script, and of its policy
        await cascade.ainvoke("?", config)
    await cascade.audits_done()
    assert not [model for model in models if model.requests and not model.local]
