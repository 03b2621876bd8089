from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cascade.cli import scale
from cascade.errors import InputError
from cascade.fleet import Scenario, simulation, traffic_of
from cascade.ledger.store import open_store
from cascade.state import LedgerEntry

APP = typer.Typer()
APP.command(epilog=scale.EXAMPLE)(scale.scale)
TRAFFIC = "--escalation 0.3 --small-s 1 --large-s 4"
BEGAN = datetime(2026, 3, 2, 8, tzinfo=UTC)


def run(arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, shlex.split(arguments))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def entries(hours: int = 4) -> list[LedgerEntry]:
    """A hundred questions an hour, three hundred in the third; a quarter is escalated."""
    found = []
    for hour in range(hours):
        number = 300 if hour == 2 else 100
        for i in range(number):
            at = BEGAN + timedelta(hours=hour, seconds=3600 * i / number)
            run_id = f"{hour}-{i}"
            used = {"model": "m", "input_tokens": 200, "output_tokens": 50, "at": at}
            draft = LedgerEntry(run_id=run_id, node="draft", latency_ms=900 + i % 3 * 100, **used)
            found.append(draft)
            if i % 4 == 0:
                used["output_tokens"] = 80
                found.append(LedgerEntry(run_id=run_id, node="expert", latency_ms=3000, **used))
            elif i % 4 == 1 and i < 40:
                found.append(LedgerEntry(run_id=run_id, node="audit", latency_ms=3000, **used))
            failed = {"node": "draft", "outcome": "failed", "latency_ms": 60_000.0, "at": at}
            found.append(LedgerEntry(run_id=run_id, **failed))
            found.append(LedgerEntry(run_id=run_id, node="verify", at=at))
    return found


async def each(given: list[LedgerEntry]) -> AsyncIterator[LedgerEntry]:
    for entry in given:
        yield entry


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/ledger.db"

    async def fill() -> None:
        async with open_store(url) as store:
            store.append(entries())

    asyncio.run(fill())
    return url


def test_the_example_runs() -> None:
    said = run(scale.EXAMPLE.removeprefix("Example: cascade scale "))
    assert "It saves $" in said
    assert "small model, slots" in said


def test_several_rates_stand_side_by_side() -> None:
    said = run(f"--rate 10 --rate 1000 {TRAFFIC} --slots 8")
    assert "requests/s, mean 10.0 1,000" in said
    assert "saved a month" not in said  # there are no prices


def test_json_holds_the_figures() -> None:
    prices = "--replica-hour 3 --large-price 1,10 --gateway-hour 0.1 --database-hour 0.5"
    found = json.loads(run(f"--rate 100 {TRAFFIC} --slots 16 {prices} --json"))
    (fleet,) = found["fleets"]
    assert fleet["small_in_flight"] == 100
    assert fleet["bill"]["unpriced"] == []
    assert fleet["limits"][0]["part"] == "small model, slots"
    assert fleet["summary"].startswith("Small model, slots ends first")
    assert found["simulated"] == []


def test_a_simulation_stands_beside_the_formulas() -> None:
    command = f"--rate 20 {TRAFFIC} --slots 8 --simulate 120 --seed 4"
    said = run(command)
    assert "formulas simulated" in said
    assert said == run(command)
    bursts = json.loads(run(f"{command} --burst 3,10,30,0.9 --json"))["simulated"][0]
    even = json.loads(run(f"{command} --json"))["simulated"][0]
    assert bursts["small_wait_p99_s"] > even["small_wait_p99_s"]


def test_json_has_null_for_what_nothing_was_counted_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = simulation.simulate

    def jammed(scenario: Scenario, **times: float) -> simulation.Simulated:
        return real(scenario, **times).model_copy(update={"answered": 0, "mean_s": math.nan})

    monkeypatch.setattr(simulation, "simulate", jammed)
    command = f"--rate 20 {TRAFFIC} --slots 8 --simulate 5"
    found = json.loads(run(f"{command} --json"), parse_constant=pytest.fail)
    assert found["simulated"][0]["mean_s"] is None
    assert re.search(r"answer, mean [\d,]+ ms –", run(command))


def test_a_hosted_small_model_is_priced_by_its_tokens() -> None:
    said = run(f"--rate 100 {TRAFFIC} --small openai:gpt-4o-mini --large openai:gpt-5.1")
    assert "It saves $" in said
    assert "replicas" not in said


