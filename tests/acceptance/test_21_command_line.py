"""The command line: ask, evaluate, calibrate, plan, report, doctor, demo, batch."""

from __future__ import annotations

import csv
import gzip
import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Price
from tests.acceptance import commands, edition
from tests.acceptance.upstream import Answer, Seen, Upstream, failure

QUESTION = "What is the capital of Australia?"
MODELS = ("--small", "ollama:small", "--large", "ollama:large")
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


def test_the_version_is_told() -> None:
    assert commands.cascade("--version").out.startswith("cascade ")


# --- ask


def test_an_answer_is_on_standard_output_and_all_else_on_standard_error(host: Upstream) -> None:
    host.says("small", "Canberra")
    done = commands.cascade("ask", QUESTION, *MODELS)
    assert done.out == "Canberra\n"
    assert "0.950" in done.err
    assert "draft" in done.err


def test_json_is_one_document_with_exact_money(host: Upstream) -> None:
    host.says("small", Answer("Sydney", p=0.3))
    host.says("large", "Canberra")
    document = commands.cascade("ask", QUESTION, *MODELS, "--json").json
    assert (document["answer"], document["tier"]) == ("Canberra", "large")
    assert (document["escalated"], document["calibrated"]) == (True, False)
    assert document["confidence"] == pytest.approx(0.3)
    assert document["cost_usd"] is None  # a machine without a price: unknown is not 0
    assert document["cost_basis"] == "unknown"
    assert [entry["node"] for entry in document["ledger"] if entry["model"]] == ["draft", "expert"]


def test_models_come_from_the_environment_and_questions_from_standard_input(
    host: Upstream,
) -> None:
    host.says("small", "Canberra")
    env = {"CASCADE_SMALL": "ollama:small", "CASCADE_LARGE": "ollama:large"}
    assert commands.cascade("ask", "-", "--quiet", stdin=QUESTION, **env).out == "Canberra\n"
    assert host.asked("small")[0].last == QUESTION


@pytest.mark.parametrize(("threshold", "tier"), [("0.9", "small"), ("0.99", "large")])
def test_a_threshold_is_an_option(host: Upstream, threshold: str, tier: str) -> None:
    done = commands.cascade("ask", QUESTION, *MODELS, "--threshold", threshold, "--json")
    assert done.json["tier"] == tier


def test_a_question_may_stay_on_this_machine(host: Upstream) -> None:
    host.says("small", Answer("Sydney", p=0.3))
    given = ("--small", "ollama:small", "--large", "openai:gpt-5.1", "--local-only", "answer")
    done = commands.cascade("ask", QUESTION, *given, "--json", OPENAI_API_KEY="none")
    assert (done.json["answer"], done.json["degraded"]) == ("Sydney", True)


def test_a_model_that_does_not_answer_is_a_failure(host: Upstream) -> None:
    host.says("small", failure(400))
    host.says("large", failure(400))
    done = commands.cascade("ask", QUESTION, *MODELS, "--json", code=1)
    assert done.out == ""
    assert done.error["exit_code"] == 1
    assert done.error["message"]


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
    assert done.out == ""
    assert host.seen == []


# --- evaluate


def record(path: Path, n: int = 400, **large: Any) -> Path:
    """Recorded answers: drafts that know how sure they are, and a large model that costs ten
    times as much."""
    rows = []
    for i in range(n):
        p = commands.sure(i)
        usage = {"input_tokens": 20, "output_tokens": 2}
        draft = {**usage, "correct": float(commands.right(i)), "cost_usd": 0.00001}
        draft |= {"confidence": p, "features": {"logprob_mean": p - 1}, "output": "a"}
        answer = {**usage, "correct": 1.0, "cost_usd": 0.0001, "output": "b", **large}
        models = {"ollama:small": draft, "ollama:large": answer}
        rows.append({"dataset": "made", "id": f"q{i}", "prompt": f"question {i}", "models": models})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_evaluate_says_what_a_cascade_would_have_cost_and_lost(tmp_path: Path) -> None:
    file = record(tmp_path / "answers.jsonl")
    asked = ("evaluate", file, *MODELS, "--within", "0.1")
    document = commands.cascade(*asked, "--json").json
    assert document["verdict"] == "cascade"
    assert "%" in document["headline"]
    assert document["headline"] in " ".join(commands.cascade(*asked).out.split())


def test_evaluate_says_to_switch_off_what_loses_money(tmp_path: Path) -> None:
    file = record(tmp_path / "answers.jsonl", cost_usd=0.000009)
    document = commands.cascade("evaluate", file, *MODELS, "--json").json
    assert document["verdict"] == "off"
    assert "off" in document["headline"].lower()


def test_evaluate_reads_gzip_and_writes_a_page(tmp_path: Path) -> None:
    plain = record(tmp_path / "answers.jsonl")
    packed = tmp_path / "answers.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    page = tmp_path / "report.html"
    commands.cascade("evaluate", packed, *MODELS, "--html", page)
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "{bad\n" + text[:200], ":401"),
        (lambda text: text.replace('"correct": 1.0', '"correct": 7', 1), "correct"),
        (lambda text: "", "ollama:small"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, change: Any, said: str
) -> None:
    file = record(tmp_path / "answers.jsonl")
    file.write_text(change(file.read_text()))
    assert said in commands.cascade("evaluate", file, *MODELS, code=2).err


