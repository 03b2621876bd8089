"""The words of a verdict, case by case."""

from __future__ import annotations

from dataclasses import replace

from cascade.evaluation.metrics import Interval
from cascade.evaluation.report import Options, ShapeFigures
from cascade.evaluation.verdict import Findings, judge


def shape(name: str, cost: float, change: float = 0.0, *, low: float = -0.02) -> ShapeFigures:
    return ShapeFigures(
        shape=name,
        helpers=(),
        expected_cost=cost,
        cost=Interval(cost, cost - 0.02, cost + 0.02),
        quality=Interval(0.8, 0.7, 0.9),
        change=Interval(change, low, min(0.01, change + 0.005)),
        escalated=Interval(0.5, 0.4, 0.6),
        delta_ibc=Interval(0.1, 0.0, 0.2),
        off=False,
    )


FOUND = Findings(
    small="S",
    large="L",
    options=Options(epsilon=0.02),
    shapes=(shape("router", 0.9), shape("cascade", 0.6)),
    best=1,
    router_minus_cascade=Interval(0.3, 0.2, 0.4),
    cost_ratio=0.1,
    unit="dollars",
    left_out=0,
    has_signals=True,
)


def said(**changes: object) -> str:
    verdict, headline, remarks = judge(replace(FOUND, **changes))  # type: ignore[arg-type]
    return "\n".join((verdict, headline, *remarks))


def test_the_goal_is_named() -> None:
    assert "within 2 points of L" in said()


def test_what_loses_money_on_the_test_part_is_switched_off() -> None:
    words = said(shapes=(shape("router", 0.9), shape("cascade", 1.02)))
    assert words.startswith("off\nSwitch it off: what saved money on the fit part costs 102.0%")


def test_a_router_that_turned_out_cheaper_is_mentioned() -> None:
    words = said(
        shapes=(shape("router", 0.5).model_copy(update={"expected_cost": 0.7}), FOUND.shapes[1]),
        router_minus_cascade=Interval(-0.1, -0.15, -0.05),
    )
    assert "the prompt-only router came out cheaper" in words


def test_a_loss_beyond_chance_is_not_glossed_over() -> None:
    words = said(shapes=(FOUND.shapes[0], shape("cascade", 0.6, -0.05, low=-0.08)))
    assert "do not rely on it" in words


def test_a_loss_within_chance_is_called_that() -> None:
    words = said(shapes=(FOUND.shapes[0], shape("cascade", 0.6, -0.021, low=-0.05)))
    assert "within what chance does" in words


def test_several_better_drafters_are_named_together() -> None:
    assert "A and B are right more often than S" in said(better=("A", "B"))


def test_rows_that_were_left_out_are_counted() -> None:
    assert "1,200 rows lack one of the models" in said(left_out=1200)
