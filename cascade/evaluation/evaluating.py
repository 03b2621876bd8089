"""Works out what a cascade is worth: fitted on one part of the recorded rows, told by the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cascade.confidence.calibrators import FittedCalibrator
from cascade.confidence.fitting import fit_calibrator
from cascade.confidence.metrics import Array, auroc, brier, ece, ece_noise_floor
from cascade.confidence.text import TextEncoder, fit_text_encoder
from cascade.errors import ConfigurationError
from cascade.evaluation.curves import (
    cost_curve,
    oracle_point,
    points,
    reliability,
    spread_steps,
)
from cascade.evaluation.metrics import (
    Interval,
    aiq,
    apgr,
    audc,
    aurc,
    bootstrap,
    bootstrap_rows,
    cpt,
    deferral_curve,
    delta_ibc,
    excess_aurc,
    nauc,
)
from cascade.evaluation.promises import certified, economic
from cascade.evaluation.recorded import Recorded, Rows, confidence_features
from cascade.evaluation.report import Confidence, Evaluation, Options, Ranking, ShapeFigures
from cascade.evaluation.reuse import compare_escalated
from cascade.evaluation.staged import Mask, Rule
from cascade.evaluation.study import FittedPolicy, Shape, best_policy, fit_stage, shapes
from cascade.evaluation.verdict import Findings, judge

LEAST_ROWS = 40
MOST_FIT_ROWS = 10_000
"""More labels take time and hardly change a fit; the rows beyond are for the figures."""

CLEARLY = 0.02
"""A share of right answers that is higher by this is no accident of a few hundred rows."""


def evaluate(recorded: Recorded, options: Options | None = None) -> Evaluation:
    """Fit on a random part of the rows, choose there, and measure on the others.

    Raises:
        ConfigurationError: too few rows, or an option that needs costs which are unknown.
    """
    study = Study(recorded, options or Options())
    figures = [study.shape_figures(shape) for shape in study.shapes.values()]
    best = best_policy(study.chosen)
    at = list(study.shapes).index(best.shape)
    confidence = study.confidence_figures()
    findings = Findings(
        small=recorded.small,
        large=recorded.large,
        options=study.options,
        shapes=tuple(figures),
        best=at,
        router_minus_cascade=study.router_minus_cascade(),
        cost_ratio=float(recorded.small_cost[study.test].sum() / study.large_sum),
        unit=recorded.unit,
        left_out=recorded.left_out,
        has_signals=confidence is not None,
        better=study.better_drafters(best.helpers),
    )
    verdict, headline, remarks = judge(findings)
    return Evaluation.model_validate(
        {
            **study.basics(),
            "verdict": verdict,
            "headline": headline,
            "remarks": remarks,
            "best": at,
            "shapes": tuple(figures),
            "router_minus_cascade": findings.router_minus_cascade,
            "cost_ratio": findings.cost_ratio,
            "rankings": tuple(study.ranking(name) for name in study.scores),
            "confidence": confidence,
            "economic": economic(study),
            "certified": certified(study),
            "reviews": compare_escalated(study, best),
            "policy": best,
        }
    )


@dataclass
class Study:
    """The two parts of a recording, and what was fitted on the first."""

    recorded: Recorded
    options: Options

    def __post_init__(self) -> None:
        n, share = len(self.recorded), self.options.fit_share
        if n < LEAST_ROWS:
            raise ConfigurationError(
                f"{n} rows with both models and their costs: an evaluation needs {LEAST_ROWS} at "
                "least, and a few hundred to say much."
            )
        if not 0.1 <= share <= 0.9:
            raise ConfigurationError(f"fit_share={share}: give a share between 0.1 and 0.9.")
        order = np.random.default_rng(self.options.seed).permutation(n)
        cut = min(round(n * share), MOST_FIT_ROWS)
        self.fit: Rows = order[:cut]
        self.test: Rows = order[cut:]
        self.small = self.recorded.small_correct[self.test]
        self.large = self.recorded.large_correct[self.test]
        self.large_sum = float(self.recorded.large_cost[self.test].sum())

    @cached_property
    def encoder(self) -> TextEncoder:
        """A space of topics, learned from the prompts of the fit part."""
        return fit_text_encoder([self.recorded.prompts[i] for i in self.fit])

    @cached_property
    def text(self) -> Array:
        """Topics of all prompts."""
        return self.encoder.transform(self.recorded.prompts)

    def policy(self, shape: str | None = None) -> FittedPolicy:
        """What to apply unchanged elsewhere: a shape, by default the recommended one."""
        chosen = best_policy(self.chosen) if shape is None else self.chosen[shape]
        return chosen.model_copy(update={"encoder": self.encoder})

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """What was tried."""
        return shapes(self.recorded, self.text, self.fit)

    @cached_property
    def chosen(self) -> dict[str, FittedPolicy]:
        """Each shape with its thresholds, from the fit part."""
        rule = Rule(epsilon=self.options.epsilon, caution=self.options.caution)
        return {
            name: shape.choose(self.recorded, self.fit, rule) for name, shape in self.shapes.items()
        }

    @cached_property
    def replayed(self) -> dict[str, tuple[Mask, Array]]:
        """(accepted, cost) of each shape on the test part."""
        return {
            name: shape.replay(self.chosen[name], self.recorded, self.test)
            for name, shape in self.shapes.items()
        }

    @cached_property
    def features(self) -> Array:
        """Of the confidence, all rows."""
        return confidence_features(self.recorded, self.recorded.helpers(self.fit, 3))

    @cached_property
    def has_signals(self) -> bool:
        """Whether the drafts say anything about themselves."""
        return bool(np.isfinite(self.recorded.raw_score()[self.fit]).any())

    @cached_property
    def calibrator(self) -> FittedCalibrator:
        """Fitted on the fit part."""
        return fit_calibrator(self.features[self.fit], self.recorded.small_correct[self.fit])

    @cached_property
    def probability(self) -> Array:
        """The calibrated confidence of all rows."""
        return self.calibrator.predict(self.features)

    @cached_property
    def gain(self) -> Array:
        """Expected gain of escalating once the draft is there, all rows."""
        stage = fit_stage(self.recorded, self.text, self.fit, "draft")
        return stage.gain(self.recorded, self.text)

    @cached_property
    def scores(self) -> dict[str, Array]:
        """Deferral scores on the test part, by name: higher is escalated."""
        found: dict[str, Array] = {}
        if self.has_signals:
            raw = np.nan_to_num(self.recorded.raw_score()[self.test], nan=0.0)
            found["raw score"] = -raw
            found["confidence"] = -self.probability[self.test]
        if self.recorded.draft.names:
            found["gain"] = self.gain[self.test]
        found["router"] = self.shapes["router"].stages[0].gain[self.test]
        return found

    def ranking(self, name: str) -> Ranking:
        """How well a score finds the rows to escalate."""
        score, small, large = self.scores[name], self.small, self.large
        won = ((large > 0.5) & (small <= 0.5)).astype(np.float64)
        n, seed = len(small), self.options.seed
        before = name == "router"
        cheap, dear = self.recorded.small_cost[self.test], self.recorded.large_cost[self.test]
        escalated = dear if before else cheap + dear

        def by_weight(rows: Rows, weight: Array) -> Mapping[str, Array]:
            columns = score[rows], small[rows], large[rows]
            curve = deferral_curve(*columns, weight=weight)
            return {
                "nauc": nauc(*columns, weight),
                "audc": audc(curve),
                "apgr": apgr(curve),
                "cpt50": cpt(curve, 0.5),
                "cpt80": cpt(curve, 0.8),
            }

        def by_rows(rows: Rows) -> Mapping[str, float]:
            found = {"auroc_gain": auroc(score[rows], won[rows])}
            curve = deferral_curve(
                score[rows],
                small[rows],
                large[rows],
                kept_cost=cheap[rows],
                escalated_cost=escalated[rows],
            )
            at = spread_steps(curve)
            found["aiq"] = aiq(curve.cost[at], curve.quality[at])
            if name in ("raw score", "confidence"):
                found["auroc"] = auroc(-score[rows], small[rows])
                found["aurc"] = aurc(-score[rows], small[rows])
                found["excess_aurc"] = excess_aurc(-score[rows], small[rows])
            return found

        figures = bootstrap(by_weight, n, seed=seed)
        return Ranking(name=name, **figures, **bootstrap_rows(by_rows, n, seed=seed))

    def shape_figures(self, shape: Shape) -> ShapeFigures:
        """What a shape did on the test part."""
        accepted, cost = self.replayed[shape.name]
        chosen, small, large = self.chosen[shape.name], self.small, self.large
        dear, cheap = self.recorded.large_cost[self.test], self.recorded.small_cost[self.test]
        right = np.where(accepted, small, large)

        columns = np.column_stack([cost, right, cheap, small, dear, large, 1.0 - accepted])

        def by_weight(rows: Rows, weight: Array) -> Mapping[str, Array]:
            means = weight @ columns[rows] / weight.sum(axis=-1, keepdims=True)
            return {
                "cost": means[:, 0] / means[:, 4],
                "quality": means[:, 1],
                "change": means[:, 1] - means[:, 5],
                "escalated": means[:, 6],
                "delta_ibc": np.array(
                    [delta_ibc(c, q, (sc, sq), (lc, lq)) for c, q, sc, sq, lc, lq, _ in means]
                ),
            }

        n = len(small)
        figures = bootstrap(by_weight, n, seed=self.options.seed)
        return ShapeFigures(
            shape=shape.name,
            helpers=chosen.helpers,
            expected_cost=chosen.policy.cost,
            off=chosen.policy.off,
            **figures,
        )

    def router_minus_cascade(self) -> Interval | None:
        """Cost of the router minus that of the shape with a draft that the fit part preferred."""
        others = {name: policy for name, policy in self.chosen.items() if name != "router"}
        if not others:
            return None
        costs = self.replayed["router"][1] - self.replayed[best_policy(others).shape][1]
        dear = self.recorded.large_cost[self.test]

        def by_weight(rows: Rows, weight: Array) -> Mapping[str, Array]:
            return {"difference": (weight @ costs[rows]) / (weight @ dear[rows])}

        n = len(costs)
        return bootstrap(by_weight, n, seed=self.options.seed)["difference"]

    def better_drafters(self, helpers: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are right clearly more often than the small model, on the fit part."""
        own = float(self.recorded.small_correct[self.fit].mean())
        rows = [self.recorded.rows[i] for i in self.fit]
        accuracy = {name: np.mean([row.models[name].correct for row in rows]) for name in helpers}
        return tuple(name for name in helpers if accuracy[name] > own + CLEARLY)

    def confidence_figures(self) -> Confidence | None:
        """Calibration on the test part; None where the drafts have no signal."""
        if not self.has_signals:
            return None
        p, correct = self.probability[self.test], self.small
        raw = np.nan_to_num(self.recorded.raw_score()[self.test], nan=0.0)

        def by_rows(rows: Rows) -> Mapping[str, float]:
            found = {}
            for suffix, score in (("", p[rows]), ("_raw", raw[rows])):
                found[f"ece{suffix}"] = ece(score, correct[rows])
                found[f"brier{suffix}"] = brier(score, correct[rows])
                found[f"auroc{suffix}"] = auroc(score, correct[rows])
            return found

        return Confidence(
            calibrator=self.calibrator.kind,
            labels=len(self.fit),
            ece_floor=ece_noise_floor(p),
            reliability=reliability(p, correct),
            reliability_raw=reliability(raw, correct),
            **bootstrap_rows(by_rows, len(p), seed=self.options.seed),
        )

    def basics(self) -> dict[str, object]:
        """Figures that need no fit, and the curves."""
        r, test = self.recorded, self.test
        n, seed = len(test), self.options.seed

        def accuracies(rows: Rows, weight: Array) -> Mapping[str, Array]:
            total = weight.sum(axis=-1)
            small, large = self.small[rows], self.large[rows]
            return {"small": weight @ small / total, "large": weight @ large / total}

        accuracy = bootstrap(accuracies, n, seed=seed)
        curves = {
            name: points(
                cost_curve(r, test, score, before_the_draft=name == "router"), self.large_sum
            )
            for name, score in {**self.scores, "oracle": self.large - self.small}.items()
        }
        oracle = oracle_point(r, test)
        return {
            "small": r.small,
            "large": r.large,
            "unit": r.unit,
            "options": self.options,
            "fit_rows": len(self.fit),
            "test_rows": n,
            "left_out": r.left_out,
            "accuracy_small": accuracy["small"],
            "accuracy_large": accuracy["large"],
            "accuracy_oracle": oracle.quality,
            "cost_small": float(r.small_cost[test].mean()),
            "cost_large": float(r.large_cost[test].mean()),
            "oracle": oracle,
            "curves": curves,
        }
