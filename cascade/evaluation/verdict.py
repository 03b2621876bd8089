"""What the figures mean, in words: use the cascade, use a router, or switch it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascade.evaluation.metrics import Interval
from cascade.evaluation.report import Options, ShapeFigures, Verdict

SHAPES = {
    "router": "a router that reads the prompt alone",
    "cascade": "the cascade",
    "skip+cascade": "the cascade, with the draft skipped where the prompt alone says so",
    "panel1": "the cascade, with another cheap model asked where it matters",
    "panel3": "the cascade, with three other cheap models asked where it matters",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What the verdict depends on.

    Attributes:
        better: cheap models that were asked too and are right more often than the small one.
    """

    small: str
    large: str
    options: Options
    shapes: tuple[ShapeFigures, ...]
    best: int
    router_minus_cascade: Interval | None
    cost_ratio: float
    unit: Literal["dollars", "calls"]
    left_out: int
    has_signals: bool
    better: tuple[str, ...] = ()

    @property
    def chosen(self) -> ShapeFigures:
        """What the fit part recommends."""
        return self.shapes[self.best]

    @property
    def goal(self) -> str:
        """How near the large model is near enough."""
        count = self.options.epsilon * 100
        return f"{count:g} point{'' if count == 1 else 's'}"


def judge(found: Findings) -> tuple[Verdict, str, tuple[str, ...]]:
    """(verdict, headline, remarks)."""
    chosen = found.chosen
    verdict: Verdict = "router" if chosen.shape == "router" else "cascade"
    if chosen.off or chosen.cost.value >= 1.0:
        verdict = "off"
    headline = {"off": _off, "router": _use, "cascade": _use}[verdict](found)
    remarks = [
        _router_or_cascade(found),
        _honest(found, verdict),
        _better(found),
        _ratio(found),
        _unit(found),
        _silent(found),
        _left_out(found),
    ]
    return verdict, headline, tuple(remark for remark in remarks if remark)


def _off(found: Findings) -> str:
    if found.chosen.off:
        return (
            f"Switch it off: no threshold on the fit part saves money within {found.goal} of "
            f"{found.large}. This cascade loses money; let {found.large} answer everything."
        )
    return (
        f"Switch it off: what saved money on the fit part costs {found.chosen.cost.value:.1%} of "
        f"{found.large} alone on the test part. Let {found.large} answer everything."
    )


def _use(found: Findings) -> str:
    chosen = found.chosen
    return (
        f"Chosen on the fit part to stay within {found.goal} of {found.large}, unchanged on the "
        f"test part: {SHAPES[chosen.shape]} costs {chosen.cost.value:.1%} of {found.large} alone "
        f"({chosen.cost.low:.1%} to {chosen.cost.high:.1%}), quality "
        f"{100 * chosen.change.value:+.1f} points ({100 * chosen.change.low:+.1f} to "
        f"{100 * chosen.change.high:+.1f})."
    )


def _router_or_cascade(found: Findings) -> str:
    router = next(shape for shape in found.shapes if shape.shape == "router")
    others = [shape for shape in found.shapes if shape.shape != "router"]
    if not others:
        return "The drafts carry no signal, so only a router before the draft could be tried."
    cascade = min(others, key=lambda shape: shape.expected_cost)
    both = (
        f"{router.cost.value:.1%} of the large model's cost at {100 * router.change.value:+.1f} "
        f"points, the best shape with a draft {cascade.cost.value:.1%} at "
        f"{100 * cascade.change.value:+.1f}"
    )
    if found.chosen.shape == "router" and not found.chosen.off:
        return (
            f"The prompt-only router beats the cascade: it takes {both}. Use the router: a "
            "cascade pays for every draft, also for those that it throws away."
        )
    difference = found.router_minus_cascade
    if difference is not None and difference.high < 0:
        return (
            f"On the test part the prompt-only router came out cheaper, {both}; the fit part had "
            "it the other way round. Bring more rows before you choose."
        )
    return f"The prompt-only router takes {both}."


def _honest(found: Findings, verdict: Verdict) -> str:
    change, epsilon = found.chosen.change, found.options.epsilon
    if verdict == "off" or change.value >= -epsilon:
        return ""
    if change.high < -epsilon:
        return f"The test part says that it loses more than {found.goal}: do not rely on it."
    return (
        f"On the test part it lost more than {found.goal}, within what chance does on so few "
        "rows. Bring more rows, or choose with more `--caution`."
    )


def _better(found: Findings) -> str:
    if not found.better:
        return ""
    several = len(found.better) > 1
    return (
        f"{' and '.join(found.better)} {'are' if several else 'is'} right more often than "
        f"{found.small} and cheap too: let {'one of them' if several else 'it'} draft, and "
        "evaluate that."
    )


def _ratio(found: Findings) -> str:
    if found.cost_ratio < 1.0:
        return (
            f"A draft costs {found.cost_ratio:.1%} of a large answer: a cascade can save only "
            "where more than that share of the drafts is accepted."
        )
    return (
        f"A draft costs {found.cost_ratio:.1%} of a large answer: no cascade of these two can "
        "save money."
    )


def _unit(found: Findings) -> str:
    if found.unit == "dollars":
        return ""
    return (
        "The costs are unknown. They are counted in calls of the large model, drafts as free, "
        "which they are not: record `cost_usd` before you believe a saving."
    )


def _silent(found: Findings) -> str:
    if found.has_signals:
        return ""
    return (
        f"The drafts of {found.small} have no signal of their own, so there is no confidence: "
        "record `features`, `confidence` or `signals`."
    )


def _left_out(found: Findings) -> str:
    if not found.left_out:
        return ""
    return f"{found.left_out:,} rows lack one of the models, or its cost, and were left out."
