"""A new small model beside the old: what is compared, by which weights, when nothing is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascade import Cascade, ConfigurationError, Price, Tier, tiers
from cascade.cli import app
from cascade.errors import ModelUnavailableError
from cascade.evaluation import Outcome, Transcript, TranscriptWriter
from cascade.evaluation.scorers import get_scorer
from cascade.ledger import tagged
from cascade.ledger.store import Store, open_store
from cascade.models import Request
from cascade.policies import ThresholdPolicy
from cascade.state import Completion
from cascade.teaching import Lessons, LessonStore, open_lessons
from cascade.teaching.comparing import Answers, Paired, compare
from cascade.teaching.evaluating import Questions, answer, from_lessons, from_rows
from cascade.testing import ScriptedModel, reply
from tests.teaching.making import lesson

EXACT = get_scorer("exact")


def paired(n: int, old: float, new: float, **fields: Any) -> Paired:
    """Of n questions, so many parts right by the old model and by the new one."""
    place = np.arange(n) / n

    def answers(share: float) -> Answers:
        correct = (place < share).astype(float)
        return Answers(correct, np.where(correct > 0, 0.95, 0.3), np.full(n, 0.001))

    given: dict[str, Any] = {
        "weight": np.ones(n),
        "large_cost": np.full(n, 0.01),
        "large_correct": np.ones(n),
        "represents": True,
    }
    return Paired(answers(old), answers(new), **given | fields)


def test_a_model_that_is_right_more_often_saves_more_and_is_taken() -> None:
    found = compare(paired(400, 0.4, 0.6), way="threshold")
    assert found.verdict == "switch"
    assert found.difference.accuracy.value == pytest.approx(0.2)
    assert found.old.saving.value == pytest.approx(0.4 * 0.01 - 0.001)
    assert found.new.saving.value == pytest.approx(0.6 * 0.01 - 0.001)
    assert found.difference.saving.low > 0
    assert found.new.saving.low < found.new.saving.value < found.new.saving.high


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (paired(400, 0.6, 0.4), "keep the old one"),
        (paired(400, 0.5, 0.51), "cannot tell"),
        (paired(20, 0.1, 0.9), "cannot tell"),
        (paired(400, 0.4, 0.6, represents=False), "cannot tell"),
        (paired(400, 0.4, 0.6, weight=np.r_[np.full(390, 1e-6), np.ones(10)]), "cannot tell"),
    ],
    ids=["worse", "close", "few", "selected", "few count"],
)
def test_a_verdict_is_given_only_where_the_rows_can(rows: Paired, verdict: str) -> None:
    found = compare(rows, way="threshold")
    assert found.verdict == verdict
    assert (found.more > 0) == (verdict == "cannot tell" and rows.represents)


def test_a_new_model_that_is_sure_and_wrong_is_not_taken() -> None:
    rows = paired(400, 0.5, 0.5)
    sure = Answers(rows.new.correct, np.full(400, 0.95), rows.new.cost)
    found = compare(Paired(**{**_fields(rows), "new": sure}), way="threshold")
    assert found.verdict == "keep the old one"
    assert found.new.escalated.value == 0
    # Fitted anew, its confidence says what it is worth: nothing is accepted at 0.8.
    fitted = compare(Paired(**{**_fields(rows), "new": sure}))
    assert fitted.new.escalated.value == 1


def test_what_nobody_knows_the_cost_of_is_counted_in_calls() -> None:
    rows = paired(100, 0.4, 0.6)
    unknown = Answers(rows.new.correct, rows.new.confidence, np.full(100, np.nan))
    found = compare(Paired(**{**_fields(rows), "new": unknown}))
    assert found.unit == "calls"
    assert found.new.saving.value == pytest.approx(0.6)


def _fields(rows: Paired) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in Paired.__dataclass_fields__}


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 200), st.floats(0, 1), st.floats(0, 1))
def test_the_same_answers_are_never_taken_nor_called_worse(n: int, share: float, t: float) -> None:
    found = compare(paired(n, share, share), threshold=t, way="threshold")
    assert found.verdict != "switch"
    assert found.difference.quality.low <= 0 <= found.difference.quality.high


def test_options_of_a_comparison_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="threshold=2"):
        compare(paired(40, 0.5, 0.5), threshold=2)
    with pytest.raises(ConfigurationError, match="1 questions"):
        compare(paired(1, 0.5, 0.5))


def asked(request: Request) -> int:
    return int(str(request.messages[-1].content).split()[-1].rstrip("?"))


def question(number: int) -> str:
    words = ("amber", "birch", "cedar", "delta", "ember", "fjord", "glade")
    return f"{words[number % 7]} {words[number // 7 % 7]} and what is twice {number}?"


def small(right: Callable[[int], bool]) -> Callable[[Request], Completion]:
    def answered(request: Request) -> Completion:
        n = asked(request)
        good = right(n)
        return reply(str(2 * n if good else -1), probability=0.95 if good else 0.3)

    return answered


def model(name: str, right: Callable[[int], bool]) -> Tier:
    scripted = ScriptedModel(small(right), name=name, returns_logprobs=True)
    return Tier(scripted, price=Price(input=1, output=1))


async def lived(store: LessonStore, ledger: Store, n: int, rate: float) -> None:
    """Requests of which the old model can do every other one."""
    large = Tier(
        ScriptedModel(lambda request: reply(str(2 * asked(request))), name="large"),
        price=Price(input=10, output=10),
    )
    lessons = Lessons(store)
    async with Cascade(
        model("old", lambda n: n % 2 == 0),
        large,
        ledger=ledger,
        lessons=lessons,
        audit_rate=rate,
        policy=ThresholdPolicy(0.8),
        signals=["logprobs"],
    ) as cascade:
        for number in range(n):
            with tagged(task="sums"):
                await cascade.ainvoke(question(number))
        await cascade.audits_done()
        await lessons.aclose()


async def test_audited_drafts_stand_for_those_that_were_not(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"
    async with open_lessons("memory://") as store, open_store(address) as ledger:
        await lived(store, ledger, 160, 0.25)
        without = await from_lessons(store, "scripted:old")
        questions = await from_lessons(store, "scripted:old", ledger=ledger)
        assert not without.represents
        assert questions.represents
        assert len(questions.items) < 120, "most accepted drafts are not lessons"
        assert sum(item.weight for item in questions.items) == pytest.approx(160)
        assert all(item.old is not None for item in questions.items)
        done = await answer(questions, model("old", bool), model("new", lambda n: n % 4 < 3), EXACT)
        found = compare(done.rows, way="threshold", within=0.15)
        assert found.old.accuracy.value == pytest.approx(0.5)
        assert found.new.accuracy.value == pytest.approx(0.75, abs=0.12)
        assert found.unit == "dollars"
        assert found.verdict == "switch"
        plain = await answer(without, model("old", bool), model("new", lambda n: n % 4 < 3), EXACT)
        assert compare(plain.rows, way="threshold").verdict == "cannot tell"


async def test_what_was_trained_on_is_not_evaluated_on(memory: LessonStore) -> None:
    for n, text in enumerate(("How deep is the northern lake?", "How high is the old tower?")):
        await memory.put(lesson(f"r{n}", text))
    await memory.put(lesson("near", "How deep is that northern lake?"))
    await memory.note_export("train.jsonl", ["r0"], purpose="training")
    await memory.note_export("validation.jsonl", ["r1"], purpose="validation")
    found = await from_lessons(memory, "ollama:s")
    assert [item.id for item in found.items] == ["r1"]
    assert found.trained == 2
    with pytest.raises(ConfigurationError, match="nothing to compare on"):
        await answer(Questions("lessons"), model("a", bool), model("b", bool), EXACT)


def transcripts(path: Path, n: int) -> None:
    with TranscriptWriter(path) as writer:
        for number in range(n):
            right = number % 2 == 0
            text = str(2 * number)
            outcomes = {
                "scripted:old": Outcome(
                    correct=float(right),
                    input_tokens=1,
                    output_tokens=1,
                    cost_usd=0.000001,
                    output=text if right else "-1",
                    confidence=0.95 if right else 0.3,
                ),
                "large": Outcome(
                    correct=1, input_tokens=1, output_tokens=1, cost_usd=0.0001, output=text
                ),
            }
            writer.write(
                Transcript(dataset="d", id=str(number), prompt=question(number), models=outcomes)
            )


async def test_rows_of_a_calibration_are_compared_on_what_is_recorded(tmp_path: Path) -> None:
    transcripts(tmp_path / "rows.jsonl", 80)
    old = ScriptedModel([], name="old")  # would fail if it were asked
    questions = await from_rows([tmp_path / "rows.jsonl"], "scripted:old", None)
    new = model("new", lambda n: n % 4 < 3)
    done = await answer(questions, Tier(old, price=Price(input=1, output=1)), new, EXACT)
    found = compare(done.rows, within=0.06)
    assert (found.n, found.way) == (80, "recalibrated")
    assert found.verdict == "switch"
    assert found.new.accuracy.value == pytest.approx(0.75)
    assert done.ledger.cost_usd is not None
    assert done.ledger.cost_usd > 0


async def test_a_question_that_fails_is_in_no_figure(tmp_path: Path) -> None:
    transcripts(tmp_path / "rows.jsonl", 40)
    questions = await from_rows([tmp_path / "rows.jsonl"], "scripted:old", "large")

    def fails(request: Request) -> Any:
        if asked(request) == 3:
            raise ModelUnavailableError("away", model="new")
        return reply("1", probability=0.9)

    broken = Tier(
        ScriptedModel(fails, name="new", returns_logprobs=True), price=Price(input=1, output=1)
    )
    done = await answer(questions, model("old", bool), broken, EXACT)
    assert list(done.failures) == ["3"]
    assert len(done.rows) == 39


def test_the_command_says_whether_to_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/lessons.db"

    async def fill() -> None:
        async with open_lessons(url) as store:
            await store.put(lesson())

    asyncio.run(fill())
    transcripts(tmp_path / "rows.jsonl", 12)
    command = ["teach", "evaluate", url, "--evaluation", str(tmp_path / "rows.jsonl")]
    same = CliRunner().invoke(app, [*command, "--old", "a:b", "--new", "a:b"])
    assert same.exit_code == 2
    assert "name two models" in same.stderr
    remote = ["--old", "scripted:old", "--new", "openai:gpt-5.1"]
    refused = CliRunner().invoke(app, [*command, *remote], env={"OPENAI_API_KEY": "x"})
    assert refused.exit_code == 2
    assert "the new model 12 questions, the old one 0" in refused.stderr
    assert "say --yes to spend this" in refused.stderr
    scripted = ScriptedModel(small(lambda n: n % 4 < 3), name="new", returns_logprobs=True)
    monkeypatch.setattr(tiers, "open_model", lambda *given, **named: scripted)
    local = ["--old", "scripted:old", "--new", "scripted:new"]
    told = json.loads(CliRunner().invoke(app, [*command, *local, "--json"]).stdout)
    assert told["comparison"]["verdict"] == "cannot tell"
    assert told["comparison"]["more"] == 18
    assert told["comparison"]["new"]["accuracy"][0] == 0.75
    plain = CliRunner().invoke(app, [*command, *local])
    assert plain.exit_code == 0, plain.output
    assert "cannot tell: they say as much as 12 questions of 30" in plain.stdout
