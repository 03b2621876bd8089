from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.messages import HumanMessage, SystemMessage

from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.evaluation import Example, TranscriptWriter, read_transcripts
from cascade.evaluation.collecting import (
    GIVE_UP_AFTER,
    Answered,
    Collected,
    Recording,
    collect,
    expected_usd,
    fit,
    labels_of,
    with_shots,
    write_artefacts,
)
from cascade.evaluation.crossfit import Options
from cascade.evaluation.scorers import Score, Scorer, get_scorer
from cascade.ledger.prices import Price
from cascade.service.config import read_config
from cascade.state import Completion, Usage
from tests.evaluation.synthetic import MADE_FOR, recording

RECORDING = Recording("small", "large", get_scorer("exact"), {"temperature": 0})
NEVER: Callable[[str], bool] = lambda name: False  # noqa: E731


def example(name: str, reference: Any = "yes", **more: Any) -> Example:
    return Example(name, (HumanMessage(f"Is {name}?"),), reference, **more)


def answered(text: str, cost: str | None = "0.001", **more: Any) -> Answered:
    usage = Usage(input_tokens=10, output_tokens=1)
    made = Completion(text, "m", usage=usage, latency_ms=5.0)
    return Answered(made, None if cost is None else Decimal(cost), **more)


class Models:
    """Answers "yes" and counts the examples that it was asked."""

    def __init__(self, draft: str = "yes", large: str = "yes", fails: Any = NEVER) -> None:
        self.asked: list[str] = []
        self.large_usd: str | None = "0.01"
        self._answers, self._fails = (draft, large), fails

    async def __call__(self, one: Example) -> tuple[Answered, Answered]:
        self.asked.append(one.id)
        await asyncio.sleep(0)
        if self._fails(one.id):
            raise ModelError("overloaded", model="large")
        signals = {"features": {"p_true": 0.5}, "confidence": 0.5}
        draft = answered(self._answers[0], **signals, check_cost_usd=Decimal("0.0001"))
        return draft, answered(self._answers[1], self.large_usd)


async def collected(
    path: Path, examples: list[Example], ask: Any = None, how: Recording = RECORDING, **more: Any
) -> Collected:
    with TranscriptWriter(path) as writer:
        return await collect(examples, ask or Models(), how, writer, **more)


