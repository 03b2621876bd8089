from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from cascade.confidence import LabelledDraft, MadeFor, ModelIdentity
from cascade.confidence.calibrating import calibrate
from cascade.errors import ConfigurationError
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.features import Pair, answer_of, draft_features, pair_of, raw_score
from cascade.evaluation.ladder import (
    PRICES,
    Shape,
    fit_head,
    fit_ladder,
    fit_shapes,
    shape_of_calibration,
)
from cascade.policies import EconomicPolicy, Situation
from cascade.state import Assessment
from tests.evaluation.synthetic import CHEAP, DEAR, pair, recording

ALL = np.arange(200)


def shapes(of: Pair, fit: Sequence[int] | None = None) -> dict[str, Shape]:
    rows = np.arange(len(of)) if fit is None else np.array(fit)
    found: dict[str, Shape] = {}
    for shape in fit_shapes(of, rows):
        found.setdefault(shape.name, shape)
    return found


# Rows -----------------------------------------------------------------------------------------


def test_rows_without_a_cost_are_left_out_where_others_have_theirs() -> None:
    rows = [
        *recording(5),
        *(r.model_copy(update={"id": f"x{r.id}"}) for r in recording(2, cheap=None)),
    ]
    found = pair(rows)
    assert (len(found), found.left_out, found.priced) == (5, 2, True)


def test_without_any_cost_of_the_drafts_nothing_is_priced() -> None:
    found = pair(recording(5, cheap=None))
    assert (found.priced, found.large_cost.tolist(), found.candidates) == (False, [1.0] * 5, ())


def test_a_large_model_that_costs_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"large cost \$0"):
        pair(recording(5, dear=0.0))


def test_a_check_is_paid_with_the_draft_and_not_with_the_large_answer() -> None:
    def checked(cost: float | None) -> Transcript:
        small = Outcome(correct=1, cost_usd=0.1, check_cost_usd=cost)
        large = Outcome(correct=1, cost_usd=1.0, check_cost_usd=5.0)
        return Transcript(
            dataset="d", id=str(cost), prompt="?", models={"small": small, "large": large}
        )

    found = pair([checked(0.2), checked(None)])
    assert found.small_cost == pytest.approx([0.3])
    assert found.large_cost.tolist() == [1.0]


@pytest.mark.parametrize(
    ("outcome", "score"),
    [
        (Outcome(correct=1, confidence=0.7), 0.7),
        (Outcome(correct=1, signals={"option_logprobs": [np.log(0.75), np.log(0.25)]}), 0.75),
        (Outcome(correct=1, pred="7", signals={"votes": ["7", "7.0", "8"], "n_samples": 4}), 0.5),
        (Outcome(correct=1, signals={"votes": ["7"]}), 0.0),
        (Outcome(correct=1, signals={"vote_share": 0.4}), 0.4),
        (Outcome(correct=1, features={"p_true": 0.6, "logprob_mean": -0.1}), 0.6),
        (Outcome(correct=1), None),
    ],
)
def test_the_raw_score_is_what_the_draft_says_of_itself(
    outcome: Outcome, score: float | None
) -> None:
    assert raw_score(outcome) == (None if score is None else pytest.approx(score))


def test_features_are_collected_ones_or_what_the_recording_knows() -> None:
    assert draft_features(Outcome(correct=1, features={"a": 2.0})) == {"a": 2.0}
    options = draft_features(Outcome(correct=1, signals={"option_logprobs": [-0.1, -3.0, 5.0]}))
    assert options["is0"] == 1.0
    assert options["rank1"] > options["rank2"]
    votes: dict[str, Any] = {"votes": ["a", "b"], "n_samples": 3, "answer_extracted": True}
    found = draft_features(Outcome(correct=1, output_tokens=9, signals=votes))
    assert (found["voted"], found["margin"], found["length"], found["answered"]) == (2 / 3, 0, 9, 1)


