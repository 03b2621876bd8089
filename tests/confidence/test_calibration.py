"""Calibrations: made from labelled drafts, judged, kept in files, refused where they do not fit."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from cascade.confidence.base import shots_of
from cascade.confidence.calibration import NEIGHBOURS, Calibration
from cascade.errors import ConfigurationError
from tests.confidence.drafts import CERTIFICATE, NAMES, Draft, drafts, made, scored, usual

FREE = ("logprobs", "text")
SCORE = [("s", 0)]


def estimates(
    calibration: Calibration, rows: Sequence[Draft], taken: tuple[str, ...]
) -> list[float]:
    found = [calibration.estimate(row.features, taken) for row in rows]
    return [-1.0 if e is None else e.confidence for e in found]


def test_it_is_for_the_examples_that_stood_before_the_questions() -> None:
    shown, other = [HumanMessage("2 + 2"), AIMessage("4")], [HumanMessage("2 + 3"), AIMessage("5")]
    asked, system = HumanMessage("3 + 3"), SystemMessage("Add.")
    binding = shots_of([system, *shown, asked])
    calibration = made(drafts(60), [("logprobs", 0)]).model_copy(update={"shots": binding})
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert (again.shots, again.binds_prompts) == (binding, True)
    for fitting in ([*shown, asked], [system, *shown, asked], [*shown, *other, asked]):
        assert again.mismatch(fitting) is None
    for unlike in ([asked], [*other, asked], shown, [*other, *shown, asked]):
        assert "other examples" in (again.mismatch(unlike) or "")
    none = calibration.model_copy(update={"shots": shots_of([asked])})
    assert not none.binds_prompts
    assert none.mismatch([*other, asked]) is None


def test_free_signals_make_the_first_stage_and_each_paid_one_another() -> None:
    calibration = made(drafts(60), [("logprobs", 0), ("p_true", 1), ("text", 0), ("votes", 3)])
    assert [stage.signals for stage in calibration.stages] == [
        ("logprobs", "text"),
        ("logprobs", "text", "p_true"),
        ("logprobs", "text", "p_true", "votes"),
    ]
    assert calibration.signals == ("logprobs", "text", "p_true", "votes")


def test_the_paid_signal_makes_the_confidence_better() -> None:
    calibration, unseen = made(drafts(600)), drafts(1500, seed=9)
    labels = np.array([row.correct for row in unseen])
    errors = [
        float(np.mean((np.array(estimates(calibration, unseen, taken)) - labels) ** 2))
        for taken in (FREE, NAMES)
    ]
    assert errors[1] < 0.85 * errors[0]
    quality = calibration.quality
    assert quality.brier == pytest.approx(errors[1], abs=0.03)
    assert quality.ece < (quality.ece_raw or 0)


def test_drafts_without_any_score_are_left_out_and_too_few_are_refused() -> None:
    blind = Draft({"answer_words": 3.0}, 1.0)
    assert made([*drafts(30), blind]).quality.n == 30
    with pytest.raises(ConfigurationError, match="19 labelled drafts with signals"):
        made([*drafts(19), blind, blind])
    with pytest.raises(ConfigurationError, match="0 labelled drafts"):
        made(drafts(30), [("text", 0)])


def test_before_any_score_there_is_the_base_rate_and_an_outlook() -> None:
    """Otherwise a draft whose free signals are no scores would never be asked about."""
    calibration = made(drafts(80), [("text", 0), ("p_true", 1)])
    first = calibration.estimate({"answer_words": 3.0}, ("text",))
    assert first.confidence == pytest.approx(calibration.quality.accuracy_small, abs=0.02)
    assert not first.calibrated, "eighty labels do not show a base rate"
    outlook = calibration.outlook(first.confidence, ("text",))
    assert max(outlook) - min(outlook) > 0.3


def test_p_large_is_the_share_of_its_right_answers() -> None:
    assert usual().p_large == usual().quality.accuracy_large == pytest.approx(0.95, abs=0.04)


def uneven(n: int) -> list[Draft]:
    """The large model is right on long drafts only, which says nothing about the small one."""
    long = [float(draft.features["token_count"] > 30) for draft in drafts(n)]
    return [draft._replace(large=x) for draft, x in zip(drafts(n), long, strict=True)]


def test_a_gain_head_is_kept_where_it_predicts_better_and_gives_p_large_per_question() -> None:
    calibration = made(uneven(400))
    assert calibration.gain is not None
    assert calibration.gain_share > 0.5
    base = drafts(1)[0].features
    short, long = (calibration.estimate({**base, "token_count": n}, NAMES) for n in (2.0, 55.0))
    assert 0 <= (short.p_large or 0) < (long.p_large or 0) <= 1
    early = calibration.estimate(base, FREE)
    assert early.p_large == calibration.p_large


@pytest.mark.parametrize(
    ("chance", "n", "code"),
    [
        ("s", 60, "not calibrated"),
        ("s", 400, "ok"),
        ("reversed", 60, "score is reversed"),
        ("luck", 400, "no better than chance"),
        ("hopeless", 100, "small model too weak"),
        ("always", 60, "ok"),
    ],
)
def test_a_calibration_says_whether_to_use_it(chance: str, n: int, code: str) -> None:
    calibration = made(scored(n, chance, seed=2), SCORE)
    said = calibration.recommendation
    assert said.code == code
    assert said.use == (code in ("ok", "not calibrated"))
    assert said.text.startswith("do not use it") != said.use
    assert not said.use or calibration.calibrated == (code == "ok")
    assert ("it takes about 40 more labels" in said.text) == (code == "not calibrated")
    estimate = calibration.estimate({"s": 0.5}, ("s",))
    assert not said.use or (estimate is not None and estimate.calibrated == (code == "ok"))


def test_an_estimate_uses_the_last_stage_whose_signals_were_taken() -> None:
    row = {**drafts(1)[0].features, "p_true": 0.05}
    free, all_of_them = usual().estimate(row, FREE), usual().estimate(row, NAMES)
    assert all_of_them.confidence < free.confidence
    lost = {name: value for name, value in row.items() if name != "p_true"}
    assert usual().estimate(lost, NAMES) is not None
    for features, taken in (
        (row, ()),
        (row, ("logprobs",)),
        ({"answer_words": 3.0}, NAMES),
        ({"logprob_mean": float("nan")}, FREE),
    ):
        assert usual().estimate(features, taken) is None


def test_the_outlook_is_where_the_next_signal_led_from_here() -> None:
    low, high = (float(np.mean(usual().outlook(at, FREE))) for at in (0.05, 0.95))
    assert low < high
    assert len(usual().outlook(0.5, FREE)) == NEIGHBOURS
    assert usual().outlook(0.5, NAMES) == usual().outlook(0.5, ()) == ()
    pairs = tuple((0.1, 0.0) for _ in range(50)) + tuple((0.5, 1.0) for _ in range(100))
    stage = usual().stages[0].model_copy(update={"outlook": pairs})
    tied = usual().model_copy(update={"stages": (stage,)})
    assert set(tied.outlook(0.5, FREE)) == {1.0}, "from the middle of a tie"


def test_a_calibration_read_from_its_file_is_the_same(tmp_path: Path) -> None:
    certified = usual().model_copy(update={"certificates": (CERTIFICATE,)})
    for calibration in (certified, made(uneven(400)), made(scored(60, "always"), SCORE)):
        calibration.save(tmp_path / "c.json")
        read = Calibration.load(tmp_path / "c.json")
        assert read == calibration
        assert estimates(read, drafts(9), NAMES) == estimates(calibration, drafts(9), NAMES)


BROKEN: dict[str, tuple[bytes | Callable[[dict[str, Any]], Any], str]] = {
    "binary": (b"\xff\xfe\x00binary", "the file: Invalid JSON"),
    "nothing": (b"{}", "Field required"),
    "another format": (lambda doc: doc.update(format=2), "format"),
    "a stranger's field": (lambda doc: doc.update(extra=1), "extra"),
    "a scale of zero": (
        lambda doc: doc["gain"]["small"].update(weights=[{**WEIGHT, "scale": 0.0}]),
        "scale",
    ),
    "an outlook beyond one": (lambda doc: doc["stages"][0].update(outlook=[[0.1, 1.5]]), "outlook"),
    "no number": (lambda doc: doc.update(confidences=["NaN"]), "confidences"),
}
WEIGHT = {"column": 99, "mean": 0.0, "scale": 1.0, "weight": 1.0}


@pytest.mark.parametrize("what", BROKEN)
def test_an_unusable_file_is_refused_with_the_place(what: str, tmp_path: Path) -> None:
    wrong, complaint = BROKEN[what]
    if not isinstance(wrong, bytes):
        document = json.loads(made(uneven(400)).model_dump_json())
        wrong(document)
        wrong = json.dumps(document).encode()
    (tmp_path / "c.json").write_bytes(wrong)
    with pytest.raises(ConfigurationError, match=complaint):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(ConfigurationError, match="No such file"):
        Calibration.load(tmp_path / "none.json")
