from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.cache.memory import InMemoryCache

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier, Verdict
from cascade.errors import ModelUnavailableError, PersonNeededError
from cascade.middleware import Abort, Cache, Deadline, Drift, Retries, ToolRisks
from cascade.middleware.cache import NAMESPACE, identity
from cascade.policies import EconomicPolicy, ThresholdPolicy
from cascade.run import CascadeRuntime, Settings
from cascade.testing import ScriptedModel
from cascade.testing.scripted import reply
from tests.middleware.cascades import PRICE, ask, both_drivers, large, of, pair, questions, small

Q = "Capital of Australia?"


class Elsewhere(InMemoryCache[Any]):
    """A cache that is not the memory of this process, as far as is known."""


@pytest.fixture
def store() -> InMemoryCache[Any]:
    return InMemoryCache()


# --- a hit


@both_drivers
@pytest.mark.parametrize(("p", "tier"), [(0.95, "small"), (0.3, "large")])
async def test_the_same_question_is_answered_without_a_model(
    store: Any, driver: str, p: float, tier: str
) -> None:
    drafts, answers, ledger = small(p=p), large(), MemoryLedger()
    made = pair(drafts, answers, ledger=ledger, middleware=[Cache(store)])
    first, second = [await ask(made, Q, driver) for _ in range(2)]
    assert (second.answer, second.tier) == (first.answer, first.tier) == ("Canberra", tier)
    assert (first.cached, second.cached) == (False, True)
    assert first.run_id in second.decision.reason
    assert len(drafts.requests) + len(answers.requests) == (1 if tier == "small" else 2)
    (hit,) = second.ledger
    assert (hit.node, hit.tier, hit.cost_usd, hit.saved_usd) == ("cache", tier, 0, 0)


async def test_a_hit_is_shown_to_the_reader_of_a_stream(store: Any) -> None:
    made = pair(middleware=[Cache(store)])
    await ask(made, Q)
    *events, result = [event async for event in made.astream(Q)]
    assert "".join(getattr(event, "text", "") for event in events) == result.answer == "Canberra"


async def test_log_probs_are_kept_where_they_were_asked_for(store: Any) -> None:
    made = pair(middleware=[Cache(store)])
    await ask(made, Q)
    runs = []
    for _ in range(2):
        run = made.kernel.begin([HumanMessage(Q)], Settings(top_logprobs=0))
        await made.kernel.answer(run, CascadeRuntime(made.kernel))
        runs.append(run)
    assert runs[1].draft is not None
    assert runs[1].draft.cached
    assert runs[1].draft.logprobs == runs[0].draft.logprobs is not None


async def test_an_answer_is_kept_for_so_long() -> None:
    kept: list[Any] = []

    class Noting(Elsewhere):
        async def aset(self, pairs: Any) -> None:
            kept.extend(pairs.items())

    await ask(pair(middleware=[Cache(Noting(), ttl_s=60)]), Q)
    (((namespace, _), (_, ttl)),) = kept
    assert (namespace, ttl) == (NAMESPACE, 60)


# --- what makes another question


CONVERSATIONS: list[Any] = [
    [HumanMessage(Q)],
    [HumanMessage("Capital of Austria?")],
    [HumanMessage(Q, name="Anna")],
    [HumanMessage("Hello"), AIMessage("Hello"), HumanMessage(Q)],
    [HumanMessage("Hello"), AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
     ToolMessage("x", tool_call_id="1")],
]  # fmt: skip


async def test_another_conversation_is_another_question(store: Any) -> None:
    model = small()
    made = pair(model, middleware=[Cache(store)])
    for conversation in CONVERSATIONS:
        await ask(made, conversation)
    assert len(model.requests) == len(CONVERSATIONS)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [({"temperature": 0.5}, 2), ({"max_tokens": 5}, 2), ({"tags": {"user": "42"}}, 1)],
)
async def test_other_settings_are_another_question_and_tags_are_not(
    store: Any, settings: Any, asked: int
) -> None:
    model = small()
    made = pair(model, middleware=[Cache(store)])
    await ask(made, Q)
    await ask(made, Q, **settings)
    assert len(model.requests) == asked


