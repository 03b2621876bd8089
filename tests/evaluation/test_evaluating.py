"""What is said about a cascade, on rows of which the truth is known."""

from __future__ import annotations

import pytest

from cascade.errors import ConfigurationError
from cascade.evaluation.evaluating import Study, evaluate
from cascade.evaluation.recorded import Recorded, record_pair
from cascade.evaluation.report import Evaluation, Options
from cascade.evaluation.study import FittedPolicy
from cascade.evaluation.text import economic_words, render
from tests.evaluation.recordings import rows


def pair(n: int = 400, **more: object) -> Recorded:
    return record_pair(rows(n, **more), "small", "large")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cascade() -> Evaluation:
    """Drafts are dear, so that few may be thrown away; a signal says which are right."""
    options = Options(price_of_error=0.001, max_harm=0.2)
    return evaluate(pair(600, large_right=0.8), options)


@pytest.fixture(scope="module")
def router() -> Evaluation:
    """The prompt says which drafts are wrong, and the drafts' own signal says nothing."""
    return evaluate(pair(600, hard_prompts=True, small_cost=0.00003))


def test_a_cascade_that_pays_is_recommended(cascade: Evaluation) -> None:
    assert cascade.verdict == "cascade"
    assert cascade.chosen.cost.value < 1.0
    assert "unchanged on the test part" in cascade.headline


def test_figures_are_of_the_rows_that_nothing_was_fitted_on(cascade: Evaluation) -> None:
    recorded = pair(600, large_right=0.8)
    study = Study(recorded, Options())
    assert not set(study.fit.tolist()) & set(study.test.tolist())
    assert cascade.fit_rows + cascade.test_rows == 600
    assert cascade.accuracy_small.value == pytest.approx(recorded.small_correct[study.test].mean())


def test_thresholds_depend_on_the_fit_rows_alone() -> None:
    recorded = pair(600)
    first = Study(recorded, Options())
    outcomes = recorded.large_correct.copy()
    outcomes[first.test] = 1.0 - outcomes[first.test]
    other = Recorded(
        **{
            **{name: getattr(recorded, name) for name in Recorded.__dataclass_fields__},
            "large_correct": outcomes,
            "_panels": {},
        }
    )
    second = Study(other, Options())
    for name, policy in first.chosen.items():
        assert policy.policy == second.chosen[name].policy


def test_a_saved_policy_decides_the_same_on_rows_read_anew() -> None:
    recorded = pair(600, helper=True)
    study = Study(recorded, Options())
    elsewhere = record_pair([recorded.rows[i] for i in study.test], "small", "large")
    for name, shape in study.shapes.items():
        saved = FittedPolicy.model_validate_json(study.policy(name).model_dump_json())
        accepted, cost = saved.replay(elsewhere)
        expected = shape.replay(study.chosen[name], recorded, study.test)
        assert accepted.tolist() == expected[0].tolist()
        assert cost.tolist() == pytest.approx(expected[1].tolist())


def test_a_policy_that_reads_prompts_needs_its_encoder() -> None:
    study = Study(pair(600, hard_prompts=True), Options())
    with pytest.raises(ConfigurationError, match="give it its `encoder`"):
        study.chosen["router"].replay(study.recorded)


def test_a_large_model_that_is_no_better_leaves_nothing_to_recover() -> None:
    found = evaluate(pair(200, large_right=0.2))
    assert found.chosen.escalated.value < 0.5
    assert "–" in render(found)


def test_the_router_is_recommended_where_it_beats_the_cascade(router: Evaluation) -> None:
    assert router.verdict == "router"
    assert any("router beats the cascade" in remark for remark in router.remarks)
    assert router.router_minus_cascade is not None


def test_a_cascade_that_loses_money_is_switched_off() -> None:
    found = evaluate(pair(200, small_cost=0.0002))
    assert found.verdict == "off"
    assert found.chosen.off
    assert found.headline.startswith("Switch it off: no threshold on the fit part")
    assert any("no cascade of these two can save money" in remark for remark in found.remarks)
    assert not found.policy.replay(pair(200))[0].any()


def test_without_signals_only_the_router_is_tried() -> None:
    found = evaluate(pair(200, signals=False))
    assert [shape.shape for shape in found.shapes] == ["router"]
    assert found.confidence is None
    assert any("only a router" in remark for remark in found.remarks)
    assert any("no signal of their own" in remark for remark in found.remarks)


def test_a_better_cheap_model_is_named() -> None:
    found = evaluate(pair(400, signals=False, helper=True))
    assert found.chosen.helpers == ("helper",)
    assert any("helper is right more often than small" in remark for remark in found.remarks)


def test_unknown_costs_are_said_to_be_unknown() -> None:
    found = evaluate(pair(200, small_cost=None, large_cost=None))
    assert found.unit == "calls"
    assert any("costs are unknown" in remark for remark in found.remarks)


def test_the_price_of_an_error_is_weighed_against_each_model_alone(cascade: Evaluation) -> None:
    found = cascade.economic
    assert found is not None
    assert found.best == "cascade"
    assert found.advantage.value == pytest.approx(
        min(found.small_total, found.large_total) - found.total.value
    )


@pytest.mark.parametrize(("price", "best"), [(1e-7, "small alone"), (1000.0, "large alone")])
def test_where_errors_cost_nothing_or_all_one_model_is_enough(price: float, best: str) -> None:
    found = evaluate(pair(400, large_right=1.0), Options(price_of_error=price)).economic
    assert found is not None
    assert found.best == best
    assert found.advantage.value <= 0
    assert ("switch the cascade off" in economic_words(found)) == (found.advantage.high <= 0)


def test_a_certificate_is_proved_on_the_fit_part(cascade: Evaluation) -> None:
    found = cascade.certified
    assert found is not None
    assert found.threshold is not None
    assert found.bound is not None
    assert found.bound <= 0.2
    assert found.harm is not None
    assert found.labels == cascade.fit_rows // 2


def test_a_certificate_that_cannot_be_given_says_what_it_takes() -> None:
    found = evaluate(pair(100), Options(max_harm=0.01))
    assert found.certified is not None
    assert found.certified.threshold is None
    assert "No certificate: no threshold keeps harm at 1.0%" in render(found)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"n": 39}, {}, "39 rows with both models"),
        ({}, {"fit_share": 0.95}, "fit_share=0.95"),
        ({"signals": False}, {"price_of_error": 1.0}, "price_of_error needs a confidence"),
        ({"signals": False}, {"max_harm": 0.1}, "max_harm needs a confidence"),
        (
            {"small_cost": None, "large_cost": None},
            {"price_of_error": 1.0},
            "the recording knows no costs",
        ),
    ],
)
def test_what_cannot_be_worked_out_is_an_error(
    more: dict[str, object], options: dict[str, float], message: str
) -> None:
    recorded = pair(**{"n": 100, **more})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        evaluate(recorded, Options(**options))


def test_the_report_says_everything_in_words(cascade: Evaluation) -> None:
    said = render(cascade)
    for words in (
        "nAUC",
        "CPT 80",
        "AIQ",
        "ECE",
        "excess AURC",
        "At $0.001 per error",
        "Certified",
    ):
        assert words in said


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (evaluate(pair(100), Options(seed=3)).model_dump_json() for _ in range(2))
    assert first == second


def test_the_report_survives_json(cascade: Evaluation) -> None:
    text = cascade.model_dump_json()
    assert Evaluation.model_validate_json(text).model_dump_json() == text