def test_a_model_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    file = record(tmp_path / "answers.jsonl", 60)
    given = ("--small", "ollama:small", "--large", "openai:gpt-9")
    assert "openai:gpt-9" in commands.cascade("evaluate", file, *given, code=2).err


# --- calibrate (what it makes is row 6)


def test_a_calibration_that_is_killed_goes_on_and_pays_for_nothing_twice(
    host: Upstream, tmp_path: Path
) -> None:
    commands.play(host)
    examples = commands.write_examples(tmp_path / "examples.jsonl", range(60))
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
    examples = commands.write_examples(tmp_path / "examples.jsonl", range(40))
    given = ("--small", "ollama:small", "--large", "openai:gpt-5.1", "--out", tmp_path / "c.json")
    done = commands.cascade("calibrate", examples, *given, code=2, OPENAI_API_KEY="k")
    assert "--yes" in done.err
    assert "$" in done.err
    assert host.asked() == []


# --- plan


def plan(*options: object, code: int = 0) -> Any:
    given = ("plan", "--input-tokens", 400, "--output-tokens", 100, "--large-price", "1,10")
    return commands.cascade(*given, *options, "--json", code=code).json


@pytest.mark.parametrize(("accept", "verdict"), [(0.6, True), (0.1, False)])
def test_plan_saves_only_above_the_share_that_a_draft_costs(accept: float, verdict: bool) -> None:
    document = plan("--small-price", "0.2,2", "--accept", accept)
    ratio = Decimal(document["cost_ratio"])  # 0.00028 ÷ 0.0014
    assert ratio == Decimal("0.2")
    assert Decimal(document["break_even_accept_rate"]) == ratio
    relative = Decimal(document["relative_cost"]["value"])
    assert relative == ratio + 1 - Decimal(str(accept))
    assert (document["verdict"] == "saves") == verdict


def test_plan_reckons_a_machine_of_ones_own_by_its_busy_time() -> None:
    document = plan("--hourly", "3.6", "--utilisation", "0.5", "--busy-s", "0.1", "--accept", "0.5")
    assert Decimal(document["draft_usd"]) == Decimal("0.0002")


# --- report


@pytest.fixture
def ledger(upstream: Upstream, sqlite_url: str) -> str:
    """A ledger of forty audited drafts and ten escalations."""
    upstream.says("large", Answer("Canberra", tokens=(100, 20)))
    small = upstream.tier("small", price=Price(input="0.1", output="0.4"))
    large = upstream.tier("large", price=Price(input=1, output=10))
    store = edition.open_ledger(sqlite_url)
    with edition.cascade(small, large, ledger=store, audit_rate=0.5, tags={"team": "a"}) as made:
        for i in range(50):
            upstream.next("small", Answer("Canberra", p=0.95 if i % 5 else 0.3, tokens=(100, 20)))
            made.invoke(f"question {i}")
    store.close()
    return sqlite_url


def test_report_says_what_was_saved_for_certain(ledger: str) -> None:
    document = commands.cascade("report", ledger, "--json").json
    assert document["requests"] == 50
    assert Decimal(document["verified_usd"]) > 0
    text = commands.cascade("report", ledger).out
    assert "verified" in text.lower()
    assert "$" in text


