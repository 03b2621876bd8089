"""`cascade evaluate`, `calibrate`, `try` and `demo`; calibrating in one line; verdicts."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cascade import Cascade, ConfigurationError
from cascade.calibrate import GIVE_UP_AFTER, to_examples
from cascade.cli.judge import DEMO
from cascade.evaluation import read_examples
from cascade.service import create_app, read_config
from cascade.testing import ScriptedModel
from tests.acceptance import commands
from tests.acceptance.commands import MODELS, outcomes
from tests.acceptance.upstream import Answer, Seen, Upstream, failure
from tests.cli import terminal


def labelled(path: Path, n: int) -> Path:
    """Tickets of three kinds, as rows with a label."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows([f"ticket {i} of {'abc'[i % 3]}", "abc"[i % 3]] for i in range(n))
    return path


NAMED = ("--question", "text", "--label", "category")


def calibrate(folder: Path, *options: object, code: int = 0) -> commands.Done:
    """Calibrate on sixty tickets."""
    rows, out = labelled(folder / "rows.csv", 60), ("--out", folder / "c.json")
    return commands.cascade("calibrate", rows, *MODELS, *NAMED, *out, *options, code=code)


def play(host: Upstream) -> None:
    """Two models that sort tickets: the small one is wrong where it is unsure, at every fourth."""

    def drafts(seen: Seen) -> Answer:
        _, i, _, kind = seen.last.split()
        return Answer("half \ud83d", p=0.4) if int(i) % 4 == 0 else Answer(kind, p=0.97)

    host.says("small", drafts)
    host.says("large", lambda seen: seen.last.split()[3])


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("evaluate", ("--price-of-error", "nan"), "'--price-of-error'"),
        ("calibrate", ("--delta", "2"), "'--delta'"),
        ("calibrate", ("--max-harm", "1.5"), "'--max-harm'"),
        ("evaluate", ("--html", "a.jsonl"), "--html a.jsonl: it is read as well"),
        ("evaluate", ("--html", "a.html", "--checked"), "neither --html nor"),
        *(("calibrate", ("--out", to), f"--out {to}: a file") for to in ("nowhere/c.json", ".")),
        ("calibrate", ("--out", "rows.csv"), "--out rows.csv: it is read as well"),
        ("calibrate", ("--out", "c.jsonl"), "--out c.jsonl: it is read as well"),  # its answers
        ("calibrate", ("--stop", "calibration.jsonl"), "--stop calibration.jsonl: it is read"),
        ("calibrate", ("--question", "words"), "words"),
        ("calibrate", ("--max-harm", "0.1"), "30 examples, where 40 or more are needed"),
        ("calibrate", ("--scorer", "vibes"), "vibes"),
        ("calibrate", ("--signals", "mood"), "mood"),
        ("try", (), "30 examples, where 40 or more are needed"),
        ("try", ("--shots", "90"), "shots=90"),
        ("try", ("--concurrency", "0"), "'--concurrency'"),
        ("try", ("--caution", "nan"), "'--caution'"),
    ],
)
def test_what_cannot_be_judged_is_named_and_nothing_asked(
    host: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    given: Any,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "evaluate":
        file = outcomes(tmp_path / "a.jsonl", [(0.9, True), (0.3, False)] * 20)
        named: tuple[str, ...] = ()
    else:
        file = labelled(tmp_path / "rows.csv", 30)
        named = () if "--question" in given else ("--question", "text")
        named += ("--label", "category")
    assert said in commands.cascade(command, file, *MODELS, *named, *given, code=2).err
    assert host.asked() == []


def test_an_evaluation_takes_other_rows_for_its_figures(tmp_path: Path) -> None:
    rows = [(0.97, True), (0.9, True), (0.3, False)] * 30
    whole = outcomes(tmp_path / "whole.jsonl", rows).read_text().splitlines(keepends=True)
    fitted, tested = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    fitted.write_text("".join(whole[:60]))
    tested.write_text("".join(whole[60:]))
    given = ("evaluate", "--fit", fitted, "--test", tested, "--json")
    named = dict(zip(("CASCADE_SMALL", "CASCADE_LARGE"), MODELS[1::2], strict=True))
    assert commands.cascade(*given, **named).json["test_rows"] == 30
    tested.write_text("".join(whole[58:]))
    assert "2 of its rows are in" in commands.cascade(*given, **named, code=2).err
    assert "give the transcripts once" in commands.cascade("evaluate", code=2).err


def test_recorded_answers_are_calibrated_on_without_asking_anybody(
    host: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    play(host)
    rows = labelled(tmp_path / "rows.csv", 60)
    terminal.cascade("calibrate", rows, *MODELS, *NAMED)
    asked = len(host.asked())
    recorded = ("calibrate", "calibration.jsonl", *MODELS, "--recorded", "--out", "again.json")
    shown = commands.cascade(*recorded).out
    assert "again.json: 60 labelled drafts, 75.0% of them right" in shown
    assert "calibrator='again.json')" in shown
    document = commands.cascade(*recorded, "--json").json
    assert (document["calibrated"], document["collected"]) == (True, None)
    refused = commands.cascade(*recorded, "--max-tokens", "7", code=2)
    assert "settings of the small model: give the same" in refused.err
    assert len(host.asked()) == asked


def test_a_certificate_that_cannot_be_given_is_a_failure(host: Upstream, tmp_path: Path) -> None:
    play(host)
    done = calibrate(tmp_path, "--max-harm", "0.001", code=1)
    assert "bring 2302 or more, or allow more harm; as many again" in done.out
    assert "fit the calibrator, 4604 in all" in done.out
    assert "no certificate could be given" in done.err
    again = calibrate(tmp_path, "--max-harm", "0.4")
    assert "certified: P(accepted and wrong) ≤ 40.0%" in again.out
    assert "max_harm=0.4)" in again.out


def test_rows_without_a_right_answer_are_not_asked(host: Upstream, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"ticket {i}"}) + "\n" for i in range(60)))
    done = commands.cascade("try", rows, *MODELS, "--out", tmp_path / "tried", code=2)
    assert "name their column, --label" in done.err
    assert host.asked() == []


