"""The records that `cascade evaluate` writes: what a cascade is worth on recorded rows."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from cascade.evaluation.metrics import Interval
from cascade.evaluation.study import FittedPolicy
from cascade.policies.reuse import Reuse
from cascade.state import Record

EPSILON = 0.01
"""What "within 1 point of the large model" means unless said otherwise."""

Verdict = Literal["cascade", "router", "off"]


class Options(Record):
    """What was asked for.

    Attributes:
        fit_share: of the rows for fitting; figures are of the others.
        seed: of the split and the bootstrap.
        epsilon: quality that may be lost against the large model.
        caution: standard errors kept from `epsilon` when thresholds are chosen; with 0 about
            every second choice loses a little more on other rows.
        price_of_error: dollars of a wrong answer, for the economic policy.
        max_harm: α, for the certified policy.
        delta: δ of the certificate.
    """

    fit_share: float = 0.5
    seed: int = 0
    epsilon: float = EPSILON
    caution: float = 1.0
    price_of_error: float | None = None
    max_harm: float | None = None
    delta: float = 0.1


class Point(Record):
    """A place on a cost–quality curve; cost is relative to the large model alone."""

    cost: float
    quality: float
    escalated: float


class Ranking(Record):
    """How well a score finds the rows to escalate, on the test part, with 95 % intervals.

    `aurc`, `excess_aurc` and `auroc` are about the draft being right, `auroc_gain` about the
    large model being right where the draft is wrong.
    """

    name: str
    nauc: Interval
    audc: Interval
    apgr: Interval
    cpt50: Interval
    cpt80: Interval
    aiq: Interval
    auroc_gain: Interval
    auroc: Interval | None = None
    aurc: Interval | None = None
    excess_aurc: Interval | None = None


class ShapeFigures(Record):
    """A shape with thresholds from the fit part, unchanged on the test part.

    Attributes:
        shape: what is decided where.
        expected_cost: on the fit part, by which shapes are chosen.
        cost: on the test part, relative to the large model alone.
        quality: share of right answers.
        change: quality minus the large model's.
        escalated: share of rows that the large model answers.
        delta_ibc: lift of quality per cost over the line from small to large.
        off: no threshold saved money on the fit part, so the large model answers everything.
    """

    shape: str
    helpers: tuple[str, ...]
    expected_cost: float
    cost: Interval
    quality: Interval
    change: Interval
    escalated: Interval
    delta_ibc: Interval
    off: bool


class Bin(Record):
    """A bar of the reliability diagram: equal-mass bins of the confidence."""

    confidence: float
    correct: float
    n: int


class Confidence(Record):
    """The calibrated confidence on rows that did not fit it, the raw score's figures beside."""

    calibrator: str
    labels: int
    ece: Interval
    ece_raw: Interval
    ece_floor: float
    brier: Interval
    brier_raw: Interval
    auroc: Interval
    auroc_raw: Interval
    reliability: tuple[Bin, ...]
    reliability_raw: tuple[Bin, ...]


class Economic(Record):
    """`price_of_error`, by the policy's own decisions; totals are dollars per request.

    A total is the money spent plus the price of the errors that are left; `advantage` is how
    much lower the cascade's is than that of the better model alone.
    """

    price_of_error: float
    escalated: float
    quality: float
    cost: float
    total: Interval
    small_total: float
    large_total: float
    advantage: Interval
    best: Literal["cascade", "small alone", "large alone"]


class Certified(Record):
    """`max_harm`, by the policy's own decisions; half the fit part proved it.

    Attributes:
        threshold: None when nothing could be certified; `reason` says why.
        bound: on the harm, as proved.
        harm: P(accepted and wrong) on the test part.
    """

    max_harm: float
    delta: float
    labels: int
    threshold: float | None
    reason: str
    bound: float | None = None
    harm: Interval | None = None
    accepted: float = 0.0
    quality: float | None = None
    cost: float = 1.0


class Reviews(Record):
    """Writing anew against approving or correcting, on the same questions.

    Attributes:
        n: questions that have all three outcomes with their costs.
        escalated: whether they are those that the recommended cascade escalates; else all.
        approved: share of them whose draft the large model let stand.
        approved_right: share of the approved drafts that are right; None where there are none.
        anew, with_draft: share of right answers.
        quality: their difference.
        cost: of the calls with the draft, as a share of those without.
        evidence: for `Cascade(reuse=…)`.
    """

    n: int
    escalated: bool
    approved: Interval
    approved_right: float | None
    anew: Interval
    with_draft: Interval
    quality: Interval
    cost: Interval
    evidence: Reuse


class Evaluation(Record):
    """Everything that was found; money is dollars per request unless it is relative.

    Attributes:
        unit: `calls` where costs are unknown: a large answer counts 1, a draft nothing.
        cost_ratio: r, a draft's cost relative to a large answer: a cascade saves only if more
            than this share is accepted.
        best: index into `shapes` of what is recommended.
        router_minus_cascade: cost of the router minus that of the best shape with a draft.
        reviews: what showing drafts to the large model is worth; None where it was not recorded.
        remarks: in words, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    small: str
    large: str
    unit: Literal["dollars", "calls"]
    options: Options
    fit_rows: int
    test_rows: int
    left_out: int
    accuracy_small: Interval
    accuracy_large: Interval
    accuracy_oracle: float
    cost_small: float
    cost_large: float
    cost_ratio: float
    oracle: Point
    verdict: Verdict
    headline: str
    remarks: tuple[str, ...]
    best: int
    shapes: tuple[ShapeFigures, ...]
    router_minus_cascade: Interval | None
    rankings: tuple[Ranking, ...]
    confidence: Confidence | None
    economic: Economic | None
    certified: Certified | None
    reviews: Reviews | None
    curves: dict[str, tuple[Point, ...]]
    policy: FittedPolicy

    @property
    def chosen(self) -> ShapeFigures:
        """What is recommended."""
        return self.shapes[self.best]
