"""Row 11: audits, drift, shadow start, canary."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cascade import Cascade, LedgerEntry, MemoryLedger, Price
from cascade.middleware import Audits, Drift, Shadow
from tests.acceptance.commands import chance
from tests.acceptance.setups import entries_of, total, tries
from tests.acceptance.upstream import Answer, Held, Seen, Upstream, failure

PRICE = Price(input=1, output=1)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def pair(upstream: Upstream, ledger: Any, *middleware: Any, **options: Any) -> Cascade:
    upstream.says("small", Answer("Canberra", p=0.95, tokens=(10, 1)))
    upstream.says("large", Answer("Canberra", tokens=(10, 1)))
    tiers = [upstream.tier(name, price=PRICE) for name in ("small", "large")]
    return Cascade(*tiers, ledger=ledger, middleware=middleware, **options)


def of(ledger: MemoryLedger, node: str) -> list[LedgerEntry]:
    return [entry for entry in entries_of(ledger) if entry.node == node]


def losses(ledger: MemoryLedger, node: str = "audit") -> list[float]:
    return [entry.loss for entry in of(ledger, node) if entry.loss is not None]


# --- audits


def test_an_audit_comes_after_the_reply(upstream: Upstream, ledger: MemoryLedger) -> None:
    held = Held()
    with pair(upstream, ledger, audit_rate=1.0) as cascade:
        upstream.says("large", Answer("Canberra", held=held))
        result = cascade.invoke("Capital of Australia?")
        assert (result.answer, result.tier) == ("Canberra", "small")
        upstream.wait_for(1, "large")
        assert of(ledger, "audit") == []
        held.release()
    assert losses(ledger) == [0.0]
    assert upstream.asked("large")[0].last == "Capital of Australia?"


def half_better(question: str, draft: str, large: str) -> float:
    return -0.5 if (draft, large) == ("Canberra", "x") else 1


@pytest.mark.parametrize(
    ("compare", "large", "loss"),
    [
        ("exact", "Canberra", 0.0),
        ("exact", "canberra.", 0.0),
        ("exact", "Sydney", 1.0),
        (half_better, "x", -0.5),
    ],
)
def test_the_loss_is_how_much_better_the_large_answer_is(
    upstream: Upstream, ledger: MemoryLedger, compare: Any, large: str, loss: float
) -> None:
    with pair(upstream, ledger, Audits(1.0, compare=compare)) as cascade:
        upstream.says("large", large)
        cascade.invoke("?")
    assert losses(ledger) == [loss]


def test_a_share_of_the_accepted_drafts_is_drawn_and_each_knows_its_chance(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    with pair(upstream, ledger, audit_rate=0.25) as cascade:
        cascade.batch([f"question {i}" for i in range(200)])
    chances = {e.decision.audit_rate for e in of(ledger, "verify") if e.decision}
    assert chances == {0.25}
    assert 25 <= len(losses(ledger)) <= 78  # 50 are expected, with a standard deviation of 6
    assert len(upstream.asked("large")) == len(losses(ledger))


def test_only_accepted_drafts_are_audited(upstream: Upstream, ledger: MemoryLedger) -> None:
    with pair(upstream, ledger, audit_rate=1.0) as cascade:
        upstream.says("small", Answer("Sydney", p=0.2))
        cascade.invoke("?")
    assert len(upstream.asked("large")) == 1
    assert of(ledger, "audit") == []


def test_a_day_of_audits_has_a_budget(upstream: Upstream, ledger: MemoryLedger) -> None:
    with pair(upstream, ledger, Audits(1.0, daily_usd=0.00006)) as cascade:
        for i in range(60):
            cascade.invoke(f"question {i}")
    spent = total([e for e in of(ledger, "audit") if e.model], "cost_usd")
    assert spent <= Decimal("0.00008")  # what is under way may come on top of it
    assert len(upstream.asked("small")) == 60


@pytest.mark.parametrize(
    ("node", "model", "kind"), [("audit", "large", Audits(1.0)), ("shadow", "small", Shadow())]
)
def test_one_that_fails_harms_nobody(
    upstream: Upstream, ledger: MemoryLedger, node: str, model: str, kind: Any
) -> None:
    with pair(upstream, ledger, tries(1), kind) as cascade:
        upstream.says(model, failure(400))
        assert cascade.invoke("?").answer == "Canberra"
    assert losses(ledger, node) == []
    assert [e.outcome for e in of(ledger, node) if e.model] == ["failed"]


def test_long_answers_are_compared_by_a_judge_that_is_paid(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    upstream.says("judge", Answer("EQUAL", tokens=(50, 1)))
    audits = Audits(1.0, judge=upstream.tier("judge", price=PRICE))
    with pair(upstream, ledger, audits) as cascade:
        upstream.says("small", Answer("It is Canberra, a city that was planned as one.", p=0.95))
        upstream.says("large", "Canberra, which was planned as the capital, is the one you mean.")
        cascade.invoke("Capital of Australia?")
    assert losses(ledger) == [0.0]
    asked = " ".join(upstream.asked("judge")[0].texts)
    assert "planned as one" in asked
    assert "which was planned" in asked
    assert Decimal("0.000051") in [entry.cost_usd for entry in of(ledger, "audit")]


# --- drift


def alarms_of(upstream: Upstream, ledger: MemoryLedger, later: float, **options: Any) -> list[Any]:
    """Alarms of 60 usual drafts, and of 60 more that are less sure."""
    told: list[Any] = []

    def drafts(seen: Seen) -> Answer:
        i = int(seen.last.split()[1])
        return Answer("a draft", p=(0.85 if i < 60 else later) + 0.14 * chance(i))

    drift = Drift(reference=50, window=20, on_alarm=told.append, **options)
    with pair(upstream, ledger, drift) as cascade:
        upstream.says("small", drafts)
        for i in range(120):
            cascade.invoke(f"question {i}")
    return told


@pytest.mark.parametrize(
    ("later", "kinds"), [(0.5, {"escalations", "signals"}), (0.85, set[str]())]
)
def test_what_moves_is_an_alarm_and_what_stays_is_none(
    upstream: Upstream, ledger: MemoryLedger, later: float, kinds: set[str]
) -> None:
    told = alarms_of(upstream, ledger, later, escalations="warn", signals="warn")
    assert {alarm.kind for alarm in told} == kinds
    booked = [(e.cost_usd, e.saved_usd, bool(e.note)) for e in of(ledger, "drift")]
    assert booked == [(0, 0, True)] * len(told)


def test_an_alarm_may_hand_all_questions_to_the_large_model(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    alarms_of(upstream, ledger, 0.5, escalations="large_only")
    drafted = {seen.last for seen in upstream.asked("small")}
    assert "question 59" in drafted
    assert "question 119" not in drafted
    assert "question 119" in {seen.last for seen in upstream.asked("large")}


# --- shadow and canary


def test_in_shadow_the_large_model_answers_and_a_draft_is_made_after_the_reply(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    held = Held()
    with pair(upstream, ledger, Shadow()) as cascade:
        upstream.says("small", Answer("Canberra", p=0.95, held=held))
        result = cascade.invoke("?")
        assert (result.answer, result.tier) == ("Canberra", "large")
        upstream.wait_for(1, "small")
        held.release()
    assert upstream.models() == ["large", "small"]


@pytest.mark.parametrize(("p", "action"), [(0.95, "accept"), (0.3, "escalate")])
def test_a_shadow_draft_says_what_would_have_been_decided(
    upstream: Upstream, ledger: MemoryLedger, p: float, action: str
) -> None:
    with pair(upstream, ledger, Shadow()) as cascade:
        upstream.says("small", Answer("Sydney", p=p, tokens=(10, 1)))
        cascade.invoke("?")
    decided = [e.decision.action for e in of(ledger, "shadow") if e.decision]
    assert decided == [action]
    assert losses(ledger, "shadow") == [1.0]
    # It costs something and earns nothing.
    assert total(entries_of(ledger), "saved_usd") == Decimal("-0.000011")


def test_in_a_canary_a_share_of_the_questions_is_live(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    with pair(upstream, ledger, Shadow(0.25)) as cascade:
        results = cascade.batch([f"question {i}" for i in range(200)])
    live = [result for result in results if result.tier == "small"]
    assert 25 <= len(live) <= 78
    assert {result.tier for result in results} == {"small", "large"}


def test_in_a_canary_a_conversation_stays_where_it_is(
    upstream: Upstream, ledger: MemoryLedger
) -> None:
    with pair(upstream, ledger, Shadow(0.5)) as cascade:
        tiers = []
        for thread in map(str, range(12)):
            config: Any = {"configurable": {"thread_id": thread}}
            tiers.append({cascade.invoke(f"question {turn}", config).tier for turn in range(4)})
    assert {len(each) for each in tiers} == {1}
    assert set.union(*tiers) == {"small", "large"}
