"""The demo from end to end, on models that answer by script."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from cascade.cli.console import print_json
from cascade.demo import DemoOptions, DemoOutcome, run_demo
from cascade.demo.console import BAR, show, watching
from cascade.demo.questions import take
from cascade.demo.records import SMALL, Facts, Step, Watcher
from cascade.errors import ConfigurationError, ModelNotFoundError, ModelUnavailableError
from cascade.models import Request
from cascade.models.llamacpp import find_weights
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

RIGHT = {question.question: question.answer for question in take()}


def asked(request: Request) -> str:
    return str(request.messages[-1].text)


def drafts(request: Request) -> Completion:
    """Sure and right about capitals, unsure and wrong about the rest."""
    if "capital" in asked(request):
        return reply(RIGHT[asked(request)], probability=0.95)
    return reply("no idea", probability=0.3)


def knows_all(request: Request) -> Completion:
    return reply(RIGHT[asked(request)], input_tokens=100)


def options(tmp_path: Path, **changes: object) -> DemoOptions:
    small = ScriptedModel(drafts, returns_logprobs=True, name="small")
    return DemoOptions(**{"n": 8, "small": small, "out": tmp_path / "out", **changes})  # type: ignore[arg-type]


def printed(outcome: DemoOutcome) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(outcome, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_with_recorded_answers_all_three_are_compared(tmp_path: Path) -> None:
    outcome = await run_demo(options(tmp_path))
    overall = outcome.findings.report.overall
    assert (overall.small.count, overall.escalated.count) == (1, 7)
    assert overall.large is not None
    assert overall.large.n == 8
    assert outcome.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert outcome.picture is not None
    assert outcome.picture.read_bytes().startswith(b"\x89PNG")
    assert "recorded" in printed(outcome)


async def test_the_large_models_cost_is_counted_from_its_own_recorded_answers(
    tmp_path: Path,
) -> None:
    outcome = await run_demo(options(tmp_path, large_price="1,1"))
    report = outcome.findings.report
    assert report.large_cost is not None
    assert report.large_cost > Decimal("0.0005")
    # The scripted model does not say how long it was busy, so its cost is unknown, not zero.
    assert report.small_cost is None
    assert "a price is missing" in printed(outcome)


async def test_a_live_large_model_is_asked_only_where_it_is_needed(tmp_path: Path) -> None:
    large = ScriptedModel(knows_all, name="large")
    outcome = await run_demo(options(tmp_path, large=large))
    assert len(large.requests) == 7
    assert outcome.findings.report.overall.cascade.rate == 1.0
    assert outcome.findings.report.overall.large is None
    text = printed(outcome)
    assert "not known" in text
    assert "it was not asked everything" in text


async def test_compare_asks_a_live_large_model_everything_and_says_what_that_cost(
    tmp_path: Path,
) -> None:
    large = ScriptedModel(knows_all, name="large")
    timed = ScriptedModel(lambda request: replace(drafts(request), busy_ms=50.0), logprobs=0.5)
    chosen = options(tmp_path, small=timed, large=large, compare=True, large_price="1,1")
    outcome = await run_demo(chosen)
    assert len(large.requests) == 8
    assert outcome.findings.report.overall.large is not None
    assert outcome.findings.report.overall.large.rate == 1.0
    assert outcome.findings.compare_cost is not None
    assert outcome.findings.compare_cost > Decimal("0.0001")
    assert "--compare itself spent" in printed(outcome)


async def test_compare_without_a_price_leaves_its_cost_unknown(tmp_path: Path) -> None:
    large = ScriptedModel(knows_all, name="large")
    outcome = await run_demo(options(tmp_path, large=large, compare=True))
    assert outcome.findings.compare_cost is None


async def test_a_large_model_that_is_down_degrades_and_is_told(tmp_path: Path) -> None:
    def down(_: Request) -> Exception:
        return ModelUnavailableError("it is down", model="scripted:large")

    outcome = await run_demo(options(tmp_path, n=2, large=ScriptedModel(down, name="large")))
    assert outcome.findings.degraded == 2
    assert "2 answers are drafts" in printed(outcome)


async def test_a_small_model_that_is_down_has_no_draft(tmp_path: Path) -> None:
    def down(_: Request) -> Exception:
        return ModelUnavailableError("it is down", model="scripted:small")

    outcome = await run_demo(options(tmp_path, n=1, small=ScriptedModel(down)))
    (only,) = outcome.findings.outcomes
    assert (only.small_answer, only.confidence, only.escalated) == ("", None, True)


async def test_facts_come_before_the_first_step_and_the_last_step_is_the_whole(
    tmp_path: Path,
) -> None:
    seen: list[Facts | Step] = []
    await run_demo(options(tmp_path), Watcher(seen.append, seen.append))
    assert isinstance(seen[0], Facts)
    assert seen[-1] == Step(done=8, total=8, escalated=7)


async def test_the_terminal_says_what_runs_before_it_runs(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    with watching(console) as watcher:
        await run_demo(options(tmp_path, large=ScriptedModel(knows_all), compare=True), watcher)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "LIVE" in text
    assert "costs money" in text
    assert "0.8 or more" in text


async def test_bars_are_whole_in_eighty_columns(tmp_path: Path) -> None:
    findings = (outcome := await run_demo(options(tmp_path, n=2))).findings
    long = replace(findings, facts=replace(findings.facts, large="a-large-model-of-many-letters"))
    console = Console(file=io.StringIO(), width=80)
    show(replace(outcome, findings=long), console)
    assert isinstance(console.file, io.StringIO)
    bars = re.findall("[█░…]+", console.file.getvalue())
    assert [len(bar) for bar in bars if bar != "…"] == [BAR] * 3


@pytest.mark.parametrize(("load", "said"), [(0.5, False), (1000.0, True)])
async def test_a_machine_that_is_busy_with_other_things_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, said: bool
) -> None:
    timed = ScriptedModel(lambda r: replace(drafts(r), busy_ms=9.0), returns_logprobs=True)
    outcome = await run_demo(options(tmp_path, small=timed, large_price="1,1"))
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    assert ("busy with other things (load 1000" in printed(outcome)) == said


async def test_the_figures_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = await run_demo(options(tmp_path))
    print_json(outcome.figures())
    figures = json.loads(capsys.readouterr().out)
    assert figures["facts"]["large_source"] == "recorded"
    assert figures["accuracy_small"]["value"] == 1 / 8
    assert figures["page"].endswith("demo.html")


async def test_without_matplotlib_the_page_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.demo.runner.draw", lambda *_: False)
    outcome = await run_demo(options(tmp_path, n=2))
    assert outcome.picture is None
    assert outcome.page.exists()
    assert "agent-cascade[plot]" in printed(outcome)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"large_price": "cheap"}, {"threshold": 2.0}])
async def test_impossible_options_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        await run_demo(options(tmp_path, **wrong))


@pytest.mark.live
async def test_the_embedded_model_runs_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
    try:
        find_weights("smollm2-135m")
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))
    outcome = await run_demo(DemoOptions(n=16, small=SMALL, out=tmp_path))
    report = outcome.findings.report
    assert report.small_cost is not None
    assert report.cascade_cost is not None
    assert report.large_cost is not None
    assert report.overall.cascade.rate >= report.overall.small.rate
    assert report.curve is not None
    assert "saved" in printed(outcome) or "LOST" in printed(outcome)
