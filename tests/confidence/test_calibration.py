"""A calibration: made from labelled drafts, kept in a file, refused where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from cascade.confidence import Calibrator
from cascade.confidence.calibrating import LabelledDraft, calibrate
from cascade.confidence.calibration import (
    NEIGHBOURS,
    Calibration,
    ModelIdentity,
    Quality,
    Stage,
    system_hash,
)
from cascade.confidence.calibrators import Constant
from cascade.confidence.gain import fit_gain
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.evaluation.calibration import calibrate_and_certify
from cascade.state import Certificate
from tests.confidence.drafts import LARGE, MADE_FOR, NAMES, SIGNALS, SMALL, drafts, made, usual

FREE = ("logprobs", "text")


def estimates(
    calibration: Calibration, rows: list[LabelledDraft], taken: tuple[str, ...]
) -> list[float]:
    found = [calibration.estimate(row.features, taken) for row in rows]
    return [-1.0 if e is None else e.confidence for e in found]


# --- made


def test_free_signals_make_the_first_stage_and_each_paid_one_another() -> None:
    calibration = made(drafts(60), [("logprobs", 0), ("p_true", 1), ("text", 0), ("votes", 3)])
    assert [stage.signals for stage in calibration.stages] == [
        ("logprobs", "text"),
        ("logprobs", "text", "p_true"),
        ("logprobs", "text", "p_true", "votes"),
    ]
    assert calibration.signals == ("logprobs", "text", "p_true", "votes")
    as_the_agents_see_it: Calibrator = calibration
    assert as_the_agents_see_it.signals == calibration.signals


def test_each_stage_has_the_columns_of_its_own_signals() -> None:
    first, second = usual().stages
    assert set(first.columns) == {
        "raw",
        "logprob_mean",
        "logprob_min",
        "token_count",
        "answer_words",
    }
    assert set(second.columns) == {*first.columns, "p_true"}
    assert second.columns[:3] == ("raw", "p_true", "logprob_mean")


@pytest.mark.parametrize("mine", ["p", "prompt", "logprob", "answer_ok"])
def test_a_signal_whose_name_begins_like_anothers_keeps_to_itself(mine: str) -> None:
    name = "prompt_votes" if mine == "prompt" else mine
    rows = [
        replace(d, features={**d.features, name: float(i % 2), "prompt_words": 3.0})
        for i, d in enumerate(drafts(40))
    ]
    free = (mine, 0) if name == mine else ("prompt", 0)
    calibration = made(rows, [("logprobs", 0), free, ("p_true", 1)])
    assert "p_true" not in calibration.stages[0].columns
    assert (name in calibration.stages[0].columns) == (name == mine)


def test_the_paid_signal_makes_the_confidence_better() -> None:
    calibration, unseen = made(drafts(600)), drafts(1500, seed=9)
    labels = np.array([row.correct for row in unseen])
    errors = [
        float(np.mean((np.array(estimates(calibration, unseen, taken)) - labels) ** 2))
        for taken in (FREE, NAMES)
    ]
    assert errors[1] < 0.85 * errors[0]
    assert calibration.quality.brier == pytest.approx(errors[1], abs=0.03)
    assert calibration.quality.ece < calibration.quality.ece_raw


def test_the_interval_holds_the_confidence_and_the_truth_nearby_but_for_noise() -> None:
    calibration, unseen = made(drafts(400)), drafts(4000, seed=9)
    found = [e for row in unseen if (e := calibration.estimate(row.features, NAMES)) is not None]
    confidence = np.array([e.confidence for e in found])
    ends = np.array([e.interval for e in found])
    near = (ends[:, 0] - 0.1 <= confidence) & (confidence <= ends[:, 1] + 0.1)
    assert near.mean() > 0.9
    labels = np.array([row.correct for row in unseen])
    parts = np.array_split(np.argsort(confidence), 10)
    low, high = np.array([ends[part].mean(axis=0) for part in parts]).T
    truth = np.array([labels[part].mean() for part in parts])
    assert ((low - 0.1 <= truth) & (truth <= high + 0.1)).mean() >= 0.8


def test_drafts_without_any_score_are_left_out_and_too_few_are_refused() -> None:
    blind = LabelledDraft({"answer_words": 3.0}, 1.0)
    assert made([*drafts(30), blind]).quality.n == 30
    with pytest.raises(ConfigurationError, match="19 labelled drafts with signals"):
        made([*drafts(19), blind, blind])
    with pytest.raises(ConfigurationError, match="0 labelled drafts"):
        made(drafts(30), [("text", 0)])


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_drafts_that_are_all_right_or_all_wrong_make_a_file_that_can_be_read(
    label: float, tmp_path: Path
) -> None:
    calibration = made([replace(row, correct=label) for row in drafts(30)])
    calibration.save(tmp_path / "c.json")
    read = Calibration.load(tmp_path / "c.json")
    assert np.isnan(read.quality.auroc)
    assert estimates(read, drafts(3), NAMES) == pytest.approx([(30 * label + 1) / 32] * 3)


def test_gaps_everywhere_still_make_a_calibration() -> None:
    rng = np.random.default_rng(0)
    rows = [
        replace(
            row,
            features={
                name: float("nan") if rng.random() < 0.2 else value
                for name, value in row.features.items()
                if rng.random() < 0.8
            },
        )
        for row in drafts(200)
    ]
    calibration = made(rows)
    assert all(-1 <= p <= 1 and np.isfinite(p) for p in estimates(calibration, rows, NAMES))


def test_before_any_score_there_is_the_base_rate_and_an_outlook() -> None:
    """Otherwise a draft whose free signals are no scores would never be asked about."""
    calibration = made(drafts(100), [("text", 0), ("p_true", 1)])
    first = calibration.estimate({"answer_words": 3.0}, ("text",))
    assert first is not None
    assert first.confidence == pytest.approx(calibration.quality.accuracy_small, abs=0.02)
    outlook = calibration.outlook(first.confidence, ("text",))
    assert max(outlook) - min(outlook) > 0.3


def test_an_unbounded_signal_of_the_users_keeps_its_order() -> None:
    rows = [
        replace(row, features={**row.features, "tests": 10 * row.features["p_true"] - 3})
        for row in drafts(400)
    ]
    calibration = made(rows, [("logprobs", 0), ("tests", 0)])
    assert calibration.stages[-1].linear == ("tests",)
    base = rows[0].features
    rising = [
        replace(rows[0], features={**base, "tests": value})
        for value in (-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 7.0)
    ]
    found = estimates(calibration, rising, ("logprobs", "tests"))
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.3


# --- the large model


def test_p_large_is_the_share_of_its_right_answers() -> None:
    calibration = usual()
    assert (
        calibration.p_large == calibration.quality.accuracy_large == pytest.approx(0.95, abs=0.04)
    )


def test_without_the_large_models_answers_p_large_is_unknown() -> None:
    calibration = made(drafts(60, large=None))
    assert calibration.p_large is calibration.gain is calibration.quality.accuracy_large is None
    estimate = calibration.estimate(drafts(1)[0].features, NAMES)
    assert estimate is not None
    assert estimate.p_large is None


def test_some_answers_of_the_large_model_give_a_rate_but_no_head() -> None:
    calibration = made([*drafts(40), *drafts(20, large=None)])
    assert calibration.p_large == pytest.approx(0.95, abs=0.06)
    assert calibration.gain is calibration.quality.auroc_gain is None


def uneven(n: int) -> list[LabelledDraft]:
    """The large model is right on long drafts only, which says nothing about the small one."""
    return [
        replace(row, large_correct=float(row.features["token_count"] > 30)) for row in drafts(n)
    ]


def test_a_gain_head_is_kept_where_it_ranks_better_and_gives_p_large_per_question() -> None:
    calibration = made(uneven(400))
    assert calibration.gain is not None
    base = drafts(1)[0].features
    short, long = (calibration.estimate({**base, "token_count": n}, NAMES) for n in (2.0, 55.0))
    assert short is not None
    assert long is not None
    assert 0 <= (short.p_large or 0) < (long.p_large or 0) <= 1
    early = calibration.estimate(base, FREE)
    assert early is not None
    assert early.p_large == calibration.p_large


def test_a_large_model_that_never_wins_needs_no_head() -> None:
    calibration = made([replace(row, large_correct=0.0) for row in drafts(60)])
    assert (calibration.p_large, calibration.gain) == (0.0, None)
    assert calibration.quality.auroc_gain is None


# --- used


def test_an_estimate_uses_the_last_stage_whose_signals_were_taken() -> None:
    row = {**drafts(1)[0].features, "p_true": 0.05}
    free, all_of_them = usual().estimate(row, FREE), usual().estimate(row, NAMES)
    assert free is not None
    assert all_of_them is not None
    assert all_of_them.confidence < free.confidence


def test_there_is_no_estimate_before_the_free_signals_or_without_a_score() -> None:
    row = drafts(1)[0].features
    assert usual().estimate(row, ()) is None
    assert usual().estimate(row, ("logprobs",)) is None
    assert usual().estimate({"answer_words": 3.0}, NAMES) is None
    assert usual().estimate({"logprob_mean": float("nan")}, FREE) is None


def test_a_taken_signal_that_did_not_come_back_leaves_an_estimate_from_the_others() -> None:
    row = {k: v for k, v in drafts(1)[0].features.items() if k != "p_true"}
    estimate = usual().estimate(row, NAMES)
    assert estimate is not None
    assert estimate.interval is not None


def test_the_outlook_is_where_the_next_signal_led_from_here() -> None:
    low, high = (float(np.mean(usual().outlook(at, FREE))) for at in (0.05, 0.95))
    assert low < high
    assert len(usual().outlook(0.5, FREE)) == NEIGHBOURS
    assert usual().outlook(0.5, NAMES) == usual().outlook(0.5, ()) == ()


def test_an_outlook_from_a_tie_is_taken_from_its_middle() -> None:
    pairs = tuple((0.1, 0.0) for _ in range(50)) + tuple((0.5, 1.0) for _ in range(100))
    stage = Stage(signals=("a",), columns=("raw",), calibrator=Constant(value=0.5), outlook=pairs)
    calibration = usual().model_copy(update={"stages": (stage,)})
    assert set(calibration.outlook(0.5, ("a",))) == {1.0}


# --- kept in a file


def test_a_calibration_read_from_its_file_is_the_same(tmp_path: Path) -> None:
    for number, calibration in enumerate((usual(), made(uneven(400)))):
        calibration.save(tmp_path / f"{number}.json")
        read = Calibration.load(tmp_path / f"{number}.json")
        assert read == calibration
        assert estimates(read, drafts(20), NAMES) == estimates(calibration, drafts(20), NAMES)


def test_trees_survive_the_file_and_stay_comparable(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 6))
    head = fit_gain(x, (x[:, 0] > 0).astype(float), (x[:, 1] > 0).astype(float))
    calibration = usual().model_copy(update={"gain": head})
    before = calibration.estimate(drafts(1)[0].features, NAMES)
    calibration.save(tmp_path / "c.json")
    read = Calibration.load(tmp_path / "c.json")
    assert read.estimate(drafts(1)[0].features, NAMES) == before
    assert read == calibration


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe\x00binary", "not text"),
        (b"", "the file: Invalid JSON"),
        (b"{", "the file: Invalid JSON"),
        (b"[]", "the file"),
        (b"{}", "created_at: Field required"),
        (('"format":1', '"format":2'), "format"),
        (('"kind":"', '"kind":"un'), "calibrator"),
        (('"task_hash"', '"hash"'), "task_hash"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_with_the_place(
    content: bytes | tuple[str, str], complaint: str, tmp_path: Path
) -> None:
    if isinstance(content, tuple):  # what in a whole one is replaced
        content = usual().model_dump_json().replace(*content).encode()
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=complaint):
        Calibration.load(tmp_path / "c.json")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Calibration.load(tmp_path)


# --- made for something else


@pytest.mark.parametrize(
    ("small", "large", "task", "complaint"),
    [
        (ModelIdentity(name="other"), LARGE, "task", "small model scripted:small, not for other"),
        (SMALL, ModelIdentity(name="other"), "task", "large model scripted:large, not for other"),
        (ModelIdentity(name=SMALL.name, digest="x"), LARGE, "task", "weights of scripted:small"),
        (SMALL, ModelIdentity(name=LARGE.name, digest="x"), "task", "weights of scripted:large"),
        (SMALL, LARGE, "else", "other tools"),
    ],
)
def test_another_model_or_task_is_refused_with_the_difference(
    small: ModelIdentity, large: ModelIdentity, task: str, complaint: str
) -> None:
    with pytest.raises(CalibrationMismatchError, match=complaint):
        usual().check(small, large, task)


def test_the_same_models_pass_also_where_a_digest_is_not_to_be_had() -> None:
    usual().check(SMALL, LARGE, "task")
    usual().check(ModelIdentity(name=SMALL.name), ModelIdentity(name=LARGE.name), "task")
    usual().model_copy(update={"large": None}).check(SMALL, ModelIdentity(name="any"), "task")


def test_another_system_message_is_a_mismatch_unless_there_were_several() -> None:
    short, long = ([SystemMessage(text), HumanMessage("?")] for text in ("Short.", "Long."))
    bound = usual().model_copy(update={"system_hash": system_hash(short)})
    assert bound.mismatch(short) is None
    assert "another system message" in (bound.mismatch(long) or "")
    assert "another system message" in (bound.mismatch([HumanMessage("?")]) or "")
    assert usual().mismatch(long) is None


# --- with certificates


def certified(rows: list[LabelledDraft], seed: int = 0) -> list[Certificate]:
    made = calibrate_and_certify(rows, SIGNALS, MADE_FOR, max_harms=[0.2, 0.3], seed=seed)
    return list(made.calibration.certificates)


def test_certificates_are_proved_on_drafts_that_fitted_nothing() -> None:
    """Labels of the proving half are all wrong: nothing may be certified, whatever was fitted."""
    rows = drafts(400)
    order = np.random.default_rng(0).permutation(400)
    poisoned = list(rows)
    for i in order[200:]:
        poisoned[i] = replace(rows[i], correct=0.0)
    result = calibrate_and_certify(poisoned, SIGNALS, MADE_FOR, max_harms=[0.2])
    clean = calibrate_and_certify(rows, SIGNALS, MADE_FOR, max_harms=[0.2])
    assert not result.calibration.certificates or (
        result.calibration.certificates[0].coverage < clean.calibration.certificates[0].coverage / 2
    )
    assert result.calibration.stages == clean.calibration.stages
    assert result.calibration.quality.n == 200


def test_labels_of_the_fitting_half_do_not_enter_the_proof() -> None:
    rows = drafts(400)
    order = np.random.default_rng(0).permutation(400)
    for i in order[:200]:
        rows[i] = replace(rows[i], correct=1.0)
    result = calibrate_and_certify(rows, SIGNALS, MADE_FOR, max_harms=[0.05])
    [refusal] = result.refusals
    assert refusal.n == 200
    assert refusal.halved


def test_the_same_seed_gives_the_same_certificates() -> None:
    rows = drafts(300)
    first, again = certified(rows), certified(rows)
    assert [c.model_dump(exclude={"valid_until"}) for c in first] == [
        c.model_dump(exclude={"valid_until"}) for c in again
    ]
    assert first[0].threshold != certified(rows, seed=1)[0].threshold


def test_drafts_without_confidence_count_in_the_proof_and_are_not_accepted() -> None:
    blind = [LabelledDraft({"answer_words": 1.0}, 0.0) for _ in range(200)]
    result = calibrate_and_certify([*drafts(200), *blind], SIGNALS, MADE_FOR, max_harms=[0.3])
    [certificate] = result.calibration.certificates
    assert certificate.n == 200
    assert certificate.coverage < 0.6


def test_without_bounds_everything_fits_and_nothing_is_promised() -> None:
    result = calibrate_and_certify(drafts(60), SIGNALS, MADE_FOR)
    assert result.calibration.quality.n == 60
    assert result.calibration.certificates == result.refusals == ()


def test_a_promise_ends_when_it_is_told_to() -> None:
    options = {"max_harms": [0.4]}
    ended = calibrate_and_certify(drafts(200), SIGNALS, MADE_FOR, **options)  # type: ignore[arg-type]
    for_ever = calibrate_and_certify(
        drafts(200), SIGNALS, MADE_FOR, max_harms=[0.4], valid_days=None
    )
    [a], [b] = ended.calibration.certificates, for_ever.calibration.certificates
    assert a.valid_until is not None
    assert b.valid_until is None


def test_too_few_labels_for_two_halves_are_refused_before_anything_is_fitted() -> None:
    with pytest.raises(ConfigurationError, match="39 labelled drafts: with max_harm"):
        calibrate_and_certify(drafts(39), SIGNALS, MADE_FOR, max_harms=[0.1])


def test_quality_without_a_ranking_writes_null_and_reads_nan() -> None:
    quality = calibrate(
        [replace(row, correct=1.0) for row in drafts(20)], SIGNALS, MADE_FOR
    ).quality
    assert '"auroc":null' in quality.model_dump_json()
    assert np.isnan(Quality.model_validate_json(quality.model_dump_json()).auroc)
