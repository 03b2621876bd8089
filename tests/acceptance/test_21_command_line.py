"""The command line: ask, evaluate, calibrate, plan, report, doctor, demo, batch."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.ledger import tagged
from cascade.ledger.store import open_store
from tests.acceptance import commands
from tests.acceptance.commands import MODELS, outcomes, right, sure
from tests.acceptance.setups import check_booked, pair
from tests.acceptance.upstream import Answer, Seen, Upstream, failure

QUESTION = "What is the capital of Australia?"
COMMANDS = ("ask", "demo", "calibrate", "evaluate", "plan", "report", "serve", "batch", "doctor")


@pytest.fixture
def host(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """The server that plays models, where commands look for Ollama."""
    monkeypatch.setenv("OLLAMA_HOST", upstream.url)
    return upstream


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example_and_json(command: str) -> None:
    shown = " ".join(commands.cascade(command, "--help").out.split())
    assert f"cascade {command}" in shown
    assert "Example" in shown
    assert "--json" in shown


# --- ask


def test_an_answer_is_on_standard_output_and_all_else_on_standard_error(host: Upstream) -> None:
    host.says("small", "Canberra")
    env = {"CASCADE_SMALL": "ollama:small", "CASCADE_LARGE": "ollama:large"}
    done = commands.cascade("ask", "-", stdin=QUESTION, **env)
    assert done.out == "Canberra\n"
    assert "0.950" in done.err
    assert host.asked("small")[0].last == QUESTION


def test_ask_prints_one_document_in_which_unknown_is_null(host: Upstream) -> None:
    host.says("large", "Canberra")
    document = commands.cascade("ask", QUESTION, *MODELS, "--threshold", "0.99", "--json").json
    assert (document["answer"], document["tier"]) == ("Canberra", "large")
    assert (document["escalated"], document["calibrated"]) == (True, False)
    assert document["confidence"] == pytest.approx(0.95)
    assert (document["cost_usd"], document["cost_basis"]) == (None, "unknown")
    assert [entry["node"] for entry in document["ledger"] if entry["model"]] == ["draft", "expert"]


def test_a_model_that_does_not_answer_is_a_failure(host: Upstream) -> None:
    for name in ("small", "large"):
        host.says(name, failure(400))
    done = commands.cascade("ask", QUESTION, *MODELS, "--json", code=1)
    error = json.loads(done.err.strip().splitlines()[-1])["error"]
    assert (done.out, error["exit_code"], bool(error["message"])) == ("", 1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((QUESTION, "--small", "ollama:small"), "--large"),
        (("", *MODELS), "empty"),
        ((QUESTION, *MODELS, "--threshold", "1.1"), "threshold"),
        ((QUESTION, "--small", "nobody:x", "--large", "ollama:large"), "nobody"),
        ((QUESTION, *MODELS, "--colour", "red"), "--colour"),
        ((QUESTION, "--small", "ollama:small", "--large", "openai:gpt-5.1"), "OPENAI_API_KEY"),
    ],
)
def test_wrong_usage_is_named_and_costs_nothing(
    host: Upstream, arguments: tuple[str, ...], said: str
) -> None:
    done = commands.cascade("ask", *arguments, code=2)
    assert said in done.err
    assert (done.out, host.seen) == ("", [])


# --- evaluate


def record(path: Path, **large: Any) -> Path:
    return outcomes(path, ((sure(i), right(i)) for i in range(400)), **large)


def test_evaluate_says_what_a_cascade_would_have_cost_and_lost(tmp_path: Path) -> None:
    file, page = record(tmp_path / "answers.jsonl"), tmp_path / "report.html"
    packed = tmp_path / "answers.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    document = commands.cascade("evaluate", file, *MODELS, "--within", "0.1", "--json").json
    assert document["verdict"] == "cascade"
    assert "%" in document["headline"]
    shown = commands.cascade("evaluate", packed, *MODELS, "--within", "0.1", "--html", page)
    assert document["headline"] in " ".join(shown.out.split())
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "{bad\n" + text[:200], ":401"),
        (lambda text: text.replace('"correct": 1.0', '"correct": 7', 1), "correct"),
        (lambda text: text.replace("ollama:large", "ollama:huge"), "ollama:large"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong(
    tmp_path: Path, change: Any, said: str
) -> None:
    file = record(tmp_path / "answers.jsonl")
    file.write_text(change(file.read_text()))
    assert said in commands.cascade("evaluate", file, *MODELS, code=2).err


# --- calibrate (what it makes is row 6)


def test_a_calibration_that_is_killed_goes_on_and_pays_for_nothing_twice(
    host: Upstream, tmp_path: Path
) -> None:
    commands.play(host)
    examples = commands.questions(tmp_path / "examples.jsonl", range(60))
    given = ("calibrate", examples, *MODELS, "--out", tmp_path / "c.json", "--concurrency", "2")
    process = commands.start(*given)
    host.wait_for(60)
    process.kill()
    process.communicate()
    commands.cascade(*given)
    asked = [(seen.model, seen.last) for seen in host.asked()]
    assert set(asked) == {(m, f"Capital {i}?") for m in ("small", "large") for i in range(60)}
    assert len(asked) <= 120 + 2 * 2


def test_calibrate_asks_before_it_spends_money(host: Upstream, tmp_path: Path) -> None:
    examples = commands.questions(tmp_path / "examples.jsonl", range(40))
    given = ("--small", "ollama:small", "--large", "openai:gpt-5.1", "--out", tmp_path / "c.json")
    done = commands.cascade("calibrate", examples, *given, code=2, OPENAI_API_KEY="k")
    assert "--yes" in done.err
    assert "$" in done.err
    assert host.asked() == []


# --- plan, report, doctor, demo


@pytest.mark.parametrize(("accept", "saves"), [(0.6, True), (0.1, False)])
@pytest.mark.parametrize(
    "small", [("--small-price", "0.2,2"), ("--hourly", "3.6", "--utilisation", "0.5")]
)
def test_plan_saves_only_above_the_share_that_a_draft_costs(
    small: tuple[str, ...], accept: float, saves: bool
) -> None:
    given = ("--input-tokens", 400, "--output-tokens", 100, "--large-price", "1,10", *small)
    given += ("--busy-s", "0.14") if small[0] == "--hourly" else ()
    document = commands.cascade("plan", *given, "--accept", accept, "--json").json
    ratio = Decimal(document["cost_ratio"])  # $0.00028 ÷ $0.0014
    assert ratio == Decimal(document["break_even_accept_rate"]) == Decimal("0.2")
    assert Decimal(document["relative_cost"]["value"]) == ratio + 1 - Decimal(str(accept))
    assert (document["verdict"] == "saves") == saves


def test_report_says_what_was_saved_for_certain(
    upstream: Upstream, sqlite_url: str, tmp_path: Path
) -> None:
    page, store = tmp_path / "report.html", open_store(sqlite_url)
    with pair(upstream, ledger=store, audit_rate=0.5) as cascade, tagged(team="a"):
        for i in range(50):
            upstream.next("small", Answer("Canberra", p=0.95 if i % 5 else 0.3))
            cascade.invoke(f"question {i}")
    store.close()
    document = commands.cascade("report", sqlite_url, "--json").json
    assert document["requests"] == 50
    assert Decimal(document["verified_usd"]) > 0
    shown = commands.cascade("report", sqlite_url, "--tag", "team=a", "--html", page)
    assert "verified" in shown.out.lower()
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


def test_report_of_a_ledger_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = commands.cascade("report", f"sqlite:///{tmp_path}/none.db", code=None)
    assert done.code in (1, 2)
    assert "none.db" in done.err
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_is_within_reach_and_what_to_do(host: Upstream) -> None:
    found = {each["name"]: each for each in commands.cascade("doctor", "--json").json}
    assert found["openai"]["status"] == "missing"
    assert "OPENAI_API_KEY" in found["openai"]["to_do"]
    assert found["ollama"]["status"] == "ok"
    host.says("broken", failure(500))
    commands.cascade("doctor", "--model", "ollama:small")
    commands.cascade("doctor", "--model", "ollama:broken", code=1)


def test_demo_lets_the_embedded_model_work(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    document = commands.cascade("demo", "--n", 40, "--json", "--out", tmp_path / "demo").json
    assert "smollm2" in json.dumps(document)
    commands.cascade("serve", tmp_path / "demo" / "cascade.yaml", "--check")


# --- batch


def batch(source: Path, output: Path, *options: object, code: int = 0) -> Any:
    """Totals and rows of a job whose two models have prices."""
    prices = source.with_name("prices.toml")
    text = '["ollama:small"]\ninput = "0.1"\noutput = "0.4"\n'
    prices.write_text(text + '["ollama:large"]\ninput = 1\noutput = 10\n')
    given = ("batch", source, "--output", output, *MODELS, "--prices", prices, *options, "--json")
    totals = commands.cascade(*given, code=code).json
    lines = output.read_text().splitlines()
    rows = csv.DictReader(lines) if output.suffix == ".csv" else map(json.loads, lines)
    return totals, list(rows)


def write_rows(path: Path, n: int) -> Path:
    rows = [{"id": i, "question": f"Capital {i}?"} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_row_of_a_file_is_answered_in_its_order_and_booked(
    host: Upstream, tmp_path: Path, sqlite_url: str
) -> None:
    commands.play(host)
    source, out = write_rows(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl"
    totals, made = batch(source, out, "--ledger", sqlite_url)
    assert [row["id"] for row in made] == list(range(30))
    escalated = [row for row in made if row["escalated"]]
    assert {row["answer"] for row in escalated} == {f"city {row['id']}" for row in escalated}
    assert (totals["answered"], totals["failed"]) == (30, 0)
    assert totals["escalated"] == len(escalated) > 0
    assert Decimal(totals["spent_usd"]) == sum(Decimal(row["cost_usd"]) for row in made)
    assert commands.cascade("report", sqlite_url, "--json").json["requests"] == 30


@pytest.mark.parametrize(
    ("word", "form"), [(signal.SIGINT, "csv"), (signal.SIGTERM, "jsonl"), (signal.SIGKILL, "jsonl")]
)
def test_interrupted_and_gone_on_with_the_output_is_the_same_to_the_byte(
    host: Upstream, tmp_path: Path, sqlite_url: str, word: signal.Signals, form: str
) -> None:
    commands.play(host)
    source, whole, cut = (tmp_path / name for name in ("in.jsonl", f"whole.{form}", f"cut.{form}"))
    batch(write_rows(source, 40), whole)
    once, prices = len(host.asked()), ("--prices", tmp_path / "prices.toml")
    given = ("--concurrency", "2", "--ledger", sqlite_url)
    process = commands.start("batch", source, "--output", cut, *MODELS, *prices, *given)
    host.wait_for(once + 15)
    process.send_signal(word)
    _, said = process.communicate(timeout=300)
    assert process.returncode in (0, 130, 143, -signal.SIGKILL), said
    before = host.asked()
    for _ in range(2):  # the second time there is nothing left to ask
        batch(source, cut, *given)
    assert cut.read_bytes() == whole.read_bytes()
    again = {s.last for s in before[once:]} & {s.last for s in host.asked()[len(before) :]}
    assert len(again) <= (2 if word == signal.SIGKILL else 0)  # rows under way
    if word == signal.SIGKILL:
        asyncio.run(check_booked(sqlite_url, host.asked()[once:], 2))


def test_a_row_that_fails_stops_no_other_and_is_asked_again(host: Upstream, tmp_path: Path) -> None:
    def refuses(seen: Seen) -> Answer:
        return failure(400, "refused") if "3?" in seen.last else Answer("city")

    for name in ("small", "large"):
        host.says(name, refuses)
    source, out = write_rows(tmp_path / "in.jsonl", 6), tmp_path / "out.jsonl"
    _, made = batch(source, out, code=1)
    assert [row["id"] for row in made if row["error"]] == [3]
    host.says("small", "city")
    asked = len(host.asked())
    batch(source, out)
    assert len(host.asked()) == asked + 1
    batch(source, out, "--fresh")
    assert len(host.asked()) == asked + 1 + 6


def test_a_budget_is_not_overspent_and_the_next_run_goes_on(host: Upstream, tmp_path: Path) -> None:
    host.says("small", Answer("city", p=0.3, tokens=(100, 10)))
    host.says("large", Answer("city", tokens=(100, 10)))
    row = Decimal("0.000214")
    source, out = write_rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    cut, _ = batch(source, out, "--budget-usd", "0.003", code=1)
    assert Decimal(cut["spent_usd"]) <= Decimal("0.003") + 16 * row  # rows under way
    assert 0 < cut["answered"] < 40
    done, _ = batch(source, out, "--budget-usd", "1")
    assert Decimal(done["spent_usd"]) + Decimal(done["before_usd"]) == 40 * row
    assert len(host.asked("small")) == 40
