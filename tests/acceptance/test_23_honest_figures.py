"""Say only what is so: figures that are easily got wrong, each as a user meets it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import Cascade, LedgerView, MemoryLedger, Price
from cascade.ledger.store import open_store
from tests.acceptance import commands
from tests.acceptance.commands import MODELS, Done, outcomes
from tests.acceptance.setups import CHEAP, DEAR, pair
from tests.acceptance.upstream import Answer, Upstream

# --- what a run costs and saves


@pytest.mark.parametrize("escalated_before", [0, 12])
def test_hidden_reasoning_of_a_draft_is_no_part_of_the_baseline(
    upstream: Upstream, escalated_before: int
) -> None:
    usage = {"completion_tokens_details": {"reasoning_tokens": 1_990}}
    upstream.says("large", Answer("Canberra", tokens=(20, 10)))  # $0.000125
    small = upstream.tier("small", price=CHEAP)
    with Cascade(small, upstream.tier("large", price=DEAR)) as cascade:
        for p in (*[0.3] * escalated_before, 0.95):
            upstream.says("small", Answer("Canberra", p=p, tokens=(20, 2_000), details=usage))
            result = cascade.invoke(f"What is the capital of Australia? {p}")
    assert result.tier == "small"
    assert Decimal("0.00003") < (result.ledger.baseline_usd or 0) < Decimal("0.0013")


def test_no_list_price_holds_at_an_address_that_is_not_the_providers(upstream: Upstream) -> None:
    for model in (upstream.tier("gpt-5.1"), upstream.chat("gpt-5.1")):
        ledger = Cascade(tiers=[model]).invoke("?").ledger
        assert (ledger.cost_usd, ledger.cost_basis) == (None, "unknown")


async def test_a_machine_costs_no_more_than_the_time_that_has_passed(upstream: Upstream) -> None:
    """Twenty drafts that share a machine for half a second cost half a second, not ten."""
    upstream.says("small", Answer("Canberra", busy_s=0.5, delay_s=0.5))
    small = upstream.tier("small", provider="ollama", price=Price(per_hour=3_600))
    async with Cascade(small, upstream.tier("large", price=DEAR)) as cascade:
        await cascade.ainvoke("to warm up")
        began = time.monotonic()
        results = await asyncio.gather(*(cascade.ainvoke(f"question {i}") for i in range(20)))
        passed = time.monotonic() - began
    costs = [result.ledger.cost_usd for result in results]
    assert None not in costs
    assert 0.4 < float(sum(cost or 0 for cost in costs)) <= passed * 1.05


@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_a_server_that_tells_no_times_is_charged_the_calls_own_as_an_estimate(
    upstream: Upstream, provider: str
) -> None:
    upstream.says("small", Answer("Canberra", busy_s=None, delay_s=0.2))
    small = upstream.tier("small", provider=provider, price=Price(per_hour=3_600))
    with Cascade(small, upstream.tier("large", price=DEAR)) as cascade:
        ledger = cascade.invoke("?").ledger
    assert ledger.cost_basis == "estimated"
    assert 0.19 < float(ledger.cost_usd or 0) < 30


def test_a_server_that_counts_tokens_is_not_asked_for_a_price_by_the_hour(
    upstream: Upstream,
) -> None:
    table = Cascade(upstream.tier("small"), upstream.tier("large")).invoke("?").ledger.table()
    assert "per_hour" not in table


def test_the_table_of_an_audited_run_does_not_say_that_nothing_was_measured(
    upstream: Upstream,
) -> None:
    ledger = MemoryLedger()
    with pair(upstream, audit_rate=1.0, ledger=ledger) as cascade:
        cascade.invoke("?")
    assert "was not measured" not in LedgerView(ledger.entries).table()


# --- recordings: calibrate and evaluate


def usual(i: int) -> tuple[float, bool]:
    return commands.says(i), commands.right(i)


def noise(i: int) -> tuple[float, bool]:
    """A confidence that says nothing."""
    return 0.5 + 0.45 * commands.chance(i), commands.chance(i, "coin") < 0.5


def backwards(i: int) -> tuple[float, bool]:
    """Hardly ever right, and least sure where it is."""
    return 0.5 + 0.004 * i, i < 4


def record(path: Path, n: int, row: Callable[[int], tuple[float, bool]] = usual) -> Path:
    return outcomes(path, map(row, range(n)))


def calibrate(file: Path, upstream: Upstream, *options: object) -> Done:
    return commands.calibrate(file, upstream, "--recorded", *options, "--json", code=None)


def test_nothing_is_called_calibrated_where_nothing_was_fitted(
    upstream: Upstream, tmp_path: Path
) -> None:
    file = record(tmp_path / "noise.jsonl", 60, noise)
    done = calibrate(file, upstream)
    if done.code == 0:
        small, large = (upstream.tier(n, provider="ollama") for n in ("small", "large"))
        with Cascade(small, large, calibrator=tmp_path / "made.json") as cascade:
            assert cascade.invoke("question 1").calibrated is False
    assert "label" in done.err + done.out


def test_a_useless_calibration_is_not_blessed(upstream: Upstream, tmp_path: Path) -> None:
    done = calibrate(record(tmp_path / "backwards.jsonl", 100, backwards), upstream)
    assert done.code == 1
    assert "use" in (done.err + done.out).lower()


def test_a_certificate_does_not_depend_on_the_order_of_the_rows(
    upstream: Upstream, tmp_path: Path
) -> None:
    thresholds = set()
    for order in range(2):
        file = record(tmp_path / f"{order}.jsonl", 120)
        rows = file.read_text().splitlines(keepends=True)
        random.Random(order).shuffle(rows)
        file.write_text("".join(rows))
        made = calibrate(file, upstream, "--max-harm", "0.2").json["certificates"]
        thresholds.add(tuple(round(each["threshold"], 9) for each in made))
    assert len(thresholds) == 1


def test_rows_that_are_there_twice_are_refused(upstream: Upstream, tmp_path: Path) -> None:
    file = record(tmp_path / "double.jsonl", 100)
    file.write_text(file.read_text() * 2)
    evaluated = commands.cascade("evaluate", file, *MODELS, code=None)
    for done in (evaluated, calibrate(file, upstream)):
        assert done.code == 2
        assert "q0" in done.err


def test_json_has_no_nan(upstream: Upstream, tmp_path: Path) -> None:
    file = record(tmp_path / "right.jsonl", 100, lambda i: (0.5 + 0.004 * i, True))
    done = calibrate(file, upstream)
    assert not done.out or done.json is not None
    assert commands.cascade("evaluate", file, *MODELS, "--json").json["headline"]


def test_a_loss_of_more_than_all_is_wrong_usage(tmp_path: Path) -> None:
    file = record(tmp_path / "usual.jsonl", 100)
    assert "--within" in commands.cascade("evaluate", file, *MODELS, "--within", "5", code=2).err


# --- report and batch


def test_a_bound_never_lies_below_what_was_measured(upstream: Upstream, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    with pair(upstream, says=("Canberra", "Canberra"), ledger=store, audit_rate=1.0) as cascade:
        upstream.next("large", "Sydney")
        for i in range(50):
            cascade.invoke(f"question {i}")
    store.close()
    loss = commands.cascade("report", sqlite_url, "--json").json["quality"]["loss"]
    assert loss["value"] == pytest.approx(0.02)
    assert loss["low"] <= loss["value"] <= loss["high"]


def test_a_large_model_without_a_price_is_not_reported_as_free(
    upstream: Upstream, sqlite_url: str
) -> None:
    store = open_store(sqlite_url)
    small = upstream.tier("small", price=CHEAP)
    with Cascade(small, upstream.tier("large"), ledger=store) as cascade:
        cascade.batch([f"question {i}" for i in range(5)])
    store.close()
    lines = commands.cascade("report", sqlite_url).out.splitlines()
    (alone,) = [line for line in lines if line.startswith("large model alone")]
    assert "$0.00" not in alone


def test_batch_marks_an_estimated_saving(upstream: Upstream, tmp_path: Path) -> None:
    prices, rows = tmp_path / "prices.toml", tmp_path / "in.jsonl"
    of_one = '["ollama:{}"]\ninput = {}\noutput = 1\n'.format
    prices.write_text(of_one("small", 1) + of_one("large", 9))
    rows.write_text('{"question": "?"}\n')
    given = ("batch", rows, "--output", tmp_path / "out.jsonl", *MODELS, "--prices", prices)
    done = commands.cascade(*given, OLLAMA_HOST=upstream.url)
    assert "≈" in done.out + done.err


def test_columns_of_the_same_name_are_refused(upstream: Upstream, tmp_path: Path) -> None:
    rows = tmp_path / "in.csv"
    rows.write_text("question,question\none?,two?\n")
    given = ("batch", rows, "--output", tmp_path / "out.csv", *MODELS)
    assert "question" in commands.cascade(*given, code=2, OLLAMA_HOST=upstream.url).err
    assert upstream.seen == []