def judge(least: float, question: str, answer: str) -> bool:
    del question
    return len(answer) > least


OTHERS: dict[str, Any] = {
    "threshold": {"threshold": 0.5},
    "policy": {"policy": EconomicPolicy(0.05)},
    "signals": {"signals": ["logprobs", "text"]},
    "verifier": {"verifier": lambda _q, _a: True},
    "the verifier's own values": {"verifier": partial(judge, 3)},
    "router": {"router": lambda messages: None if messages else "large"},
    "a middleware that decides": {"middleware": [ToolRisks({"delete": "irreversible"})]},
    "limits of a middleware": {"middleware": [ToolRisks({"delete": "write"})]},
}


def test_everything_that_an_answer_depends_on_makes_another_set_up() -> None:
    made = [pair(**given) for given in ({}, *OTHERS.values())]
    made += [pair(answers=ScriptedModel("x", name="other"))]
    made += [Cascade(Tier(small(), price=PRICE, max_tokens=9), Tier(large(), price=PRICE))]
    made += [pair(verifier=lambda _q, _a: False), pair(verifier=partial(judge, 5))]
    made += [pair(verifier=Strict().judge), pair(policy=Odd())]
    identities = [identity(each.kernel) for each in made]
    assert len(set(identities)) == len(identities)


class Strict:
    def judge(self, question: str, answer: str) -> Verdict:
        return Verdict(accept=answer in {"yes", "no"} and [len(c) for c in question] == [])


class Odd:
    """A policy that is no record."""

    def decide(self, situation: Any) -> Any:
        return ThresholdPolicy().decide(situation)


def test_what_changes_no_answer_makes_no_other_set_up() -> None:
    plain = identity(pair(middleware=[Retries()]).kernel)
    assert (
        identity(pair(ledger=MemoryLedger(), middleware=[Cache(InMemoryCache())]).kernel) == plain
    )


# --- what is not kept


async def test_a_degraded_answer_is_not_kept(store: Any) -> None:
    down = ModelUnavailableError("down", model="scripted:large")
    answers = large("Canberra!", failures=[down])
    made = pair(small(p=0.3), answers, middleware=[Cache(store), Retries(attempts=1)])
    assert (await ask(made, Q)).degraded
    assert (await ask(made, Q)).answer == "Canberra!"


async def test_what_holds_for_one_run_is_not_kept(store: Any) -> None:
    model, slow = small(p=0.3), Deadline(0.2)
    slow._seen_s["large"] = 60.0
    made = pair(model, middleware=[Cache(store), slow])
    assert (await ask(made, Q)).decision.once
    await ask(made, Q)
    assert len(model.requests) == 2


@pytest.mark.parametrize("answer", ["", "   "])
async def test_an_empty_answer_is_not_kept(store: Any, answer: str) -> None:
    answers = large(answer)
    made = pair(small(p=0.3), answers, middleware=[Cache(store)])
    for _ in range(2):
        await ask(made, Q)
    assert len(answers.requests) == 2


async def test_a_persons_answer_is_not_kept(store: Any) -> None:
    class Asks:
        def decide(self, situation: Any) -> Any:
            return ThresholdPolicy().decide(situation).model_copy(update={"action": "ask"})

    model = small()
    made = pair(model, policy=Asks(), middleware=[Cache(store)])
    for _ in range(2):
        with pytest.raises(PersonNeededError) as caught:
            await ask(made, Q)
        await made.aresume(caught.value.run, {"answer": "Canberra, I say"})
    assert len(model.requests) == 2


# --- privacy


