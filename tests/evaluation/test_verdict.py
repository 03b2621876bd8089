from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from cascade.confidence.calibrating import calibrate
from cascade.errors import ConfigurationError
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.features import Pair, Rows
from cascade.evaluation.ladder import Shape, fit_shapes
from cascade.evaluation.render import to_text
from cascade.evaluation.verdict import (
    Evaluation,
    Options,
    cheapest,
    cross_fit,
    evaluate,
    play_on,
    to_document,
)
from tests.evaluation.synthetic import CHEAP, DEAR, MADE_FOR, pair, recording


def found(rows: list[Transcript] | None = None, **options: Any) -> Evaluation:
    return evaluate(pair(rows), Options(**{"repeats": 1, **options}))


@pytest.fixture(scope="module")
def good() -> Evaluation:
    """A confidence that is a probability, before a large model that is right nine times of ten."""
    return evaluate(pair(recording(600)), Options(repeats=2, within=0.05))


def text(of: Evaluation) -> str:
    return " ".join(to_text(to_document(of)).split())


def test_a_useful_draft_is_a_cascade_that_says_what_it_costs_and_loses(good: Evaluation) -> None:
    assert good.verdict == "cascade"
    assert good.sentence.startswith("Use the cascade: it saves ")
    assert "of what large alone costs (95 % sure: " in good.sentence
    point = good.recommended
    assert point.cost.low < point.cost.value < point.cost.high < 1
    assert point.loss.value <= 0.05
    assert 0 < point.chance_above < 1
    assert any(note.startswith("How: the draft, ") for note in good.notes)
    small, large, oracle = good.alone
    assert small.per_right_usd == pytest.approx(CHEAP / small.quality.value)
    assert oracle.cost.high < 1
    assert (large.cost, large.loss) == ((1, 1, 1), (0, 0, 0))
    assert good.recommended.per_right_usd < large.per_right_usd
    assert any("For Cascade: price_of_error=0.0" in note for note in good.notes)


def test_the_menu_is_cheaper_the_more_may_be_lost(good: Evaluation) -> None:
    costs = [point.cost.value for point in good.points]
    assert costs == sorted(costs, reverse=True)
    assert [point.within for point in good.points] == [0.0, 0.01, 0.02, 0.05]
    priced = [p.price_of_error_usd for p in good.points if p.price_of_error_usd is not None]
    assert priced == sorted(priced, reverse=True)


def test_figures_are_those_of_rows_that_were_left_out(good: Evaluation) -> None:
    whole, fresh = pair(recording(600)), pair(recording(4000, seed=9))
    at = cheapest(cross_fit(whole, Options(repeats=2)), Options(within=0.05))
    assert at is not None
    seen = play_on(list(fit_shapes(whole, np.arange(600))), fresh)
    assert good.recommended.cost.low < seen.share[at] < good.recommended.cost.high
    assert good.recommended.loss.low < seen.loss[at] < good.recommended.loss.high


def test_small_matrices_are_not_shared_among_threads() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    def choose(fitted: Pair, rows: Rows) -> Iterator[Shape]:
        assert threads() == {1}
        return fit_shapes(fitted, rows)

    with threadpool_limits(2, "blas"):
        evaluate(pair(), Options(repeats=1), choose=choose)
        assert threads() == {2}


def test_the_document_has_menu_baselines_and_a_picture(good: Evaluation) -> None:
    document = to_document(good)
    assert (len(document.tables), document.tables[0].strong, len(document.pictures)) == (5, 3, 1)
    assert "lose 5 points" in text(good)
    assert "NaN" not in good.model_dump_json()
    assert set(good.rankings) == {"gain", "router"}


USELESS = {"informative": False, "cheap": 0.5 * DEAR}


@pytest.mark.parametrize(
    ("n", "rows", "begins", "holds"),
    [
        (400, USELESS, " and let large answer everything", "saves money within 1 point of large"),
        (200, {"cheap": 2 * DEAR}, "", "a draft costs 200.0 % of a large answer"),
        (60, USELESS, "", "on these 60 rows, and to be sure takes about 140 more."),
    ],
)
def test_what_does_not_save_is_turned_off(n: int, rows: Any, begins: str, holds: str) -> None:
    off = found(recording(n, large_right=1.0, **rows))
    assert (off.verdict, off.recommended.off, off.shape) == ("off", True, "off")
    assert off.sentence.startswith(f"Switch it off{begins}")
    assert holds in off.sentence
    assert "95 % interval" not in text(off)