def test_examples_that_fail_or_say_nothing_are_counted(host: Upstream, tmp_path: Path) -> None:
    play(host)
    examples = tmp_path / "e.jsonl"
    rows = [{"question": f"ticket {i} of a", "reference": "a"} for i in range(40)]
    rows[5] |= {"reference": None}
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    host.next("large", failure(400, "refused"))
    given = ("calibrate", examples, *MODELS, "--out", tmp_path / "c.json", "--concurrency", "1")
    done = commands.cascade(*given)
    assert "failed examples: 1; the next run tries them again" in done.err
    assert "examples left out, since nothing says which answer is right: 1" in done.err


def test_a_person_is_asked(host: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    models = ("--small", "ollama:small", "--large", "openai:gpt-5.1")
    rows = labelled(tmp_path / "rows.csv", 40)
    given = (*models, *NAMED, "--out", tmp_path / "c.json")
    done = terminal.cascade("calibrate", rows, *given, stdin="n\n", code=1)
    assert "small has no price set, large about $0.0" in done.err
    assert "Go on?" in done.err
    prices = tmp_path / "prices.toml"
    prices.write_text('["ollama:small"]\nper_hour = 1\n')
    given = ("calibrate", rows, *given, "--prices", prices)
    done = terminal.cascade(*given, stdin="n\n", code=1)
    assert "small by its busy time, large about $0.0" in done.err
    assert "without a price" not in done.err
    assert host.asked() == []


def test_what_may_be_spent_unasked_is_the_sum_of_both_models(tmp_path: Path) -> None:
    rows = labelled(tmp_path / "rows.csv", 40)
    given = ("calibrate", rows, *NAMED, "--small", "openai:gpt-5-nano", "--large", "openai:gpt-5.1")
    given += ("--signals", "p_true", "--out", str(tmp_path / "c.json"), "--yes-up-to")
    refused = commands.cascade(*given, "0", code=2, OPENAI_API_KEY="k").err
    dearest = max(re.findall(r"about \$([\d.]+)", refused))
    assert "say --yes" in commands.cascade(*given, dearest, code=2, OPENAI_API_KEY="k").err


def test_labelled_rows_become_a_verdict_and_a_configuration(host: Upstream, tmp_path: Path) -> None:
    play(host)
    rows, out = labelled(tmp_path / "rows.csv", 62), tmp_path / "tried"
    given = ("try", rows, *MODELS, *NAMED, "--out", out, "--shots", "2", "--max-tokens", "9")
    done = commands.cascade(*given)
    assert "next: the same command with --prices FILE and another --out" in done.err
    first = host.asked("small")[0]
    assert first.texts[0] == "Answer with one of these words alone: a, b, c."
    assert len(first.texts) == 1 + 2 * 2 + 1
    assert first.body["options"]["temperature"] == 0
    assert commands.cascade(*given, "--json").json["collected"]["skipped"] == 60
    prices = tmp_path / "prices.toml"
    prices.write_text('["ollama:large"]\ninput = 1\noutput = "4.5"\n')
    commands.cascade(*given, "--prices", prices)
    written = (out / "cascade.yaml").read_text()
    assert "price:\n        input: '1'\n        output: '4.5'\n" in written
    assert len(host.asked("small")) == 60


def test_what_was_tried_is_served_with_its_prompt(
    host: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients know nothing of it; one that sends another system message is not calibrated. It asks
    the server that was asked, wherever it is started, and a prompt is no place for variables."""
    play(host)
    prices = tmp_path / "prices.toml"
    small = '["ollama:small"]\ninput = 0.01\noutput = 0.01\n'
    prices.write_text(f'{small}["ollama:large"]\ninput = 1\noutput = 4\n')
    rows, out = labelled(tmp_path / "rows.csv", 200), tmp_path / "tried"
    odd = "\U0001f600${N}:$${N}\u2028"
    rows.write_text(rows.read_text().replace("ticket", odd))
    given = ("try", rows, *MODELS, *NAMED, "--out", out, "--shots", "2", "--prices", prices)
    commands.cascade(*given, "--yes", "--system", "Sort ${HOME}: a, b, c.")
    first = host.asked("small")[0].texts
    assert first[0] == "Sort ${HOME}: a, b, c."
    recorded = (out / "transcripts.jsonl", "--recorded", "--temperature", "0")
    bare = ("batch", rows, "--output", out / "answers.csv", *MODELS, "--column", "text")
    bare += ("--temperature", "0", "--calibration", out / "calibration.json")
    refused = commands.cascade(*bare, "--system", "Sort ${HOME}: a, b, c.", code=2).err
    assert "made with other examples before the question" in refused
    shown = commands.cascade(
        "calibrate", *recorded, *given[2:6], "--prices", prices, "--out", out / "c"
    )
    rule = re.search(r"price_of_error: ([\d.]+)", (out / "cascade.yaml").read_text())
    assert rule
    assert f"price_of_error={rule[1]})" in shown.out
    monkeypatch.delenv("OLLAMA_HOST")
    host.seen.clear()
    with TestClient(serving(out / "cascade.yaml"), base_url="http://127.0.0.1") as client:
        asked = [{"role": "user", "content": "ticket 7 of b"}]
        own = [{"role": "system", "content": "Sort."}, *asked]
        found = []
        for messages in (asked, own):
            body = {"model": "tried", "messages": messages}
            found.append(client.post("/v1/chat/completions", json=body).json()["cascade"])
    assert [one["calibrated"] for one in found] == [True, False]
    assert [seen.texts for seen in host.asked("small")] == [
        [*first[:-1], "ticket 7 of b"],
        ["Sort.", "ticket 7 of b"],
    ]


def test_a_job_whose_drafts_would_all_be_escalated_is_refused(
    host: Upstream, tmp_path: Path
) -> None:
    play(host)
    calibrate(tmp_path, "--system", "Sort.", "--temperature", "0")
    asked, rows = len(host.asked()), tmp_path / "in.jsonl"
    given = ("batch", rows, "--output", tmp_path / "out.csv", *MODELS, "--temperature", "0")
    given += ("--calibration", tmp_path / "c.json")
    alone = json.dumps({"question": "ticket 1 of a"}) + "\n"
    rows.write_text(alone)
    refused = commands.cascade(*given, code=2).err
    assert re.search("1 of 1 rows .* another system message", refused)
    assert "Give the system message with --system" in refused
    assert len(host.asked()) == asked
    rows.write_text(
        alone + json.dumps({"messages": [["system", "Sort."], ["human", "ticket 2 of a"]]})
    )
    assert re.search("1 of 2 rows .* another system message", commands.cascade(*given).err)
    assert "system message" not in commands.cascade(*given, "--fresh", "--system", "Sort.").err


def serving(path: Path) -> FastAPI:
    ledger = f"sqlite:///{path.parent / 'ledger.db'}"
    return create_app(read_config(path, overrides={"auth": False, "ledger": ledger}))


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_says_what_is_kept_and_it_goes_on_later(host: Upstream, tmp_path: Path) -> None:
    play(host)
    host.next("large", *"abcab", terminal.ctrl_c)
    rows = labelled(tmp_path / "rows.csv", 40)
    given = ("try", rows, *MODELS, *NAMED, "--out", tmp_path / "tried", "--concurrency", "1")
    done = terminal.cascade(*given, code=130)
    assert "interrupted: 5 of 40 are in" in done.err
    assert commands.cascade(*given, "--json").json["collected"]["skipped"] == 5


def test_a_server_that_goes_while_it_is_recorded_ends_it(host: Upstream, tmp_path: Path) -> None:
    play(host)
    host.says("large", lambda seen: "a" if len(host.asked("large")) <= 8 else failure(404, "gone"))
    rows, out = labelled(tmp_path / "rows.csv", 100), tmp_path / "tried"
    given = ("try", rows, *MODELS, *NAMED, "--system", "Answer a, b or c.", "--out", out)
    done = commands.cascade(*given, code=1)
    assert f"{GIVE_UP_AFTER} examples in a row failed, and no more are asked" in done.err
    assert len(host.asked("large")) <= 8 + GIVE_UP_AFTER + 1
    assert len((out / "transcripts.jsonl").read_text().splitlines()) == 8
    assert {seen.body["options"]["temperature"] for seen in host.asked()} == {0}


def test_the_demo_takes_any_small_model(host: Upstream, tmp_path: Path) -> None:
    every = read_examples(DEMO / "questions.jsonl")
    assert len(every) == 240
    assert len({example.id.rsplit("-", 1)[0] for example in every[:40]}) == 8
    right = {example.question: example.reference for example in every}

    def drafts(seen: Seen) -> Answer:
        known = right[seen.last]
        good = len(seen.last) % 2 == 0 and isinstance(known, list)
        return Answer(str(known[0]) if good else "no idea", p=0.95 if good else 0.4)

    host.says("small", drafts)
    given = ("demo", "--n", 50, "--small", "ollama:small", "--out", tmp_path)
    shown = commands.cascade(*given)
    assert "Assumed: the small model costs $0.05 per hour" in shown.out
    assert f"{tmp_path / 'cascade.yaml'}\nnext: cascade try" in shown.err
    document = commands.cascade(*given, "--json").json
    assert (len(document["assumed"]), "headline" in document) == (2, True)
    assert len(host.asked()) == 50
    assert "--n 3: give 40 to 240" in commands.cascade("demo", "--n", 3, code=2).err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "example 0 is None"),
        ([("q", "a"), "q"], "example 1 is 'q'"),
        ([{"question": "q"}], "example 0 is"),
    ],
)
def test_examples_of_another_form_are_named(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        to_examples(given)
    assert said in str(raised.value)


def test_no_draft_is_paid_for_that_could_have_no_confidence() -> None:
    small, large = ScriptedModel("a"), ScriptedModel("b", name="large")
    with Cascade(small, large) as cascade, pytest.raises(ConfigurationError, match="p_true"):
        cascade.calibrate([(f"ticket {i}", "a") for i in range(40)])
    assert small.requests == large.requests == []