@pytest.mark.parametrize(
    ("kind", "local", "asked"),
    [(InMemoryCache, None, 1), (Elsewhere, False, 2), (Elsewhere, True, 1)],
)
async def test_what_must_stay_here_is_kept_in_memory_or_where_that_is_allowed(
    kind: Any, local: bool | None, asked: int
) -> None:
    model = small()
    made = pair(model, middleware=[Cache(kind(), local=local)])
    for _ in range(2):
        await ask(made, Q, local_only=True)
    assert len(model.requests) == asked


# --- a stricter stack


async def test_a_kept_draft_is_given_only_while_the_stack_would_accept_it(store: Any) -> None:
    model, answers = small(), large()
    drift = Drift("large_only")
    made = pair(model, answers, middleware=[Cache(store), drift])
    assert (await ask(made, Q)).tier == "small"
    drift.caution = "large_only"
    assert (await ask(made, Q)).tier == "large"
    assert (await ask(made, Q)).cached  # the large answer stands


async def test_under_tighten_a_kept_draft_needs_the_higher_confidence(store: Any) -> None:
    drift = Drift("tighten")
    made = pair(small(p=0.85), middleware=[Cache(store), drift])
    assert (await ask(made, Q)).tier == "small"
    drift.caution = "tighten"  # 0.85 counts as 0.74
    assert (await ask(made, Q)).tier == "large"


# --- caches that fail


class Failing(Elsewhere):
    async def aget(self, keys: Any) -> Any:
        raise ConnectionError("no cache")

    async def aset(self, pairs: Any) -> None:
        raise ConnectionError("no cache")


class Hanging(Elsewhere):
    async def aget(self, keys: Any) -> Any:
        await asyncio.Event().wait()

    async def aset(self, pairs: Any) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", [Failing, Hanging])
async def test_a_cache_that_fails_loses_no_question(
    kind: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cascade.middleware.cache.PATIENCE_S", 0.01)
    with caplog.at_level(logging.WARNING):
        assert (await ask(pair(middleware=[Cache(kind())]), Q)).answer == "Canberra"
    assert "cannot be read" in caplog.text
    assert "did not take" in caplog.text


async def test_an_answer_that_cannot_be_read_is_asked_for_again(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = small()
    made = pair(model, middleware=[Cache(store)])
    await ask(made, Q)
    (key,) = store._cache[NAMESPACE]
    await store.aset({(NAMESPACE, key): ({"text": "of another version"}, None)})
    with caplog.at_level(logging.WARNING):
        await ask(made, Q)
    assert questions(model) == [Q, Q]
    assert "cannot be read" in caplog.text


# --- set-up


def test_what_is_no_cache_of_langgraphs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="BaseCache"):
        Cache({})  # type: ignore[arg-type]


@pytest.mark.parametrize("ttl_s", [0, -1, 1.5, True])
def test_a_time_without_meaning_is_refused(store: Any, ttl_s: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole seconds"):
        Cache(store, ttl_s=ttl_s)


async def test_hits_are_neither_kept_again_nor_audited(store: Any) -> None:
    ledger = MemoryLedger()
    made = pair(ledger=ledger, audit_rate=1.0, middleware=[Cache(store)])
    for _ in range(3):
        await ask(made, Q)
    await made.aclose()
    assert len([entry for entry in of(ledger, "audit") if entry.model]) == 1


async def test_a_stopped_draft_is_not_kept(store: Any) -> None:
    # It is escalated, and where the large model is down, the stopped draft is no answer.
    down = ModelUnavailableError("down", model="scripted:large")
    model = ScriptedModel([reply("a b c d", probability=0.1)], name="small")
    made = Cascade(
        Tier(model, max_tokens=5),
        Tier(large(failures=[down])),
        middleware=[Cache(store), Abort(), Retries(attempts=1)],
    )
    with pytest.raises(ModelUnavailableError):
        await ask(made, Q)
    assert (await ask(made, Q)).tier == "large"
