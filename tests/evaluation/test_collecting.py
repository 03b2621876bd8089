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
from tests.evaluation.synthetic import recording
from tests.evaluation.test_ladder import MADE_FOR


def example(name: str, reference: Any = "yes", **more: Any) -> Example:
    return Example(name, (HumanMessage(f"Is {name}?"),), reference, **more)


def answered(text: str, cost: str | None = "0.001", **more: Any) -> Answered:
    usage = Usage(input_tokens=10, output_tokens=1)
    return Answered(
        Completion(text, "m", usage=usage, latency_ms=5.0),
        None if cost is None else Decimal(cost),
        **more,
    )


RECORDING = Recording("small", "large", get_scorer("exact"), {"temperature": 0})


class Models:
    """Answers "yes" and counts the examples that it was asked."""

    def __init__(
        self, draft: str = "yes", large: str = "yes", fails: Callable[[str], bool] = bool
    ) -> None:
        self.asked: list[str] = []
        self._answers = draft, large
        self._fails = fails if fails is not bool else lambda name: False

    async def __call__(self, one: Example) -> tuple[Answered, Answered]:
        self.asked.append(one.id)
        await asyncio.sleep(0)
        if self._fails(one.id):
            raise ModelError("overloaded", model="large")
        features = {"p_true": 0.5}
        draft = answered(
            self._answers[0], features=features, confidence=0.5, check_cost_usd=Decimal("0.0001")
        )
        return draft, answered(self._answers[1], "0.01")


async def collected(
    path: Path,
    examples: list[Example],
    ask: Any = None,
    how: Recording = RECORDING,
    **options: Any,
) -> Collected:
    with TranscriptWriter(path) as writer:
        return await collect(examples, ask or Models(), how, writer, **options)


