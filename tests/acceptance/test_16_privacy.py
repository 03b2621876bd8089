"""Row 16: privacy, no way out of the machine. The large model passes for one that is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.cache.sqlite import SqliteCache

from cascade import Cascade, CascadeError, ConfigurationError, MemoryLedger
from cascade.confidence import Agreement
from cascade.middleware import Abort, Audits, Cache, Fallback, LocalOnly, Shadow
from cascade.middleware.local_only import looks_personal
from tests.acceptance import setups
from tests.acceptance.setups import CHEAP, tries
from tests.acceptance.upstream import Answer, Upstream, failure

DOUBTFUL, SURE = 0.3, 0.95


def pair(upstream: Upstream, p: float = DOUBTFUL, *middleware: Any, **options: Any) -> Cascade:
    return setups.pair(upstream, p, *middleware, remote=True, **options)


def secret(messages: Sequence[BaseMessage]) -> bool:
    return "secret" in str(messages[-1].text)


async def secret_too(messages: Sequence[BaseMessage]) -> bool:
    return secret(messages)


# --- all questions


@pytest.mark.parametrize(
    ("stay", "p", "answer", "degraded"),
    [
        (True, DOUBTFUL, "small: ?", True),
        ("answer", DOUBTFUL, "small: ?", True),
        (True, SURE, "small: ?", False),
        ("abstain", DOUBTFUL, "", False),
    ],
)
def test_a_doubtful_draft_is_the_answer_and_says_why_or_there_is_none(
    upstream: Upstream, stay: Any, p: float, answer: str, degraded: bool
) -> None:
    with pair(upstream, p, local_only=stay) as cascade:
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == (answer, degraded)
    assert (result.decision.action == "abstain") == (not answer)
    assert p == SURE or "machine" in result.decision.reason
    # Nothing is saved where the large model was never a choice.
    assert (result.ledger.saved_usd, result.ledger.baseline_usd) == (-result.ledger.cost_usd, 0)
    assert upstream.models() == ["small"]


def test_a_larger_model_on_this_machine_may_be_asked(upstream: Upstream) -> None:
    tiers = [upstream.tier(name, name=name, price=CHEAP) for name in ("small", "middle")]
    tiers.append(upstream.tier("large", name="large", price=CHEAP, local=False))
    for name in ("small", "middle"):
        upstream.echoes(name, DOUBTFUL)
    assert Cascade(tiers=tiers, local_only=True).invoke("?").answer == "middle: ?"
    assert upstream.models() == ["small", "middle"]


def test_what_would_have_to_leave_is_refused_when_the_cascade_is_made(upstream: Upstream) -> None:
    for middleware in (Audits(0.5), Shadow()):
        with pytest.raises(ConfigurationError, match="local_only"):
            pair(upstream, SURE, middleware, local_only=True, ledger=MemoryLedger())
    # Ollama passes it on to its own servers.
    cloud = upstream.tier("gpt-oss:120b-cloud", provider="ollama")
    with pytest.raises(ConfigurationError, match="local"):
        Cascade(cloud, upstream.tier("large", local=False), local_only=True)


# --- one question, and a rule for each


def test_one_question_may_stay(upstream: Upstream) -> None:
    with pair(upstream) as cascade:
        kept = cascade.invoke("?", local_only=True)
        (*_, none) = cascade.stream("?", local_only="abstain")
        with pytest.raises(CascadeError, match="perhaps"):
            cascade.invoke("?", local_only="perhaps")
        assert upstream.models() == ["small", "small"]
        assert cascade.invoke("?").tier == "large"
    assert (kept.degraded, none.decision.action) == (True, "abstain")


@pytest.mark.parametrize("rule", [secret, secret_too])
def test_a_rule_finds_the_questions_that_stay(upstream: Upstream, rule: Any) -> None:
    with pair(upstream, DOUBTFUL, LocalOnly(private=rule)) as cascade:
        found = [cascade.invoke(text).tier for text in ("a secret?", "no such thing?")]
        model = cascade.as_chat_model()
        assert model.invoke("a secret?").text == "small: a secret?"
        assert "".join(chunk.text for chunk in model.stream("a secret?")) == "small: a secret?"
    assert found == ["small", "large"]
    assert len(upstream.asked("large")) == 1


def test_a_rule_that_raises_lets_nothing_out(upstream: Upstream) -> None:
    def broken(messages: Sequence[BaseMessage]) -> bool:
        raise ZeroDivisionError

    raised = pytest.raises((CascadeError, ZeroDivisionError))
    with raised:
        pair(upstream, SURE, LocalOnly(private=broken)).invoke("?")
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("question", "tier"),
    [
        ("Did bob@example.org pay?", "small"),
        ("Is +49 30 1234567 his number?", "small"),
        ("Is sk-abcdefghijklmnopqrstuvwx a key?", "small"),
        ("Is it raining?", "large"),
    ],
)
def test_a_rule_for_personal_data_comes_with_it(
    upstream: Upstream, question: str, tier: str
) -> None:
    made = pair(upstream, DOUBTFUL, LocalOnly(private=looks_personal))
    assert made.invoke(question).tier == tier


def test_a_conversation_stays_once_a_question_of_it_had_to(upstream: Upstream) -> None:
    with pair(upstream, DOUBTFUL, LocalOnly(private=secret)) as cascade:
        first = cascade.invoke("a secret?")
        messages: list[Any] = [("human", "a secret?"), first.message, ("human", "and then?")]
        assert cascade.invoke(messages).tier == "small"
    assert upstream.models() == ["small", "small"]


@pytest.mark.parametrize(
    "around", ["audits", "shadow", "retries", "fallback", "router", "signal", "abort"]
)
def test_whatever_stands_around_it_nothing_leaves(upstream: Upstream, around: str) -> None:
    elsewhere = upstream.tier("other", name="other", price=CHEAP, local=False)
    middleware = {
        "audits": Audits(1.0),
        "shadow": Shadow(),
        "retries": tries(3),
        "fallback": Fallback(elsewhere),
        "abort": Abort(),
    }
    stack = [LocalOnly(private=secret), *([middleware[around]] if around in middleware else [])]
    options: dict[str, Any] = {
        "router": {"router": lambda messages: "large"},
        "signal": {"signals": ["logprobs", Agreement(elsewhere)]},
    }.get(around, {})
    small = upstream.tier("small", price=CHEAP, max_tokens=50)
    large = upstream.tier("large", price=CHEAP, local=False)
    with Cascade(small, large, ledger=MemoryLedger(), middleware=stack, **options) as cascade:
        for said in (Answer("Canberra", p=SURE), Answer("Sydney", p=DOUBTFUL), failure(400)):
            upstream.says("small", said)
            for ask in (cascade.invoke, lambda text: list(cascade.stream(text))):
                may_fail = said.status == 400 or around == "router"
                with suppress(CascadeError) if may_fail else nullcontext():
                    ask("a secret?")
    assert set(upstream.models()) <= {"small"}


def test_a_cache_on_a_disk_does_not_keep_it(upstream: Upstream, tmp_path: Path) -> None:
    cache = SqliteCache(path=str(tmp_path / "answers.db"))
    with pair(upstream, SURE, LocalOnly(private=secret), Cache(cache)) as cascade:
        for _ in range(2):
            cascade.invoke("a secret?")
            cascade.invoke("no such thing?")
    asked = [seen.last for seen in upstream.seen]
    assert (asked.count("a secret?"), asked.count("no such thing?")) == (2, 1)
    assert b"a secret?" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
