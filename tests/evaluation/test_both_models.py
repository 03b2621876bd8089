"""Recording both models on labelled examples, and what is fitted to that."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.messages import HumanMessage, SystemMessage

from cascade import Cascade, calibrate
from cascade.errors import ConfigurationError
from cascade.evaluation import Example, read_transcripts
from cascade.evaluation.scorers import Scorer, as_scorer
from cascade.evaluation.verdict import Options
from cascade.ledger.prices import Price
from cascade.service.config import read_config
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from cascade.tiers import Tier, open_tier
from tests.evaluation.synthetic import MADE_FOR, recording

DOLLAR = Price(input=1_000_000, output=1_000_000)
"""Of a token; each question has 10 of them, each answer one."""


def example(name: str, reference: Any = "yes", **more: Any) -> Example:
    return Example(name, (HumanMessage(f"Is {name}?"),), reference, **more)


def model(name: str, says: str = "yes") -> ScriptedModel:
    def answer(request: Any) -> Completion:
        return reply(says, probability=0.5)

    return ScriptedModel(answer, name=name, returns_logprobs=True)


async def recorded(
    path: Path,
    examples: list[Example],
    small: ScriptedModel | None = None,
    large: ScriptedModel | None = None,
    *,
    scorer: str | Scorer = "exact",
    price: Price | None = DOLLAR,
    limit: int | None = None,
    signals: tuple[str, ...] = ("logprobs",),
) -> calibrate.Collected:
    tiers = (
        Tier(small or model("small"), name="small", price=DOLLAR, max_tokens=limit),
        Tier(large or model("large"), name="large", price=price),
    )
    async with Cascade(*tiers, signals=signals) as cascade:
        recorder = calibrate.AnswerRecorder(cascade.kernel, path, as_scorer(scorer))
        return await recorder.record(examples)


async def test_both_answers_are_recorded_with_what_they_cost_and_are_worth(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    signals = ("logprobs", "p_true")
    done = await recorded(path, [example("a")], model("small", "no"), signals=signals)
    (row,) = read_transcripts(path)
    small, large = row.models["scripted:small"], row.models["scripted:large"]
    assert (small.correct, large.correct) == (0.0, 1.0)
    assert (small.cost_usd, small.check_cost_usd, large.cost_usd) == (11, 11, 11)
    assert {"p_true"} < small.features.keys()
    assert small.confidence == pytest.approx(0.5, abs=0.01)
    assert "check_cost_usd" not in large.model_fields_set
    assert (row.prompt, row.reference) == ("Is a?", "yes")
    assert (done.written, done.spent_usd) == (1, Decimal(33))


async def test_a_recording_ends_where_another_process_writes_to_its_file(tmp_path: Path) -> None:
    path, there = tmp_path / "t.jsonl", recording(1)[0].to_line()

    def answer(request: Any) -> Completion:
        path.write_text(there)
        return reply("yes", probability=0.5)

    small = ScriptedModel(answer, name="small", returns_logprobs=True)
    with pytest.raises(FileExistsError, match="another process records here"):
        await recorded(path, [example("a")], small)
    assert path.read_text() == there


async def test_a_recording_that_was_killed_goes_on_without_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "made" / "t.jsonl"
    await recorded(path, [example("a"), example("b")])
    whole = path.read_bytes()
    for left in (whole[:-9], whole[:-1]):
        path.write_bytes(left)
        done = await recorded(path, [example("a"), example("b")])
        assert done.skipped + done.written == 2
        assert [row.id for row in read_transcripts(path)] == ["a", "b"]
        assert path.read_bytes().count(b"\n") == 2
    assert done.skipped == 2


async def test_a_file_that_goes_on_stays_where_it_is_and_as_private_as_it_was(
    tmp_path: Path,
) -> None:
    there, link = tmp_path / "there.jsonl", tmp_path / "link.jsonl"
    there.touch(mode=0o600)
    link.symlink_to(there)
    await recorded(link, [example("a")])
    assert (there.stat().st_mode & 0o777, len([*read_transcripts(there)])) == (0o600, 1)


async def test_of_more_tiers_the_first_and_the_last_are_recorded(tmp_path: Path) -> None:
    path, tiers = tmp_path / "t.jsonl", [model(name, name) for name in ("small", "medium", "large")]
    async with Cascade(tiers=tiers, signals=["logprobs"]) as cascade:
        recorder = calibrate.AnswerRecorder(cascade.kernel, path, as_scorer("exact"))
        await recorder.record([example("a")])
    (row,) = read_transcripts(path)
    said = {name: outcome.output for name, outcome in row.models.items()}
    assert said == {"scripted:small": "small", "scripted:large": "large"}
    assert tiers[1].requests == []


async def test_an_unknown_cost_leaves_the_sum_unknown(tmp_path: Path) -> None:
    judge = Scorer("judge:m", lambda *given: 1.0)
    for name, given in (("a", {"price": None}), ("b", {"scorer": judge})):
        done = await recorded(tmp_path / f"{name}.jsonl", [example(name)], **given)
        assert (done.written, done.spent_usd) == (1, None)


async def test_what_people_said_of_an_answer_counts(tmp_path: Path) -> None:
    path, judged = tmp_path / "t.jsonl", example("a", None, labels={"yes": False})
    await recorded(path, [judged])
    (row,) = read_transcripts(path)
    assert row.models["scripted:large"].correct == 0
    other = await recorded(tmp_path / "u.jsonl", [judged], model("small", "no"))
    assert other.unlabelled == 1


TOLD = (SystemMessage("Be brief"), HumanMessage("Is a?"))


@pytest.mark.parametrize(
    ("how", "asked", "message"),
    [
        ({"limit": 7}, {}, r"'a', 'Is a\?', .* something else was asked \(settings\)"),
        ({"small": model("other")}, {}, r"by scripted:small and scripted:large, .*\(models\)"),
        ({"scorer": "contains"}, {}, r"\(scorer\)"),
        ({}, {"messages": (HumanMessage("Else?"),)}, r"\(question\)"),
        ({}, {"messages": TOLD}, r"\(system\)"),
    ],
)
async def test_a_file_of_another_set_up_is_not_continued(
    tmp_path: Path, how: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    await recorded(path, [example("b"), example("a")])
    with pytest.raises(ConfigurationError, match=message):
        await recorded(path, [replace(example("a"), **asked)], **how)


async def test_what_cannot_work_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    path, small = tmp_path / "t.jsonl", model("small")
    with pytest.raises(ConfigurationError, match="are both scripted:small"):
        await recorded(path, [example("a")], small, model("small"))
    examples = [example("a", 7), example("c", None), example("b")]
    with pytest.raises(ConfigurationError, match="example 'b': there is no number"):
        await recorded(path, examples, small, scorer="numeric")
    assert small.requests == []


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
    assert calibrate.labels_of([example(str(i), r) for i, r in enumerate(references)]) == labels


def test_shots_are_shown_of_every_answer_and_asked_of_none() -> None:
    rows = [example("a", "x"), example("b", "x"), example("c", "y"), example("d", None)]
    rows[1] = replace(rows[1], messages=(SystemMessage("s"), HumanMessage("Is b?")))
    left = calibrate.with_shots(rows, 2)
    assert [one.id for one in left] == ["b", "d"]
    assert [m.text for m in left[0].messages] == ["s", "Is a?", "x", "Is c?", "y", "Is b?"]
    with pytest.raises(ConfigurationError, match=r"shots=4: .* only 3 examples"):
        calibrate.with_shots(rows, 4)


SIGNALS = [("p_true", 0)]


def test_a_fit_gives_a_calibration_and_what_it_is_worth(tmp_path: Path) -> None:
    rows = recording(300, features=True)
    found = calibrate.fit(rows, MADE_FOR, SIGNALS, Options(repeats=1, within=0.05))
    assert found.calibration.quality.n == 300
    assert (found.evaluation.shape, found.evaluation.verdict) == ("calibration", "cascade")
    tiers = [
        Tier("ollama:q", name="small", price=DOLLAR, options={"think": False}, temperature=0),
        Tier("ollama:g", name="large", max_tokens=9, price=DOLLAR),
    ]
    files = calibrate.write_artefacts(tmp_path, found, [*map(open_tier, tiers)])
    written = yaml.safe_load(files["configuration"].read_text())["cascades"]["tried"]
    assert written["tiers"][0]["price"] == {"input": "1000000", "output": "1000000"}
    assert written["tiers"][0]["options"] == {"think": False}
    assert written["tiers"][1]["max_tokens"] == 9
    assert written["calibrator"] == files["calibration"].name
    point = found.evaluation.recommended
    assert written["price_of_error"] == pytest.approx(point.price_of_error_usd, rel=1e-5)
    assert read_config(files["configuration"]).cascades["tried"].audits is not None
    tiers[1] = Tier("ollama:g", name="large", price=Price(per_hour=1))
    by_hour = calibrate.write_artefacts(tmp_path, found, [*map(open_tier, tiers)])
    written = yaml.safe_load(by_hour["configuration"].read_text())["cascades"]["tried"]
    assert written["escalation_budget"] == pytest.approx(point.escalated, 0.01)
    assert "price_of_error" not in written
    assert json.loads(files["calibration"].read_text())
    assert "Use the cascade" in files["page"].read_text()


def test_a_raw_score_gets_no_certificate() -> None:
    bounds = {"max_harms": (0.05, 0.1)}
    with pytest.raises(ConfigurationError, match=r"39 labelled drafts: .* needs 40"):
        calibrate.fit(recording(39, features=True), MADE_FOR, SIGNALS, **bounds)
    rows = recording(160, features=True)
    for at, row in enumerate(rows):
        sure = {"correct": float(at != 40), "features": {"p_true": 0.99}}
        row.models["small"] = row.models["small"].model_copy(update=sure)
    found = calibrate.fit(rows, MADE_FOR, SIGNALS, Options(repeats=1), **bounds)
    assert not found.calibration.calibrated
    assert found.calibration.certificates == ()
    assert ["raw score" in refused.reason for refused in found.refusals] == [True, True]
    better = calibrate.fit(
        recording(600, features=True), MADE_FOR, SIGNALS, Options(repeats=1), **bounds
    )
    assert better.calibration.calibrated
    assert better.calibration.certificates


def test_what_does_not_save_is_served_as_a_shadow(tmp_path: Path) -> None:
    rows = recording(100, informative=False, cheap=1e-3, features=True)
    found = calibrate.fit(rows, MADE_FOR, SIGNALS, Options(repeats=1))
    files = calibrate.write_artefacts(tmp_path, found, [])
    assert "mode: shadow" in files["configuration"].read_text()


def test_too_few_rows_are_calibrated_on_and_have_no_verdict(tmp_path: Path) -> None:
    few = calibrate.fit(recording(30, features=True), MADE_FOR, SIGNALS)
    assert few.calibration.quality.n == 30
    with pytest.raises(ConfigurationError, match=r"30 labelled drafts .* 40 or more are needed"):
        calibrate.write_artefacts(tmp_path, few, [])
