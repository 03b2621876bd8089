from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from cascade.confidence.calibrating import calibrate
from cascade.errors import ConfigurationError
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.features import Pair, draft_features
from cascade.evaluation.ladder import PRICES, Shape, climb, fit_head, fit_shapes, shape_of
from cascade.policies import EconomicPolicy, Situation, TierOutlook
from cascade.state import Assessment
from tests.evaluation.synthetic import CHEAP, DEAR, MADE_FOR, pair, recording


def shapes(of: Pair) -> dict[str, Shape]:
    fitted = list(fit_shapes(of, np.arange(len(of))))
    return {shape.name: shape for shape in reversed(fitted)}


def with_small(rows: list[Transcript], outcome: Any) -> list[Transcript]:
    """The rows with another draft each."""
    return [
        row.model_copy(update={"models": {**row.models, "small": outcome(i, row.models["small"])}})
        for i, row in enumerate(rows)
    ]


def test_rows_without_a_cost_are_left_out_where_others_have_theirs() -> None:
    unpriced = recording(2, cheap=None)
    others = [row.model_copy(update={"id": f"x{row.id}"}) for row in unpriced]
    some, none = pair([*recording(5), *others]), pair(unpriced)
    assert (len(some), some.left_out, some.priced) == (5, 2, True)
    assert (none.priced, none.large_cost.tolist(), none.candidates) == (False, [1.0] * 2, ())
    with pytest.raises(ConfigurationError, match=r"large cost \$0"):
        pair(recording(5, dear=0.0))


def test_a_check_is_paid_with_the_draft_and_not_with_the_large_answer() -> None:
    def checked(cost: float | None) -> Transcript:
        small = Outcome(correct=1, cost_usd=0.1, check_cost_usd=cost)
        large = Outcome(correct=1, cost_usd=1.0, check_cost_usd=5.0)
        models = {"small": small, "large": large}
        return Transcript(dataset="d", id=str(cost), prompt="?", models=models)

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
        (Outcome(correct=1, features={"p_true": 0.6, "logprob_mean": -0.1}), 0.6),
        (Outcome(correct=1), np.nan),
    ],
)
def test_a_raw_score_is_what_a_draft_says_of_itself(outcome: Outcome, score: float) -> None:
    assert draft_features(outcome)["raw"] == pytest.approx(score, nan_ok=True)


def test_features_are_collected_ones_or_what_the_recording_knows() -> None:
    collected = draft_features(Outcome(correct=1, confidence=0.5, features={"a": 2.0}))
    assert collected == {"raw": 0.5, "a": 2.0}
    options = draft_features(Outcome(correct=1, signals={"option_logprobs": [-0.1, -3.0, 5.0]}))
    assert options["is0"] == 1.0
    assert options["rank1"] > options["rank2"]
    votes: dict[str, Any] = {"votes": ["a", "b"], "n_samples": 3, "answer_extracted": True}
    found = draft_features(Outcome(correct=1, output_tokens=9, signals=votes))
    assert (found["voted"], found["margin"], found["length"], found["answered"]) == (2 / 3, 0, 9, 1)


def test_helpers_are_cheap_and_have_answered_everything() -> None:
    others = {
        "dear": Outcome(correct=1, cost_usd=1.0, output="x"),
        "silent": Outcome(correct=1, cost_usd=CHEAP),
    }
    rows = recording(20, helper="oracle")
    found = pair([r.model_copy(update={"models": {**r.models, **others}}) for r in rows])
    assert found.candidates == ("helper", "dear")
    assert found.helpers(np.arange(20)) == ("helper",)


def test_another_model_says_the_same_and_how_sure_it_is_of_both() -> None:
    def options(*shares: float, answer: str) -> Outcome:
        logs: list[Any] = np.log(shares).tolist()
        return Outcome(correct=1, cost_usd=1, pred=answer, signals={"option_logprobs": logs})

    scored = Outcome(correct=1, cost_usd=1, pred="B", confidence=0.8)
    small, large = options(0.9, 0.1, answer="A"), Outcome(correct=1, cost_usd=1)
    models = {"small": small, "large": large, "o": options(0.3, 0.7, answer="B"), "s": scored}
    found = pair([Transcript(dataset="d", id="1", prompt="?", models=models)])
    likely, sure = (found.table(f"view:{name}") for name in "os")
    shares = {"same": 1.0, "p_draft": 0.3, "p_top": 0.7, "entropy": np.exp(0.6109)}
    assert {n: np.exp(column[0]) for n, column in likely.items()} == pytest.approx(shares, rel=1e-3)
    assert {n: column[0] for n, column in sure.items()} == {
        "same": 0,
        "score": 0.8,
        "score_of_other": 0.8,
    }