def test_traffic_is_read_from_a_ledger(ledger: str) -> None:
    found = json.loads(run(f"--ledger {ledger} --slots 8 --json"))
    assert found["ledger"]["runs"] == 600
    workload = found["fleets"][0]["workload"]
    assert workload["rate"] == pytest.approx(600 / 4 / 3600, rel=0.01)
    assert workload["peak"] == pytest.approx(2.0, rel=0.01)
    assert workload["escalation"] == 0.25
    assert workload["audited"] == pytest.approx(40 / 450)
    assert (workload["output_tokens"], workload["large_output_tokens"]) == (50, 80)
    assert found["fleets"][0]["small_in_flight"] == pytest.approx(
        workload["rate"] * workload["peak"] * 1.0, rel=0.01
    )


def test_what_is_given_goes_over_the_ledger(ledger: str) -> None:
    found = json.loads(run(f"--ledger {ledger} --rate 50 --escalation 0.5 --peak 1 --json"))
    workload = found["fleets"][0]["workload"]
    assert (workload["rate"], workload["escalation"], workload["peak"]) == (50, 0.5, 1)
    assert workload["input_tokens"] == 200
    assert "From 600 runs in 4.0 hours." in run(f"--ledger {ledger}")


def test_a_short_ledger_has_no_busiest_hour() -> None:
    found = asyncio.run(traffic_of(each(entries(hours=1))))
    assert found.workload.peak == 1


def test_calls_that_failed_say_nothing_of_a_time() -> None:
    found = asyncio.run(traffic_of(each(entries())))
    assert max(found.workload.small.seconds) == 1.1


@pytest.mark.parametrize("node", ["draft", "expert"])
def test_a_ledger_of_one_model_alone_is_refused(node: str) -> None:
    with pytest.raises(InputError, match="--small-s and --large-s"):
        asyncio.run(traffic_of(each([entry for entry in entries() if entry.node == node])))


def test_a_ledger_of_one_moment_is_refused() -> None:
    alike = [entry.model_copy(update={"at": BEGAN}) for entry in entries()]
    with pytest.raises(InputError, match="the same time"):
        asyncio.run(traffic_of(each(alike)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "give --escalation, --small-s, --large-s, --rate, or --ledger"),
        (f"--rate 0 {TRAFFIC}", "Workload(rate=0.0)"),
        (f"--rate 5 {TRAFFIC} --slots 0", "Capacity(replica_slots=0)"),
        (f"--rate 5 {TRAFFIC} --burst 3,1,5", "--simulate"),
        (f"--rate 5 {TRAFFIC} --simulate 9 --burst 3,1", "FACTOR,LASTS_S,EVERY_S"),
        (f"--rate 5 {TRAFFIC} --simulate 9 --burst 1,1,1", "Bursts(factor=1.0)"),
        (f"--rate 1e6 {TRAFFIC} --simulate 9", "more than 500,000"),
        (f"--rate 5 {TRAFFIC} --large-price 1,2", "the small model has no price"),
        (f"--rate 5 {TRAFFIC} --replica-hour x --large-price 1,2", "no amount of dollars"),
        (f"--rate 5 {TRAFFIC} --replica-hour 3 --slots 4", "the large model has no price"),
        (f"--rate 5 {TRAFFIC} --replica-hour 3 --large-price 1,2", "replica_slots"),
        ("--ledger sqlite:///nowhere.db", "there is no file"),
        (f"--rate 5 {TRAFFIC} --days 3", "--ledger"),
        (f"--rate 5 {TRAFFIC} --seed 3", "--simulate"),
        (f"--rate 5 {TRAFFIC} --burst ''", "--burst goes with --simulate: give that too"),
        (f"--rate 5 {TRAFFIC} --simulate 9 --burst ''", "FACTOR,LASTS_S,EVERY_S"),
        (f"--rate 5 {TRAFFIC} --tag ''", "--tag goes with --ledger"),
        ("--rate 5 --escalation 0.3 --small-cv 2 --large-s 4", "--small-cv goes with --small-s"),
        ("--rate 5 --escalation 0.3 --large-cv 2 --small-s 4", "--large-cv goes with --large-s"),
        (f"--rate 5 {TRAFFIC} --replica-hour ''", "no amount of dollars"),
    ],
)
def test_wrong_usage_is_told(arguments: str, words: str) -> None:
    assert words in run(arguments, code=2)