def test_report_selects_by_tag_and_writes_a_page(ledger: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    document = commands.cascade("report", ledger, "--tag", "team=b", "--json", code=None)
    assert document.code != 0 or document.json["requests"] == 0
    commands.cascade("report", ledger, "--tag", "team=a", "--html", page)
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


def test_report_of_a_ledger_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = commands.cascade("report", f"sqlite:///{tmp_path}/none.db", code=None)
    assert done.code in (1, 2)
    assert "none.db" in done.err
    assert list(tmp_path.iterdir()) == []


# --- doctor and demo


def test_doctor_says_what_is_within_reach_and_what_to_do(host: Upstream) -> None:
    found = {each["name"]: each for each in commands.cascade("doctor", "--json").json}
    assert found["openai"]["status"] == "missing"
    assert "OPENAI_API_KEY" in found["openai"]["to_do"]
    assert found["ollama"]["status"] == "ok"


def test_doctor_fails_where_a_model_that_was_named_does_not_work(host: Upstream) -> None:
    host.says("small", "yes")
    host.says("broken", failure(500))
    assert "small" in commands.cascade("doctor", "--model", "ollama:small").out
    commands.cascade("doctor", "--model", "ollama:broken", code=1)


def test_demo_lets_the_embedded_model_work(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    document = commands.cascade("demo", "--n", 3, "--json", "--out", tmp_path / "demo").json
    assert "smollm2" in json.dumps(document)


# --- batch


def rows(path: Path, n: int = 60) -> Path:
    text = "".join(json.dumps({"id": i, "question": f"Capital {i}?"}) + "\n" for i in range(n))
    path.write_text(text)
    return path


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    text = '["ollama:small"]\ninput = "0.1"\noutput = "0.4"\n'
    path.write_text(text + '["ollama:large"]\ninput = 1\noutput = 10\n')
    return path


def test_each_row_of_a_file_is_answered_in_its_order(
    host: Upstream, tmp_path: Path, prices: Path
) -> None:
    commands.play(host)
    out = tmp_path / "answers.jsonl"
    source = rows(tmp_path / "in.jsonl", 30)
    given = ("batch", source, "--output", out, *MODELS, "--prices", prices, "--json")
    document = commands.cascade(*given).json
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in made] == list(range(30))
    escalated = [row for row in made if row["escalated"]]
    assert {row["answer"] for row in escalated} == {f"city {row['id']}" for row in escalated}
    assert (document["answered"], document["failed"]) == (30, 0)
    assert document["escalated"] == len(escalated) > 0
    spent = sum(Decimal(row["cost_usd"]) for row in made)
    assert Decimal(document["spent_usd"]) == spent


def test_csv_comes_out_as_csv(host: Upstream, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('id,question\n1,"one, or two?"\n2,three?\n')
    commands.cascade("batch", source, "--output", out, *MODELS)
    made = list(csv.DictReader(out.open()))
    assert [row["question"] for row in made] == ["one, or two?", "three?"]
    assert [row["answer"] for row in made] == ["small: one, or two?", "small: three?"]
    assert made[0]["cost_usd"] == ""  # unknown is not 0


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_interrupted_and_gone_on_with_the_output_is_the_same_to_the_byte(
    host: Upstream, tmp_path: Path, prices: Path, word: signal.Signals, form: str
) -> None:
    commands.play(host)
    source = rows(tmp_path / "in.jsonl", 40)
    given: tuple[object, ...] = (*MODELS, "--prices", prices, "--concurrency", "2")
    whole, cut = tmp_path / f"whole.{form}", tmp_path / f"cut.{form}"
    commands.cascade("batch", source, "--output", whole, *given)
    before = len(host.asked())
    process = commands.start("batch", source, "--output", cut, *given)
    host.wait_for(before + 15)
    process.send_signal(word)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130, 143, -signal.SIGKILL), said
    commands.cascade("batch", source, "--output", cut, *given)
    assert cut.read_bytes() == whole.read_bytes()
    again = len(host.asked()) - before
    assert again <= before + (2 * 2 if word == signal.SIGKILL else 0)
    asked = len(host.asked())
    commands.cascade("batch", source, "--output", cut, *given)
    assert len(host.asked()) == asked


def test_a_row_that_fails_stops_no_other_and_is_asked_again(host: Upstream, tmp_path: Path) -> None:
    def says(seen: Seen) -> Answer:
        return Answer("refused", status=400) if "3?" in seen.last else Answer("city")

    host.says("small", says)
    host.says("large", says)
    source, out = rows(tmp_path / "in.jsonl", 6), tmp_path / "out.jsonl"
    given = ("batch", source, "--output", out, *MODELS)
    commands.cascade(*given, code=1)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in made if row["error"]] == [3]
    host.says("small", "city")
    asked = len(host.asked())
    commands.cascade(*given)
    assert len(host.asked()) == asked + 1


def test_other_options_than_a_journal_was_begun_with_are_refused(
    host: Upstream, tmp_path: Path
) -> None:
    source, out = rows(tmp_path / "in.jsonl", 4), tmp_path / "out.jsonl"
    commands.cascade("batch", source, "--output", out, *MODELS)
    given = ("batch", source, "--output", out, *MODELS, "--threshold", "0.5")
    assert "--fresh" in commands.cascade(*given, code=2).err
    commands.cascade(*given, "--fresh")
    assert len(host.asked("small")) == 8


def test_a_budget_is_not_overspent_and_the_next_run_goes_on(
    host: Upstream, tmp_path: Path, prices: Path
) -> None:
    host.says("small", Answer("city", p=0.3, tokens=(100, 10)))
    host.says("large", Answer("city", tokens=(100, 10)))  # $0.000214 a row
    source, out = rows(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    given = ("batch", source, "--output", out, *MODELS, "--prices", prices, "--json")
    cut = commands.cascade(*given, "--budget-usd", "0.003", code=1).json
    assert Decimal(cut["spent_usd"]) <= Decimal("0.003") + 16 * Decimal("0.000214")
    assert 0 < cut["answered"] < 40
    done = commands.cascade(*given, "--budget-usd", "1").json
    assert len(host.asked("small")) == 40
    assert Decimal(done["spent_usd"]) + Decimal(done["before_usd"]) == 40 * Decimal("0.000214")


def test_a_job_books_each_call_in_a_ledger(
    host: Upstream, tmp_path: Path, prices: Path, sqlite_url: str
) -> None:
    source, out = rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    given = (*MODELS, "--prices", prices, "--ledger", sqlite_url)
    commands.cascade("batch", source, "--output", out, *given)
    assert commands.cascade("report", sqlite_url, "--json").json["requests"] == 5
