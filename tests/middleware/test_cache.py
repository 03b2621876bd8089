import asyncio
import logging
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.cache.memory import InMemoryCache

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier
from cascade.errors import PersonNeededError
from cascade.middleware import Cache, Deadline, Drift, Retries, ToolRisks
from cascade.middleware.cache import NAMESPACE, identity
from cascade.policies import EconomicPolicy, ThresholdPolicy
from cascade.run import CascadeRuntime, Settings
from tests.middleware.cascades import PRICE, ask, large, pair, small

Q = "Capital of Australia?"


class Elsewhere(InMemoryCache[Any]):
    """A cache that is not the memory of this process, as far as is known."""


@pytest.fixture
def store() -> InMemoryCache[Any]:
    return InMemoryCache()


async def test_log_probs_are_kept_where_they_were_asked_for(store: Any) -> None:
    made = pair(middleware=[Cache(store)])
    await ask(made, Q)
    runs = []
    for _ in range(2):
        run = made.kernel.begin([HumanMessage(Q)], Settings(top_logprobs=0))
        await made.kernel.answer(run, CascadeRuntime(made.kernel))
        runs.append(run)
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


def judge(least: float, question: str, answer: str) -> bool:
    del question
    return len(answer) > least


class Odd:
    """A policy that is no record."""

    def __init__(self, least: float) -> None:
        self.least = least

    def decide(self, situation: Any) -> Any:
        return ThresholdPolicy().decide(situation)


def test_everything_that_an_answer_depends_on_makes_another_set_up() -> None:
    made = [
        pair(),
        Cascade(Tier(small(), price=PRICE, max_tokens=9), Tier(large(), price=PRICE)),
        pair(policy=EconomicPolicy(0.05)),
        *(pair(policy=Odd(least)) for least in (0.5, 0.6)),
        *(pair(verifier=each) for each in (lambda _q, _a: True, lambda _q, _a: False)),
        *(pair(verifier=partial(judge, least)) for least in (3, 5)),
        pair(router=lambda messages: None if messages else "large"),
        *(pair(middleware=[ToolRisks({"delete": risk})]) for risk in ("irreversible", "write")),
    ]
    assert len({identity(each.kernel) for each in made}) == len(made)


def test_what_changes_no_answer_makes_no_other_set_up() -> None:
    plain = identity(pair(middleware=[Retries()]).kernel)
    more = pair(ledger=MemoryLedger(), middleware=[Cache(InMemoryCache())])
    assert identity(more.kernel) == plain


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


async def test_a_kept_draft_is_given_only_while_the_stack_would_accept_it(store: Any) -> None:
    model, answers = small(), large()
    drift = Drift("large_only")
    made = pair(model, answers, middleware=[Cache(store), drift])
    assert (await ask(made, Q)).tier == "small"
    drift.caution = "large_only"
    assert (await ask(made, Q)).tier == "large"
    assert (await ask(made, Q)).cached  # the large answer stands


@pytest.mark.parametrize("case", ["late", "empty", "blank"])
async def test_what_is_no_answer_for_others_is_not_kept(store: Any, case: str) -> None:
    slow = Deadline(0.2)
    slow._seen_s["large"] = 60.0
    model = small(p=0.3)
    answers, stack = {
        "late": (large(), [slow]),  # the draft is accepted for this run alone
        "empty": (large(""), []),
        "blank": (large("   "), []),
    }[case]
    made = pair(model, answers, middleware=[Cache(store), *stack])
    for _ in range(2):
        await ask(made, Q)
    assert len(model.requests) == 2


async def test_a_cache_that_hangs_loses_no_question(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(Elsewhere):
        async def aget(self, keys: Any) -> Any:
            await asyncio.Event().wait()

        async def aset(self, pairs: Any) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("cascade.middleware.background.PATIENCE_S", 0.01)
    with caplog.at_level(logging.WARNING):
        assert (await ask(pair(middleware=[Cache(Hanging())]), Q)).answer == "Canberra"
    assert "cannot be used" in caplog.text
    assert "to keep an answer" in caplog.text


def test_what_is_no_cache_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="BaseCache"):
        Cache({})  # type: ignore[arg-type]
