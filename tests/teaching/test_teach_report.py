"""What was learned and saved, and which questions escalate most, on runs as they come about."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cascade import Cascade, Price, Tier
from cascade.cli import app
from cascade.ledger import Feedback, tagged
from cascade.ledger.store import open_store
from cascade.policies import ThresholdPolicy
from cascade.state import LedgerEntry
from cascade.teaching import Lessons, Terms, open_lessons
from cascade.teaching.clusters import Clusters, make_clusters
from cascade.teaching.memory import Memory, Pair
from cascade.teaching.status import status_of
from cascade.testing import ScriptedModel, reply
from tests.teaching.making import lesson

LONG = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = (
    *(f"Within how many days may guest number {n} send a parcel back?" for n in range(6)),
    *(f"Which harbour lies nearest to lighthouse {n}?" for n in range(2)),
    "even: what is two and two?",
)


def addresses(folder: Path) -> tuple[str, str]:
    return f"sqlite:///{folder}/lessons.db", f"sqlite:///{folder}/ledger.db"


async def lived(folder: Path) -> None:
    url, ledger_url = addresses(folder)

    def small(request: Any) -> Any:
        sure = str(request.messages[-1].content).startswith("even")
        return reply("4", probability=0.95 if sure else 0.2)

    async with open_store(ledger_url) as ledger, open_lessons(url) as store:
        lessons = Lessons(store, terms={"scripted:*": Terms(may_train=True)})
        async with Cascade(
            Tier(
                ScriptedModel(small, name="small", returns_logprobs=True),
                price=Price(input=1, output=1),
            ),
            Tier(
                ScriptedModel(lambda _: reply("7", input_tokens=99, output_tokens=1), name="big"),
                price=Price(input=10, output=10),
            ),
            lessons=lessons,
            ledger=ledger,
            policy=ThresholdPolicy(0.8),
            signals=["logprobs"],
        ) as cascade:
            for text in ASKED:
                with tagged(task="support"):
                    await cascade.ainvoke(text)
        await lessons.aclose()
        await store.note_export("/x/train.jsonl", ["r"], purpose="training")


async def test_the_dearest_cluster_comes_first_with_what_it_cost(tmp_path: Path) -> None:
    await lived(tmp_path)
    url, ledger_url = addresses(tmp_path)
    async with open_lessons(url) as store, open_store(ledger_url) as ledger:
        [first, *_] = [one async for one in store.lessons()]
        await store.judge(Feedback(run_id=first.run_id, correct=False))
        found = await make_clusters(store, ledger, since=LONG)
    assert (found.requests, found.escalated, found.with_lesson) == (9, 8, 8)
    assert found.escalated_usd == Decimal("0.008")
    assert [(one.escalated, one.cost_usd, one.wrong) for one in found.clusters] == [
        (6, Decimal("0.006"), 1),
        (2, Decimal("0.002"), 0),
    ]
    assert found.clusters[0].most_usd == Decimal("0.006")
    assert found.clusters[0].gain is None
    assert found.clusters[0].may_train == 6


def entry(run_id: str, node: str, **fields: Any) -> LedgerEntry:
    return LedgerEntry(run_id=run_id, node=node, tier="small", model="m", **fields)


async def trials(folder: Path, shown_right: int) -> Clusters:
    """40 questions of one cluster: none accepted without examples, some with them."""
    _, ledger_url = addresses(folder)
    async with open_lessons("memory://") as store, open_store(ledger_url) as ledger:
        for n in range(80):
            run_id, shown = f"r{n}", n >= 40
            accepted = shown and n - 40 < shown_right
            await store.put(
                lesson(
                    run_id,
                    f"Within how many days may guest {n} leave?",
                    origin="audited" if accepted else "escalated",
                    at=datetime.now(UTC),
                )
            )
            decision = {"action": "accept" if accepted else "escalate", "audit_rate": 1.0}
            entries = [entry(run_id, "draft"), entry(run_id, "verify", **decision)]
            if shown:
                entries.append(entry(run_id, "memory"))
            if not accepted:
                entries.append(entry(run_id, "expert", cost_usd=Decimal("0.01")))
            ledger.append(entries)
        return await make_clusters(store, ledger, since=LONG)


async def test_what_teaching_would_save_is_by_the_gain_that_was_measured(tmp_path: Path) -> None:
    [found] = (await trials(tmp_path, 20)).clusters
    assert found.gain is not None
    assert (found.gain.without, found.gain.shown) == (0.0, 0.5)
    assert found.gain.low < 0.5 < found.gain.high
    assert found.expected_usd == found.cost_usd * Decimal("0.5")
    assert found.expected_low_usd is not None
    assert 0 < found.expected_low_usd < found.expected_usd


async def test_examples_without_a_gain_promise_nothing(tmp_path: Path) -> None:
    [found] = (await trials(tmp_path, 0)).clusters
    assert found.expected_usd == 0
    assert found.expected_low_usd is not None
    assert found.expected_low_usd < 0


async def test_status_says_what_was_learned_and_what_may_be_done(tmp_path: Path) -> None:
    await lived(tmp_path)
    url, ledger_url = addresses(tmp_path)
    async with open_lessons(url) as store, open_store(ledger_url) as ledger:
        found = await status_of(store, ledger)
        await store.state_terms("scripted:*", Terms(may_train=False))
        forbidden = await status_of(store)
    assert (found.lessons, found.by_task, found.by_origin) == (8, {"support": 8}, {"escalated": 8})
    assert [(m.lessons, m.may_train) for m in found.models] == [(8, 8)]
    assert [m.may_train for m in forbidden.models] == [0]
    assert [group.lessons for group in found.groups] == [6, 2]
    assert [(e.purpose, e.lessons) for e in found.exports] == [("training", 1)]
    assert found.used is not None
    assert found.used.shown is None
    assert forbidden.used is None


async def test_what_the_memory_saved_is_in_the_ledger(tmp_path: Path) -> None:
    await trials(tmp_path, 20)
    _, ledger_url = addresses(tmp_path)
    async with open_lessons("memory://") as store, open_store(ledger_url) as ledger:
        shown = {"signals": {"examples": 2.0, "example_tokens": 30.0}}
        trial = entry("r79", "trial", cost_usd=Decimal("0.002"))
        ledger.append([entry("r79", "memory", **shown), trial])
        used = (await status_of(store, ledger)).used
    assert used is not None
    assert used.shown is not None
    assert (used.shown.share, used.shown.requests) == (0.5, 40)
    assert used.before is not None
    assert (used.before.share, used.before.requests) == (0.0, 40)
    assert (used.trials, used.trials_usd, used.example_tokens) == (1, Decimal("0.002"), 30)


async def test_groups_of_a_running_memory_are_shown_with_their_standing() -> None:
    async with open_lessons("memory://") as store:
        memory = Memory(store, patience_s=60)
        group = memory.groups.of(("support", ""), ASKED[0])
        assert group is not None
        group.evidence.put("r", Pair(1.0, 1.0))
        [shown] = (await status_of(store, memory=memory)).groups
    assert (shown.task, shown.standing, shown.gain, shown.known) == ("support", "candidate", 1.0, 1)


def test_the_commands_show_it(tmp_path: Path) -> None:
    asyncio.run(lived(tmp_path))
    url, ledger_url = addresses(tmp_path)
    page = tmp_path / "week.html"
    command = ["teach", "report", url, "--ledger", ledger_url]
    done = CliRunner().invoke(app, [*command, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "9 requests, 8 escalated for $0.00800" in done.stdout
    assert "Within how many days" in page.read_text()
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [one["escalated"] for one in told["clusters"]] == [6, 2]
    shown = CliRunner().invoke(app, ["teach", "status", url, "--ledger", ledger_url])
    assert "8 lessons" in shown.stdout
    assert "/x/train.jsonl" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["teach", "status", url, "--json"]).stdout)["lessons"]
    missing = CliRunner().invoke(app, ["teach", "report", url])
    assert missing.exit_code == 2
    assert "needs the ledger" in missing.stderr


@pytest.mark.parametrize("days", [0, 8])
async def test_a_period_is_of_its_own_days(tmp_path: Path, days: int) -> None:
    await lived(tmp_path)
    url, ledger_url = addresses(tmp_path)
    since = datetime.now(UTC) - timedelta(days=1) + timedelta(days=days)
    async with open_lessons(url) as store, open_store(ledger_url) as ledger:
        found = await make_clusters(store, ledger, since=since)
    assert len(found.clusters) == (0 if days else 2)