def test_answers_are_compared_as_numbers_or_as_text() -> None:
    assert answer_of(Outcome(correct=1, pred="$1,000.0")) == answer_of(
        Outcome(correct=1, pred="1e3")
    )
    assert answer_of(Outcome(correct=1, output=" Yes ")) == "yes"
    assert answer_of(Outcome(correct=1, output="x", pred=None)) == ""


def test_helpers_are_cheap_and_the_most_accurate_come_first() -> None:
    rows = recording(20, helper="oracle")
    dear = Outcome(correct=1, cost_usd=1.0, output="x")
    silent = Outcome(correct=1, cost_usd=CHEAP)
    rows = [
        r.model_copy(update={"models": {**r.models, "dear": dear, "silent": silent}}) for r in rows
    ]
    found = pair(rows)
    assert found.candidates == ("helper", "dear")
    assert found.helpers(np.arange(20)) == ("helper",)


# Heads ----------------------------------------------------------------------------------------


def test_with_few_labels_a_head_is_the_raw_score() -> None:
    found = pair()
    few = np.arange(12)
    _, (small, _) = fit_head(found, few, ["raw", "draft", "prompt", "topics"])
    unseen = np.arange(12, 200)
    assert np.corrcoef(small[unseen], found.raw[unseen])[0, 1] > 0.9


def test_estimates_of_fitting_rows_are_as_if_they_had_been_left_out() -> None:
    found, out = pair(recording(60)), 7
    _, left_out = fit_head(found, np.arange(60), ["raw"])
    head, _ = fit_head(found, np.delete(np.arange(60), out), ["raw"])
    assert left_out[0][out] == pytest.approx(head(found)[0][out], abs=0.02)


def test_a_column_that_never_varies_or_is_unknown_does_no_harm() -> None:
    rows = recording(60)
    for i, row in enumerate(rows):
        features = {"same": 1.0, **({"count": float(i)} if i % 2 else {}), "share": (i % 7) / 7}
        small = row.models["small"].model_copy(update={"features": features})
        rows[i] = row.model_copy(update={"models": {**row.models, "small": small}})
    head, (small_right, _) = fit_head(pair(rows), np.arange(60), ["raw", "draft"])
    assert np.isfinite(small_right).all()
    assert np.isfinite(head(pair(recording(5)))[0]).all()  # which lacks these columns


# Shapes ---------------------------------------------------------------------------------------


def test_the_dearer_an_error_the_more_is_escalated() -> None:
    shape = shapes(pair())["gain"]
    asked = shape.play(shape.learned, PRICES).escalated.mean(axis=1)
    assert asked[0] > 0.5
    assert asked[-1] == 0
    assert (np.diff(asked) <= 0).all()


def test_what_is_played_is_booked_and_a_router_drafts_only_what_it_keeps() -> None:
    found = shapes(pair())
    for name, escalated in (("gain", CHEAP + DEAR), ("router", DEAR)):
        plan = found[name].learned
        played = found[name].play(plan, [0.1])
        kept = played.escalated[0] == 0
        assert played.cost[0] == pytest.approx(np.where(kept, CHEAP, escalated))
        right = np.where(kept, plan.stages[0].right, plan.right)
        assert played.right[0].tolist() == right.tolist()


def test_long_questions_need_more_doubt() -> None:
    rows = []
    for i, row in enumerate(recording(300, informative=False)):
        long = i % 2 == 0
        large = row.models["large"].model_copy(update={"cost_usd": DEAR * (9 if long else 1)})
        rows.append(
            row.model_copy(
                update={
                    "prompt": "word " * (900 if long else 100),
                    "models": {**row.models, "large": large},
                }
            )
        )
    found = pair(rows)
    shape = shapes(found)["score"]
    asked = shape.play(shape.learned, [0.5]).escalated[0] > 0
    long_ones = found.characters > 1000
    assert asked[~long_ones].mean() > asked[long_ones].mean()