def test_with_few_labels_a_head_is_the_raw_score() -> None:
    found = pair()
    small, _ = fit_head(found, np.arange(12), ["draft", "prompt", "topics"])(found)
    assert np.corrcoef(small[12:], found.raw[12:])[0, 1] > 0.9


def test_estimates_of_fitting_rows_are_as_if_they_had_been_left_out() -> None:
    found, out = pair(recording(60)), 7
    left_out = fit_head(found, np.arange(60), ["draft"])(found)
    head = fit_head(found, np.delete(np.arange(60), out), ["draft"])
    assert left_out[0][out] == pytest.approx(head(found)[0][out], abs=0.02)


def test_a_column_that_never_varies_or_is_unknown_does_no_harm() -> None:
    def odd(i: int, small: Outcome) -> Outcome:
        features = {"same": 1.0, **({"count": float(i)} if i % 2 else {}), "share": (i % 7) / 7}
        return small.model_copy(update={"features": features})

    found = pair(with_small(recording(60), odd))
    head = fit_head(found, np.arange(60), ["draft"])
    assert np.isfinite(head(found)[0]).all()
    assert np.isfinite(head(pair(recording(5)))[0]).all()  # which lacks these columns


def test_the_dearer_an_error_the_more_is_escalated() -> None:
    found = pair()
    asked = shapes(found)["gain"].play(found, PRICES).escalated.mean(axis=1)
    assert asked[0] > 0.5
    assert asked[-1] == 0
    assert (np.diff(asked) <= 0).all()


def test_what_is_played_is_booked_and_a_router_drafts_only_what_it_keeps() -> None:
    found = pair()
    for name, escalated in (("gain", CHEAP + DEAR), ("router", DEAR)):
        played = shapes(found)[name].play(found, np.array([0.1]))
        kept = played.escalated[0] == 0
        assert played.cost[0] == pytest.approx(np.where(kept, CHEAP, escalated))
        right = np.where(kept, found.small_correct, found.large_correct)
        assert played.right[0].tolist() == right.tolist()


def test_long_questions_need_more_doubt() -> None:
    def sized(i: int, row: Transcript) -> Transcript:
        long = i % 2 == 0
        large = row.models["large"].model_copy(update={"cost_usd": DEAR * (9 if long else 1)})
        models = {**row.models, "large": large}
        return row.model_copy(update={"prompt": "word " * (900 if long else 100), "models": models})

    found = pair([sized(i, row) for i, row in enumerate(recording(300, informative=False))])
    asked = shapes(found)["gain"].play(found, np.array([0.5])).escalated[0]
    long_ones = found.characters > 1000
    assert asked[~long_ones].mean() > asked[long_ones].mean()


def test_a_helper_is_asked_in_doubt_and_its_answer_given_where_it_is_likelier() -> None:
    found = pair(recording(300, helper="oracle"))
    of = shapes(found)
    gain, known = (of[name].play(found, np.array([0.05])) for name in ("gain", "known"))
    assert known.right.mean() > gain.right.mean()
    assert known.cost[0] == pytest.approx(2 * CHEAP)


def test_without_signals_only_the_router_is_there() -> None:
    rows = with_small(recording(60), lambda i, o: Outcome(correct=o.correct, cost_usd=CHEAP))
    assert list(shapes(pair(rows))) == ["router"]


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (recording(400, helper="oracle"), "known"),
        (recording(400, helper="twin"), "gain"),
        (recording(200, informative=False, cheap=DEAR), "off"),
    ],
)
def test_a_step_is_taken_where_it_pays_beyond_its_noise(rows: list[Transcript], name: str) -> None:
    assert climb(list(fit_shapes(pair(rows), np.arange(len(rows))))).name == name


def test_a_calibration_decides_over_recordings_as_its_policy_does_online() -> None:
    found, price = pair(recording(features=True)), 0.05
    drafts = [draft.features for draft in found.outcomes("small")]
    rights = found.small_correct, found.large_correct
    calibration = calibrate(drafts, *rights, [("p_true", 0)], MADE_FOR)
    rows = np.arange(len(found))
    shape = shape_of(calibration, found, rows)
    (first,), played = shape.stages(found), shape.play(found, np.array([price]))
    policy = EconomicPolicy(price_of_error=shape.unit / price)
    known = first.kept, first.large, first.dear, played.escalated[0] == 0
    for p, best, cost, accepted in zip(*known, strict=True):
        assessed = Assessment(confidence=float(p), calibrated=True)
        above = (TierOutlook("large", float(best), Decimal(str(cost))),)
        online = policy.decide(Situation(assessed, above))
        assert (online.action == "accept") == accepted
    with pytest.raises(ConfigurationError, match="has the features that the calibration reads"):
        shape_of(calibration, pair(), rows).stages(pair())
