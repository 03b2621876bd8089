from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import ConfigurationError, MemoryLedger
from cascade.errors import LedgerError, ModelUnavailableError
from cascade.ledger import tagged
from cascade.ledger.entries import LedgerEntry
from cascade.middleware import Audits, Deadline, LocalOnly, Retries
from cascade.middleware.audits import DailyBudget
from cascade.run import Answer, CascadeRuntime
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply
from tests.middleware.cascades import ask, large, losses, of, pair, small

Q = "Capital of Australia?"


async def audited(*given: Any, audits: Audits | None = None, **options: Any) -> MemoryLedger:
    """The ledger of one question whose accepted draft is audited."""
    ledger = options.setdefault("ledger", MemoryLedger())
    stack = [audits or Audits(1.0), Retries(attempts=1), *options.pop("middleware", ())]
    made = pair(*given, middleware=stack, **options)
    await ask(made, Q)
    await made.aclose()
    return ledger


async def test_where_the_large_models_cost_is_unknown_the_estimate_stands() -> None:
    answer = reply("Canberra", input_tokens=None)
    ledger = await audited(small(), ScriptedModel([answer], name="large"))
    (result,) = [entry for entry in of(ledger, "audit") if entry.model is None]
    assert (result.saved_usd, result.loss) == (0, 0.0)


async def test_entries_bear_the_tags_of_the_run() -> None:
    ledger = MemoryLedger()
    made = pair(ledger=ledger, audit_rate=1.0)
    with tagged(team="a"):
        await ask(made, Q, tags={"user": "42"})
    await made.aclose()
    tags = [dict(ledger.tags[entry.id]) for entry in of(ledger, "audit")]
    assert tags == [{"team": "a", "user": "42"}] * 2


async def test_a_run_is_audited_once_however_often_its_end_is_executed() -> None:
    audits, ledger, answers = Audits(1.0), MemoryLedger(), large()
    made = pair(small(), answers, ledger=ledger, middleware=[audits])
    run = made.kernel.begin([HumanMessage(Q)])
    await made.kernel.answer(run, CascadeRuntime(made.kernel))
    answer = Answer(run.answer, run.decision, run.source)
    await audits.after_run(run, answer, CascadeRuntime(made.kernel))
    await made.aclose()
    assert len(answers.requests) == 1


@pytest.mark.parametrize("case", ["degraded", "late", "private", "cached"])
async def test_what_is_no_accepted_draft_has_no_chance(case: str) -> None:
    down = ModelUnavailableError("down", model="scripted:large")
    slow = Deadline(0.2)
    slow._seen_s["large"] = 60.0
    hit = replace(reply("Canberra", probability=0.9), cached=True)
    drafts, answers, stack = {
        "degraded": (small(p=0.3), large([down]), []),
        "late": (small(p=0.3), None, [slow]),
        "private": (None, None, [LocalOnly(True)]),
        "cached": (ScriptedModel([hit], name="small"), None, []),  # by a chat model's own cache
    }[case]
    ledger = await audited(drafts, answers, middleware=stack)
    assert of(ledger, "audit") == []
    assert {entry.decision.audit_rate for entry in of(ledger, "verify")} == {None}


@pytest.mark.parametrize(
    ("told", "found"),
    [(Decimal(0), [0.0]), (None, [0.0]), (Decimal(5), []), (LedgerError("no database"), [])],
    ids=["nothing spent", "the store cannot tell", "spent by others", "cannot be read"],
)
async def test_a_budget_is_of_the_day_as_the_store_tells_it(told: Any, found: list[float]) -> None:
    class Telling(MemoryLedger):
        async def spent(self, node: str, since: datetime) -> Any:
            if isinstance(told, Exception):
                raise told
            return told

    ledger = await audited(ledger=Telling(), audits=Audits(1.0, daily_usd=5))
    assert losses(ledger) == found
    assert of(ledger, "verify")[0].decision.audit_rate == (1.0 if found else None)


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


class Spent(MemoryLedger):
    def __init__(self, dollars: str) -> None:
        super().__init__()
        self.dollars, self.read = Decimal(dollars), 0

    async def spent(self, node: str, since: datetime) -> Decimal:
        assert (node, since.hour) == ("audit", 0)
        self.read += 1
        return self.dollars


def with_budget(spent: str = "0", daily: int = 10) -> tuple[DailyBudget, Any, list[float]]:
    """A budget, the ledger that it hears, and its clock."""
    now = [NOON]
    ledger = pair(ledger=Spent(spent)).kernel.ledger
    return DailyBudget(Decimal(daily), lambda: now[0]), ledger, now


def call(dollars: str | None, run_id: str = "run") -> LedgerEntry:
    cost = None if dollars is None else Decimal(dollars)
    assumed = Decimal(2) if dollars is None else None
    return LedgerEntry(run_id=run_id, node="audit", model="m", cost_usd=cost, assumed_usd=assumed)


async def test_a_rate_is_lowered_so_that_the_rest_of_the_day_has_its_part() -> None:
    budget, ledger, now = with_budget("10", 60)
    assert budget.rate(1.0, Decimal(1)) == 0.0  # what was spent is not known yet
    await budget.refresh(ledger)
    accepted = Decision(action="accept", reason="", audit_rate=0.1)
    for _ in range(100):
        ledger.book("run", "verify", decision=accepted)
    now[0] += 3_600  # 100 drafts in 70 minutes are 943 until midnight; 50 dollars pay for 5.3 %
    assert budget.rate(1.0, Decimal(1)) == pytest.approx(50 / (100 / 4200 * 39_600))
    assert budget.rate(0.01, Decimal(1)) == 0.01
    assert budget.rate(1.0, Decimal(51)) == 0.0
    assert budget.rate(1.0, None) == 0.0
    assert budget.rate(0.3, Decimal(0)) == 0.3


async def test_what_is_under_way_and_what_was_spent_since_the_reading_count() -> None:
    budget, ledger, _ = with_budget()
    await budget.refresh(ledger)
    ledger.record(call("6"), {})
    ledger.record(call(None, "other"), {})  # counts as assumed, 2
    assert budget.rate(1.0, Decimal(3)) == 0.0  # 2 are left
    budget.reserve("third", Decimal(1))
    budget.reserve("third", Decimal(1))  # it has its part already
    assert budget.rate(1.0, Decimal(1)) > 0.0
    assert budget.rate(1.0, Decimal(2)) == 0.0
    ledger.book("third", "audit")  # it has ended
    assert budget.rate(1.0, Decimal(2)) > 0.0


async def test_the_sum_is_read_now_and_then_and_has_in_it_what_was_heard() -> None:
    budget, ledger, now = with_budget()
    await budget.refresh(ledger)
    ledger.record(call("6"), {})
    await budget.refresh(ledger)
    ledger.store.dollars = Decimal(6)
    now[0] += 20
    await budget.refresh(ledger)
    assert ledger.store.read == 2
    assert budget.rate(1.0, Decimal(4)) > 0.0
    assert budget.rate(1.0, Decimal("4.01")) == 0.0


async def test_audits_need_a_ledger_and_drafts_and_a_budget_prices() -> None:
    with pytest.raises(ConfigurationError, match="ledger"):
        pair(middleware=[Audits()])
    with pytest.raises(ConfigurationError, match=r"large .* is unknown"):
        await audited(price=None, audits=Audits(1.0, daily_usd=5))
    with pytest.raises(ConfigurationError, match=r"judge .* is unknown"):
        await audited(audits=Audits(1.0, daily_usd=5, judge=ScriptedModel("A", name="judge")))
