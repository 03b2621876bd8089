"""Shadow start: the large model answers; what the small one would have done is in the ledger."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from cascade import Cascade, CascadeResult, Price, Tier
from cascade._background import Background
from cascade.agents import Verdict
from cascade.errors import (
    AuthenticationError,
    ConfigurationError,
    ModelError,
    ModelUnavailableError,
    RecordingMissError,
)
from cascade.ledger import LedgerView, MemoryLedger, tagged
from cascade.ledger.runs import runs_of
from cascade.ledger.store import Selection, open_store
from cascade.models import Chunk, Model, Request
from cascade.oversight import Audits
from cascade.policies import DollarBudget, DollarBudgetPolicy, EconomicPolicy
from cascade.policies.wrappers import AbstainPolicy
from cascade.state import CHECKPOINT_TYPES, Completion, Decision
from cascade.testing import ScriptedModel, reply
from tests.oversight.shadowing import LARGE_PRICE, entries, large, small, start

# A draft of 10 + 1 tokens at $1 and $2 per 1M; an answer of 20 + 1 tokens at $100 and $200.
C_S, C_L = Decimal("0.000012"), Decimal("0.0022")


class Waiting(Model):
    """Drafts when it is allowed to."""

    provider, model, returns_logprobs, real = "test", "waiting", True, False

    def __init__(self) -> None:
        self.allowed, self.asked = threading.Event(), threading.Event()

    async def _complete(self, request: Request) -> Completion:
        self.asked.set()
        await asyncio.to_thread(self.allowed.wait, 20)
        return reply("yes", probability=0.9)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        yield Chunk(completion=await self._complete(request))


def test_the_reply_does_not_wait_for_the_draft() -> None:
    drafter = Waiting()
    cascade = start(drafter=drafter)
    result = cascade.invoke("q")
    assert (result.answer, result.tier, result.escalated) == ("yes", "large", True)
    assert drafter.asked.wait(10)
    assert [entry.node for entry in cascade._oversight.recorder.store.entries] == ["expert"]  # type: ignore[union-attr]
    drafter.allowed.set()
    assert [entry.node for entry in entries(cascade)] == ["expert", "shadow", "shadow"]


async def test_streams_and_batches_are_answered_by_the_large_model_too() -> None:
    cascade = start()
    *tokens, result = [event async for event in cascade.astream("q")]
    assert isinstance(result, CascadeResult)
    assert result.tier == "large"
    assert {getattr(event, "tier", None) for event in tokens} == {"large"}
    assert [r.tier for r in await cascade.abatch(["a", "b", "c"])] == ["large"] * 3
    assert len({entry.run_id for entry in entries(cascade, "shadow")}) == 4


def test_the_ledger_of_a_shadow_run() -> None:
    cascade = start(drafter=ScriptedModel([reply("no", probability=0.9)], name="s"))
    result = cascade.invoke("q")
    expert, draft, found = entries(cascade)
    assert {entry.run_id for entry in (expert, draft, found)} == {result.run_id}
    assert (expert.node, expert.cost_usd, expert.baseline_usd) == ("expert", C_L, C_L)
    assert (draft.node, draft.tier, draft.cost_usd, draft.saved_usd) == (
        "shadow",
        "small",
        C_S,
        -C_S,
    )
    assert (draft.baseline_usd, draft.basis, draft.action) == (0, "measured", None)
    assert (found.node, found.tier, found.model, found.cost_usd) == ("shadow", "small", None, 0)
    assert (found.action, found.confidence, found.calibrated) == ("accept", 0.9, False)
    assert found.signals is not None
    assert found.signals["token_count"] == 1
    assert (found.large_usd, found.loss, found.baseline_usd) == (C_L, 1.0, 0)
    assert LedgerView(entries(cascade)).saved_usd == -C_S
    (run,) = runs_of((entry, {}) for entry in entries(cascade)).values()
    assert (run.outcome, run.decided, run.audit, run.expert) == ("shadow", found, found, expert)
    assert result.ledger.saved_usd == 0  # when it was answered, nothing else had happened


def test_what_nobody_can_compare_has_no_loss_and_says_why() -> None:
    long = "One might say that it depends on what is meant by that."
    cascade = start(expert=ScriptedModel([reply(long)], name="l"))
    cascade.invoke("q")
    *_, found = entries(cascade)
    assert found.loss is None
    assert "judge" in found.note


def test_drafts_are_compared_as_in_audits() -> None:
    compared = []

    def compare(question: str, draft: str, answer: str) -> float:
        compared.append((question, draft, answer))
        return 0.25

    cascade = start(audit_rate=Audits(compare=compare))
    cascade.invoke("q")
    assert entries(cascade)[-1].loss == 0.25
    assert compared in ([("q", "yes", "yes")], [("q", "no", "yes")])


def test_a_judge_of_the_comparison_is_paid_in_the_run_and_is_no_cost_of_drafting() -> None:
    judge = Tier(ScriptedModel(["EQUAL"], name="j"), price=Price(input=1, output=1))
    expert = ScriptedModel([reply("One might say that it depends on what is meant.")], name="l")
    cascade = start(expert=expert, audit_rate=Audits(judge=judge, judge_repeat=0))
    run_id = cascade.invoke("q").run_id
    (asked,) = entries(cascade, "audit")
    assert (asked.run_id, asked.model) == (run_id, "scripted:j")
    assert asked.cost_usd is not None
    assert asked.saved_usd == -asked.cost_usd
    assert entries(cascade)[-1].loss == 0


def test_a_judge_that_cannot_be_had_leaves_the_loss_open() -> None:
    failures = [ModelUnavailableError("nobody listens", model="j")]
    judge = ScriptedModel(["EQUAL"], name="j", failures=failures)
    expert = ScriptedModel([reply("One might say that it depends on what is meant.")], name="l")
    cascade = start(expert=expert, audit_rate=Audits(judge=judge))
    cascade.invoke("q")
    found = entries(cascade)[-1]
    assert (found.node, found.loss) == ("shadow", None)
    assert "nobody listens" in found.note


def test_self_check_calls_count_against_the_saving() -> None:
    drafter = ScriptedModel([reply("no"), reply("True", top=[("True", 0.9), ("False", 0.1)])])
    cascade = start(drafter=drafter)
    cascade.invoke("q")
    calls = [entry for entry in entries(cascade, "shadow") if entry.model]
    assert [entry.note for entry in calls] == ["draft", "self_check"]
    assert all(entry.saved_usd == -(entry.cost_usd or 0) < 0 for entry in calls)


def test_a_verifier_of_the_users_decides_in_shadow_too_and_its_cost_counts() -> None:
    def verifier(question: str, answer: str) -> Verdict:
        return Verdict(accept=True, cost_usd=Decimal("0.001"))

    cascade = start(verifier=verifier)
    cascade.invoke("q")
    _, checked, found = entries(cascade, "shadow")
    assert (checked.cost_usd, checked.saved_usd) == (Decimal("0.001"), Decimal("-0.001"))
    assert (checked.baseline_usd, checked.basis, found.action) == (0, "measured", "accept")


def test_unknown_costs_stay_unknown() -> None:
    drafter = ScriptedModel([reply("no", probability=0.9, input_tokens=None)], name="s")
    expert = ScriptedModel([reply("yes", input_tokens=None)], name="l")
    cascade = start(drafter=drafter, expert=expert)
    cascade.invoke("q")
    _, draft, found = entries(cascade)
    assert (draft.cost_usd, draft.saved_usd, draft.basis) == (None, None, "unknown")
    assert (found.large_usd, found.loss) == (None, 1.0)


def test_a_draft_that_fails_has_its_entry_and_no_result(caplog: pytest.LogCaptureFixture) -> None:
    failures = [AuthenticationError("the key was refused", model="s")]
    cascade = start(drafter=small(failures=failures))
    assert cascade.invoke("q").answer == "yes"
    (failed,) = entries(cascade, "shadow")
    assert (failed.outcome, failed.action, failed.cost_usd) == ("failed", None, 0)
    assert "the key was refused" in caplog.text


def test_a_small_model_that_is_down_has_entries_of_its_attempts_and_no_result() -> None:
    failures = [ModelUnavailableError("nobody listens", model="s")] * 3
    cascade = start(drafter=small(failures=failures))
    cascade.invoke("q")
    assert [(e.outcome, e.action) for e in entries(cascade, "shadow")] == [("failed", None)] * 3


def test_when_the_large_model_is_down_the_error_is_raised_and_nothing_is_drafted() -> None:
    drafter = small()
    failures = [ModelUnavailableError("nobody listens", model="l")] * 3
    cascade = start(drafter=drafter, expert=large(failures=failures))
    with pytest.raises(ModelError, match="nobody listens"):
        cascade.invoke("q")
    assert entries(cascade, "shadow") == []
    assert drafter.requests == []


def test_a_draft_that_is_ruled_out_has_no_signals_to_learn_from() -> None:
    cascade = start(drafter=ScriptedModel([reply(" ", probability=0.99)], name="s"))
    cascade.invoke("q")
    found = entries(cascade)[-1]
    assert (found.action, found.signals, found.confidence) == ("escalate", None, 0.99)


def test_a_question_that_a_router_sends_to_the_large_model_is_not_drafted() -> None:
    drafter = small()
    cascade = start(drafter=drafter, router=lambda messages: "large")
    cascade.invoke("q")
    (found,) = entries(cascade, "shadow")
    assert (found.action, found.tier, found.loss, found.large_usd) == ("escalate", None, None, C_L)
    assert "router" in found.note
    assert drafter.requests == []


def test_more_than_two_tiers_are_tried_in_turn() -> None:
    tiers = [
        Tier(ScriptedModel([reply("no", probability=0.4)], name="s"), name="s"),
        Tier(ScriptedModel([reply("yes", probability=0.9)], name="m"), name="m"),
        Tier(large(), name="l", price=LARGE_PRICE),
    ]
    cascade = Cascade(tiers=tiers, mode="shadow", ledger=MemoryLedger())
    assert cascade.invoke("q").tier == "l"
    *drafts, found = entries(cascade, "shadow")
    assert [entry.tier for entry in drafts] == ["s", "m"]
    assert (found.tier, found.action, found.loss) == ("m", "accept", 0)


def test_a_run_that_has_begun_goes_on_as_it_began_when_the_mode_changes() -> None:
    def first(request: Request) -> Completion:
        cascade.mode = "shadow"
        return reply("no", probability=0.4)

    tiers = [
        Tier(ScriptedModel(first, name="s", returns_logprobs=True), name="s"),
        Tier(ScriptedModel([reply("yes", probability=0.9)], name="m"), name="m"),
        Tier(large(), name="l"),
    ]
    cascade = Cascade(tiers=tiers, ledger=MemoryLedger())
    assert cascade.invoke("q").tier == "m"
    assert cascade.invoke("q").tier == "l"


async def test_a_draft_that_was_not_sent_leaves_no_open_call(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        failures = [RecordingMissError("no such answer was recorded")]
        async with start(ledger=store, drafter=small(failures=failures)) as cascade:
            await cascade.ainvoke("q")
        assert [entry.node for entry in await store.query()] == ["expert"]
        assert await store.unfinished() == []


def test_a_person_is_not_asked_in_shadow_but_that_they_would_be_is_known() -> None:
    class Asks:
        def decide(self, situation: Any) -> Any:
            return Decision(action="ask", reason="a person should look")

    cascade = start(policy=Asks())
    cascade.invoke("q")
    assert entries(cascade)[-1].action == "ask"


def test_abstaining_is_known_too() -> None:
    cascade = start(policy=AbstainPolicy(EconomicPolicy(1.0), 0.0))
    assert cascade.invoke("q").answer == "yes"
    assert entries(cascade)[-1].action == "abstain"


def test_a_budget_learns_what_the_cascade_would_have_paid() -> None:
    budget = DollarBudget(DollarBudgetPolicy(budget_usd=1.0, shadow_price=5.0, step=1.0))
    cascade = start(drafter=ScriptedModel([reply("no", probability=0.9)], name="s"), policy=budget)
    before = budget.policy
    cascade.invoke("q")
    (found,) = (e for e in entries(cascade, "shadow") if e.action)
    paid = C_S + (C_L if found.action == "escalate" else 0)
    assert budget.policy == before.after(paid)


def test_tags_reach_what_is_done_after_the_reply(tmp_path: Path) -> None:
    async def main() -> list[tuple[str, str]]:
        async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
            async with start(ledger=store, tags={"app": "a"}) as cascade:
                with tagged(user="42"):
                    await cascade.ainvoke("q", {"metadata": {"ledger_tags": {"team": "t"}}})
            cascade.mode = "live"
            found = [item async for item in store.stored(Selection(tags={"app": "a"}))]
            assert all(
                item.tags == {"app": "a", "user": "42", "team": "t"}
                for item in found
                if item.entry.node != "mode"
            )
            assert await store.unfinished() == []
            return [(item.entry.node, item.entry.tier or "") for item in found]

    assert asyncio.run(main()) == [
        ("expert", "large"),
        ("shadow", "small"),
        ("shadow", "small"),
        ("mode", ""),
    ]


def test_when_too_much_is_waiting_the_request_is_answered_and_said_to_be_not_drafted() -> None:
    drafter = Waiting()
    cascade = start(drafter=drafter)
    cascade._oversight.background = Background(concurrency=1, most_waiting=1)
    cascade.invoke("first")
    assert drafter.asked.wait(10)
    for question in ("second", "third"):
        assert cascade.invoke(question).answer == "yes"
    drafter.allowed.set()
    refused = [e for e in entries(cascade, "shadow") if e.outcome == "cancelled"]
    assert [(e.model, e.cost_usd) for e in refused] == [(None, 0)]
    assert "too many" in refused[0].note


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6, unique=True))
def test_what_is_decided_in_shadow_is_what_is_decided_live(questions: list[str]) -> None:
    for price in (None, 0.01):
        shadow, live = start(price_of_error=price), start("live", price_of_error=price)
        for question in questions:
            shadow.invoke(question)
            assert shadow._oversight.background.wait(20)
            live.invoke(question)
        decided = [e for e in entries(shadow, "shadow") if e.action]
        assert [(e.action, e.confidence, e.signals) for e in decided] == [
            (e.action, e.confidence, e.signals) for e in entries(live, "verify")
        ]


def modes(cascade: Cascade) -> list[str]:
    return [entry.note for entry in entries(cascade, "mode")]


def test_going_live_and_back_is_one_setting_and_in_the_ledger() -> None:
    cascade = start(drafter=ScriptedModel([reply("no", probability=0.9)], name="s"))
    assert cascade.invoke("q").tier == "large"
    cascade.mode = "live"
    assert cascade.invoke("q").tier == "small"
    cascade.mode = "live"
    cascade.mode = "canary"
    cascade.canary_share = 0.5
    cascade.mode = "shadow"
    cascade.canary_share = 0.6
    assert cascade.invoke("q").tier == "large"
    assert cascade.mode == "shadow"
    assert cascade.canary_share == 0.6
    assert modes(cascade) == [
        "shadow → live",
        "live → canary, 10.0% of requests are live",
        "canary: 10.0% → 50.0% of requests are live",
        "canary → shadow",
    ]
    events = entries(cascade, "mode")
    assert all((e.cost_usd, e.saved_usd, e.tier) == (0, 0, None) for e in events)
    assert len({e.run_id for e in events}) == len(events)


@pytest.mark.parametrize("mode", ["Shadow", "", None, "off"])
def test_a_mode_that_does_not_exist_is_refused_and_changes_nothing(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match="'live', 'shadow', 'canary'"):
        start(mode)
    cascade = start("live")
    with pytest.raises(ConfigurationError, match="mode="):
        cascade.mode = mode
    assert cascade.mode == "live"


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.1", None])
def test_a_share_is_between_0_and_1(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="canary_share"):
        start("canary", canary_share=share)
    cascade = start("canary")
    with pytest.raises(ConfigurationError, match="canary_share"):
        cascade.canary_share = share
    assert cascade.canary_share == 0.1


def test_a_single_model_has_nobody_to_draft() -> None:
    with pytest.raises(ConfigurationError, match="needs a small model"):
        Cascade(tiers=[large()], mode="shadow")
    cascade = Cascade(tiers=[large()])
    with pytest.raises(ConfigurationError, match="needs a small model"):
        cascade.mode = "canary"
    assert cascade.invoke("q").answer == "yes"


def thread(name: object) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


async def live_threads(cascade: Cascade, names: range) -> set[int]:
    drafter = cascade.tiers[0].model
    assert isinstance(drafter, ScriptedModel)
    found = set()
    for name in names:
        result = await cascade.ainvoke("q", thread(name))
        if result.decision.confidence is not None:
            found.add(name)
    return found


async def test_a_canary_share_is_sticky_by_thread_and_grows_from_within() -> None:
    cascade = start("canary", canary_share=0.2)
    names = range(400)
    first = await live_threads(cascade, names)
    assert 80 - 4 * 8 < len(first) < 80 + 4 * 8  # four standard deviations of the binomial
    assert await live_threads(cascade, names) == first
    cascade.canary_share = 0.5
    more = await live_threads(cascade, names)
    assert first < more
    assert 200 - 4 * 10 < len(more) < 200 + 4 * 10
    other = start("canary", canary_share=0.2)
    assert await live_threads(other, names) == first
    drafted = {e.run_id for e in entries(other, "shadow")}
    assert len(drafted) == len(names) - len(first)


async def test_without_a_thread_the_share_goes_by_the_run() -> None:
    cascade = start("canary", canary_share=0.3)
    results = [await cascade.ainvoke("q") for _ in range(300)]
    live = sum(result.decision.confidence is not None for result in results)
    assert 90 - 4 * 8 < live < 90 + 4 * 8
    assert await live_threads(start("canary", canary_share=0), range(20)) == set()
    assert await live_threads(start("canary", canary_share=1), range(20)) == set(range(20))


async def test_a_conversation_goes_on_after_a_change_of_mode() -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    cascade = start("live", drafter=ScriptedModel([reply("no", probability=0.9)], name="s"))
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serde))
    for mode, tier in (("live", "small"), ("shadow", "large"), ("live", "small")):
        cascade.mode = mode  # type: ignore[assignment]
        state = await graph.ainvoke({"messages": [("user", "q")]}, thread("t"))
        assert state["messages"][-1].response_metadata["tier"] == tier
        assert state["run"].shadow == (mode == "shadow")
        assert (state["draft"] is None) == (mode == "shadow")
    drafts = [entry for entry in entries(cascade, "shadow") if entry.model]
    assert len(drafts) == 1


async def test_cascades_of_one_process_have_their_own_modes() -> None:
    one, other = start("shadow"), start("live")
    other.mode = "canary"
    assert (one.mode, other.mode) == ("shadow", "canary")