async def test_both_answers_are_recorded_with_what_they_cost_and_are_worth(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    done = await collected(path, [example("a")], Models(draft="no"))
    (record,) = read_transcripts(path)
    small, large = record.models["small"], record.models["large"]
    assert (small.correct, large.correct) == (0.0, 1.0)
    assert (small.cost_usd, small.check_cost_usd, large.cost_usd) == (0.001, 0.0001, 0.01)
    assert (small.features, small.confidence, small.latency_ms) == ({"p_true": 0.5}, 0.5, 5.0)
    assert "check_cost_usd" not in large.model_fields_set
    assert (record.prompt, record.reference) == ("Is a?", "yes")
    assert (done.written, done.spent_usd) == (1, Decimal("0.0111"))


async def test_it_goes_on_where_it_stopped_and_asks_nothing_twice(tmp_path: Path) -> None:
    path, models, examples = tmp_path / "t.jsonl", Models(), [example(name) for name in "abcd"]
    first = await collected(path, examples[:3], Models(fails=lambda name: name == "b"))
    assert (first.failures, first.written) == ({"b": "overloaded"}, 2)
    done = await collected(path, examples, models)
    assert sorted(models.asked) == ["b", "d"]
    assert (done.skipped, done.written, done.left) == (2, 2, 0)
    assert {record.id for record in read_transcripts(path)} == set("abcd")


async def test_progress_says_how_much_time_and_money_are_left(tmp_path: Path) -> None:
    seen: list[tuple[int, Decimal | None, bool]] = []

    def watch(done: Collected) -> None:
        seen.append((done.left, done.left_usd, done.left_s is not None))

    examples = [example(name) for name in "abc"]
    await collected(tmp_path / "t.jsonl", examples, progress=watch, concurrency=1)
    each = Decimal("0.0111")
    assert seen == [(2, 2 * each, True), (1, each, True), (0, Decimal(0), True)]
    assert (Collected(3).left_s, Collected(3).left_usd) == (None, None)


async def test_an_unknown_cost_leaves_the_sum_unknown(tmp_path: Path) -> None:
    unpriced = Models()
    unpriced.large_usd = None
    judge = Scorer("judge:m", lambda *given: Score(1.0, Completion("CORRECT", "m")))
    for name, models, scorer in (("a", unpriced, RECORDING.scorer), ("b", Models(), judge)):
        how = replace(RECORDING, scorer=scorer)
        done = await collected(tmp_path / f"{name}.jsonl", [example(name)], models, how)
        assert (done.written, done.spent_usd, done.left_usd) == (1, None, None)


async def test_nothing_but_failures_ends_it(tmp_path: Path) -> None:
    models = Models(fails=lambda name: True)
    examples = [example(str(i)) for i in range(3 * GIVE_UP_AFTER)]
    with pytest.raises(CascadeError, match=f"the first {GIVE_UP_AFTER} examples all failed.*over"):
        await collected(tmp_path / "t.jsonl", examples, models, concurrency=4)
    assert len(models.asked) < GIVE_UP_AFTER + 8


async def test_what_nothing_can_judge_is_left_out_before_it_is_asked(tmp_path: Path) -> None:
    models = Models()
    done = await collected(tmp_path / "t.jsonl", [example("a", None)], models)
    assert (done.unlabelled, models.asked) == (1, [])


async def test_what_people_said_of_an_answer_counts(tmp_path: Path) -> None:
    path, judged = tmp_path / "t.jsonl", example("a", None, labels={"yes": False})
    await collected(path, [judged])
    (record,) = read_transcripts(path)
    assert record.models["large"].correct == 0
    other = await collected(tmp_path / "u.jsonl", [judged], Models(draft="no"))
    assert other.unlabelled == 1


async def test_the_large_answer_may_be_the_reference(tmp_path: Path) -> None:
    path, how = tmp_path / "t.jsonl", replace(RECORDING, agree_with_large=True)
    await collected(path, [example("a", None)], Models(draft="no"), how)
    (record,) = read_transcripts(path)
    assert (record.models["small"].correct, record.models["large"].correct) == (0.0, 1.0)
    empty = await collected(tmp_path / "u.jsonl", [example("a")], Models(large=" "), how)
    assert empty.unlabelled == 1


TOLD = (SystemMessage("Be brief"), HumanMessage("Is a?"))


@pytest.mark.parametrize(
    ("how", "asked", "message"),
    [
        ({"made_with": {"temperature": 1}}, {}, r"another setting \(temperature\)"),
        ({"small": "other"}, {}, "is of small and large"),
        ({"scorer": get_scorer("contains")}, {}, r"another setting \(scorer\)"),
        ({}, {"messages": (HumanMessage("Else?"),)}, "answers another question, 'Is a"),
        ({}, {"messages": TOLD}, r"another setting \(system\)"),
    ],
)
async def test_a_file_of_another_set_up_is_not_continued(
    tmp_path: Path, how: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    await collected(path, [example("b"), example("a")])
    with pytest.raises(ConfigurationError, match=message):
        await collected(path, [replace(example("a"), **asked)], how=replace(RECORDING, **how))


async def test_what_cannot_work_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    path, models = tmp_path / "t.jsonl", Models()
    with pytest.raises(ConfigurationError, match="concurrency=0"):
        await collected(path, [example("a")], models, concurrency=0)
    with pytest.raises(ConfigurationError, match="are both small"):
        await collected(path, [example("a")], models, replace(RECORDING, large="small"))
    numbers = replace(RECORDING, scorer=get_scorer("numeric"))
    with pytest.raises(ConfigurationError, match="example 'b': there is no number"):
        await collected(path, [example("a", 7), example("c", None), example("b")], models, numbers)
    assert models.asked == []


# Before anything is asked ---------------------------------------------------------------------


def test_a_guess_of_the_cost_counts_text_and_limit() -> None:
    price = Price(input=1_000_000, output=1_000_000)  # a dollar a token
    one = [replace(example("a"), messages=(HumanMessage("x" * 40),))]
    assert expected_usd(one, price, max_tokens=5, calls=2) == 2 * (10 + 16 + 5)
    assert expected_usd(one, price) == 10 + 16 + 200
    assert expected_usd(one, Price(per_hour=1)) is None


@pytest.mark.parametrize(
    ("references", "labels"),
    [
        (["b", "a", "b", "a"], ("a", "b")),
        (["a", "b", "c"], ()),
        (["a" * 50] * 9, ()),
        ([1, 1, 1], ()),
    ],
)
def test_answers_to_choose_from_are_few_short_and_come_again(
    references: list[Any], labels: tuple[str, ...]
) -> None:
    assert labels_of([example(str(i), r) for i, r in enumerate(references)]) == labels


def test_shots_are_shown_of_every_answer_and_asked_of_none() -> None:
    rows = [example("a", "x"), example("b", "x"), example("c", "y"), example("d", None)]
    rows[1] = replace(rows[1], messages=(SystemMessage("s"), HumanMessage("Is b?")))
    left = with_shots(rows, 2)
    assert [one.id for one in left] == ["b", "d"]
    assert [m.text for m in left[0].messages] == ["s", "Is a?", "x", "Is c?", "y", "Is b?"]
    with pytest.raises(ConfigurationError, match="shots=4: only 3"):
        with_shots(rows, 4)


# Fitting --------------------------------------------------------------------------------------

SIGNALS = [("p_true", 0)]


def test_a_fit_gives_a_calibration_and_what_it_is_worth(tmp_path: Path) -> None:
    rows = recording(300, features=True)
    found = fit(rows, MADE_FOR, SIGNALS, Options(repeats=1, within=0.05))
    assert found.calibration.quality.n == 300
    assert (found.evaluation.shape, found.evaluation.verdict) == ("calibration", "cascade")
    tiers: list[dict[str, Any]] = [{"model": "ollama:q"}, {"model": "openai:g"}]
    files = write_artefacts(tmp_path / "out", found, tiers)
    written = yaml.safe_load(files["configuration"].read_text())["cascades"]["tried"]
    assert (written["tiers"], written["calibrator"]) == (tiers, files["calibration"].name)
    price = found.evaluation.recommended.price_of_error_usd
    assert written["price_of_error"] == pytest.approx(price, rel=1e-5)
    assert read_config(files["configuration"]).config.cascades["tried"].audits is not None
    assert json.loads(files["calibration"].read_text())
    assert "Use the cascade" in files["page"].read_text()


def test_certificates_are_proved_on_the_other_half() -> None:
    rows = recording(300, features=True)
    found = fit(rows, MADE_FOR, SIGNALS, Options(repeats=1), max_harms=[0.2, 0.0001])
    assert found.calibration.quality.n == 150
    assert [c.max_harm for c in found.calibration.certificates] == [0.2]
    assert [refusal.halved for refusal in found.refusals] == [True]


def test_what_does_not_save_is_served_as_a_shadow(tmp_path: Path) -> None:
    rows = recording(100, informative=False, cheap=1e-3, features=True)
    found = fit(rows, MADE_FOR, SIGNALS, Options(repeats=1))
    files = write_artefacts(tmp_path, found, [])
    assert "mode: shadow" in files["configuration"].read_text()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_artefacts(tmp_path / "file", found, [])


def test_too_few_rows_are_calibrated_on_and_the_verdict_names_how_many_it_takes() -> None:
    few = fit(recording(30, features=True), MADE_FOR, SIGNALS)
    assert few.calibration.quality.n == 30
    with pytest.raises(ConfigurationError, match=r"30 labelled drafts .* 40 or more are needed"):
        _ = few.evaluation