def test_few_rows_tell_nothing_and_say_how_many_would(monkeypatch: pytest.MonkeyPatch) -> None:
    few = found(recording(60), within=0.005)
    assert few.verdict == "unclear"
    assert few.sentence.startswith("Too few rows to tell: with 60 ")
    assert f"About {round(few.rows_to_tell - 60, -2):,} more would tell" in few.sentence
    monkeypatch.setattr("cascade.evaluation.verdict.FAIR_TEST", 60)
    enough = found(recording(60), within=0.005)
    assert enough.verdict == "off"
    assert "on these 60 rows, and to be sure takes about " in enough.sentence
    assert few.rows_to_tell > 1000


def test_a_small_model_that_is_as_good_answers_everything() -> None:
    rows = recording(400, informative=False)
    for i, row in enumerate(rows):
        right = {name: o.model_copy(update={"correct": 1.0}) for name, o in row.models.items()}
        rows[i] = row.model_copy(update={"models": right})
    small = found(rows)
    assert small.verdict == "small"
    assert small.sentence.startswith("Let small answer everything: it saves 90.0 % of what ")
    assert "0.2 fewer of 100 answers are right (0.7 fewer to 0.3 more)" in small.sentence


def test_where_the_question_alone_tells_a_router_is_the_answer() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        hard = bool(rng.random() < 0.5)
        models = {
            "small": Outcome(correct=float(not hard), cost_usd=0.5 * DEAR, confidence=0.5),
            "large": Outcome(correct=1.0, cost_usd=DEAR),
        }
        prompt = f"{'Why not? ' * 9 if hard else 'Say'} {i}"
        rows.append(Transcript(dataset="d", id=f"{i:03}", prompt=prompt, models=models))
    router = found(rows)
    assert router.verdict == "router"
    assert router.sentence.startswith("Use a router that reads the question alone: it saves")


def test_unknown_costs_give_no_headline() -> None:
    unknown = found(recording(200, cheap=None))
    weighed = found(recording(200, cheap=None), price_of_error=1.0)
    assert weighed.verdict == unknown.verdict == "unpriced"
    assert "all answers of small and large cost: record both anew" in unknown.sentence
    assert unknown.recommended.cost_usd is None
    assert all(one.cost_usd is None for one in unknown.alone)
    assert "?" in text(unknown)


@pytest.mark.parametrize(
    ("price", "verdict", "said"), [(100.0, "off", "at $100.00 an error"), (0.0003, "cascade", "")]
)
def test_the_price_of_an_error_has_its_own_point(price: float, verdict: str, said: str) -> None:
    one = found(recording(400, large_right=1.0), price_of_error=price)
    assert one.verdict == verdict
    assert said in one.sentence
    assert "an error" in text(one)
    if not one.recommended.off:
        assert one.recommended.price_of_error_usd == price


def test_caution_keeps_further_from_what_may_be_lost() -> None:
    bold, careful = (found(recording(400), within=0.05, caution=z) for z in (0.0, 1.0))
    assert careful.recommended.cost.value > bold.recommended.cost.value


def test_other_rows_give_the_figures_where_there_are_some() -> None:
    fitted, tested = recording(300, helper="oracle"), recording(500, seed=5)
    other = evaluate(pair(fitted), Options(repeats=1, within=0.05), test=pair(tested))
    assert (other.rows, other.test_rows) == (300, 500)
    assert other.helper is None  # it has not answered the other rows
    assert "On 500 other rows." in text(other)


def test_an_existing_calibration_is_judged_as_it_decides() -> None:
    rows = pair(recording(300, features=True))
    drafts = [draft.features for draft in rows.outcomes("small")]
    rights = rows.small_correct, rows.large_correct
    calibration = calibrate(drafts, *rights, [("p_true", 0)], MADE_FOR)
    new = pair(recording(250, features=True))
    judged = evaluate(new, Options(within=0.05), calibration=calibration)
    assert judged.shape == "calibration"
    assert judged.confidence
    assert any("as it does online" in note for note in judged.notes)


def test_drafts_that_say_nothing_have_no_confidence() -> None:
    rows = recording(100)
    for i, row in enumerate(rows):
        silent = Outcome(correct=row.models["small"].correct, cost_usd=CHEAP)
        rows[i] = row.model_copy(update={"models": {**row.models, "small": silent}})
    quiet = found(rows)
    assert not quiet.confidence
    assert any("have no score of their own" in note for note in quiet.notes)


def test_helpers_and_rows_left_out_are_told() -> None:
    rows = recording(100, helper="oracle")
    told = found([*rows, recording(101)[-1].model_copy(update={"models": {}})], within=0.05)
    assert told.helper == "helper"
    assert any("is given (helper); " in note for note in told.notes)
    assert any("without one of the models or without its cost: 1." in n for n in told.notes)


def test_too_few_rows_say_how_many_are_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"39 rows .* needs 40 at least, 1 more"):
        found(recording(39))


def test_the_same_rows_in_another_order_give_the_same_verdict() -> None:
    rows = recording(80)
    assert found(rows).model_dump() == found(rows[::-1]).model_dump()