def test_a_helper_is_asked_in_doubt_and_its_answer_given_where_it_is_likelier() -> None:
    found = shapes(pair(recording(300, helper="oracle")))
    gain, known = (found[name].play(found[name].learned, [0.05]) for name in ("gain", "known"))
    assert known.right.mean() > gain.right.mean()
    assert known.cost.mean() < gain.cost.mean()
    assert known.cost[0] == pytest.approx(2 * CHEAP)


def test_without_signals_only_the_router_is_there() -> None:
    rows = recording(60)
    for i, row in enumerate(rows):
        small = Outcome(correct=row.models["small"].correct, cost_usd=CHEAP)
        rows[i] = row.model_copy(update={"models": {**row.models, "small": small}})
    assert list(shapes(pair(rows))) == ["router"]


def test_a_shape_does_the_same_on_the_same_rows_read_again() -> None:
    shape = shapes(pair(recording(helper="oracle")), range(100))["known"]
    again = shape.play(shape.plan(pair(recording(helper="oracle"))), [0.1])
    unseen = np.arange(100, 200)
    assert (
        again.cost[0][unseen].tolist()
        == shape.play(shape.plan(shape.pair), [0.1]).cost[0][unseen].tolist()
    )


# The ladder -----------------------------------------------------------------------------------


def test_a_step_is_taken_only_where_it_pays_by_more_than_its_noise() -> None:
    ladder = fit_ladder(pair(recording(400, helper="oracle")), np.arange(400))
    assert ladder.name == "known"
    twin = fit_ladder(pair(recording(400, helper="twin")), np.arange(400))
    assert twin.shape is not None
    assert twin.shape.helper is None


def test_where_nothing_is_worth_its_cost_the_large_model_answers() -> None:
    rows = recording(200, informative=False, cheap=DEAR)
    ladder = fit_ladder(pair(rows), ALL)
    assert (ladder.shape, ladder.name) == (None, "off")


# A calibration as it decides online -----------------------------------------------------------

MADE_FOR = MadeFor(
    small=ModelIdentity(name="small"),
    large=ModelIdentity(name="large"),
    task_hash="",
    system_hash=None,
    labels="references",
)


def collected(n: int = 200) -> Pair:
    rows = recording(n)
    for i, row in enumerate(rows):
        small = row.models["small"]
        features = {"p_true": small.confidence or 0.0}
        small = small.model_copy(update={"features": features})
        rows[i] = row.model_copy(update={"models": {**row.models, "small": small}})
    return pair(rows)


def test_a_calibration_decides_over_recordings_as_its_policy_does_online() -> None:
    found, price = collected(), 0.05
    rights = zip(found.small_correct, found.large_correct, strict=True)
    drafts = [
        LabelledDraft(outcome.features, float(right), float(large))
        for outcome, (right, large) in zip(found.outcomes("small"), rights, strict=True)
    ]
    shape = shape_of_calibration(calibrate(drafts, [("p_true", 0)], MADE_FOR), found)
    plan = shape.plan(found)
    kept = shape.play(plan, [price]).escalated[0] == 0
    policy = EconomicPolicy(price_of_error=shape.unit / price)
    stage, costs = plan.stages[0], plan.expected
    for p, p_large, cost, accepted in zip(stage.kept, stage.large, costs, kept, strict=True):
        known = Assessment(confidence=float(p), calibrated=True, p_large=float(p_large))
        online = policy.decide(Situation(known, escalation_cost_usd=Decimal(str(cost))))
        assert (online.action == "accept") == accepted


def test_a_calibration_needs_the_features_that_it_reads() -> None:
    found = collected()
    drafts = [LabelledDraft({"p_true": i / 40}, float(i % 2)) for i in range(40)]
    calibration = calibrate(drafts, [("p_true", 0)], MADE_FOR)
    assert shape_of_calibration(calibration, found).name == "calibration"
    with pytest.raises(ConfigurationError, match="has the features that the calibration reads"):
        shape_of_calibration(calibration, pair_of(recording(50), "small", "large"))
