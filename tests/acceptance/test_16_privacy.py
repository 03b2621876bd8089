"""Row 16: privacy, no way out of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.cache.sqlite import SqliteCache

from cascade import Cascade, CascadeError, ConfigurationError, MemoryLedger, ModelError, Price
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Upstream, failure

PRICE = Price(input=1, output=1)
DOUBTFUL, SURE = 0.3, 0.95


def pair(upstream: Upstream, p: float = DOUBTFUL, **options: Any) -> Cascade:
    """A small model here and a large one elsewhere; both are this server, which tells them
    apart."""
    upstream.says("small", Answer("paid, I think", p=p))
    upstream.says("large", "paid on 3 May")
    small = upstream.tier("small", price=PRICE)
    large = upstream.tier("large", price=PRICE, local=False)
    return edition.cascade(small, large, **options)


def secret(messages: Sequence[BaseMessage]) -> bool:
    return "secret" in str(messages[-1].text)


# --- all questions


@pytest.mark.parametrize("stay", [True, "answer"])
def test_a_doubtful_draft_is_the_answer_and_says_why(upstream: Upstream, stay: Any) -> None:
    with pair(upstream, local_only=stay) as cascade:
        result = cascade.invoke("Is it paid?")
    assert (result.answer, result.tier, result.degraded) == ("paid, I think", "small", True)
    assert "machine" in result.decision.reason
    assert upstream.models() == ["small"]


def test_or_there_is_no_answer(upstream: Upstream) -> None:
    with pair(upstream, local_only="abstain") as cascade:
        result = cascade.invoke("Is it paid?")
    assert (result.answer, result.decision.action) == ("", "abstain")
    assert upstream.models() == ["small"]


def test_a_good_draft_is_an_answer_as_ever(upstream: Upstream) -> None:
    with pair(upstream, SURE, local_only=True) as cascade:
        result = cascade.invoke("Is it paid?")
    assert (result.answer, result.degraded) == ("paid, I think", False)


def test_a_larger_model_on_this_machine_may_be_asked(upstream: Upstream) -> None:
    upstream.says("small", Answer("no idea", p=DOUBTFUL))
    upstream.says("middle", Answer("paid, probably", p=DOUBTFUL))
    small, middle = (upstream.tier(n, name=n, price=PRICE) for n in ("small", "middle"))
    tiers = [small, middle, upstream.tier("large", name="large", price=PRICE, local=False)]
    with Cascade(tiers=tiers, local_only=True) as cascade:
        result = cascade.invoke("Is it paid?")
    assert result.answer == "paid, probably"
    assert upstream.models() == ["small", "middle"]


def test_what_fails_here_is_not_asked_elsewhere(upstream: Upstream) -> None:
    with pair(upstream, local_only=True, retries=1) as cascade:
        upstream.says("small", failure(503))
        with pytest.raises(ModelError):
            cascade.invoke("Is it paid?")
    assert set(upstream.models()) == {"small"}


def test_a_draft_that_is_ruled_out_is_never_the_answer(upstream: Upstream) -> None:
    with pair(upstream, local_only=True) as cascade:
        upstream.says("small", Answer(" ", p=SURE))
        try:
            assert cascade.invoke("Is it paid?").answer.strip() == ""
        except CascadeError as error:
            assert edition.calls_of(error) == [("draft", "ok")]
    assert upstream.models() == ["small"]


@pytest.mark.parametrize(
    "options",
    [{"audit_rate": 0.5, "ledger": MemoryLedger()}, {"shadow": True, "ledger": MemoryLedger()}],
)
def test_what_would_have_to_leave_is_refused_when_the_cascade_is_made(
    upstream: Upstream, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="local_only"):
        pair(upstream, local_only=True, **options)


def test_without_a_model_on_this_machine_there_is_no_such_cascade(upstream: Upstream) -> None:
    small, large = (upstream.tier(name, local=False) for name in ("small", "large"))
    with pytest.raises(ConfigurationError, match="local"):
        Cascade(small, large, local_only=True)


def test_a_model_that_ollama_passes_on_to_its_own_servers_is_elsewhere(upstream: Upstream) -> None:
    cloud = upstream.tier("gpt-oss:120b-cloud", provider="ollama")
    with pytest.raises(ConfigurationError, match="local"):
        Cascade(cloud, upstream.tier("large", local=False), local_only=True)


def test_nothing_is_saved_where_the_large_model_was_never_a_choice(upstream: Upstream) -> None:
    with pair(upstream, SURE, local_only=True) as cascade:
        ledger = cascade.invoke("Is it paid?").ledger
    assert ledger.saved_usd == -(ledger.cost_usd or 0) < 0
    assert ledger.baseline_usd == Decimal(0)


# --- one question


def test_one_question_may_stay(upstream: Upstream) -> None:
    with pair(upstream) as cascade:
        kept = cascade.invoke("Is it paid?", **edition.settings(local_only=True))
        sent = cascade.invoke("Is it paid?")
    assert (kept.tier, kept.degraded) == ("small", True)
    assert sent.tier == "large"
    assert upstream.models() == ["small", "small", "large"]


def test_one_question_may_stay_in_a_stream(upstream: Upstream) -> None:
    with pair(upstream) as cascade:
        (*_, result) = cascade.stream("Is it paid?", **edition.settings(local_only="abstain"))
    assert result.decision.action == "abstain"  # type: ignore[union-attr]
    assert upstream.models() == ["small"]


def test_a_setting_without_meaning_is_told_before_anything_is_sent(upstream: Upstream) -> None:
    with pair(upstream) as cascade, pytest.raises(CascadeError, match="perhaps"):
        cascade.invoke("Is it paid?", **edition.settings(local_only="perhaps"))
    assert upstream.seen == []


# --- a rule


async def asynchronous(messages: Sequence[BaseMessage]) -> bool:
    return secret(messages)


@pytest.mark.parametrize("rule", [secret, asynchronous])
def test_a_rule_finds_the_questions_that_stay(upstream: Upstream, rule: Any) -> None:
    with pair(upstream, private=rule) as cascade:
        results = [cascade.invoke(text) for text in ("a secret?", "no such thing?")]
    assert [(result.tier, result.degraded) for result in results] == [
        ("small", True),
        ("large", False),
    ]


def test_a_rule_that_raises_lets_nothing_out(upstream: Upstream) -> None:
    def broken(messages: Sequence[BaseMessage]) -> bool:
        raise ZeroDivisionError

    with (
        pair(upstream, private=broken) as cascade,
        pytest.raises((CascadeError, ZeroDivisionError)),
    ):
        cascade.invoke("?")
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
    with pair(upstream, private=edition.looks_personal()) as cascade:
        assert cascade.invoke(question).tier == tier


def test_a_conversation_stays_once_a_question_of_it_had_to(upstream: Upstream) -> None:
    with pair(upstream, private=secret) as cascade:
        first = cascade.invoke("a secret?")
        messages: list[Any] = [("human", "a secret?"), first.message, ("human", "and then?")]
        assert cascade.invoke(messages).tier == "small"
    assert upstream.models() == ["small", "small"]


def test_a_router_cannot_overrule_it(upstream: Upstream) -> None:
    with pair(upstream, private=secret, router=lambda messages: "large") as cascade:
        assert cascade.invoke("no such thing?").tier == "large"
        try:
            assert cascade.invoke("a secret?").tier == "small"
        except CascadeError as error:
            assert "large" in str(error)
    assert "a secret?" not in [seen.last for seen in upstream.asked("large")]


@pytest.mark.parametrize(
    "options",
    [
        {"audit_rate": 1.0, "ledger": MemoryLedger()},
        {"shadow": True, "ledger": MemoryLedger()},
        {"retries": 3},
        {"abort": True},
    ],
)
def test_whatever_stands_around_it_nothing_leaves(
    upstream: Upstream, options: dict[str, Any]
) -> None:
    upstream.says("small", Answer("paid, I think", p=SURE))
    small = upstream.tier("small", price=PRICE, max_tokens=50)
    large = upstream.tier("large", price=PRICE, local=False)
    with edition.cascade(small, large, private=secret, **options) as cascade:
        for p in (SURE, DOUBTFUL):
            upstream.says("small", Answer("paid, I think", p=p))
            cascade.invoke("a secret?")
            list(cascade.stream("another secret?"))
            cascade.batch(["a third secret?"])
    assert upstream.asked("large") == []


def test_a_model_that_stands_in_is_not_asked_if_it_is_elsewhere(upstream: Upstream) -> None:
    other = upstream.tier("other", name="other", price=PRICE, local=False)
    with pair(upstream, private=secret, fallback=other) as cascade:
        cascade.invoke("a secret?")
    assert upstream.models() == ["small"]


def test_a_signal_that_asks_elsewhere_is_left_out(upstream: Upstream) -> None:
    other = edition.signal("Agreement", upstream.tier("other", local=False))
    with pair(upstream, SURE, private=secret, signals=["logprobs", other]) as cascade:
        cascade.invoke("a secret?")
    assert upstream.models() == ["small"]


def test_the_chat_model_keeps_it_too(upstream: Upstream) -> None:
    with pair(upstream, private=secret) as cascade:
        model = cascade.as_chat_model()
        assert model.invoke("a secret?").text == "paid, I think"
        assert "".join(str(chunk.text) for chunk in model.stream("a secret?")) == "paid, I think"
    assert upstream.asked("large") == []


def test_a_cache_on_a_disk_does_not_keep_it(upstream: Upstream, tmp_path: Path) -> None:
    cache = SqliteCache(path=str(tmp_path / "answers.db"))
    with pair(upstream, SURE, private=secret, cache=cache) as cascade:
        for _ in range(2):
            cascade.invoke("a secret?")
            cascade.invoke("no such thing?")
    assert [seen.last for seen in upstream.seen].count("a secret?") == 2
    assert [seen.last for seen in upstream.seen].count("no such thing?") == 1
    assert b"a secret?" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