async def test_both_answers_are_recorded_with_what_they_cost_and_are_worth(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    done = await collected(path, [example("a")], Models(draft="no"))
    (record,) = read_transcripts(path)
    small, large = record.models["small"], record.models["large"]
    assert (small.correct, large.correct) == (0.0, 1.0)
    assert (small.cost_usd, small.check_cost_usd, large.cost_usd) == (0.001, 0.0001, 0.01)
    assert (small.features, small.confidence, small.latency_ms) == ({"p_true": 0.5}, 0.5, 5.0)
    assert (record.prompt, record.reference) == ("Is a?", "yes")
    assert (done.written, done.spent_usd) == (1, Decimal("0.0111"))


async def test_it_goes_on_where_it_stopped_and_asks_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    examples = [example(name) for name in "abcd"]
    await collected(path, examples[:2])
    models = Models()
    done = await collected(path, examples, models)
    assert sorted(models.asked) == ["c", "d"]
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
    async def ask(one: Example) -> tuple[Answered, Answered]:
        return answered("yes", None), answered("yes")

    done = await collected(tmp_path / "t.jsonl", [example("a"), example("b")], ask)
    assert (done.spent_usd, done.left_usd) == (None, None)


async def test_a_failure_is_told_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    examples = [example(name) for name in "abc"]
    done = await collected(path, examples, Models(fails=lambda name: name == "b"))
    assert (done.failures, done.written) == ({"b": "overloaded"}, 2)
    assert (await collected(path, examples)).written == 1


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
    path = tmp_path / "t.jsonl"
    judged = example("a", None, labels={"yes": False})
    await collected(path, [judged])
    (record,) = read_transcripts(path)
    assert record.models["large"].correct == 0
    other = await collected(tmp_path / "u.jsonl", [judged], Models(draft="no"))
    assert other.unlabelled == 1


async def test_the_large_answer_may_be_the_reference(tmp_path: Path) -> None:
    path, how = tmp_path / "t.jsonl", replace(RECORDING, agree_with_large=True)
    done = await collected(path, [example("a", None)], Models(draft="no"), how)
    (record,) = read_transcripts(path)
    assert (record.models["small"].correct, record.models["large"].correct) == (0.0, 1.0)
    assert done.written == 1
    empty = await collected(tmp_path / "u.jsonl", [example("a")], Models(large=" "), how)
    assert empty.unlabelled == 1


async def test_the_calls_of_a_judge_leave_the_sum_unknown(tmp_path: Path) -> None:
    judge = Scorer("judge:m", lambda *given: Score(1.0, Completion("CORRECT", "m")))
    how = replace(RECORDING, scorer=judge)
    done = await collected(tmp_path / "t.jsonl", [example("a")], how=how)
    assert (done.written, done.spent_usd) == (1, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"made_with": {"temperature": 1}}, r"another setting \(temperature\)"),
        ({"small": "other"}, "is of small and large"),
        ({"scorer": get_scorer("contains")}, r"another setting \(scorer\)"),
    ],
)
async def test_a_file_of_other_settings_is_not_continued(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    await collected(path, [example("a")])
    with pytest.raises(ConfigurationError, match=message):
        await collected(path, [example("a"), example("b")], how=replace(RECORDING, **change))


async def test_a_file_of_other_questions_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    await collected(path, [example("a")])
    other = replace(example("a"), messages=(HumanMessage("Something else?"),))
    with pytest.raises(ConfigurationError, match="answers another question, 'Is a"):
        await collected(path, [other])
    told = replace(example("a"), messages=(SystemMessage("Be brief"), HumanMessage("Is a?")))
    with pytest.raises(ConfigurationError, match=r"another setting \(system\)"):
        await collected(path, [told])


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
        ([], ()),
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


def records(n: int = 300) -> list[Any]:
    rows = recording(n)
    for i, row in enumerate(rows):
        small = row.models["small"]
        small = small.model_copy(update={"features": {"p_true": small.confidence}})
        rows[i] = row.model_copy(update={"models": {**row.models, "small": small}})
    return rows


SIGNALS = [("p_true", 0)]


def test_a_fit_gives_a_calibration_and_what_it_is_worth(tmp_path: Path) -> None:
    found = fit(records(), MADE_FOR, SIGNALS, Options(repeats=1, within=0.05))
    assert found.calibration.quality.n == 300
    assert found.evaluation.shape == "calibration"
    assert found.evaluation.verdict == "cascade"
    tiers: list[dict[str, Any]] = [{"model": "ollama:q"}, {"model": "openai:g"}]
    files = write_artefacts(tmp_path / "out", found, tiers)
    written = yaml.safe_load(files["configuration"].read_text())["cascades"]["tried"]
    assert written["tiers"] == tiers
    assert written["calibrator"] == files["calibration"].name
    config = read_config(files["configuration"]).config
    assert config.cascades["tried"].audits is not None
    assert config.ledger is not None
    assert written["price_of_error"] == pytest.approx(
        found.evaluation.recommended.price_of_error_usd, rel=1e-5
    )
    assert json.loads(files["calibration"].read_text())
    assert "Use the cascade" in files["page"].read_text()


def test_certificates_are_proved_on_the_other_half() -> None:
    found = fit(records(), MADE_FOR, SIGNALS, Options(repeats=1), max_harms=[0.2, 0.0001])
    assert found.calibration.quality.n == 150
    assert [c.max_harm for c in found.calibration.certificates] == [0.2]
    assert [refusal.halved for refusal in found.refusals] == [True]


def test_what_does_not_save_is_served_as_a_shadow(tmp_path: Path) -> None:
    rows = recording(100, informative=False, cheap=1e-3)
    for i, row in enumerate(rows):
        small = row.models["small"].model_copy(update={"features": {"p_true": 0.5}})
        rows[i] = row.model_copy(update={"models": {**row.models, "small": small}})
    found = fit(rows, MADE_FOR, SIGNALS, Options(repeats=1))
    files = write_artefacts(tmp_path, found, [])
    assert "mode: shadow" in files["configuration"].read_text()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_artefacts(tmp_path / "file", found, [])
